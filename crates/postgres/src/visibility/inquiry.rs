//! What is asked of policies, and what they answer.

use std::sync::Arc;

use realtime_changes::{Change, Party, Table};
use tokio_postgres::error::{DbError, SqlState};

use crate::sqlstate;

/// Rows of a table that parties are asked about.
#[derive(Debug)]
pub(crate) struct Inquiry<'a> {
    pub(crate) table: &'a Table,
    /// The numbers of the columns that the log carries, in its order.
    pub(crate) logged: &'a [i16],
    /// The numbers of the columns of its primary key.
    pub(crate) key: &'a [i16],
    /// The publication that the rows came by.
    pub(crate) publication: &'a str,
    pub(crate) rows: Vec<Row<'a>>,
    pub(crate) parties: Vec<Asked>,
    /// Whether a plan may serve several parties. Not where it could carry the claims of one over to the next.
    pub(crate) shares_plans: bool,
}

/// A row to be judged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row<'a> {
    pub(crate) change: Change<'a>,
    /// The transaction that wrote it.
    pub(crate) xid: u32,
    /// Whether no later change of its transaction, all of which is known, is about the same key.
    pub(crate) is_last: bool,
}

/// A party and the rows that concern it, as ascending indexes of [`Inquiry::rows`].
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) party: Arc<Party>,
    pub(crate) rows: Vec<u32>,
}

/// What a party sees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The rows that it sees, in no order.
    pub(crate) seen: Vec<u32>,
    /// The rows for which the policies could not be evaluated, and why.
    pub(crate) failed: Option<(Failure, Vec<u32>)>,
}

impl Verdict {
    pub(super) fn failed(failure: Failure, rows: &[u32]) -> Self {
        Self { seen: Vec::new(), failed: Some((failure, rows.to_vec())) }
    }
}

/// Why there is no verdict about a party's rows yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    /// Its policies took longer than they may, or were not to be cancelled.
    Slow,
    /// They met a lock.
    Locked,
    /// Their session ended.
    Ended,
    /// It was not asked: others took too long before.
    NotAsked,
}

impl Held {
    /// What it is if it stays so.
    pub(crate) fn failure(self, slow: bool) -> Failure {
        let code = match self {
            Self::Slow | Self::NotAsked => SqlState::QUERY_CANCELED,
            Self::Locked => SqlState::LOCK_NOT_AVAILABLE,
            Self::Ended => SqlState::ADMIN_SHUTDOWN,
        };
        Failure { error: sqlstate::brief(code.code()), slow }
    }
}

/// What parties see of their rows, as far as they have answered.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// In the order of the parties.
    pub(crate) verdicts: Vec<Result<Verdict, Held>>,
    /// The parties, by their places, that have answered but took much longer than the others.
    pub(crate) slow: Vec<usize>,
}

/// Why policies could not be evaluated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The condition: never the database's words, which may quote rows.
    pub(crate) error: String,
    /// Whether they took too long.
    pub(crate) slow: bool,
}

impl Failure {
    /// More rows wait for their answer than are kept.
    pub(crate) fn full() -> Self {
        Self { error: "more wait for the answer than are kept".to_owned(), slow: false }
    }

    pub(super) fn of(error: &DbError) -> Self {
        Self { error: sqlstate::brief(error.code().code()), slow: *error.code() == SqlState::QUERY_CANCELED }
    }
}

/// Whether an error is nobody's policy's fault: the server is going down or out of something, or a lock is held that
/// others wait for too. The question is put again.
pub(crate) fn is_passing(error: &DbError) -> bool {
    let code = error.code();
    let class = code.code().get(..2).unwrap_or_default();
    *code == SqlState::LOCK_NOT_AVAILABLE
        || (matches!(class, "08" | "53" | "57" | "58") && *code != SqlState::QUERY_CANCELED)
}
