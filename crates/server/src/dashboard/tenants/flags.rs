//! Which feature flags are on for a tenant, and why.

use maud::{Markup, html};
use realtime_tenants::{StoreError, TenantRecord};

use super::known::Known;
use crate::{
    dashboard::{
        Page, path_of, source,
        view::parts::{form, plain, state, table},
    },
    node::Node,
};

/// All flags, with the values that the tenant has of its own.
pub async fn section(node: &Node, page: &Page, known: &Known) -> Result<Markup, StoreError> {
    let (Known::Record(record), Some(directory)) = (known, source::directory(node)) else {
        return Ok(html! { p.dim { "There is no metadata database, so there are no feature flags." } });
    };
    let flags = directory.store().flags().await?;
    let mut rows: Vec<Vec<Markup>> = flags
        .iter()
        .map(|flag| {
            vec![
                plain(&flag.name),
                state(flag.is_on_for(record), "on", "off"),
                plain(reason(record, &flag.name, flag.enabled, flag.rollout_percentage)),
                buttons(page, record, &flag.name),
            ]
        })
        .collect();
    // Values of flags that do not exist any more are off, whatever they say.
    for name in record.feature_flags.keys().filter(|name| !flags.iter().any(|flag| flag.name == **name)) {
        rows.push(vec![
            plain(name),
            state(false, "on", "off"),
            plain("there is no flag of that name"),
            buttons(page, record, name),
        ]);
    }
    let heads = ["Flag", "For this tenant", "Because", "Its own setting"];
    Ok(table("Feature flags of the tenant", &heads, &rows, "There are no feature flags."))
}

fn own(record: &TenantRecord, name: &str) -> Option<bool> {
    record.feature_flags.get(name).and_then(serde_json::Value::as_bool)
}

fn reason(record: &TenantRecord, name: &str, enabled: bool, percentage: i32) -> String {
    match (own(record, name), enabled) {
        (Some(_), _) => "set for the tenant".to_owned(),
        (None, false) => "disabled".to_owned(),
        (None, true) => format!("rollout to {percentage} %"),
    }
}

/// Buttons that set the tenant's own value or remove it.
fn buttons(page: &Page, record: &TenantRecord, name: &str) -> Markup {
    let path = format!("{}/flags", path_of(&record.external_id));
    let button = |value: &str, text: &str| {
        let fields = html! {
            input type="hidden" name="flag" value=(name);
            input type="hidden" name="value" value=(value);
        };
        form(page, &path, &fields, text)
    };
    let own = own(record, name);
    html! {
        @if own != Some(true) { (button("on", "Turn on")) }
        @if own != Some(false) { (button("off", "Turn off")) }
        @if own.is_some() { (button("clear", "Clear")) }
    }
}
