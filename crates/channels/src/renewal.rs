//! New tokens of a joined channel, and the rights of the one before (protocol 5.6, 8.5).
//!
//! A new token counts at once for what the client asks. What the channel gets is still seen with the rights of the former
//! one until the database has judged the new one, but not longer than the former one lasts.

use std::sync::Arc;

use tokio::time::Instant;

use crate::{allowance::Allowance, token::Token};

/// New tokens of a channel.
#[derive(Debug, Default)]
pub(crate) struct Renewal {
    /// The last one that came, while it waits to be judged. Those before it are not judged.
    waiting: Option<Box<str>>,
    allowance: Allowance,
    /// With whose rights the channel sees what it gets, while the database judges its token; and when that has to be
    /// verified again.
    former: Option<(Arc<Token>, Instant)>,
}

impl Renewal {
    /// Takes a token from the client. The one `in_use` is none that is new.
    pub(crate) fn came(&mut self, text: Box<str>, in_use: &Token) {
        self.waiting = (*text != *in_use.text).then_some(text);
    }

    /// The token that is to be judged now.
    pub(crate) fn due(&mut self, now: Instant) -> Option<Box<str>> {
        if self.waiting.is_none() || !self.allowance.take(now) {
            return None;
        }
        self.waiting.take()
    }

    /// The token that waits, though it is not due.
    pub(crate) fn at_once(&mut self) -> Option<Box<str>> {
        self.waiting.take()
    }

    /// When the token that waits is due.
    pub(crate) fn due_at(&self) -> Option<Instant> {
        self.waiting.as_ref().map(|_| self.allowance.next(Instant::now()))
    }

    /// A token that the database has yet to judge takes the place of `former`.
    pub(crate) fn began(&mut self, former: Arc<Token>, recheck_at: Instant) {
        self.former.get_or_insert((former, recheck_at));
    }

    /// The database has judged.
    pub(crate) fn is_over(&mut self) {
        self.former = None;
    }

    /// When the former token has to be verified again.
    pub(crate) fn former_until(&self) -> Option<Instant> {
        self.former.as_ref().map(|(_, at)| *at)
    }

    /// The former token, if it is to be verified now.
    pub(crate) fn former_due(&self, now: Instant) -> Option<Arc<Token>> {
        self.former.as_ref().filter(|(_, at)| *at <= now).map(|(token, _)| Arc::clone(token))
    }
}
