//! New tokens of a joined channel, and the rights of the one before (protocol 5.6, 8.5).
//!
//! A new token counts at once for what the client asks. What the channel receives still depends on the rights of the
//! former token until the database has judged the new one, but not longer than the former one is valid.

use std::sync::Arc;

use tokio::time::Instant;

use crate::{allowance::Allowance, token::Token};

/// New tokens of a channel.
#[derive(Debug, Default)]
pub(crate) struct Renewal {
    /// The last token that came, while it waits to be judged. Earlier ones are not judged.
    waiting: Option<Box<str>>,
    allowance: Allowance,
    /// The former token, whose rights count while the database judges the new one, and when it is verified again.
    /// Boxed: there is none for long.
    former: Option<Box<(Arc<Token>, Instant)>>,
}

impl Renewal {
    /// Takes a token from the client. It is ignored if it is the one `in_use`.
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

    /// The token that waits, even if it is not due.
    pub(crate) fn at_once(&mut self) -> Option<Box<str>> {
        self.waiting.take()
    }

    /// When the token that waits is due.
    pub(crate) fn due_at(&self) -> Option<Instant> {
        self.waiting.as_ref().map(|_| self.allowance.next(Instant::now()))
    }

    /// Keeps `former` until the database has judged its successor.
    pub(crate) fn began(&mut self, former: Arc<Token>, recheck_at: Instant) {
        self.former.get_or_insert_with(|| Box::new((former, recheck_at)));
    }

    /// Forgets the former token, because the database has judged the new one.
    pub(crate) fn is_over(&mut self) {
        self.former = None;
    }

    /// When the former token is verified again.
    pub(crate) fn former_until(&self) -> Option<Instant> {
        self.former.as_ref().map(|former| former.1)
    }

    /// The former token, if it is to be verified now.
    pub(crate) fn former_due(&self, now: Instant) -> Option<Arc<Token>> {
        self.former.as_deref().filter(|(_, at)| *at <= now).map(|(token, _)| Arc::clone(token))
    }
}
