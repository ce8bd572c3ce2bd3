//! The policies of a private channel: their verdicts, and the messages that wait for a verdict (protocol 6).
//!
//! A channel asks one question at a time. While it waits for the answer, the client's messages on the topic wait in
//! order. Verdicts are kept until the channel has another token.

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
    /// May the channel write? Asked on its first broadcast and on its first track.
    Write,
    /// May the channel see presence? Asked on its first track, if it was joined without presence.
    Presence,
    /// What may the channel read with its new token?
    Refresh,
}

/// The channel that a question is about.
pub(super) struct Subject<'a> {
    pub(super) topic: &'a Arc<str>,
    pub(super) token: &'a Token,
    /// Whether the join asked for presence.
    pub(super) wants_presence: bool,
}

/// The permissions of a private channel, as far as they are known.
#[derive(Debug)]
pub(super) struct Policies {
    pub(super) read: ReadVerdict,
    /// `None`: not asked yet.
    pub(super) write: Option<WriteVerdict>,
    /// The question that has no answer yet, and its step.
    asking: Option<(u32, Question)>,
    /// Messages on the topic since that question.
    pub(super) waiting: Waiting,
    /// Questions that may still fail. Beyond them, a message that needs a verdict fails without a question.
    failures: Allowance,
    /// The channel sees nothing until the answer comes, because the former token has expired.
    blind: bool,
}

impl Policies {
    /// The permissions of a channel that was let in.
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

    /// Whether an answer is missing.
    pub(super) fn is_asking(&self) -> bool {
        self.asking.is_some()
    }

    /// Whether the answer about a new token is missing.
    pub(super) fn is_refreshing(&self) -> bool {
        matches!(self.asking, Some((_, Question::Refresh)))
    }

    /// The question that has to be answered before presence can be tracked.
    pub(super) fn unknown_of_presence(&self) -> Option<Question> {
        if self.read.presence.is_none() {
            return Some(Question::Presence);
        }
        self.write.is_none().then_some(Question::Write)
    }

    /// Asks the policies. If there is a `message`, it is the first that waits for the answer.
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

    /// Takes the question that a step belongs to, which has been answered.
    pub(super) fn answered(&mut self, step: u32) -> Option<Question> {
        self.asking.take_if(|(asked, _)| *asked == step).map(|(_, question)| question)
    }

    /// Shows the channel nothing until the missing answer comes.
    pub(super) fn go_blind(&mut self) {
        self.blind = true;
    }

    /// The answer came. Returns whether the channel saw nothing until now.
    pub(super) fn see_again(&mut self) -> bool {
        std::mem::take(&mut self.blind)
    }

    /// There is no answer. The messages that need one fail together, because otherwise each would ask again; the next
    /// message asks again. Returns the tracks that fail; broadcasts that fail are dropped.
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

/// What the channel sees after a verdict. It does not see what was not asked about.
pub(super) fn sight(read: ReadVerdict) -> Sight {
    Sight { broadcasts: read.broadcast, presence: read.presence == Some(true) }
}

fn is_track(message: &ClientMessage) -> bool {
    message.payload.json().is_some_and(|json| matches!(PresencePush::parse(json), PresencePush::Track(_)))
}

/// Logs a failed question. The text is the database's, without values of rows.
pub(super) fn warn(tenant: &str, role: &str, error: &AuthorizeError) {
    tracing::warn!(tenant, code = error.code(), role, %error, "policies of a private topic could not be evaluated");
}
