//! Posting: changes of different rows beside each other, those of one row one after the other.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use http::{HeaderMap, HeaderValue, header};
use realtime_pgoutput::Position;
use realtime_retry::Backoff;
use realtime_webhooks::Webhook;
use tokio::{
    sync::watch,
    time::{self, Instant},
};

use super::{
    addresses::Reach,
    queue::{Event, Queue},
    state::HookState,
};
use crate::posting;

/// Longest pause between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// A client for a webhook.
///
/// # Errors
/// If the system's certificates cannot be read.
pub(super) fn client(webhook: &Webhook, reach: Reach) -> Result<reqwest::Client, String> {
    let client = posting::client(webhook.timeout).dns_resolver(Arc::new(reach));
    client.build().map_err(|error| error.to_string())
}

/// Posts what is queued, as the settings say by then. Never returns.
pub(super) async fn run(
    client: (reqwest::Client, Reach),
    queue: Arc<Queue>,
    settings: watch::Receiver<Arc<Webhook>>,
    state: Arc<HookState>,
) {
    let mut posting = FuturesUnordered::new();
    loop {
        while let Some((ticket, event)) = queue.take() {
            let (client, settings, state) = (&client, settings.clone(), &state);
            posting.push(async move {
                let bytes = event.data.len();
                deliver(client, &event, settings, state).await;
                (ticket, bytes)
            });
        }
        tokio::select! {
            Some((ticket, bytes)) = posting.next() => state.wait(queue.done(ticket, bytes)),
            () = queue.came.notified() => {}
        }
    }
}

/// Posts a change until it is answered or given up.
async fn deliver(
    client: &(reqwest::Client, Reach),
    event: &Event,
    mut settings: watch::Receiver<Arc<Webhook>>,
    state: &HookState,
) {
    let (id, body) = message(state.name(), event.position, &event.data);
    let begun = Instant::now();
    let mut backoff = Backoff::new(settings.borrow().retry_delay, MAX_PAUSE);
    loop {
        let webhook = Arc::clone(&settings.borrow_and_update());
        let Err(failure) = post(client, &webhook, &id, &body).await else {
            return state.delivered();
        };
        state.failed(&failure.code);
        let pause = backoff.failed(rand::random_range(0.5..1.0));
        let left = webhook.give_up_after.saturating_sub(begun.elapsed());
        if !failure.passing || backoff.failures() >= webhook.attempts || left.is_zero() {
            return state.dead_letter(event.position, &failure.code, &failure.text);
        }
        let (error, attempt) = (failure.text, backoff.failures());
        tracing::debug!(
            tenant = state.tenant(),
            webhook = state.name(),
            id,
            attempt,
            error,
            "a webhook failed; retrying"
        );
        tokio::select! {
            () = time::sleep(pause.min(left)) => {}
            // Another address may do better.
            Ok(()) = settings.changed() => {}
        }
    }
}

/// The id and the body of a message.
fn message(name: &str, position: Position, data: &[u8]) -> (String, Vec<u8>) {
    let head = format!("{{\"webhook\":\"{name}\",\"position\":\"{position}\",\"data\":");
    let mut body = Vec::with_capacity(head.len() + data.len() + 1);
    body.extend_from_slice(head.as_bytes());
    body.extend_from_slice(data);
    body.push(b'}');
    (format!("{name}:{position}"), body)
}

async fn post(
    (client, reach): &(reqwest::Client, Reach),
    webhook: &Webhook,
    id: &str,
    body: &[u8],
) -> Result<(), posting::Failure> {
    if !reach.allows_url(&webhook.url) {
        let text = "the address is not allowed".to_owned();
        return Err(posting::Failure { text, code: "address".to_owned(), passing: false });
    }
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let key = realtime_webhooks::key(&webhook.secret);
    posting::sign(&mut headers, Some(&key), id, body);
    let request = client.post(&*webhook.url).timeout(webhook.timeout).headers(headers).body(body.to_vec());
    posting::send(request).await
}

#[cfg(test)]
mod tests {
    use realtime_pgoutput::Lsn;

    use super::*;

    #[test]
    fn a_message_has_its_place() {
        let position = Position { commit: Lsn(0x1_0000_002A), number: 3 };
        let (id, body) = message("orders", position, b"{\"type\":\"INSERT\"}");
        assert_eq!(id, "orders:1/2A:3");
        let expected = r#"{"webhook":"orders","position":"1/2A:3","data":{"type":"INSERT"}}"#;
        assert_eq!(String::from_utf8(body).unwrap(), expected);
    }
}
