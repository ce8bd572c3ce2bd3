//! What terms and calls of a compiled policy are named by.

/// Names a term of a compiled policy, by its place in [`Compiled::terms`](super::Compiled::terms).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TermId(pub(super) u32);

/// Names a call of a compiled policy, by its place in [`Compiled::calls`](super::Compiled::calls).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId(pub(super) u32);

impl TermId {
    /// The place in the list of terms.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl CallId {
    /// The call at a place in the list.
    #[must_use]
    pub const fn at(place: u32) -> Self {
        Self(place)
    }

    /// The place in the list of calls.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}
