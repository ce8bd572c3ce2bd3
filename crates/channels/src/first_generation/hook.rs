//! Posting to one webhook: in order, one transaction after the other.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use aws_lc_rs::hmac;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use realtime_codes::ErrorCode;
use realtime_retry::Backoff;
use tokio::{sync::mpsc, time};

use super::{members::Counters, post::Post, settings::WebhookSettings};
use crate::posting::{self, Failure};

/// Longest pause between two attempts, unless the first one is longer.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// What all webhooks are posted with.
#[derive(Clone)]
pub(super) struct Client {
    http: reqwest::Client,
    headers: HeaderMap,
    key: Option<hmac::Key>,
    retries: u32,
    retry_delay: Duration,
}

impl Client {
    /// # Errors
    /// If the system's certificates cannot be read, or if a header is not valid.
    pub(super) fn new(settings: &WebhookSettings) -> Result<Self, String> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in &settings.headers {
            let name = HeaderName::try_from(name.as_str()).map_err(|error| format!("{name}: {error}"))?;
            let value = HeaderValue::try_from(value.as_str()).map_err(|error| format!("{name}: {error}"))?;
            headers.insert(name, value);
        }
        let http = posting::client(settings.timeout).build().map_err(|error| error.to_string())?;
        Ok(Self {
            http,
            headers,
            key: settings.secret.as_ref().map(realtime_webhooks::key),
            retries: settings.retries,
            retry_delay: settings.retry_delay,
        })
    }

    async fn post(&self, endpoint: &str, post: &Post) -> Result<(), Failure> {
        let mut headers = self.headers.clone();
        if self.key.is_some() || self.retries > 0 {
            // The id is the same in all attempts, so that receivers can recognise a repetition.
            posting::sign(&mut headers, self.key.as_ref(), &post.id, &post.body);
        }
        posting::send(self.http.post(endpoint).headers(headers).body(post.body.clone())).await
    }
}

/// Posts what is queued.
pub(super) async fn run(
    client: Client,
    endpoint: Box<str>,
    mut queue: mpsc::UnboundedReceiver<Post>,
    counters: Arc<Counters>,
) {
    while let Some(post) = queue.recv().await {
        let void = post.void.clone();
        void.run_until_cancelled(deliver(&client, &endpoint, &post, &counters)).await;
    }
}

/// Posts a transaction until it is answered or given up.
async fn deliver(client: &Client, endpoint: &str, post: &Post, counters: &Counters) {
    let mut backoff = Backoff::new(client.retry_delay, MAX_PAUSE.max(client.retry_delay));
    loop {
        let Err(failure) = client.post(endpoint, post).await else {
            counters.webhooks_sent.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let (error, id, attempt) = (&*failure.text, &*post.id, backoff.failures());
        if !failure.passing || attempt == client.retries {
            counters.webhooks_failed.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(
                code = ErrorCode::WebhookFailed.as_str(),
                transaction = id,
                attempt,
                error,
                "a webhook was given up"
            );
            return;
        }
        tracing::debug!(transaction = id, attempt, error, "a webhook failed, trying again");
        time::sleep(backoff.failed(rand::random_range(0.5..1.0))).await;
    }
}
