//! Messages that the client sends to a joined channel (protocol 5).

use bytes::Bytes;
use realtime_auth::AuthError;
use realtime_codes::ErrorCode;
use realtime_hub::{Said, Tracked};
use realtime_protocol::{
    AccessTokenPush, ClientMessage, Extension, Payload, PresencePush, SystemMessage, size,
};

use super::Channel;
use crate::{
    client::Client,
    counters::MessageType,
    effect::Effect,
    publish,
    session::{
        policies::Question,
        presence::{NO_ROOM, PRESENCE_TOO_LARGE, is_object},
        stop::{Stop, TOO_MANY_EVENTS},
    },
};

/// Answer to a broadcast that is too large (protocol 5.2): the only response that is not an object.
const TOO_LARGE: &[u8] = b"\"payload_size_exceeded\"";

/// Answer to a broadcast that the policies deny (spec README, decision 7).
const UNAUTHORIZED: &[u8] = br#"{"reason":"unauthorized"}"#;

impl Channel {
    /// Handles a message other than join and leave. Its join_ref does not matter (protocol 3.6).
    pub(in crate::session) fn push(
        &mut self,
        message: ClientMessage,
        client: &mut Client,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Stop> {
        match &*message.event {
            "broadcast" => self.broadcast(message, client, effects),
            "presence" => self.call_presence(message, client, effects),
            "access_token" => self.access_token(&message, client, effects),
            // Unknown events are counted but not answered (protocol 3.10).
            _ => {
                client.runtime.meters().events().add(1);
                Ok(())
            }
        }
    }

    /// Handles `broadcast` (protocol 5.1, 5.2). On a private channel the policies are asked before the first one.
    fn broadcast(
        &mut self,
        message: ClientMessage,
        client: &mut Client,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Stop> {
        let limit = client.runtime.tenant().limits.max_payload_bytes();
        let (said, bytes, too_large) = match &message.payload {
            Payload::Json(payload) if is_object(payload) => {
                (Said::Json(payload), payload.len(), size::exceeds(payload, limit))
            }
            Payload::UserBroadcast(user) => (Said::User(user), user.body.len(), user.external_size() > limit),
            // A message that no receiver could read is not sent (protocol 5.1, 15.4).
            Payload::Json(_) | Payload::Binary(_) => return Ok(()),
        };
        match self.policies.as_ref().map(|policies| policies.write.map(|write| write.broadcast)) {
            None | Some(Some(true)) => {}
            Some(Some(false)) => {
                self.answer_broadcast(client, &message, "error", UNAUTHORIZED);
                return Ok(());
            }
            Some(None) => return self.ask(Question::Write, Some(message), client, effects),
        }
        let meters = client.runtime.meters();
        if too_large {
            meters.events().add(1);
            self.answer_broadcast(client, &message, "error", TOO_LARGE);
            return Ok(());
        }
        if self.membership.sheds() {
            if self.ack {
                let limit = meters.events().limit();
                let response = format!("{{\"reason\":\"{TOO_MANY_EVENTS}\",\"limit\":{limit}}}");
                self.answer_broadcast(client, &message, "error", response.as_bytes());
            }
            return Ok(());
        }
        let delivery = publish::by_member(meters, &self.membership, self.to_self, &said, bytes);
        client.said(delivery);
        self.answer_broadcast(client, &message, "ok", b"{}");
        let meters = client.runtime.meters();
        if self.to_self && meters.closes_channels() && meters.events().is_triggered() {
            // The sender has got its own message, so it counts as a receiver above the limit.
            return Err(TOO_MANY_EVENTS.into());
        }
        Ok(())
    }

    /// Answers a broadcast, if the client wants that.
    fn answer_broadcast(&self, client: &Client, message: &ClientMessage, status: &str, response: &[u8]) {
        if self.ack {
            self.answer(client, &message.msg_ref, status, response);
        }
    }

    /// Handles `presence` (protocol 5.4). On a private channel the policies are asked before the first track.
    fn call_presence(
        &mut self,
        message: ClientMessage,
        client: &mut Client,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Stop> {
        let push = message.payload.json().map_or(PresencePush::Unknown, PresencePush::parse);
        let unknown = self.policies.as_ref().and_then(|policies| policies.unknown_of_presence());
        if let (Some(question), PresencePush::Track(tracked)) = (unknown, &push)
            && is_object(tracked)
        {
            return self.ask(question, Some(message), client, effects);
        }
        let write = self.policies.as_ref().and_then(|policies| policies.write);
        let denied = write.is_some_and(|write| !write.presence);
        let call = self.presence.judge(push, denied, &client.runtime)?;
        let (status, response) = call.answer;
        match (call.wanted, call.held) {
            (Some(tracked), Some(held)) => {
                self.answer(client, &message.msg_ref, status, response);
                if self.presence.merge(held, tracked, &client.outbox) {
                    self.system(client, &held.told());
                }
                return Ok(());
            }
            (Some(Some(tracked)), None) => {
                if !self.track(tracked, client) {
                    self.answer(client, &message.msg_ref, "error", NO_ROOM);
                    return Ok(());
                }
            }
            (Some(None), None) => {
                self.presence.forget_merged();
                client.changed(self.membership.untrack());
            }
            (None, _) => {}
        }
        self.answer(client, &message.msg_ref, status, response);
        Ok(())
    }

    /// Makes the channel present with an object. False if the presence of its topic has no room for it.
    fn track(&mut self, tracked: Bytes, client: &mut Client) -> bool {
        self.presence.forget_merged();
        client.runtime.counters().payload(MessageType::Presence, tracked.len());
        match self.membership.track(&self.presence.key, tracked) {
            Tracked::Changed(fan_out) => {
                client.runtime.meters().presence().add(1);
                client.changed(fan_out);
                true
            }
            Tracked::Same => true,
            Tracked::NoRoom => false,
        }
    }

    /// Applies the last presence call that was held back, if the policies allow it now.
    pub(super) fn apply_merged(&mut self, tracked: Option<Bytes>, client: &mut Client) {
        match tracked {
            Some(tracked) => {
                // The policies may have judged another token since.
                let judged = self.policies.as_ref().and_then(|policies| policies.write);
                if judged.is_none_or(|write| write.presence) && !self.track(tracked, client) {
                    self.presence_warning(client, "what was tracked last does not count");
                }
            }
            None => client.changed(self.membership.untrack()),
        }
    }

    /// What the channel tracks is not shown any more.
    pub(in crate::session) fn presence_hidden(&self, client: &Client) {
        self.presence_warning(
            client,
            "what this channel tracks is among the largest and is not shown to others",
        );
    }

    /// Tells the client what it means to it that the presence of its topic is too large.
    fn presence_warning(&self, client: &Client, what: &str) {
        let text = format!("{PRESENCE_TOO_LARGE}: {what}");
        let message = SystemMessage::warning(Extension::System, ErrorCode::PresenceTooLarge, text);
        self.system(client, &message);
    }

    /// Handles `access_token`: a new token for the channel. It is never answered.
    fn access_token(
        &mut self,
        message: &ClientMessage,
        client: &mut Client,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Stop> {
        let push = message.payload.json().map(|payload| AccessTokenPush::parse(payload));
        let text = match push {
            Some(AccessTokenPush::Token(text)) => text,
            Some(AccessTokenPush::TooLong) => return Err(AuthError::Malformed.into()),
            _ => return Ok(()),
        };
        if realtime_auth::is_api_key(&text) {
            return Ok(());
        }
        self.tokens.came(text);
        self.renew(client, effects)
    }
}
