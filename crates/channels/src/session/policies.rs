//! What the policies say about a private channel, and what waits for them to say it (protocol 6).
//!
//! A channel asks one thing at a time. While the answer is out, what the client sends on the topic waits in
//! order; the verdicts are kept until the channel has another token.

use std::sync::Arc;

use realtime_hub::Sight;
use realtime_postgres::{AuthorizeError, ReadVerdict, WriteVerdict};
use realtime_protocol::{ClientMessage, PresencePush};
use tokio::time::Instant;

use super::waiting::Waiting;
use crate::{allowance::Allowance, client::Client, effect::Effect, token::Token};

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

/// The channel that a question is about.
pub(super) struct Subject<'a> {
    pub(super) topic: &'a Arc<str>,
    pub(super) token: &'a Token,
    /// Whether presence was asked for when it was joined.
    pub(super) wants_presence: bool,
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
    blind: bool,
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

    /// What has to be asked before presence can be tracked.
    pub(super) fn unknown_of_presence(&self) -> Option<Question> {
        if self.read.presence.is_none() {
            return Some(Question::Presence);
        }
        self.write.is_none().then_some(Question::Write)
    }

    /// Asks. `message`, if there is one, waits for the answer as the first.
    ///
    /// # Errors
    /// The message, if too many questions have failed: it cannot be judged.
    pub(super) fn ask(
        &mut self,
        question: Question,
        subject: &Subject<'_>,
        message: Option<ClientMessage>,
        client: &mut Client,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Option<ClientMessage>> {
        if question != Question::Refresh && !self.failures.is_left(Instant::now()) {
            return Err(message);
        }
        let ticket = client.ticket(subject.topic);
        self.asking = Some((ticket.step, question));
        if let Some(message) = message {
            let message = message.compact();
            client.waiting_bytes += message.size();
            self.waiting.push_back(message);
        }
        let presence = match question {
            Question::Write | Question::Presence => true,
            Question::Refresh => subject.wants_presence || self.read.presence.is_some(),
        };
        let request = client.question(subject.topic, subject.token, presence);
        effects.push(match question {
            Question::Write => Effect::AuthorizeWrite(ticket, request),
            Question::Presence | Question::Refresh => Effect::AuthorizeRead(ticket, request),
        });
        Ok(())
    }

    /// The question that a step belongs to; it is no longer out then.
    pub(super) fn answered(&mut self, step: u32) -> Option<Question> {
        self.asking.take_if(|(asked, _)| *asked == step).map(|(_, question)| question)
    }

    /// Nothing is seen until the answer comes that is out.
    pub(super) fn go_blind(&mut self) {
        self.blind = true;
    }

    /// The answer came. Whether nothing was seen until now.
    pub(super) fn see_again(&mut self) -> bool {
        std::mem::take(&mut self.blind)
    }

    /// There is no answer: what depends on it fails, the question is put again by what comes next. All that came while it
    /// was out shares the failure, or each would ask anew. Returns the tracks that fail; what else depends on it is dropped.
    pub(super) fn not_answered(&mut self, question: Question, client: &mut Client) -> Vec<ClientMessage> {
        self.failures.take(Instant::now());
        let mut failed = Vec::new();
        for message in std::mem::take(&mut self.waiting) {
            match &*message.event {
                "broadcast" if question == Question::Write => client.waiting_bytes -= message.size(),
                "presence" if is_track(&message) => {
                    client.waiting_bytes -= message.size();
                    failed.push(message);
                }
                _ => self.waiting.push_back(message),
            }
        }
        failed
    }
}

/// The frames that a verdict lets through. What was not asked is not seen.
pub(super) fn sight(read: ReadVerdict) -> Sight {
    Sight { broadcasts: read.broadcast, presence: read.presence == Some(true) }
}

fn is_track(message: &ClientMessage) -> bool {
    message.payload.json().is_some_and(|json| matches!(PresencePush::parse(json), PresencePush::Track(_)))
}

/// Tells operators. The text is the database's, without values of rows.
pub(super) fn warn(tenant: &str, error: &AuthorizeError) {
    tracing::warn!(tenant, code = error.code(), %error, "policies could not be evaluated");
}
