//! What happens to all channels at once, and how a channel ends.

use bytes::Bytes;
use realtime_codes::ErrorCode;
use realtime_protocol::{Ref, SystemMessage, encode};

use super::{CLOSE_RESTART, Session};
use crate::{
    effect::Effect,
    first_generation::End,
    session::{ready::Ready, stop::Stop, topics::Topic, waiting::Waiting},
};

impl Session {
    /// Ends the tenant's sockets: tells each channel, then closes the socket.
    pub(super) fn disconnect(&mut self, effects: &mut Vec<Effect>) {
        let client = &self.client;
        for (name, topic) in self.topics.iter_mut() {
            if let Topic::Joined(_) = topic {
                client.system(&Ref::null(), name, &SystemMessage::disconnect());
                client.runtime.meters().events().add(1);
            }
        }
        effects.push(Effect::Close(CLOSE_RESTART));
    }

    /// The tenant's database has a new handle. If it may be a different database (`elsewhere`), the policies of
    /// private channels are asked again.
    pub(super) fn database_replaced(&mut self, elsewhere: bool, effects: &mut Vec<Effect>) {
        for topic in self.topics.names() {
            let client = &mut self.client;
            match self.topics.get_mut(&topic) {
                Some(Topic::Joined(channel)) => {
                    let outcome = channel.database_replaced(elsewhere, client, effects);
                    self.settle(&topic, outcome);
                }
                Some(Topic::Joining(joining)) => joining.database_replaced(elsewhere, client, effects),
                Some(Topic::First(first)) => first.database_replaced(client, effects),
                None => {}
            }
        }
    }

    /// Tells the channels that asked about broadcasts from the database that something has changed.
    pub(super) fn replication_differs(&mut self, effects: &mut Vec<Effect>) {
        let Self { client, topics, replicating, .. } = self;
        replicating.differs();
        for (_, topic) in topics.iter_mut() {
            if let Topic::Joined(channel) = topic
                && channel.ready != Ready::Unasked
            {
                // The watch begins first, so that it sees what changes meanwhile.
                replicating.watch(client, effects);
                channel.tell_replication(client);
            }
        }
    }

    /// Ends a channel if it has to end.
    pub(super) fn settle(&mut self, topic: &str, outcome: Result<(), Stop>) {
        if let Err(stop) = outcome {
            self.stop(topic, &stop);
        }
    }

    /// Handles the messages that have waited for an answer, or ends the channel.
    pub(super) fn go_on(&mut self, topic: &str, outcome: Result<Waiting, Stop>, effects: &mut Vec<Effect>) {
        match outcome {
            Ok(waiting) => self.release(waiting, effects),
            Err(stop) => self.stop(topic, &stop),
        }
    }

    /// Ends a channel because of an error: sends a `system` frame that says why, then `phx_close` (protocol 3.8).
    pub(super) fn stop(&mut self, topic: &str, Stop(text): &Stop) {
        let Self { client, topics, .. } = self;
        if let Some(channel) = topics.channel_mut(topic) {
            client.system(&channel.join_ref, topic, &SystemMessage::error(text.clone().into_owned()));
            let (tenant, role) = (client.tenant(), &*channel.tokens.in_use().role);
            let tables = Some(channel.rows.tables()).filter(|tables| !tables.is_empty());
            tracing::warn!(tenant, code = ErrorCode::ChannelShutdown.as_str(), role, tables, "{text}");
        }
        self.end_channel(topic, None);
    }

    /// Ends a channel and tells the client (`phx_close`). Nothing is sent between the reply to a leave and the close;
    /// clients would see a lost connection.
    pub(super) fn end_channel(&mut self, topic: &str, reply: Option<Bytes>) {
        if let Some(Topic::Joined(mut channel)) = self.topics.remove(topic) {
            channel.rows.end();
            self.orphans.extend(channel.policies.take().map(|policies| policies.waiting));
            self.admission.ended();
            let close = encode::close(self.client.vsn, &channel.raw_join_ref, topic);
            let frames: Vec<&Bytes> = reply.iter().chain([&close]).collect();
            // A closed outbox means that the socket is ending.
            let _ = self.client.outbox.send(&frames);
        }
    }

    /// Ends a channel of the first generation, if it has to end.
    pub(super) fn settle_first(&mut self, topic: &str, outcome: Result<(), End>) {
        let Err(end) = outcome else { return };
        if let Some(Topic::First(first)) = self.topics.remove(topic) {
            self.admission.ended();
            self.client.send(first.last_word(&end, &self.client));
        }
    }
}
