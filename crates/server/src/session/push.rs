//! Messages on a joined channel (protocol 5).

use std::sync::Arc;

use bytes::Bytes;
use realtime_protocol::{ClientMessage, Payload, PresencePush, encode, size};

use super::{Effect, Session, Topic};

/// Answer to a broadcast that is too large (protocol 5.2): the only response that is not an object.
const TOO_LARGE: &[u8] = b"\"payload_size_exceeded\"";

impl Session {
    /// Any message but join and leave on a joined topic. Its join_ref does not matter (protocol 3.6).
    pub(super) fn push(&mut self, message: ClientMessage, effects: &mut Vec<Effect>) {
        match &*message.event {
            "broadcast" => self.broadcast(message),
            "presence" => self.presence(message),
            "access_token" => self.access_token(&message, effects),
            // Unknown events are not answered (protocol 3.10).
            _ => {}
        }
    }

    /// `broadcast` (protocol 5.1, 5.2).
    fn broadcast(&mut self, message: ClientMessage) {
        let limit = self.runtime.tenant().limits.max_payload_bytes();
        let Some(Topic::Joined(channel)) = self.topics.get(&*message.topic) else { return };
        let topic = &channel.topic;
        let too_large = match &message.payload {
            Payload::Json(payload) if is_object(payload) => {
                let too_large = size::exceeds(payload, limit);
                if !too_large {
                    channel
                        .membership
                        .publish(channel.to_self, |vsn| Some(encode::broadcast(vsn, topic, payload)));
                }
                too_large
            }
            Payload::UserBroadcast(user) => {
                let too_large = user.external_size() > limit;
                if !too_large {
                    channel
                        .membership
                        .publish(channel.to_self, |vsn| encode::user_broadcast(vsn, topic, user, None));
                }
                too_large
            }
            // What no receiver could read is not sent (protocol 5.1, 15.4).
            Payload::Json(_) | Payload::Binary(_) => return,
        };
        if channel.ack {
            let reply = if too_large {
                encode::reply(self.vsn, &channel.join_ref, &message.msg_ref, topic, "error", TOO_LARGE)
            } else {
                encode::reply_ok(self.vsn, &channel.join_ref, &message.msg_ref, topic, b"{}")
            };
            self.send(reply);
        }
    }

    /// `presence` (protocol 5.4).
    fn presence(&mut self, message: ClientMessage) {
        let limit = self.runtime.tenant().limits.max_payload_bytes();
        let Some(Topic::Joined(channel)) = self.topics.get(&*message.topic) else { return };
        let push = message.payload.json().map_or(PresencePush::Unknown, PresencePush::parse);
        let (status, response): (_, &[u8]) = match &push {
            PresencePush::Track(tracked) if !is_object(tracked) => {
                ("error", br#"{"reason":"Presence track payload must be a map"}"#)
            }
            PresencePush::Track(tracked) if size::exceeds(tracked, limit) => {
                let topic = Arc::clone(&channel.topic);
                self.stop_channel(&topic, "Track message size exceeded");
                return;
            }
            PresencePush::NoEvent | PresencePush::Track(_) | PresencePush::Untrack => ("ok", b"{}"),
            PresencePush::Unknown => ("error", b"{}"),
        };
        let (vsn, msg_ref) = (self.vsn, &message.msg_ref);
        self.send(encode::reply(vsn, &channel.join_ref, msg_ref, &channel.topic, status, response));
        match push {
            // Copied: the tracked object would else keep the whole frame it came in.
            PresencePush::Track(tracked) if status == "ok" => {
                channel.membership.track(&channel.presence_key, Bytes::copy_from_slice(&tracked));
            }
            PresencePush::Untrack => channel.membership.untrack(),
            _ => {}
        }
    }
}

/// Whether a JSON text is an object.
fn is_object(json: &[u8]) -> bool {
    json.trim_ascii_start().first() == Some(&b'{')
}
