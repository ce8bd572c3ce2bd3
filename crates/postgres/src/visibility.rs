//! Row-level security: the database itself says who sees a row (row_security 1, 2).
//!
//! The image that is sent is the image that is judged: the policies are evaluated on what the log carries of the row,
//! not on the row that stands in the table by now. So each version of a row is judged by itself, however often it
//! changed since, and whether it is still there or not.
//!
//! All parties of a role are asked for all rows in one round trip. Each party is asked in a subtransaction of its own,
//! with its claims, so that a policy that raises fails nobody else; the subtransaction is undone and the transaction
//! rolled back, so that nothing of a party stays. A policy that takes too long leaves its party without a verdict; the
//! caller asks it by itself, beside what others wait for. One statement per party, never one for several: PostgreSQL evaluates
//! `(select auth.uid())` once per statement, and the second party would see with the eyes of the first.
//!
//! The transaction sees one snapshot. A commit can reach us through the log before it becomes visible to others: then
//! nothing is concluded from what policies read elsewhere and the question is put again.

mod block;
mod check;
pub(crate) mod compiled;
mod condition;
mod image;
mod inquiry;
mod logged;
mod policies;
mod present;
mod question;
mod snapshot;
mod troubled;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use check::{Check, Unanswered};
use deadpool_postgres::{ClientWrapper as Client, Pool};
pub(crate) use inquiry::{Answers, Asked, Held, Inquiry, Row, Verdict};
pub(crate) use inquiry::{Failure, is_passing};
pub(crate) use logged::logged;
use policies::Policies;
pub(crate) use policies::PolicyCache;
use realtime_changes::Table;
pub(crate) use snapshot::{Passed, Snapshot, pauses, wait_until_visible};
use tokio_postgres::types::{ToSql, Type};
pub(crate) use troubled::Troubled;

use crate::{foreign::NoAnswer, pool, sqlstate};

/// Times that policies may differ from what is known of them before rows are given up.
const STALE: u32 = 20;

/// Pause before policies that are being changed are read again.
const BETWEEN: Duration = Duration::from_millis(10);

/// Name of PostgreSQL's way back to the role of the connection: no role can be called that.
pub(crate) const NO_ROLE: &str = "none";

/// What each party sees of its rows. `limit`: how long a round trip may take; those who are why it takes longer, or meet a
/// lock, have no verdict.
///
/// # Errors
/// When the database cannot be asked at all.
pub(crate) async fn check(
    pool: &Pool,
    inquiry: &Inquiry<'_>,
    cache: &PolicyCache,
    limit: Duration,
) -> Result<Answers, NoAnswer> {
    let mut roles: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, asked) in inquiry.parties.iter().enumerate() {
        roles.entry(&asked.party.role).or_default().push(at);
    }
    let mut answers = Answers::default();
    answers.verdicts.resize(inquiry.parties.len(), Ok(Verdict::default()));
    for (role, places) in roles {
        let parties: Vec<&Asked> = places.iter().filter_map(|at| inquiry.parties.get(*at)).collect();
        let of_role = check_role(pool, inquiry, cache, role, &parties, limit).await?;
        answers.slow.extend(of_role.slow.iter().filter_map(|at| places.get(*at)));
        for (at, verdict) in places.iter().zip(of_role.verdicts) {
            if let Some(slot) = answers.verdicts.get_mut(*at) {
                *slot = verdict;
            }
        }
    }
    Ok(answers)
}

/// What parties of one role see of their rows.
async fn check_role(
    pool: &Pool,
    inquiry: &Inquiry<'_>,
    cache: &PolicyCache,
    role: &str,
    parties: &[&Asked],
    limit: Duration,
) -> Result<Answers, NoAnswer> {
    let failed = |failure: &Failure| {
        let verdicts = parties.iter().map(|asked| Ok(Verdict::failed(failure.clone(), &asked.rows)));
        Answers { verdicts: verdicts.collect(), slow: Vec::new() }
    };
    if role == NO_ROLE {
        return Ok(failed(&Failure { error: sqlstate::brief("22023"), slow: false }));
    }
    for _ in 0..STALE {
        let policies = match policies(pool, inquiry.table, cache, role).await {
            Ok(policies) => policies,
            Err(NoAnswer::Query(error)) => match error.as_db_error() {
                Some(db) if !is_passing(db) => return Ok(failed(&Failure::of(db))),
                _ => return Err(error.into()),
            },
            Err(error) => return Err(error),
        };
        let mut images = image::images(pool, inquiry, &policies).await?;
        let answer = loop {
            let check = Check { pool, inquiry, role, policies: &policies, images: &images, limit };
            match check.parties(parties).await {
                // Each round leaves fewer images.
                Err(Unanswered::Broken(broken)) => images.leave_out(&broken),
                answer => break answer,
            }
        };
        match answer {
            Ok(answers) => return Ok(answers),
            Err(Unanswered::No(NoAnswer::Query(error))) => match error.as_db_error() {
                Some(db) if !is_passing(db) => return Ok(failed(&Failure::of(db))),
                _ => return Err(error.into()),
            },
            Err(Unanswered::No(error)) => return Err(error),
            Err(Unanswered::Stale | Unanswered::Broken(_)) => cache.remove(inquiry.table.oid, role),
        }
        tokio::time::sleep(BETWEEN).await;
    }
    Ok(failed(&Failure { error: "the policies do not stay the same".to_owned(), slow: false }))
}

/// The policies of a role, from memory or from the database.
async fn policies(
    pool: &Pool,
    table: &Table,
    cache: &PolicyCache,
    role: &str,
) -> Result<Arc<Policies>, NoAnswer> {
    if let Some(known) = cache.get(table.oid, role) {
        return Ok(known);
    }
    let client: &Client = &*pool::get(pool).await?;
    let set: [(&(dyn ToSql + Sync), Type); 1] = [(&role, Type::TEXT)];
    let (begun, set, read, ended) = tokio::join!(
        biased;
        client.batch_execute("begin read only; set local search_path to default"),
        client.query_typed("select pg_catalog.set_config('role', $1, true)", &set),
        policies::read(client, table),
        client.batch_execute("rollback"),
    );
    begun.and(set)?;
    ended?;
    let read = Arc::new(read?);
    cache.put(table.oid, role, Arc::clone(&read));
    Ok(read)
}
