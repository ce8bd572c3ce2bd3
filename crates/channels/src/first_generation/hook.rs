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

/// A webhook as lines of the log name it.
#[derive(Debug, Clone)]
pub(super) struct Name {
    /// The tenant of the log.
    pub(super) tenant: Arc<str>,
    /// Its number in the configuration file, from 1 on.
    pub(super) number: usize,
    /// Scheme, host and port of the endpoint: what follows may hold a secret.
    pub(super) endpoint: Arc<str>,
}

impl Name {
    pub(super) fn new(tenant: &Arc<str>, number: usize, endpoint: &str) -> Self {
        let url = reqwest::Url::parse(endpoint);
        let endpoint = url.map_or_else(|_| "no address".to_owned(), |url| url.origin().ascii_serialization());
        Self { tenant: Arc::clone(tenant), number, endpoint: endpoint.into() }
    }

    /// Logs that a transaction is not posted.
    pub(super) fn given_up(&self, transaction: &str, attempt: u32, error: &str) {
        tracing::warn!(
            tenant = &*self.tenant,
            code = ErrorCode::WebhookFailed.as_str(),
            webhook = self.number,
            endpoint = &*self.endpoint,
            transaction,
            attempt,
            error,
            "a webhook was given up"
        );
    }
}

/// Posts what is queued.
pub(super) async fn run(
    client: Client,
    endpoint: Box<str>,
    name: Name,
    mut queue: mpsc::UnboundedReceiver<Post>,
    counters: Arc<Counters>,
) {
    while let Some(post) = queue.recv().await {
        let void = post.void.clone();
        void.run_until_cancelled(deliver(&client, &endpoint, &name, &post, &counters)).await;
    }
}

/// Posts a transaction until it is answered or given up.
async fn deliver(client: &Client, endpoint: &str, name: &Name, post: &Post, counters: &Counters) {
    let mut backoff = Backoff::new(client.retry_delay, MAX_PAUSE.max(client.retry_delay));
    loop {
        let Err(failure) = client.post(endpoint, post).await else {
            counters.webhooks_sent.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let (error, id, attempt) = (&*failure.text, &*post.id, backoff.failures());
        if !failure.passing || attempt == client.retries {
            counters.webhooks_failed.fetch_add(1, Ordering::Relaxed);
            name.given_up(id, attempt, error);
            return;
        }
        let (webhook, endpoint) = (name.number, &*name.endpoint);
        tracing::debug!(
            webhook,
            endpoint,
            transaction = id,
            attempt,
            error,
            "a webhook failed, trying again"
        );
        time::sleep(backoff.failed(rand::random_range(0.5..1.0))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hold_no_secret() {
        let name = |endpoint| Name::new(&"acme".into(), 1, endpoint).endpoint.to_string();
        assert_eq!(name("https://me:pass@host.example:444/T0/secret?token=s#x"), "https://host.example:444");
        assert_eq!(name("http://127.0.0.1:9/"), "http://127.0.0.1:9");
        assert_eq!(name("pass word"), "no address");
    }
}
