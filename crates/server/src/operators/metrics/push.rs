//! Pushes metrics to a receiver, for nodes that cannot be scraped (http_and_ops 3).
//!
//! Each push has two requests: one with the figures of the node, one with those of its tenants. A failed request is
//! not repeated, because the next push has newer figures.

use std::{sync::Arc, time::Duration};

use http::header;
use realtime_codes::ErrorCode;
use reqwest::Client;
use secrecy::ExposeSecret as _;
use tokio::time::{self, MissedTickBehavior};

use super::{Part, gather::Gathered};
use crate::{config::Pusher, operators::ask::compress};

/// How long both requests of a push may take together.
const LIMIT: Duration = Duration::from_secs(60);

/// Why a push failed.
#[derive(Debug, thiserror::Error)]
enum PushError {
    #[error("Answered with status {0}")]
    Status(reqwest::StatusCode),
    #[error("No answer in time")]
    Timeout,
    #[error("{0}")]
    Request(String),
}

impl PushError {
    const fn code(&self) -> ErrorCode {
        match self {
            Self::Status(_) => ErrorCode::MetricsPusherFailed,
            Self::Timeout => ErrorCode::MetricsPusherTimeout,
            Self::Request(_) => ErrorCode::MetricsPusherException,
        }
    }
}

impl From<reqwest::Error> for PushError {
    fn from(error: reqwest::Error) -> Self {
        if error.is_timeout() {
            return Self::Timeout;
        }
        // The address may contain a password.
        Self::Request(realtime_tls::describe(&error.without_url()))
    }
}

/// Pushes until the future is dropped.
pub async fn run(gathered: Arc<Gathered>, pusher: Pusher) {
    let client = match Client::builder().timeout(pusher.timeout).build() {
        Ok(client) => client,
        Err(error) => {
            let code = ErrorCode::MetricsPusherException.as_str();
            tracing::error!(code, %error, "metrics cannot be pushed");
            return;
        }
    };
    let mut ticks = time::interval(pusher.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick comes at once, when nothing was counted yet.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let parts = async {
            for part in [Part::Global, Part::Tenants] {
                if let Err(error) = push(&client, &pusher, &gathered, part).await {
                    tracing::error!(code = error.code().as_str(), %error, "metrics were not pushed");
                }
            }
        };
        if time::timeout(LIMIT, parts).await.is_err() {
            let code = ErrorCode::MetricsPusherTimeout.as_str();
            tracing::error!(code, "metrics were not pushed: it took too long");
        }
    }
}

async fn push(client: &Client, pusher: &Pusher, gathered: &Gathered, part: Part) -> Result<(), PushError> {
    let text = gathered.render(part);
    let mut url = pusher.url.clone();
    for label in &pusher.extra_labels {
        url.query_pairs_mut().append_pair("extra_label", label);
    }
    let mut request = client.post(url).header(header::CONTENT_TYPE, "text/plain");
    if let Some((user, password)) = &pusher.auth {
        request = request.basic_auth(user, Some(password.expose_secret()));
    }
    request = if pusher.compress {
        let body = compress(text.as_bytes()).map_err(|error| PushError::Request(error.to_string()))?;
        request.header(header::CONTENT_ENCODING, "gzip").body(body)
    } else {
        request.body(text)
    };
    let status = request.send().await?.status();
    if status.is_success() { Ok(()) } else { Err(PushError::Status(status)) }
}
