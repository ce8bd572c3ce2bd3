//! Joins, from the message to the answer.

use std::sync::Arc;

use realtime_cluster::Interest;
use realtime_protocol::{ClientMessage, JoinRefusal, Ref, encode};

use super::Session;
use crate::{
    effect::Effect,
    first_generation::FirstChannel,
    session::{
        admission::still_good,
        join::{Joining, Next, Request},
        topics::Topic,
    },
};

/// Close code after a refusal that ends the socket (protocol 1.10).
const CLOSE_GOING_AWAY: u16 = 1001;

/// Stops a channel that got too many messages while its missed messages were looked for.
const TOO_MANY_MEANWHILE: &str = "Too many messages came while stored messages were read";

impl Session {
    /// Handles `phx_join` on a topic that begins with `realtime:`.
    pub(super) fn join(&mut self, message: ClientMessage, effects: &mut Vec<Effect>) {
        let topic: Arc<str> = (&*message.topic).into();
        self.client.diffs.hold();
        // The old channel of a duplicate join ends first, whatever the outcome of the new one (protocol 3.5). The
        // client is not told: it would believe that the new one has ended (clients 2).
        self.topics.remove(&topic);
        let Self { client, topics, admission, legacy, .. } = self;
        let (payload, token) = match admission.admit(&message, topics.len(), legacy.as_ref(), client) {
            Ok(admitted) => admitted,
            Err(refusal) => {
                return self.refuse(&topic, &message.join_ref, &message.msg_ref, &refusal, effects);
            }
        };
        if let Some(legacy) = legacy.as_ref().filter(|_| payload.legacy) {
            let first = FirstChannel::join(legacy, Arc::clone(&topic), &message, token, client, effects);
            admission.joined();
            return topics.insert(topic, Topic::First(Box::new(first)));
        }
        let request = Request::new(Arc::clone(&topic), &message, payload, token, client);
        let is_ready = !request.is_private()
            && client.runtime.database().is_ready()
            && [&self.interest, &request.interest].into_iter().flatten().all(Interest::is_ready);
        let (joining, next) = Joining::begin(request, is_ready, client, effects);
        match next {
            Next::Waits => topics.insert(topic, Topic::Joining(Box::new(joining))),
            Next::Decided(_) => self.accept(joining, effects),
        }
    }

    /// Goes on with a join: it waits for its next stage, or it is decided.
    pub(super) fn advance(&mut self, topic: &Arc<str>, next: Next, effects: &mut Vec<Effect>) {
        let Next::Decided(outcome) = next else { return };
        let Some(Topic::Joining(mut joining)) = self.topics.remove(topic) else { return };
        let waiting = std::mem::take(&mut joining.waiting);
        match outcome.and_then(|()| still_good(&joining.request.token, &self.client)) {
            Ok(()) => self.accept(*joining, effects),
            Err(refusal) => self.refuse_join(&joining.request, &refusal, effects),
        }
        self.release(waiting, effects);
    }

    /// Accepts a join. It is answered when the row changes that it wants are watched.
    fn accept(&mut self, mut joining: Joining, effects: &mut Vec<Effect>) {
        if joining.watch(&mut self.client, effects) {
            let topic = Arc::clone(&joining.request.topic);
            self.topics.insert(topic, Topic::Joining(Box::new(joining)));
        } else {
            self.joined(joining, effects);
        }
    }

    /// Answers a join that has waited for its row changes, or has waited too long.
    pub(super) fn answer_join(&mut self, topic: &Arc<str>, effects: &mut Vec<Effect>) {
        let Some(Topic::Joining(mut joining)) = self.topics.remove(topic) else { return };
        let waiting = std::mem::take(&mut joining.waiting);
        match still_good(&joining.request.token, &self.client) {
            Ok(()) => self.joined(*joining, effects),
            Err(refusal) => self.refuse_join(&joining.request, &refusal, effects),
        }
        self.release(waiting, effects);
    }

    /// Answers a join that has succeeded, and starts what it asked for.
    fn joined(&mut self, joining: Joining, effects: &mut Vec<Effect>) {
        let Self { client, topics, admission, replicating, attendance, .. } = self;
        client.runtime.counters().node().joined(client.transport, true);
        let (mut channel, welcome, is_whole) = joining.joined(client);
        admission.joined();
        if attendance.is_none() {
            *attendance = Some(client.runtime.database().attend());
        }
        let topic = Arc::clone(&channel.topic);
        let outcome = if is_whole {
            channel.welcome(welcome, replicating, client, effects)
        } else {
            Err(TOO_MANY_MEANWHILE.into())
        };
        topics.insert(Arc::clone(&topic), Topic::Joined(Box::new(channel)));
        self.settle(&topic, outcome);
    }

    fn refuse_join(&mut self, request: &Request, refusal: &JoinRefusal, effects: &mut Vec<Effect>) {
        self.refuse(&request.topic, &request.raw_join_ref, &request.msg_ref, refusal, effects);
    }

    /// Answers a join with an error, after the back-off.
    fn refuse(
        &mut self,
        topic: &str,
        join_ref: &Ref,
        msg_ref: &Ref,
        refusal: &JoinRefusal,
        effects: &mut Vec<Effect>,
    ) {
        let client = &mut self.client;
        tracing::warn!(tenant = client.tenant(), code = refusal.code(), "{refusal}");
        client.runtime.counters().node().joined(client.transport, false);
        self.admission.refused(self.topics.joining() > 0);
        let reply = encode::reply_error(client.vsn, join_ref, msg_ref, topic, &refusal.to_string());
        let close = refusal.closes_socket().then_some(CLOSE_GOING_AWAY);
        let delay = client.runtime.channel_error_backoff();
        if delay.is_zero() {
            client.send(reply);
            effects.extend(close.map(Effect::Close));
        } else {
            client.diffs.refused_later();
            effects.push(Effect::SendLater(delay, vec![reply], close));
        }
    }
}
