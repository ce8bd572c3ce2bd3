//! Feature flags of all tenants.

use std::sync::Arc;

use axum::{
    Extension,
    extract::State,
    response::{IntoResponse as _, Response},
};
use http::{StatusCode, header};
use maud::{Markup, html};
use realtime_tenants::{FeatureFlag, FlagFields, Store, StoreError};

use super::{
    BASE, Page,
    access::{Form, Visitor},
    failure, source,
    tenants::unavailable,
    view::{
        self, Place,
        parts::{notice, seal, state},
    },
};
use crate::node::Node;

/// Longest name of a flag or a bucket key, as its column has it.
const MAX_NAME: usize = 255;

const NO_STORE: &str = "There is no metadata database, so there are no feature flags. DB_ENC_KEY turns it on: see /docs/metadata.";

/// `GET /admin/dashboard/flags`.
pub async fn list(State(node): State<Arc<Node>>, page: Page) -> Response {
    let body = match source::directory(&node) {
        None => html! { p.dim { (NO_STORE) } },
        Some(directory) => match directory.store().flags().await {
            Ok(flags) => listed(&page, &flags),
            Err(error) => return unavailable(&page, &error),
        },
    };
    view::page(&page, Some(Place::Flags), "Feature flags", &body).into_response()
}

fn listed(page: &Page, flags: &[FeatureFlag]) -> Markup {
    html! {
        section {
            h2 { "New flag" }
            (editor(page, None))
        }
        @if flags.is_empty() {
            p.empty {
                "There are no feature flags. A flag is a name that is on or off for a share of the tenants. This server has none of "
                "its own; those of Supabase Realtime are kept for it."
            }
        }
        @for flag in flags {
            section {
                h2 { (flag.name) " " (state(flag.enabled, "enabled", "disabled")) }
                p.dim {
                    "Rollout to " (flag.rollout_percentage) " % of the tenants"
                    @if let Some(key) = &flag.bucket_key { ", by bucket key " (key) }
                    ". Changed " (flag.updated_at) "."
                }
                div.forms {
                    (small(page, flag, "toggle", if flag.enabled { "Disable" } else { "Enable" }))
                }
                details {
                    summary { "Change or delete" }
                    (editor(page, Some(flag)))
                    form.inline method="post" action=(format!("{BASE}/flags")) {
                        (seal(page))
                        input type="hidden" name="act" value="delete";
                        input type="hidden" name="name" value=(flag.name);
                        label.tick { input type="checkbox" name="confirm" value="yes" required; "For all tenants" }
                        button.button.small.danger type="submit" { "Delete" }
                    }
                }
            }
        }
    }
}

fn small(page: &Page, flag: &FeatureFlag, act: &str, text: &str) -> Markup {
    html! {
        form.inline method="post" action=(format!("{BASE}/flags")) {
            (seal(page))
            input type="hidden" name="act" value=(act);
            input type="hidden" name="name" value=(flag.name);
            button.button.small type="submit" { (text) }
        }
    }
}

/// A form for a new flag, or for one that exists.
fn editor(page: &Page, flag: Option<&FeatureFlag>) -> Markup {
    html! {
        form.inline method="post" action=(format!("{BASE}/flags")) {
            (seal(page))
            @match flag {
                Some(flag) => {
                    input type="hidden" name="act" value="change";
                    input type="hidden" name="name" value=(flag.name);
                }
                None => {
                    input type="hidden" name="act" value="create";
                    label.field { "Name" input type="text" name="name" maxlength=(MAX_NAME) required; }
                }
            }
            label.field {
                "Rollout, %"
                input type="number" name="rollout" min="0" max="100" required
                    value=(flag.map_or(100, |flag| flag.rollout_percentage));
            }
            label.field {
                "Bucket key"
                input type="text" name="bucket_key" maxlength=(MAX_NAME)
                    value=(flag.and_then(|flag| flag.bucket_key.as_deref()).unwrap_or_default());
            }
            label.tick {
                input type="checkbox" name="enabled" value="yes" checked[flag.is_some_and(|flag| flag.enabled)];
                "Enabled"
            }
            button.button.small.primary type="submit" { @if flag.is_some() { "Save" } @else { "Create" } }
        }
    }
}

/// `POST /admin/dashboard/flags`.
pub async fn change(
    State(node): State<Arc<Node>>,
    Extension(visitor): Extension<Visitor>,
    Extension(form): Extension<Form>,
    page: Page,
) -> Response {
    let Some(directory) = source::directory(&node) else {
        return failure::page(&page, StatusCode::NOT_FOUND, "Feature flags", NO_STORE);
    };
    let (act, flag) = (form.get("act"), form.get("name"));
    tracing::info!(who = visitor.who, act, flag, "dashboard: feature flag changed");
    match act_on(directory.store(), act, &form).await {
        Ok(()) => (StatusCode::SEE_OTHER, [(header::LOCATION, format!("{BASE}/flags"))]).into_response(),
        Err(Problem::Wrong(text)) => {
            let body =
                html! { (notice(false, text)) p { a href=(format!("{BASE}/flags")) { "Feature flags" } } };
            let whole = view::page(&page, Some(Place::Flags), "Feature flags", &body);
            (StatusCode::UNPROCESSABLE_ENTITY, whole).into_response()
        }
        Err(Problem::Store(error)) => unavailable(&page, &error),
    }
}

enum Problem {
    /// With the form.
    Wrong(String),
    Store(StoreError),
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Taken { .. } => {
                Self::Wrong("There is a feature flag of that name already".to_owned())
            }
            StoreError::NotFound { .. } => {
                Self::Wrong("There is no feature flag of that name any more".to_owned())
            }
            StoreError::Check(_) => Self::Wrong("The rollout must be between 0 and 100".to_owned()),
            error => Self::Store(error),
        }
    }
}

async fn act_on(store: &Store, act: &str, form: &Form) -> Result<(), Problem> {
    let name = form.get("name");
    match act {
        "create" => {
            store.create_flag(&fields(form)?).await?;
        }
        "change" => {
            store.update_flag(name, &fields(form)?).await?;
        }
        "toggle" => {
            let flag = store.flag(name).await?.ok_or(StoreError::NotFound { what: "feature flag" })?;
            let fields = FlagFields {
                name: flag.name,
                enabled: !flag.enabled,
                rollout_percentage: flag.rollout_percentage,
                bucket_key: flag.bucket_key,
            };
            store.update_flag(name, &fields).await?;
        }
        "delete" if form.is_ticked("confirm") => {
            store.delete_flag(name).await?;
        }
        "delete" => return Err(Problem::Wrong("Nothing was deleted: tick the box to confirm".to_owned())),
        _ => return Err(Problem::Wrong("That is nothing that can be done".to_owned())),
    }
    Ok(())
}

fn fields(form: &Form) -> Result<FlagFields, Problem> {
    let wrong = |text: &str| Err(Problem::Wrong(text.to_owned()));
    let (name, bucket_key) = (form.get("name"), form.get("bucket_key"));
    if name.is_empty() || name.chars().count() > MAX_NAME || bucket_key.chars().count() > MAX_NAME {
        return wrong("Names have between 1 and 255 characters");
    }
    let Ok(rollout_percentage) = form.get("rollout").parse() else {
        return wrong("The rollout must be between 0 and 100");
    };
    if !(0..=100).contains(&rollout_percentage) {
        return wrong("The rollout must be between 0 and 100");
    }
    Ok(FlagFields {
        name: name.to_owned(),
        enabled: form.is_ticked("enabled"),
        rollout_percentage,
        bucket_key: Some(bucket_key.to_owned()).filter(|key| !key.is_empty()),
    })
}
