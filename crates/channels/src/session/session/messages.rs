//! Messages of the client: which part gets each, and the messages that wait.

use std::sync::Arc;

use realtime_protocol::{ClientMessage, Ref, encode};

use super::Session;
use crate::{
    client::sub_topic,
    effect::Effect,
    first_generation::End,
    session::{
        topics::Topic,
        waiting::{Waiting, wait},
    },
};

impl Session {
    pub(super) fn dispatch(&mut self, message: ClientMessage, effects: &mut Vec<Effect>) {
        let Self { client, topics, .. } = self;
        if let Some(queue) = topics.queue(&message.topic) {
            return wait(queue, message, client);
        }
        match (&*message.topic, &*message.event) {
            ("phoenix", "heartbeat") => {
                client.send(encode::reply_ok(client.vsn, &Ref::null(), &message.msg_ref, "phoenix", b"{}"));
            }
            (topic, "phx_join") if sub_topic(topic).is_some() => self.join(message, effects),
            (_, "phx_leave") => self.leave(&message),
            (name, _) => match topics.get_mut(name) {
                Some(Topic::Joined(channel)) => {
                    if let Err(stop) = channel.push(message, client, effects) {
                        let topic = Arc::clone(&channel.topic);
                        self.stop(&topic, &stop);
                    }
                }
                Some(Topic::First(first)) => {
                    let outcome = first.push(&message, client, effects);
                    self.settle_first(&message.topic, outcome);
                }
                _ => {
                    let (vsn, null) = (client.vsn, Ref::null());
                    let text = "unmatched topic";
                    client.send(encode::reply_error(vsn, &null, &message.msg_ref, name, text));
                }
            },
        }
    }

    /// Handles `phx_leave` (protocol 3.3).
    fn leave(&mut self, message: &ClientMessage) {
        let (vsn, msg_ref) = (self.client.vsn, &message.msg_ref);
        match self.topics.get_mut(&message.topic) {
            Some(Topic::First(first)) => {
                if first.leave(message, &self.client) {
                    self.settle_first(&message.topic, Err(End::Left));
                }
            }
            Some(Topic::Joined(channel)) => {
                let is_stale = !message.join_ref.is_null()
                    && !channel.raw_join_ref.is_null()
                    && message.join_ref != channel.raw_join_ref;
                if !is_stale {
                    let topic = Arc::clone(&channel.topic);
                    let reply = encode::reply_ok(vsn, &channel.join_ref, msg_ref, &topic, b"{}");
                    self.end_channel(&topic, Some(reply));
                }
            }
            Some(Topic::Joining(_)) | None => {
                let reply = encode::reply_ok(vsn, &message.join_ref, msg_ref, &message.topic, b"{}");
                self.client.send(reply);
            }
        }
    }

    /// Handles messages that have waited on one topic. If one of them makes the topic wait again, the rest stays in
    /// the queue. Each message is moved once, however often that happens.
    pub(super) fn release(&mut self, mut waiting: Waiting, effects: &mut Vec<Effect>) {
        while let Some(next) = waiting.front() {
            if let Some(queue) = self.topics.queue(&next.topic) {
                while let Some(message) = queue.pop_back() {
                    waiting.push_front(message);
                }
                *queue = waiting;
                return;
            }
            if let Some(message) = waiting.pop_front() {
                self.client.waiting_bytes -= message.size();
                self.dispatch(message, effects);
            }
        }
    }

    /// Handles messages that waited on channels that are closed now.
    pub(super) fn release_orphans(&mut self, effects: &mut Vec<Effect>) {
        while let Some(orphans) = self.orphans.pop() {
            self.release(orphans, effects);
        }
    }
}
