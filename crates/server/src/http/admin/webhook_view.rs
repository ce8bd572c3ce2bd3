//! A webhook as the admin API shows it.

use realtime_channels::webhooks::{DeadLetter, HookView};
use serde::Serialize;
use serde_json::{Map, Value};

/// A webhook and what it has done on the node that answers.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Webhook)]
pub(super) struct WebhookView {
    #[serde(flatten)]
    settings: Map<String, Value>,
    state: WebhookState,
}

/// What a webhook has done on the node that answers, since it began to run there.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct WebhookState {
    /// `reading`: this node reads the log for it and posts. `elsewhere`: another node does. `waiting`: the log cannot be
    /// read now. `starting`, `suspended`.
    reading: &'static str,
    /// Operators' code of what it waits for.
    waits_for: Option<&'static str>,
    /// Everything before this position in the log was posted or given up.
    #[schema(example = "0/1A2B3C8")]
    position: Option<String>,
    /// Changes that wait or are being posted.
    waiting: u64,
    /// Changes that were answered with success.
    delivered: u64,
    /// Attempts that failed.
    failed: u64,
    /// Changes that were given up.
    dead_letters: u64,
    /// Times that it began to read at the end of the log: what was committed before was not posted.
    gaps: u64,
    /// Why an attempt failed last: a status, or `timeout`, `connect`, `request`, `address`.
    last_error: Option<Box<str>>,
    /// The last changes that were given up, oldest first.
    last_dead_letters: Vec<WebhookLetter>,
}

/// A change that was given up.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct WebhookLetter {
    position: String,
    /// Why, as in `last_error`; or `Filter`, `TableGone`, `Truncated`.
    code: Box<str>,
    /// When, in Unix seconds.
    at: u64,
}

impl WebhookView {
    pub(super) fn of(view: &HookView) -> Self {
        let letter = |letter: &DeadLetter| WebhookLetter {
            position: letter.position.to_string(),
            code: letter.code.clone(),
            at: letter.at,
        };
        Self {
            settings: view.webhook.shown(),
            state: WebhookState {
                reading: view.reading.as_str(),
                waits_for: view.reading.waits_for(),
                position: view.position.map(|position| position.to_string()),
                waiting: view.waiting,
                delivered: view.delivered,
                failed: view.failed,
                dead_letters: view.dead_letters,
                gaps: view.gaps,
                last_error: view.last_error.as_ref().map(|(code, _)| code.clone()),
                last_dead_letters: view.letters.iter().map(letter).collect(),
            },
        }
    }
}
