//! What followers want.

use crate::chance::Set;

/// What a follower wants. What it names in neither set it gets with the line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) version: u64,
    pub(super) wanted: Set<u32>,
    pub(super) unwanted: Set<u32>,
}
