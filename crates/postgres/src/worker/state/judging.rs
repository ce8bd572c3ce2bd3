//! What compiled policies are made of.

use std::{collections::HashMap, sync::Arc};

use realtime_changes::{Party, policy::Catalog};
use realtime_pgoutput::{
    Oid,
    message::{Relation, UnixMicros},
};
use tokio::time::Instant;

use super::{
    held_up::{HeldUp, Trust},
    looking_up::LookingUp,
    slow::Slow,
};
use crate::visibility::{Passed, compiled::Loaded};

/// What compiled policies are made of.
#[derive(Debug, Default)]
pub(super) struct Judging {
    pub(super) catalog: Catalog,
    /// Of what they are made of: see [`compiled::print`].
    pub(super) print: Option<i64>,
    pub(super) rules: HashMap<(Oid, Box<str>), Rules>,
    /// The transactions that have passed: who is asked must have seen them.
    pub(super) passed: Passed,
    pub(super) held_up: HeldUp,
    /// Those who took most of the time that others wait when they were asked for what their policies compare rows with.
    pub(super) slow: Slow,
    /// The tables as the walsender has described them, also those that nobody watches.
    pub(super) relations: HashMap<Oid, Arc<Relation>>,
}

/// How what a role's policies ask for is asked.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) loaded: Loaded,
    /// By term: whether its answer is good until the log tells of a change.
    pub(super) keeps_term: Vec<bool>,
    /// The same by call.
    pub(super) keeps_call: Vec<bool>,
    /// For whom calls can be true: what has come of looking that up.
    pub(super) looking_up: LookingUp,
}

impl Judging {
    /// A transaction begins to pass.
    pub(super) fn passes(&mut self, xid: u32) {
        self.passed.push(xid);
    }

    /// How a party may be asked for what its policies compare rows with.
    pub(super) fn trust(&self, oid: Oid, party: &Arc<Party>) -> Trust {
        match self.held_up.trust(oid, party) {
            Trust::Full if self.slow.has(oid, party, Instant::now()) => Trust::Little,
            trust => trust,
        }
    }

    /// A new session begins: what it tells is not what was told before.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// The clock that policies read.
pub(super) fn now() -> UnixMicros {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    UnixMicros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
