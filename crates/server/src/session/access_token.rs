//! The life of a channel's token (protocol 5.6, 8.5).

use std::sync::Arc;

use realtime_auth::AuthError;
use realtime_protocol::{AccessTokenPush, ClientMessage};
use tokio::time::Instant;

use super::{Effect, Session, Topic, policies::Question};

impl Session {
    /// `access_token`: a new token for the channel. Never answered.
    pub(super) fn access_token(&mut self, message: &ClientMessage, effects: &mut Vec<Effect>) {
        let push = message.payload.json().map(|payload| AccessTokenPush::parse(payload));
        let Some(AccessTokenPush::Token(text)) = push else { return };
        let Some(Topic::Joined(channel)) = self.topics.get(&*message.topic) else { return };
        if realtime_auth::is_api_key(&text) || *text == *channel.token.text {
            return;
        }
        let topic = Arc::clone(&channel.topic);
        match self.runtime.verify(&text) {
            Ok(token) => {
                let recheck_at = token.recheck_at(self.runtime.clock().unix_seconds());
                if let Some(channel) = self.channel_mut(&topic) {
                    channel.token = Arc::new(token);
                    channel.recheck_at = recheck_at;
                }
                let Some(channel) = self.channel_mut(&topic) else { return };
                match &mut channel.policies {
                    // Not told before the policies have judged it.
                    Some(policies) => {
                        policies.write = None;
                        self.ask(&topic, Question::Refresh, None, effects);
                    }
                    None => self.subscribe(&topic, effects),
                }
            }
            Err(error) => self.token_refused(&topic, &error),
        }
    }

    /// Verifies a channel's token again if it is time: it may have expired.
    pub(super) fn recheck_token(&mut self, topic: &Arc<str>, now: Instant) {
        let Some(Topic::Joined(channel)) = self.topics.get(topic) else { return };
        if channel.recheck_at > now {
            return;
        }
        match self.runtime.verify_again(&channel.token) {
            Ok(token) => {
                let recheck_at = token.recheck_at(self.runtime.clock().unix_seconds());
                if let Some(channel) = self.channel_mut(topic) {
                    channel.recheck_at = recheck_at;
                }
            }
            Err(error) => self.token_refused(topic, &error),
        }
    }

    fn token_refused(&mut self, topic: &str, error: &AuthError) {
        self.stop_channel(topic, &error.system_message());
    }
}
