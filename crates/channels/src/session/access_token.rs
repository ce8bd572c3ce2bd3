//! The token of a joined channel: new ones, and the expiry of the one in use (protocol 5.6, 8.5).
//!
//! A new token counts at once for what the client asks. What the channel gets is still seen with the rights of the former
//! one until the database has judged the new one, but not longer than the former one lasts.

use std::sync::Arc;

use realtime_auth::AuthError;
use realtime_hub::Sight;
use realtime_protocol::{AccessTokenPush, ClientMessage, Extension, SystemMessage};
use tokio::time::Instant;

use super::{Effect, Session, Topic, allowance::Allowance, channel::Channel, policies::Question};
use crate::token::Token;

/// Code of what channels are told whose token expired while the next one was being judged.
const EXPIRED: &str = "TokenExpired";

/// The same in words.
const MISSED: &str =
    "The token expired before the database had judged the new one: messages may have been missed";

/// New tokens of a channel.
#[derive(Debug, Default)]
pub(super) struct Renewal {
    /// The last one that came, while it waits to be judged. Those before it are not judged.
    waiting: Option<Box<str>>,
    allowance: Allowance,
    /// With whose rights the channel sees what it gets, while the database judges its token; and when that has to be
    /// verified again.
    former: Option<(Arc<Token>, Instant)>,
}

impl Renewal {
    /// Takes a token from the client. The one `in_use` is none that is new.
    pub(super) fn came(&mut self, text: Box<str>, in_use: &Token) {
        self.waiting = (*text != *in_use.text).then_some(text);
    }

    /// The token that is to be judged now.
    pub(super) fn due(&mut self, now: Instant) -> Option<Box<str>> {
        if self.waiting.is_none() || !self.allowance.take(now) {
            return None;
        }
        self.waiting.take()
    }

    /// The token that waits, though it is not due.
    pub(super) fn at_once(&mut self) -> Option<Box<str>> {
        self.waiting.take()
    }

    /// When the token that waits is due.
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.waiting.as_ref().map(|_| self.allowance.next(Instant::now()))
    }

    /// A token that the database has yet to judge takes the place of `former`.
    pub(super) fn began(&mut self, former: Arc<Token>, recheck_at: Instant) {
        self.former.get_or_insert((former, recheck_at));
    }

    /// The database has judged.
    pub(super) fn is_over(&mut self) {
        self.former = None;
    }

    /// When the former token has to be verified again.
    pub(super) fn former_until(&self) -> Option<Instant> {
        self.former.as_ref().map(|(_, at)| *at)
    }

    /// The former token, if it is to be verified now.
    pub(super) fn former_due(&self, now: Instant) -> Option<Arc<Token>> {
        self.former.as_ref().filter(|(_, at)| *at <= now).map(|(token, _)| Arc::clone(token))
    }
}

impl Channel {
    /// Whether a new token has to wait for an answer of the policies.
    fn is_asking(&self) -> bool {
        self.policies.as_ref().is_some_and(|policies| policies.is_asking())
    }

    /// When a token that waits is judged, unless the policies have to answer before.
    pub(super) fn renewal_at(&self) -> Option<Instant> {
        self.renewal.due_at().filter(|_| !self.is_asking())
    }
}

impl Session {
    /// `access_token`: a new token for the channel. Never answered.
    pub(super) fn access_token(&mut self, message: &ClientMessage, effects: &mut Vec<Effect>) {
        let push = message.payload.json().map(|payload| AccessTokenPush::parse(payload));
        let Some(AccessTokenPush::Token(text)) = push else { return };
        let Some(Topic::Joined(channel)) = self.topics.get_mut(&*message.topic) else { return };
        if realtime_auth::is_api_key(&text) {
            return;
        }
        let topic = Arc::clone(&channel.topic);
        channel.renewal.came(text, &channel.token);
        self.renew(&topic, effects);
    }

    /// Judges the token that waits, if it is its time.
    pub(super) fn renew(&mut self, topic: &Arc<str>, effects: &mut Vec<Effect>) {
        let Some(channel) = self.channel_mut(topic).filter(|channel| !channel.is_asking()) else { return };
        if let Some(text) = channel.renewal.due(Instant::now()) {
            self.use_token(topic, &text, effects);
        }
    }

    /// Uses a token from now on.
    fn use_token(&mut self, topic: &Arc<str>, text: &str, effects: &mut Vec<Effect>) {
        let token = match self.runtime.verify(text) {
            Ok(token) => Arc::new(token),
            Err(error) => return self.token_refused(topic, &error),
        };
        let recheck_at = token.recheck_at(self.runtime.clock().unix_seconds());
        let Some(channel) = self.channel_mut(topic) else { return };
        let former = std::mem::replace(&mut channel.token, token);
        let former_until = std::mem::replace(&mut channel.recheck_at, recheck_at);
        if channel.watch.is_some() || channel.policies.is_some() {
            channel.renewal.began(former, former_until);
        }
        match &mut channel.policies {
            // Not told before the policies have judged it.
            Some(policies) => {
                policies.write = None;
                self.ask(topic, Question::Refresh, None, effects);
            }
            None => self.subscribe(topic, effects),
        }
    }

    /// Verifies a channel's token again if it is time: it may have expired. A newer one that waits takes its place then.
    pub(super) fn recheck_token(&mut self, topic: &Arc<str>, now: Instant, effects: &mut Vec<Effect>) {
        let Some(Topic::Joined(channel)) = self.topics.get(topic) else { return };
        if channel.recheck_at > now {
            return;
        }
        let verified = self.runtime.verify_again(&channel.token);
        let unix_seconds = self.runtime.clock().unix_seconds();
        let Some(channel) = self.channel_mut(topic) else { return };
        match verified {
            Ok(token) => channel.recheck_at = token.recheck_at(unix_seconds),
            Err(error) => match channel.renewal.at_once() {
                Some(text) => self.use_token(topic, &text, effects),
                None => self.token_refused(topic, &error),
            },
        }
    }

    /// Verifies the former token again if it is time. When it has expired, nothing more is seen with its rights.
    pub(super) fn recheck_former(&mut self, topic: &Arc<str>, now: Instant, effects: &mut Vec<Effect>) {
        let former = self.channel_mut(topic).and_then(|channel| channel.renewal.former_due(now));
        let Some(former) = former else { return };
        let verified = self.runtime.verify_again(&former);
        let unix_seconds = self.runtime.clock().unix_seconds();
        let Some(channel) = self.channel_mut(topic) else { return };
        channel.renewal.is_over();
        if let Ok(token) = verified {
            let at = token.recheck_at(unix_seconds);
            return channel.renewal.began(former, at);
        }
        let mut refreshing = false;
        if let Some(policies) = channel.policies.as_mut().filter(|policies| policies.is_refreshing()) {
            policies.blind = true;
            refreshing = true;
            channel.membership.set_sight(Sight { broadcasts: false, presence: false });
        }
        let watched = channel.watch.take().is_some();
        // Asked under another number, so that nothing of the former one can come; if the answer is still out, anew.
        let ask = watched && !refreshing && channel.retry_at.is_none();
        if refreshing {
            self.system(topic, &SystemMessage::gap(Extension::System, EXPIRED, MISSED));
        }
        if watched {
            self.system(topic, &SystemMessage::gap(Extension::PostgresChanges, EXPIRED, MISSED));
        }
        if ask {
            self.subscribe(topic, effects);
        }
    }

    fn token_refused(&mut self, topic: &str, error: &AuthError) {
        self.stop_channel(topic, &error.system_message());
    }
}
