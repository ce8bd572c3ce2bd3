//! What the policies say about a private channel, and what waits for them to say it (protocol 6).
//!
//! A channel asks one thing at a time. While the answer is out, what the client sends on the topic waits in
//! order; the verdicts are kept until the channel has another token.

use std::sync::Arc;

use realtime_hub::Sight;
use realtime_postgres::{AuthorizeError, AuthorizeRequest, ReadVerdict, WriteVerdict};
use realtime_protocol::{ClientMessage, PresencePush, encode};
use tokio::time::Instant;

use super::{
    Effect, Session, Ticket, Topic, Waiting,
    allowance::Allowance,
    channel::{Channel, sub_topic},
};
use crate::token::Token;

/// What a joined channel asks the policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// What it may write: of its first broadcast, and of its first track.
    Write,
    /// Whether it may see presence: of its first track, if it was joined without presence.
    Presence,
    /// What it may read with another token.
    Refresh,
}

/// What is known of a private channel's permissions.
#[derive(Debug)]
pub(super) struct Policies {
    pub(super) read: ReadVerdict,
    /// `None`: not asked yet.
    pub(super) write: Option<WriteVerdict>,
    /// The question that is out, with its step.
    asking: Option<(u32, Question)>,
    /// What came on the topic since.
    pub(super) waiting: Waiting,
    /// Questions that may fail: beyond them what depends on one fails without it.
    failures: Allowance,
    /// Nothing is seen until the answer: the former token has expired.
    pub(super) blind: bool,
}

impl Policies {
    /// Those of a channel that was let in.
    pub(super) fn new(read: ReadVerdict) -> Self {
        Self {
            read,
            write: None,
            asking: None,
            waiting: Waiting::new(),
            failures: Allowance::default(),
            blind: false,
        }
    }

    /// Whether an answer is out.
    pub(super) fn is_asking(&self) -> bool {
        self.asking.is_some()
    }

    /// Whether the answer about another token is out.
    pub(super) fn is_refreshing(&self) -> bool {
        matches!(self.asking, Some((_, Question::Refresh)))
    }
}

/// The frames that a verdict lets through. What was not asked is not seen.
pub(super) fn sight(read: ReadVerdict) -> Sight {
    Sight { broadcasts: read.broadcast, presence: read.presence == Some(true) }
}

impl Session {
    /// What the policies are asked for the bearer of a token.
    pub(super) fn question(&self, topic: &str, token: &Token, presence: bool) -> Box<AuthorizeRequest> {
        Box::new(AuthorizeRequest {
            role: Arc::clone(&token.role),
            claims: Arc::clone(&token.claims),
            topic: sub_topic(topic).unwrap_or_default().into(),
            headers: Arc::clone(&self.headers),
            presence,
        })
    }

    /// Asks about a private channel. `message`, if there is one, waits for the answer as the first.
    pub(super) fn ask(
        &mut self,
        topic: &Arc<str>,
        question: Question,
        message: Option<ClientMessage>,
        effects: &mut Vec<Effect>,
    ) {
        let step = self.step();
        let Some(Topic::Joined(channel)) = self.topics.get_mut(topic) else { return };
        let wants_presence = channel.presence;
        let Some(policies) = &mut channel.policies else { return };
        if question != Question::Refresh && !policies.failures.is_left(Instant::now()) {
            return message.iter().for_each(|message| self.unjudged(message));
        }
        policies.asking = Some((step, question));
        if let Some(message) = message {
            let message = message.compact();
            self.waiting_bytes += message.size();
            policies.waiting.push_back(message);
        }
        let presence = match question {
            Question::Write | Question::Presence => true,
            Question::Refresh => wants_presence || policies.read.presence.is_some(),
        };
        let token = Arc::clone(&channel.token);
        let request = self.question(topic, &token, presence);
        let ticket = Ticket { topic: Arc::clone(topic), step };
        effects.push(match question {
            Question::Write => Effect::AuthorizeWrite(ticket, request),
            Question::Presence | Question::Refresh => Effect::AuthorizeRead(ticket, request),
        });
    }

    /// The channel whose question a ticket belongs to, with the question; it is no longer out then.
    fn answered(&mut self, ticket: &Ticket) -> Option<(&mut Channel, Question)> {
        let channel = self.channel_mut(&ticket.topic)?;
        let policies = channel.policies.as_mut()?;
        match policies.asking {
            Some((step, question)) if step == ticket.step => {
                policies.asking = None;
                Some((channel, question))
            }
            _ => None,
        }
    }

    /// The policies have said what a joined channel may read.
    pub(super) fn channel_read_answered(
        &mut self,
        ticket: &Ticket,
        result: Result<ReadVerdict, AuthorizeError>,
        effects: &mut Vec<Effect>,
    ) {
        let topic = &ticket.topic;
        let Some((channel, question)) = self.answered(ticket) else { return };
        let Some(policies) = channel.policies.as_mut() else { return };
        let read = match result {
            Ok(read) => read,
            Err(error) if question == Question::Refresh => {
                warn(self.runtime.name(), &error);
                let text = error.refresh_message(sub_topic(topic).unwrap_or_default());
                return self.stop_channel(topic, &text);
            }
            Err(error) => return self.not_answered(topic, question, &error, effects),
        };
        if question == Question::Refresh {
            let before = std::mem::replace(&mut policies.read, read);
            if let Some(text) = read.refresh_refusal(before, sub_topic(topic).unwrap_or_default()) {
                return self.stop_channel(topic, &text);
            }
        } else {
            // What was read when the channel was joined stands.
            policies.read.presence = read.presence;
        }
        channel.membership.set_sight(sight(policies.read));
        let blind = std::mem::take(&mut policies.blind);
        let sees_presence = channel.presence && policies.read.presence == Some(true);
        if question == Question::Refresh {
            if channel.watch.is_none() {
                channel.renewal.is_over();
            }
            self.subscribe(topic, effects);
        }
        if blind && sees_presence {
            self.presence_state(topic);
        }
        self.go_on(topic, effects);
    }

    /// The policies have said what a joined channel may write.
    pub(super) fn write_answered(
        &mut self,
        ticket: &Ticket,
        result: Result<WriteVerdict, AuthorizeError>,
        effects: &mut Vec<Effect>,
    ) {
        let Some((channel, question)) = self.answered(ticket) else { return };
        match (result, &mut channel.policies) {
            (Ok(write), Some(policies)) => {
                policies.write = Some(write);
                self.go_on(&ticket.topic, effects);
            }
            (Err(error), _) => self.not_answered(&ticket.topic, question, &error, effects),
            (Ok(_), None) => {}
        }
    }

    /// Takes what has waited.
    fn go_on(&mut self, topic: &str, effects: &mut Vec<Effect>) {
        let policies = self.channel_mut(topic).and_then(|channel| channel.policies.as_mut());
        let Some(policies) = policies else { return };
        let waiting = std::mem::take(&mut policies.waiting);
        self.release(waiting, effects);
    }

    /// There is no answer: what depends on it fails, the question is put again by what comes next. All that
    /// came while it was out shares the failure, or each would ask anew.
    fn not_answered(
        &mut self,
        topic: &Arc<str>,
        question: Question,
        error: &AuthorizeError,
        effects: &mut Vec<Effect>,
    ) {
        if question == Question::Write && matches!(error, AuthorizeError::Unavailable(_)) {
            let tenant = &**self.runtime.name();
            tracing::warn!(tenant, code = "UnableToHandleBroadcast", %error, "policies could not be asked");
        } else {
            warn(self.runtime.name(), error);
        }
        let policies = self.channel_mut(topic).and_then(|channel| channel.policies.as_mut());
        let Some(policies) = policies else { return };
        policies.failures.take(Instant::now());
        let mut rest = Waiting::new();
        for message in std::mem::take(&mut policies.waiting) {
            match &*message.event {
                "broadcast" if question == Question::Write => self.waiting_bytes -= message.size(),
                "presence" if is_track(&message) => {
                    self.waiting_bytes -= message.size();
                    self.unjudged(&message);
                }
                _ => rest.push_back(message),
            }
        }
        self.release(rest, effects);
    }

    /// A message cannot be judged: a broadcast is dropped, a track is answered.
    fn unjudged(&mut self, message: &ClientMessage) {
        if &*message.event == "presence" {
            self.refuse_track(message);
        }
    }

    /// Answers a track that could not be judged (protocol 5.4).
    fn refuse_track(&mut self, message: &ClientMessage) {
        let (calls, window) = self.runtime.tenant().limits.client_presence();
        let now = self.runtime.uptime();
        let Some(Topic::Joined(channel)) = self.topics.get_mut(&*message.topic) else { return };
        if !channel.presence_calls.allow(now, calls, window) && self.runtime.meters().closes_channels() {
            return self.stop_channel(&message.topic, super::push::TOO_MANY_CALLS);
        }
        let frame =
            encode::reply(self.vsn, &channel.join_ref, &message.msg_ref, &channel.topic, "error", b"{}");
        self.send(frame);
    }
}

fn is_track(message: &ClientMessage) -> bool {
    message.payload.json().is_some_and(|json| matches!(PresencePush::parse(json), PresencePush::Track(_)))
}

/// Tells operators. The text is the database's, without values of rows.
pub(super) fn warn(tenant: &str, error: &AuthorizeError) {
    tracing::warn!(tenant, code = error.code(), %error, "policies could not be evaluated");
}
