//! Who may read and write a private topic: the policies on `realtime.messages`, asked of the database itself
//! (tenant_database 3, protocol 6).
//!
//! A question is one transaction that is always rolled back, sent as a whole and answered in one round trip.
//! Those who ask the same at once share the answer.

mod error;
mod policy_pool;
mod probe;
mod run;

use std::sync::Arc;

pub use error::AuthorizeError;
pub(crate) use policy_pool::PolicyPool;
use realtime_flights as flight;
pub(crate) use run::Authorizer;

/// Whose permissions are asked for, on which topic. Equal requests have equal answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AuthorizeRequest {
    /// `role` claim of the token: the database role that policies see.
    pub role: Arc<str>,
    /// All claims, as a JSON object.
    pub claims: Arc<str>,
    /// Topic without `realtime:`.
    pub topic: Arc<str>,
    /// Headers as a JSON object: of a socket those that begin with `x-`, of an HTTP request all.
    pub headers: Arc<str>,
    /// Whether presence is asked for beside broadcast.
    pub presence: bool,
}

/// What a token may read of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadVerdict {
    /// Whether broadcasts may be received.
    pub broadcast: bool,
    /// Whether presence may be seen; `None` if that was not asked.
    pub presence: Option<bool>,
}

impl ReadVerdict {
    /// Whether a channel may be joined: something can be read.
    #[must_use]
    pub fn may_join(&self) -> bool {
        self.broadcast || self.presence == Some(true)
    }

    /// Message of the `system` frame with which a channel ends whose new token reads less than `before`: less than
    /// something, or nothing at all. `None` if it goes on; what was not asked does not count.
    #[must_use]
    pub fn refresh_refusal(&self, before: Self, topic: &str) -> Option<String> {
        let lost_presence = before.presence == Some(true) && self.presence == Some(false);
        if !self.may_join() {
            Some(format!("You do not have permissions to read from this Channel topic: {topic}"))
        } else if (before.broadcast && !self.broadcast) || lost_presence {
            Some(format!("You no longer have permission to read from this Channel topic: {topic}"))
        } else {
            None
        }
    }
}

/// What a token may write to a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteVerdict {
    /// Whether broadcasts may be sent.
    pub broadcast: bool,
    /// Whether presence may be tracked; false if that was not asked.
    pub presence: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refreshed_tokens() {
        let verdict = |broadcast, presence| ReadVerdict { broadcast, presence };
        let judge = |before: ReadVerdict, now: ReadVerdict| {
            now.refresh_refusal(before, "T").map(|text| text.contains("no longer"))
        };
        let all = verdict(true, Some(true));
        assert_eq!(judge(all, all), None);
        assert_eq!(judge(all, verdict(true, Some(false))), Some(true));
        assert_eq!(judge(all, verdict(false, Some(true))), Some(true));
        assert_eq!(judge(all, verdict(false, Some(false))), Some(false));
        assert_eq!(judge(all, verdict(true, None)), None);
        assert_eq!(judge(verdict(true, None), verdict(false, None)), Some(false));
        assert_eq!(judge(verdict(false, Some(true)), all), None);
        assert_eq!(
            verdict(false, None).refresh_refusal(all, "T").as_deref(),
            Some("You do not have permissions to read from this Channel topic: T")
        );
        assert_eq!(
            verdict(false, Some(true)).refresh_refusal(all, "T").as_deref(),
            Some("You no longer have permission to read from this Channel topic: T")
        );
    }
}
