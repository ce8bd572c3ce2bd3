//! Messages on a joined channel (protocol 5).

use std::sync::Arc;

use bytes::Bytes;
use realtime_hub::Said;
use realtime_protocol::{ClientMessage, Payload, PresencePush, encode, size};

use super::{Effect, Session, Topic, merged::Held, policies::Question};
use crate::counters::MessageType;

/// Answer to a broadcast that is too large (protocol 5.2): the only response that is not an object.
const TOO_LARGE: &[u8] = b"\"payload_size_exceeded\"";

/// Why a channel is stopped that was handed a frame while its tenant had too many (protocol 5.3).
pub(super) const TOO_MANY_EVENTS: &str = "Too many messages per second";

/// Why a channel is stopped whose tenant has too many presence events (protocol 5.4).
pub(super) const TOO_MANY_PRESENCE: &str = "Too many presence messages per second";

/// Why a channel is stopped whose client says too much about presence (protocol 5.4).
pub(super) const TOO_MANY_CALLS: &str = "Client presence rate limit exceeded";

/// Answer to a broadcast that the policies deny (spec README, decision 7).
const UNAUTHORIZED: &[u8] = br#"{"reason":"unauthorized"}"#;

impl Session {
    /// Any message but join and leave on a joined topic. Its join_ref does not matter (protocol 3.6).
    pub(super) fn push(&mut self, message: ClientMessage, effects: &mut Vec<Effect>) {
        match &*message.event {
            "broadcast" => self.broadcast(message, effects),
            "presence" => self.presence(message, effects),
            "access_token" => self.access_token(&message, effects),
            // Unknown events are counted but not answered (protocol 3.10).
            _ => self.runtime.meters().events().add(1),
        }
    }

    /// `broadcast` (protocol 5.1, 5.2). On a private channel the policies are asked before the first.
    fn broadcast(&mut self, message: ClientMessage, effects: &mut Vec<Effect>) {
        let limit = self.runtime.tenant().limits.max_payload_bytes();
        let Some(Topic::Joined(channel)) = self.topics.get(&*message.topic) else { return };
        let topic = &channel.topic;
        let (said, too_large) = match &message.payload {
            Payload::Json(payload) if is_object(payload) => {
                (Said::Json(payload), size::exceeds(payload, limit))
            }
            Payload::UserBroadcast(user) => (Said::User(user), user.external_size() > limit),
            // What no receiver could read is not sent (protocol 5.1, 15.4).
            Payload::Json(_) | Payload::Binary(_) => return,
        };
        if let Some(policies) = &channel.policies {
            match policies.write.map(|write| write.broadcast) {
                Some(true) => {}
                Some(false) => {
                    if channel.ack {
                        let (join_ref, msg_ref) = (&channel.join_ref, &message.msg_ref);
                        self.send(encode::reply(self.vsn, join_ref, msg_ref, topic, "error", UNAUTHORIZED));
                    }
                    return;
                }
                None => {
                    let topic = Arc::clone(topic);
                    return self.ask(&topic, Question::Write, Some(message), effects);
                }
            }
        }
        if !too_large && channel.membership.sheds() {
            if channel.ack {
                let limit = self.runtime.meters().events().limit();
                let response = format!("{{\"reason\":\"{TOO_MANY_EVENTS}\",\"limit\":{limit}}}");
                let (join_ref, msg_ref) = (&channel.join_ref, &message.msg_ref);
                self.send(encode::reply(self.vsn, join_ref, msg_ref, topic, "error", response.as_bytes()));
            }
            return;
        }
        self.runtime.meters().events().add(1);
        if !too_large {
            let size = match &message.payload {
                Payload::UserBroadcast(user) => user.body.len(),
                Payload::Json(payload) | Payload::Binary(payload) => payload.len(),
            };
            self.runtime.counters().payload(MessageType::Broadcast, size);
            let fan_out = channel.membership.say(channel.to_self, &said);
            self.congestion = channel.membership.bus_congestion();
            if fan_out.is_none() && self.congestion.is_none() {
                // Somebody else is at it and may be slower than this client.
                self.congestion = channel.membership.congestion();
            }
            self.fan_outs.extend(fan_out);
        }
        if channel.ack {
            let reply = if too_large {
                encode::reply(self.vsn, &channel.join_ref, &message.msg_ref, topic, "error", TOO_LARGE)
            } else {
                encode::reply_ok(self.vsn, &channel.join_ref, &message.msg_ref, topic, b"{}")
            };
            self.send(reply);
        }
        let meters = self.runtime.meters();
        if channel.to_self && !too_large && meters.closes_channels() && meters.events().is_triggered() {
            // It was handed its own message.
            let topic = Arc::clone(topic);
            self.stop_channel(&topic, TOO_MANY_EVENTS);
        }
    }

    /// `presence` (protocol 5.4). On a private channel the policies are asked before the first track.
    fn presence(&mut self, message: ClientMessage, effects: &mut Vec<Effect>) {
        let limits = self.runtime.tenant().limits;
        let (vsn, now) = (self.vsn, self.runtime.uptime());
        let Some(Topic::Joined(channel)) = self.topics.get_mut(&*message.topic) else { return };
        let push = message.payload.json().map_or(PresencePush::Unknown, PresencePush::parse);
        let closes = self.runtime.meters().closes_channels();
        let unknown = channel.policies.as_ref().and_then(|policies| {
            if policies.read.presence.is_none() {
                Some(Question::Presence)
            } else {
                policies.write.is_none().then_some(Question::Write)
            }
        });
        if let (Some(question), PresencePush::Track(tracked)) = (unknown, &push)
            && is_object(tracked)
        {
            let topic = Arc::clone(&channel.topic);
            return self.ask(&topic, question, Some(message), effects);
        }
        let denied = channel
            .policies
            .as_ref()
            .is_some_and(|policies| policies.write.is_some_and(|write| !write.presence));
        let (calls, window) = limits.client_presence();
        let allowed = push == PresencePush::NoEvent || channel.presence_calls.allow(now, calls, window);
        if !allowed && closes {
            return self.stop_channel(&message.topic, TOO_MANY_CALLS);
        }
        let mut held =
            (!allowed).then(|| Held::Window(channel.presence_calls.opens_at(window).saturating_sub(now)));
        let (status, response): (_, &[u8]) = match &push {
            PresencePush::Track(tracked) if !is_object(tracked) => {
                ("error", br#"{"reason":"Presence track payload must be a map"}"#)
            }
            PresencePush::Track(_) if denied => ("error", b"{}"),
            PresencePush::Track(tracked) if size::exceeds(tracked, limits.max_payload_bytes()) => {
                return self.stop_channel(&message.topic, "Track message size exceeded");
            }
            PresencePush::Track(_) if self.runtime.too_many_presence_events() => {
                if closes {
                    return self.stop_channel(&message.topic, TOO_MANY_PRESENCE);
                }
                held = held.or(Some(Held::Tenant));
                ("ok", b"{}")
            }
            PresencePush::NoEvent | PresencePush::Track(_) | PresencePush::Untrack => ("ok", b"{}"),
            PresencePush::Unknown => ("error", b"{}"),
        };
        let reply = encode::reply(vsn, &channel.join_ref, &message.msg_ref, &channel.topic, status, response);
        let wanted = match push {
            // Copied: the tracked object would else keep the whole frame it came in.
            PresencePush::Track(tracked) if status == "ok" => Some(Some(Bytes::copy_from_slice(&tracked))),
            PresencePush::Untrack => Some(None),
            _ => None,
        };
        match (wanted, held) {
            (Some(tracked), Some(held)) => {
                self.send(reply);
                return self.merge(&message.topic, held, tracked);
            }
            (Some(Some(tracked)), None) => self.track(&message.topic, tracked),
            (Some(None), None) => {
                channel.merged = None;
                self.fan_outs.extend(channel.membership.untrack());
            }
            (None, _) => {}
        }
        self.send(reply);
    }

    /// Makes a channel present with an object.
    pub(super) fn track(&mut self, topic: &str, tracked: Bytes) {
        let Some(Topic::Joined(channel)) = self.topics.get_mut(topic) else { return };
        channel.merged = None;
        self.runtime.counters().payload(MessageType::Presence, tracked.len());
        if let Some(fan_out) = channel.membership.track(&channel.presence_key, tracked) {
            self.runtime.meters().presence().add(1);
            self.fan_outs.extend(fan_out);
        }
    }
}

/// Whether a JSON text is an object.
fn is_object(json: &[u8]) -> bool {
    json.trim_ascii_start().first() == Some(&b'{')
}
