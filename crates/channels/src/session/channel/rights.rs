//! The rights of a channel: its token, and what the policies allow it.

use std::sync::Arc;

use realtime_codes::ErrorCode;
use realtime_hub::Sight;
use realtime_postgres::{AuthorizeError, ReadVerdict, WriteVerdict};
use realtime_protocol::{ClientMessage, Extension, SystemMessage};
use tokio::time::Instant;

use super::Channel;
use crate::{
    client::{Client, sub_topic},
    effect::Effect,
    session::{
        policies::{self, Question, Subject, sight},
        stop::Stop,
        waiting::Waiting,
    },
};

/// Tells channels that their token expired before the database had judged the next one.
const EXPIRED: &str =
    "The token expired before the database had judged the new one: messages may have been missed";

impl Channel {
    /// Judges the token that waits, if it is time.
    pub(super) fn renew(&mut self, client: &mut Client, effects: &mut Vec<Effect>) -> Result<(), Stop> {
        if self.is_asking() {
            return Ok(());
        }
        match self.tokens.due(Instant::now()) {
            Some(text) => self.use_token(&text, client, effects),
            None => Ok(()),
        }
    }

    /// Uses a token from now on.
    pub(super) fn use_token(
        &mut self,
        text: &str,
        client: &mut Client,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Stop> {
        let token = Arc::new(client.runtime.verify(text)?);
        let is_judged = self.rows.is_watching() || self.policies.is_some();
        self.tokens.replace(token, is_judged, &client.runtime);
        match &mut self.policies {
            // The database is told after the policies have judged the token.
            Some(policies) => {
                policies.write = None;
                self.ask(Question::Refresh, None, client, effects)
            }
            None => {
                self.subscribe(client, effects);
                Ok(())
            }
        }
    }

    /// Takes away the rights of the former token, which has expired before the database has judged its successor.
    pub(super) fn former_expired(&mut self, client: &mut Client, effects: &mut Vec<Effect>) {
        let mut refreshing = false;
        if let Some(policies) = self.policies.as_mut().filter(|policies| policies.is_refreshing()) {
            policies.go_blind();
            refreshing = true;
            self.membership.set_sight(Sight { broadcasts: false, presence: false });
            self.system(client, &SystemMessage::gap(Extension::System, ErrorCode::TokenExpired, EXPIRED));
        }
        if !self.rows.end() {
            return;
        }
        self.system(
            client,
            &SystemMessage::gap(Extension::PostgresChanges, ErrorCode::TokenExpired, EXPIRED),
        );
        // Subscribes under a new number, so that changes for the former token are not delivered.
        if !refreshing && !self.rows.is_retried() {
            self.subscribe(client, effects);
        }
    }

    /// Asks the policies. If there is a `message`, it is the first that waits for the answer.
    pub(super) fn ask(
        &mut self,
        question: Question,
        message: Option<ClientMessage>,
        client: &mut Client,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Stop> {
        let Some(policies) = &mut self.policies else { return Ok(()) };
        let subject =
            Subject { topic: &self.topic, token: self.tokens.in_use(), wants_presence: self.presence.wanted };
        match policies.ask(question, &subject, message, client, effects) {
            Err(Some(message)) => self.unjudged(&message, client),
            Ok(()) | Err(None) => Ok(()),
        }
    }

    /// Takes the answer about reading. Returns the messages that have waited for it.
    pub(in crate::session) fn read_answered(
        &mut self,
        step: u32,
        result: Result<ReadVerdict, AuthorizeError>,
        client: &mut Client,
        effects: &mut Vec<Effect>,
    ) -> Result<Waiting, Stop> {
        let Some(policies) = &mut self.policies else { return Ok(Waiting::new()) };
        let Some(question) = policies.answered(step) else { return Ok(Waiting::new()) };
        let refreshes = question == Question::Refresh;
        let topic = sub_topic(&self.topic).unwrap_or_default();
        let read = match result {
            Ok(read) => read,
            Err(error) if refreshes => {
                policies::warn(client.tenant(), &self.tokens.in_use().role, &error);
                return Err(error.refresh_message(topic).into());
            }
            Err(error) => return self.not_answered(question, &error, client),
        };
        if refreshes {
            let before = std::mem::replace(&mut policies.read, read);
            if let Some(text) = read.refresh_refusal(before, topic) {
                return Err(text.into());
            }
        } else {
            // The other rights to read stay as they were when the channel was joined.
            policies.read.presence = read.presence;
        }
        self.membership.set_sight(sight(policies.read));
        let was_blind = policies.see_again();
        let sees_presence = self.presence.wanted && policies.read.presence == Some(true);
        if refreshes {
            if !self.rows.is_watching() {
                self.tokens.judged();
            }
            self.subscribe(client, effects);
        }
        if was_blind && sees_presence {
            self.presence_state(client)?;
        }
        Ok(self.goes_on())
    }

    /// Takes the answer about writing. Returns the messages that have waited for it.
    pub(in crate::session) fn write_answered(
        &mut self,
        step: u32,
        result: Result<WriteVerdict, AuthorizeError>,
        client: &mut Client,
    ) -> Result<Waiting, Stop> {
        let Some(policies) = &mut self.policies else { return Ok(Waiting::new()) };
        let Some(question) = policies.answered(step) else { return Ok(Waiting::new()) };
        match result {
            Ok(write) => {
                policies.write = Some(write);
                Ok(self.goes_on())
            }
            Err(error) => self.not_answered(question, &error, client),
        }
    }

    /// Takes the messages that have waited for an answer.
    fn goes_on(&mut self) -> Waiting {
        self.policies.as_mut().map(|policies| std::mem::take(&mut policies.waiting)).unwrap_or_default()
    }

    /// There is no answer, so everything that depends on it fails. Returns the messages that have waited.
    fn not_answered(
        &mut self,
        question: Question,
        error: &AuthorizeError,
        client: &mut Client,
    ) -> Result<Waiting, Stop> {
        let tenant = client.tenant();
        if question == Question::Write && matches!(error, AuthorizeError::Unavailable(_)) {
            let code = ErrorCode::UnableToHandleBroadcast.as_str();
            let role = &*self.tokens.in_use().role;
            tracing::warn!(tenant, code, role, %error, "policies could not be asked");
        } else {
            policies::warn(tenant, &self.tokens.in_use().role, error);
        }
        let Some(policies) = &mut self.policies else { return Ok(Waiting::new()) };
        for track in policies.not_answered(question, client) {
            self.unjudged(&track, client)?;
        }
        Ok(self.goes_on())
    }

    /// A message cannot be judged. A broadcast is dropped; a track is answered (protocol 5.4).
    fn unjudged(&mut self, message: &ClientMessage, client: &Client) -> Result<(), Stop> {
        if &*message.event == "presence" {
            self.presence.count_unjudged(&client.runtime)?;
            self.answer(client, &message.msg_ref, "error", b"{}");
        }
        Ok(())
    }
}
