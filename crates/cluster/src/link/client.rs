//! The client of NATS, as far as this crate uses it: the one seam at which the simulation puts a network of its own.
//!
//! Outside of tests there is one kind of client, so that the choice costs nothing.

use async_nats::{
    PublishError, Request, StatusCode, Subject, SubscribeError, client::FlushError, client::RequestErrorKind,
};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::time::Duration;

#[cfg(test)]
use super::simulated;

/// A connection to NATS, which is mended by itself.
#[derive(Debug, Clone)]
pub(crate) enum Client {
    Nats(async_nats::Client),
    #[cfg(test)]
    Simulated(simulated::Client),
}

/// What comes on a subject.
#[derive(Debug)]
pub(crate) enum Subscriber {
    Nats(async_nats::Subscriber),
    #[cfg(test)]
    Simulated(simulated::Subscriber),
}

/// A message that has come.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) payload: Bytes,
    /// Where an answer goes.
    pub(crate) reply: Option<Subject>,
    /// It is NATS' word that nobody listens where something was asked.
    pub(crate) is_nobody: bool,
}

impl Client {
    pub(crate) async fn publish(&self, subject: String, payload: Bytes) -> Result<(), PublishError> {
        match self {
            Self::Nats(client) => client.publish(subject, payload).await,
            #[cfg(test)]
            Self::Simulated(client) => client.publish(subject, None, payload),
        }
    }

    pub(crate) async fn publish_with_reply(
        &self,
        subject: String,
        reply: String,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        match self {
            Self::Nats(client) => client.publish_with_reply(subject, reply, payload).await,
            #[cfg(test)]
            Self::Simulated(client) => client.publish(subject, Some(reply), payload),
        }
    }

    pub(crate) async fn subscribe(&self, subject: String) -> Result<Subscriber, SubscribeError> {
        match self {
            Self::Nats(client) => client.subscribe(subject).await.map(Subscriber::Nats),
            #[cfg(test)]
            Self::Simulated(client) => Ok(Subscriber::Simulated(client.subscribe(subject))),
        }
    }

    /// Asks, and waits for one answer; for as long as the connection's options say, unless there is a limit.
    pub(crate) async fn request(
        &self,
        subject: String,
        payload: Bytes,
        limit: Option<Duration>,
    ) -> Result<Bytes, RequestErrorKind> {
        match self {
            Self::Nats(client) => {
                let mut request = Request::new().payload(payload);
                if limit.is_some() {
                    request = request.timeout(limit);
                }
                let answer = client.send_request(subject, request).await;
                answer.map(|answer| answer.payload).map_err(|error| error.kind())
            }
            #[cfg(test)]
            Self::Simulated(client) => client.request(subject, payload, limit).await,
        }
    }

    /// A subject for answers that nobody else uses.
    pub(crate) fn new_inbox(&self) -> String {
        match self {
            Self::Nats(client) => client.new_inbox(),
            #[cfg(test)]
            Self::Simulated(client) => client.new_inbox(),
        }
    }

    /// Returns when all that was published has been written.
    pub(crate) async fn flush(&self) -> Result<(), FlushError> {
        match self {
            Self::Nats(client) => client.flush().await,
            #[cfg(test)]
            Self::Simulated(_) => Ok(()),
        }
    }

    /// Largest message that the server takes.
    pub(crate) fn max_payload(&self) -> usize {
        match self {
            Self::Nats(client) => client.server_info().max_payload,
            #[cfg(test)]
            Self::Simulated(client) => client.max_payload(),
        }
    }
}

impl Subscriber {
    /// The next message. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Received> {
        match self {
            Self::Nats(messages) => messages.next().await.map(|message| Received {
                payload: message.payload,
                reply: message.reply,
                is_nobody: message.status == Some(StatusCode::NO_RESPONDERS),
            }),
            #[cfg(test)]
            Self::Simulated(messages) => messages.next().await,
        }
    }
}
