//! Watching the database for a channel (postgres_changes 1.3, 1.7, 1.8).

use std::{sync::Arc, time::Duration};

use rand::Rng as _;
use realtime_changes::SubscriptionSpec;
use realtime_postgres::SubscribeRequest;
use realtime_protocol::SystemMessage;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::{Effect, Session, Ticket};
use crate::routes::{Patience, Route};

/// A subscription that failed for a passing reason is tried again after this many milliseconds (1.7, E5, E6).
const RETRY_MILLIS: std::ops::Range<u64> = 5_000..10_000;

impl Session {
    /// Starts watching the database for what the join asked (postgres_changes 1.3, 1.7): all or nothing.
    pub(super) fn watch(
        &mut self,
        topic: &Arc<str>,
        objects: &[Map<String, Value>],
        ids: &[u32],
        legacy: bool,
        effects: &mut Vec<Effect>,
    ) {
        let parsed: Result<Vec<_>, _> = objects.iter().map(SubscriptionSpec::parse).collect();
        let specs = match parsed {
            Ok(specs) => specs,
            Err(error) => {
                // The text repeats what the client sent, which is nobody else's business.
                tracing::warn!(code = "RealtimeDisabledForConfiguration", "subscription refused");
                tracing::debug!(%error, "subscription refused");
                self.system(topic, &SystemMessage::postgres_changes_error(error.to_string()));
                return;
            }
        };
        let (vsn, outbox) = (self.vsn, Arc::clone(&self.outbox));
        let routes = Arc::clone(self.runtime.routes());
        let Some(channel) = self.channel_mut(topic) else { return };
        channel.subscriptions = ids.iter().copied().zip(specs.into_iter().map(Arc::new)).collect();
        let join_ref = channel.join_ref.clone();
        routes.open(
            channel.id,
            Arc::new(Route {
                outbox,
                vsn,
                topic: Arc::clone(topic),
                join_ref,
                legacy,
                quiet: false,
                patience: Patience::default(),
            }),
        );
        self.subscribe(topic, effects);
    }

    /// Asks the database for what the channel watches, with its token as it is now.
    pub(super) fn subscribe(&mut self, topic: &Arc<str>, effects: &mut Vec<Effect>) {
        let step = self.step();
        let Some(channel) = self.channel_mut(topic) else { return };
        if channel.subscriptions.is_empty() {
            return;
        }
        channel.attempt = step;
        channel.retry_at = None;
        let request = SubscribeRequest {
            channel: channel.id,
            role: Arc::clone(&channel.token.role),
            claims: Arc::clone(&channel.token.claims),
            subscriptions: channel.subscriptions.clone(),
        };
        effects.push(Effect::Subscribe(Ticket { topic: Arc::clone(topic), step }, Box::new(request)));
    }

    /// Tells the client what became of its subscription.
    pub(super) fn subscription_answered(
        &mut self,
        ticket: &Ticket,
        result: Result<(), realtime_changes::SubscribeRefusal>,
    ) {
        let Some(channel) = self.channel_mut(&ticket.topic) else { return };
        if channel.attempt != ticket.step {
            return;
        }
        match result {
            Ok(()) => self.system(&ticket.topic, &SystemMessage::subscribed()),
            Err(refusal) => {
                if refusal.is_transient() {
                    let delay = Duration::from_millis(rand::rng().random_range(RETRY_MILLIS));
                    channel.retry_at = Some(Instant::now() + delay);
                }
                tracing::warn!(code = refusal.code(), "subscription refused");
                tracing::debug!(error = %refusal, "subscription refused");
                self.system(&ticket.topic, &SystemMessage::postgres_changes_error(refusal.to_string()));
            }
        }
    }

    /// Tries a failed subscription again if it is time.
    pub(super) fn retry_subscription(&mut self, topic: &Arc<str>, now: Instant, effects: &mut Vec<Effect>) {
        if self.channel_mut(topic).is_some_and(|channel| channel.retry_at.is_some_and(|at| at <= now)) {
            self.subscribe(topic, effects);
        }
    }
}
