//! Who sees a row: row-level security, asked of the database itself (row_security 1, 2).
//!
//! The image that is sent is the image that is judged: the policies are evaluated on what the log carries of the row,
//! not on the row that stands in the table by now. So each version of a row is judged by itself, however often it
//! changed since, and whether it is still there or not.
//!
//! All parties of a role are asked for all rows in one round trip. Each party is asked in a subtransaction of its own,
//! with its claims, so that a policy that raises fails nobody else; the subtransaction is undone and the transaction
//! rolled back, so that nothing of a party stays. One statement per party, never one for several: PostgreSQL evaluates
//! `(select auth.uid())` once per statement, and the second party would see with the eyes of the first.
//!
//! The transaction sees one snapshot. A commit can reach us through the log before it becomes visible to others: then
//! nothing is concluded from what policies read elsewhere and the question is put again.

mod image;
mod policies;
mod present;
mod question;
mod snapshot;
mod troubled;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use deadpool_postgres::ClientWrapper as Client;
use image::Images;
use policies::Policies;
pub(crate) use policies::PolicyCache;
use realtime_changes::{Change, Party, Table};
use serde::Serialize;
use serde_json::Value as Json;
pub(crate) use snapshot::wait_until_visible;
use snapshot::{Pauses, Snapshot};
use tokio_postgres::{
    Error,
    error::{DbError, SqlState},
    types::{ToSql, Type},
};
pub(crate) use troubled::Troubled;

use tokio::time::Instant;

use crate::{claims, sqlstate};

/// How long the policies of all parties may take together for some rows; then each party is asked alone.
const TOGETHER: Duration = Duration::from_secs(2);

/// How long the policies of one party may take when it is asked alone.
const ALONE: Duration = Duration::from_millis(500);

/// Parties of one round trip.
const PARTIES: usize = 1000;

/// Parties that failed on several rows and are asked again for each row, at most: it may be one row's fault.
const ASK_BY_ROW: usize = 4;

/// Times that policies may differ from what is known of them before rows are given up.
const STALE: u32 = 20;

/// Pause before policies that are being changed are read again.
const BETWEEN: Duration = Duration::from_millis(10);

/// Ends the transaction; functions of policies may have taken locks that outlive it.
const END: &str = "rollback; select pg_catalog.pg_advisory_unlock_all()";

/// Name of PostgreSQL's way back to the role of the connection: no role can be called that.
const NO_ROLE: &str = "none";

/// Rows of a table that parties are asked about.
#[derive(Debug)]
pub(crate) struct Inquiry<'a> {
    pub(crate) table: &'a Table,
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
    fn failed(failure: Failure, rows: &[u32]) -> Self {
        Self { seen: Vec::new(), failed: Some((failure, rows.to_vec())) }
    }

    fn raised(&self) -> bool {
        self.failed.as_ref().is_some_and(|(failure, _)| !failure.slow)
    }
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
    fn of(error: &DbError) -> Self {
        Self { error: sqlstate::brief(error.code().code()), slow: *error.code() == SqlState::QUERY_CANCELED }
    }
}

/// What each party sees of its rows, in the order of the parties.
///
/// # Errors
/// When the database cannot be asked at all.
pub(crate) async fn check(
    client: &Client,
    inquiry: &Inquiry<'_>,
    cache: &PolicyCache,
) -> Result<Vec<Verdict>, Error> {
    let mut roles: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, asked) in inquiry.parties.iter().enumerate() {
        roles.entry(&asked.party.role).or_default().push(at);
    }
    let mut verdicts = vec![Verdict::default(); inquiry.parties.len()];
    for (role, places) in roles {
        let parties: Vec<&Asked> = places.iter().filter_map(|at| inquiry.parties.get(*at)).collect();
        let of_role = check_role(client, inquiry, cache, role, &parties).await?;
        for (at, verdict) in places.iter().zip(of_role) {
            if let Some(slot) = verdicts.get_mut(*at) {
                *slot = verdict;
            }
        }
    }
    Ok(verdicts)
}

/// The same for parties of one role.
async fn check_role(
    client: &Client,
    inquiry: &Inquiry<'_>,
    cache: &PolicyCache,
    role: &str,
    parties: &[&Asked],
) -> Result<Vec<Verdict>, Error> {
    let failed = |failure: &Failure| {
        parties.iter().map(|asked| Verdict::failed(failure.clone(), &asked.rows)).collect()
    };
    if role == NO_ROLE {
        return Ok(failed(&Failure { error: sqlstate::brief("22023"), slow: false }));
    }
    for _ in 0..STALE {
        let policies = match policies(client, inquiry.table, cache, role).await {
            Ok(policies) => policies,
            Err(error) => match error.as_db_error() {
                Some(db) if !is_passing(db) => return Ok(failed(&Failure::of(db))),
                _ => return Err(error),
            },
        };
        let images = image::images(client, inquiry.table, &policies, &inquiry.rows).await?;
        let check = Check { client, inquiry, role, policies: &policies, images: &images };
        match check.parties(parties).await {
            Ok(verdicts) => return Ok(verdicts),
            Err(Unanswered::Query(error)) => return Err(error),
            // One alone is never answered that it is locked.
            Err(Unanswered::Stale | Unanswered::Locked) => cache.remove(inquiry.table.oid, role),
        }
        tokio::time::sleep(BETWEEN).await;
    }
    Ok(failed(&Failure { error: "the policies do not stay the same".to_owned(), slow: false }))
}

/// The policies of a role, from memory or from the database.
async fn policies(
    client: &Client,
    table: &Table,
    cache: &PolicyCache,
    role: &str,
) -> Result<Arc<Policies>, Error> {
    if let Some(known) = cache.get(table.oid, role) {
        return Ok(known);
    }
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

/// No verdicts.
#[derive(Debug)]
enum Unanswered {
    /// The policies are not those that were known.
    Stale,
    /// A policy says that it met a lock, and has not waited for one.
    Locked,
    Query(Error),
}

impl Unanswered {
    /// Whether a single party may be why.
    fn is_of_one(&self) -> bool {
        match self {
            Self::Stale => false,
            Self::Locked => true,
            Self::Query(error) => error.as_db_error().is_some_and(|db| !is_passing(db)),
        }
    }
}

impl From<Error> for Unanswered {
    fn from(error: Error) -> Self {
        Self::Query(error)
    }
}

struct Check<'a> {
    client: &'a Client,
    inquiry: &'a Inquiry<'a>,
    role: &'a str,
    policies: &'a Policies,
    images: &'a Images,
}

/// What the block of [`question`] reads.
#[derive(Serialize)]
struct Job<'a> {
    images: &'a [Json],
    parties: Vec<JobParty<'a>>,
}

#[derive(Serialize)]
struct JobParty<'a> {
    role: &'a str,
    claims: &'a str,
    sub: Option<String>,
    /// Counted from one; left out for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<Vec<u32>>,
}

impl Check<'_> {
    async fn parties(&self, parties: &[&Asked]) -> Result<Vec<Verdict>, Unanswered> {
        // Rows that cannot be judged are withheld; the others are asked about.
        let judged: Vec<Asked> = parties.iter().map(|asked| self.complete(asked)).collect();
        let mut verdicts = Vec::with_capacity(parties.len());
        for chunk in judged.chunks(PARTIES) {
            match self.ask(chunk, TOGETHER).await {
                Ok(some) => verdicts.extend(some),
                // One of them held up all.
                Err(error) if error.is_of_one() => {
                    for asked in chunk {
                        verdicts.push(self.ask_alone(asked).await?);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        if self.inquiry.rows.len() > 1
            && verdicts.iter().filter(|verdict| verdict.raised()).count() <= ASK_BY_ROW
        {
            for (asked, verdict) in judged.iter().zip(&mut verdicts).filter(|(_, verdict)| verdict.raised()) {
                *verdict = self.ask_by_row(asked).await?;
            }
        }
        for (asked, verdict) in parties.iter().zip(&mut verdicts) {
            self.withhold_incomplete(asked, verdict);
        }
        Ok(verdicts)
    }

    /// A party and those of its rows that can be judged.
    fn complete(&self, asked: &Asked) -> Asked {
        let incomplete = &self.images.incomplete;
        let rows = asked.rows.iter().filter(|row| !incomplete.contains(row)).copied().collect();
        Asked { party: Arc::clone(&asked.party), rows }
    }

    fn withhold_incomplete(&self, asked: &Asked, verdict: &mut Verdict) {
        let incomplete = |row: &&u32| self.images.incomplete.contains(row);
        let rows: Vec<u32> = asked.rows.iter().filter(incomplete).copied().collect();
        if !rows.is_empty() {
            let failure = || Failure { error: NOT_IN_THE_LOG.to_owned(), slow: false };
            verdict.failed.get_or_insert_with(|| (failure(), Vec::new())).1.extend(rows);
        }
    }

    /// Asks for one party, so that only it can be held up.
    async fn ask_alone(&self, asked: &Asked) -> Result<Verdict, Unanswered> {
        match self.ask(std::slice::from_ref(asked), ALONE).await {
            Ok(mut verdicts) => Ok(verdicts.pop().unwrap_or_default()),
            Err(Unanswered::Locked) => {
                let error = sqlstate::brief(SqlState::LOCK_NOT_AVAILABLE.code());
                Ok(Verdict::failed(Failure { error, slow: true }, &asked.rows))
            }
            Err(Unanswered::Query(error)) => match error.as_db_error() {
                Some(db) if !is_passing(db) => Ok(Verdict::failed(Failure::of(db), &asked.rows)),
                _ => Err(error.into()),
            },
            Err(error) => Err(error),
        }
    }

    /// Asks for one party row by row.
    async fn ask_by_row(&self, asked: &Asked) -> Result<Verdict, Unanswered> {
        let mut all = Verdict::default();
        for row in &asked.rows {
            let one = Asked { party: Arc::clone(&asked.party), rows: vec![*row] };
            let verdict = self.ask_alone(&one).await?;
            all.seen.extend(verdict.seen);
            if let Some((failure, failed)) = verdict.failed {
                all.failed.get_or_insert((failure, Vec::new())).1.extend(failed);
            }
        }
        Ok(all)
    }

    /// Asks for some parties, in a snapshot that has all commits in question.
    async fn ask(&self, parties: &[Asked], limit: Duration) -> Result<Vec<Verdict>, Unanswered> {
        let input = self.job(parties);
        let mut pauses = Pauses::new();
        loop {
            let begun = Instant::now();
            let (snapshot, verdicts) = match self.round_trip(&input, parties, limit).await {
                // Whoever really waits for a lock does so for half of the limit.
                Err(Unanswered::Query(error))
                    if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) && begun.elapsed() < limit / 4 =>
                {
                    return Err(Unanswered::Locked);
                }
                answer => answer?,
            };
            if self.inquiry.rows.iter().all(|row| snapshot.has(row.xid)) {
                return Ok(verdicts);
            }
            pauses.next().await;
        }
    }

    fn job(&self, parties: &[Asked]) -> String {
        let all = self.inquiry.rows.len();
        let rows = |asked: &'_ Asked| {
            let some = asked.rows.len() < all;
            some.then(|| asked.rows.iter().map(|row| row + 1).collect())
        };
        let parties = parties
            .iter()
            .map(|asked| JobParty {
                role: &asked.party.role,
                claims: &asked.party.claims,
                sub: claims::subject(&asked.party.claims),
                rows: rows(asked),
            })
            .collect();
        // Texts and numbers can always be written as JSON.
        serde_json::to_string(&Job { images: &self.images.rows, parties }).unwrap_or_default()
    }

    /// The statements travel together; whatever becomes of one, the last ends the transaction.
    async fn round_trip(
        &self,
        input: &str,
        parties: &[Asked],
        limit: Duration,
    ) -> Result<(Snapshot, Vec<Verdict>), Unanswered> {
        // Who waits for a lock is not slow: that limit is reached first.
        let locks = (limit / 2).as_millis().to_string();
        let limit = limit.as_millis().to_string();
        let plans = if self.inquiry.shares_plans { "force_generic_plan" } else { "force_custom_plan" };
        let parameters: [(&(dyn ToSql + Sync), Type); 5] = [
            (&input, Type::TEXT),
            (&limit, Type::TEXT),
            (&locks, Type::TEXT),
            (&plans, Type::TEXT),
            (&self.role, Type::TEXT),
        ];
        let fingerprint = self.client.prepare_typed_cached(policies::FINGERPRINT, &[Type::OID]).await?;
        let table: [&(dyn ToSql + Sync); 1] = [&self.inquiry.table.oid];
        let (begun, given, known, asked, answer, ended, named) = tokio::join!(
            biased;
            self.client.batch_execute(
                "begin isolation level repeatable read read only; set local search_path to default",
            ),
            self.client.query_typed(
                // One plan serves all parties: planning for each costs as much as looking.
                "select pg_catalog.pg_current_snapshot()::pg_catalog.text,
                    pg_catalog.set_config('realtime.check', $1, true),
                    pg_catalog.set_config('statement_timeout', $2, true),
                    pg_catalog.set_config('lock_timeout', $3, true),
                    pg_catalog.set_config('plan_cache_mode', $4, true), pg_catalog.set_config('jit', 'off', true),
                    pg_catalog.set_config('role', $5, true)",
                &parameters,
            ),
            self.client.query_one(&fingerprint, &table),
            self.client.batch_execute(&self.policies.question),
            self.client.query_typed("select pg_catalog.current_setting('realtime.verdicts', true)", &[]),
            self.client.batch_execute(END),
            self.client.query_typed(NAMED, &[]),
        );
        self.clean(&named?).await?;
        begun?;
        let given = given?;
        if known?.try_get::<_, String>(0)? != self.policies.fingerprint {
            return Err(Unanswered::Stale);
        }
        asked?;
        ended?;
        let snapshot: Option<String> = given.first().map(|row| row.try_get(0)).transpose()?;
        let snapshot = snapshot.and_then(|text| Snapshot::parse(&text)).unwrap_or_default();
        let verdicts: Option<String> = match answer?.first() {
            Some(row) => row.try_get(0)?,
            None => None,
        };
        let verdicts: Vec<String> = serde_json::from_str(&verdicts.unwrap_or_default()).unwrap_or_default();
        // An answer that is missing hides the rows.
        let verdict = |(at, asked): (usize, &Asked)| verdict(verdicts.get(at).map(String::as_str), asked);
        Ok((snapshot, parties.iter().enumerate().map(verdict).collect()))
    }
}

/// Statements that a session knows: those that SQL has named, and those of the protocol.
const NAMED: &str =
    "select pg_catalog.count(*) filter (where from_sql), pg_catalog.count(*) filter (where not from_sql)
    from pg_catalog.pg_prepared_statements";

impl Check<'_> {
    /// Forgets the statements of the session, of which `named` tells, if a policy has made or removed any: these outlive
    /// a rollback, and the next question would run what the policy put in its place, with our rights.
    async fn clean(&self, named: &[tokio_postgres::Row]) -> Result<(), Error> {
        let Some(row) = named.first() else { return Ok(()) };
        let (made, ours): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        let known = i64::try_from(self.client.statement_cache.size()).unwrap_or(i64::MAX);
        if made > 0 || ours < known {
            tracing::warn!(
                code = "RlsPolicyError",
                "a policy touched the prepared statements of its session"
            );
            self.client.statement_cache.clear();
            self.client.batch_execute("deallocate all").await?;
        }
        Ok(())
    }
}

/// Why a row is withheld whose image lacks what the policies read.
const NOT_IN_THE_LOG: &str = "the log does not carry a column that the policies read";

/// Whether an error is nobody's policy's fault: the server is going down or out of something, or a lock is held that
/// others wait for too. The question is put again.
fn is_passing(error: &DbError) -> bool {
    let code = error.code();
    let class = code.code().get(..2).unwrap_or_default();
    *code == SqlState::LOCK_NOT_AVAILABLE
        || (matches!(class, "08" | "53" | "57" | "58") && *code != SqlState::QUERY_CANCELED)
}

/// `=1,5` for rows that are seen, counted from one; `!22012` for an error of that code.
fn verdict(text: Option<&str>, asked: &Asked) -> Verdict {
    match text.map(|text| text.strip_prefix('=').ok_or(text)) {
        Some(Ok(rows)) => {
            let row = |text: &str| text.parse::<u32>().ok()?.checked_sub(1);
            Verdict { seen: rows.split(',').filter_map(row).collect(), failed: None }
        }
        Some(Err(error)) => {
            let error = sqlstate::brief(error.trim_start_matches('!'));
            Verdict::failed(Failure { error, slow: false }, &asked.rows)
        }
        None => Verdict::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_read() {
        let party = Arc::new(Party { role: "anon".into(), claims: "{}".into() });
        let asked = Asked { party, rows: vec![3, 4] };
        assert_eq!(verdict(Some("=1,100,7"), &asked).seen, [0, 99, 6]);
        assert_eq!(verdict(Some("="), &asked), Verdict::default());
        assert_eq!(verdict(None, &asked), Verdict::default());
        let failure = Failure { error: "22012 division_by_zero".to_owned(), slow: false };
        let failed = verdict(Some("!22012"), &asked);
        assert_eq!(failed, Verdict { seen: Vec::new(), failed: Some((failure, vec![3, 4])) });
    }
}
