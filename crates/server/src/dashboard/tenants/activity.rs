//! What happens in a tenant: the last hour, channels, live results, slow policies, notices.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    extract::{Path, State},
    response::{IntoResponse as _, Response},
};
use futures_util::future;
use maud::{Markup, html};

use super::known::require;
use crate::{
    dashboard::{
        BASE, Page, path_of,
        view::{
            self, Place,
            chart::charts,
            parts::{notice, plain, table},
            units,
        },
    },
    node::Node,
    operators::{
        activity::{Activity, Asked, Channel, LiveThere, NoticeThere, series_everywhere},
        history::{self, Measure},
        metrics::Gathered,
    },
};

/// Rows of each table.
const SHOWN: usize = 40;

/// Mean time of a question above which policies are called slow, in milliseconds.
const SLOW: f64 = 20.0;

/// `GET /admin/dashboard/tenants/{external_id}/activity`.
pub async fn show(
    State(node): State<Arc<Node>>,
    State(gathered): State<Arc<Gathered>>,
    page: Page,
    Path(external_id): Path<String>,
) -> Response {
    let known = match require(&node, &page, &external_id).await {
        Ok(known) => known,
        Err(refusal) => return refusal,
    };
    let name = known.external_id();
    let (series, (activity, missing)) =
        future::join(series_everywhere(&node, gathered.history(), name), Activity::everywhere(&node, name))
            .await;
    let measures = Measure::ALL.into_iter().filter(|measure| measure.is_of_tenants());
    let tenant = path_of(&external_id);
    let body = html! {
        p { a href=(format!("{BASE}/{tenant}")) { "Tenant " (external_id) } }
        @if missing > 0 { (notice(false, format!("{missing} nodes did not answer, and are left out."))) }
        section { h2 { "The last hour, all nodes" } (charts(&series, history::moment(), measures)) }
        section { h2 { "Channels" } (channels(&activity.channels)) }
        section { h2 { "Live results" } (results(&activity.results)) }
        section { h2 { "Time of policies" } (policies(&activity, &tenant)) }
        section { h2 { "Recent notices" } (notices(&activity.notices)) }
        section { h2 { "Warnings and errors since the start" } (codes(&activity.codes)) }
    };
    let title = format!("Activity of {external_id}");
    view::followed(&page, Some(Place::Tenants), &title, Some(&format!("{tenant}/activity")), &body)
        .into_response()
}

fn channels(channels: &[Channel]) -> Markup {
    let row = |channel: &Channel| {
        vec![
            html! { span.mono { (channel.topic) } @if channel.private { " " span.tag { "private" } } },
            plain(units::count(channel.members)),
            plain(units::count(channel.present)),
            plain(units::count(channel.said)),
            plain(format!("{:.0}", channel.rate)),
        ]
    };
    let rows: Vec<Vec<Markup>> = channels.iter().take(SHOWN).map(row).collect();
    html! {
        (table("Channels", &["Topic", "Members", "Present", "Messages", "Per second"], &rows, "No channel has members."))
        @if !rows.is_empty() {
            p.dim {
                "Those with most members, and those with most messages since the room was made. Row changes are no messages "
                "of a channel. What several nodes have of a channel is one line."
            }
        }
    }
}

fn results(results: &[LiveThere]) -> Markup {
    let row = |result: &LiveThere| {
        let asked = match (result.conditions, result.limit) {
            (0, None) => "all rows".to_owned(),
            (0, Some(limit)) => format!("at most {limit} rows"),
            (conditions, None) => format!("conditions: {conditions}"),
            (conditions, Some(limit)) => format!("conditions: {conditions}, at most {limit} rows"),
        };
        let state = match &result.trouble {
            Some(trouble) => html! { span.state.bad { (trouble) } },
            None => {
                html! { span.state.good { @if result.direct { "by the log" } @else { "by reading again" } } }
            }
        };
        vec![
            html! { span.mono { (result.relation) } },
            plain(&result.role),
            plain(asked),
            plain(units::count(result.rows as u64)),
            plain(units::count(result.bindings as u64)),
            plain(result.took_ms.map_or("–".to_owned(), |took| format!("{took:.1} ms"))),
            state,
        ]
    };
    let rows: Vec<Vec<Markup>> = results.iter().take(SHOWN).map(row).collect();
    let heads = ["Table or view", "Role", "Asked for", "Rows", "Bindings", "Last reading", "Kept"];
    table("Live results", &heads, &rows, "Nobody has live rows.")
}

fn policies(activity: &Activity, tenant: &str) -> Markup {
    let [read, write] = &activity.topics;
    let topics = [(read, "Private topics, reading"), (write, "Private topics, writing")];
    let topics = topics.into_iter().filter(|(asked, _)| asked.rounds > 0);
    let tables = activity.tables.iter().take(SHOWN).map(|asked| (asked, &*asked.table));
    let row = |(asked, name): (&Asked, &str)| {
        let mean = format!("{:.1} ms", asked.mean_ms());
        vec![
            html! { span.mono { (name) } },
            html! { @if asked.mean_ms() >= SLOW { span.state.bad { (mean) } } @else { (mean) } },
            plain(units::count(asked.rounds)),
            plain(units::count(asked.verdicts)),
            plain(format!("{:.1} s", asked.micros as f64 / 1e6)),
            html! {
                @if asked.withheld > 0 { span.state.bad { (units::count(asked.withheld)) } } @else { "0" }
            },
        ]
    };
    let rows: Vec<Vec<Markup>> = tables.chain(topics).map(row).collect();
    let heads = ["Policies of", "Mean time", "Questions", "Verdicts", "In all", "Rows withheld"];
    html! {
        (table("Time of policies", &heads, &rows, "The database was not asked about any row: no policy was in the way, or all are compiled."))
        p { a href=(format!("{BASE}/{tenant}/policies")) { "Which policies are compiled, and why others are not" } }
    }
}

fn notices(notices: &[NoticeThere]) -> Markup {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let ago = |at: u64| format!("{} ago", units::span(Duration::from_secs(now.saturating_sub(at))));
    let row = |told: &NoticeThere| {
        vec![
            plain(ago(told.last)),
            html! { span.tag { (told.status) } " " span.mono { (told.code) } },
            plain(&told.text),
            plain(units::count(told.channels)),
            plain(ago(told.first)),
        ]
    };
    let rows: Vec<Vec<Markup>> = notices.iter().take(SHOWN).map(row).collect();
    let heads = ["Last", "Notice", "Text", "Channels told", "First"];
    html! {
        (table("Recent notices", &heads, &rows, "No channel was told of a gap, a warning or an error."))
        @if !rows.is_empty() { p { a href="/docs/system-messages" { "What notices mean, and what clients do" } } }
    }
}

fn codes(codes: &[(String, u64)]) -> Markup {
    let row =
        |(code, count): &(String, u64)| vec![html! { span.mono { (code) } }, plain(units::count(*count))];
    let rows: Vec<Vec<Markup>> = codes.iter().take(SHOWN).map(row).collect();
    html! {
        (table("Codes", &["Code", "Times"], &rows, "None that concerns this tenant."))
        @if !rows.is_empty() { p { a href="/docs/operations#codes" { "What each code means, and what to do" } } }
    }
}
