//! How values are found in the index.

use std::borrow::Cow;

use crate::{jsonb, value::Family};

/// How values of an operand are looked up in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keying {
    Family(Family),
    /// Scalars of `jsonb`.
    Json,
}

impl Keying {
    /// What a value is found by. `None` if it is equal to none in the index.
    pub(crate) fn key(self, text: &[u8]) -> Option<Cow<'_, [u8]>> {
        match self {
            Self::Family(family) => family.key(text),
            Self::Json => jsonb::key(text),
        }
    }
}
