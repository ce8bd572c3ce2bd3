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
mod logged;
mod policies;
mod present;
mod question;
mod snapshot;
mod troubled;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use deadpool_postgres::{ClientWrapper as Client, Pool};
use image::Images;
pub(crate) use logged::logged;
use policies::Policies;
pub(crate) use policies::PolicyCache;
use realtime_changes::{Change, Party, Table};
use serde::{Deserialize, Serialize};
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

use crate::{
    claims,
    foreign::{Guest, NoAnswer, session_columns},
    pool, sqlstate,
};

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

/// Name of PostgreSQL's way back to the role of the connection: no role can be called that.
const NO_ROLE: &str = "none";

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
    pool: &Pool,
    inquiry: &Inquiry<'_>,
    cache: &PolicyCache,
) -> Result<Vec<Verdict>, NoAnswer> {
    let mut roles: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, asked) in inquiry.parties.iter().enumerate() {
        roles.entry(&asked.party.role).or_default().push(at);
    }
    let mut verdicts = vec![Verdict::default(); inquiry.parties.len()];
    for (role, places) in roles {
        let parties: Vec<&Asked> = places.iter().filter_map(|at| inquiry.parties.get(*at)).collect();
        let of_role = check_role(pool, inquiry, cache, role, &parties).await?;
        for (at, verdict) in places.iter().zip(of_role) {
            if let Some(slot) = verdicts.get_mut(*at) {
                *slot = verdict;
            }
        }
    }
    Ok(verdicts)
}

/// What parties of one role see of their rows.
async fn check_role(
    pool: &Pool,
    inquiry: &Inquiry<'_>,
    cache: &PolicyCache,
    role: &str,
    parties: &[&Asked],
) -> Result<Vec<Verdict>, NoAnswer> {
    let failed = |failure: &Failure| {
        parties.iter().map(|asked| Verdict::failed(failure.clone(), &asked.rows)).collect()
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
            let check = Check { pool, inquiry, role, policies: &policies, images: &images };
            match check.parties(parties).await {
                // Each time there are fewer of them.
                Err(Unanswered::Broken(broken)) => images.leave_out(&broken),
                answer => break answer,
            }
        };
        match answer {
            Ok(verdicts) => return Ok(verdicts),
            Err(Unanswered::No(error)) => return Err(error),
            // One alone is never answered that it is locked.
            Err(Unanswered::Stale | Unanswered::Locked | Unanswered::Broken(_)) => {
                cache.remove(inquiry.table.oid, role);
            }
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

/// No verdicts.
#[derive(Debug)]
enum Unanswered {
    /// The policies are not those that were known.
    Stale,
    /// A policy says that it met a lock, and has not waited for one.
    Locked,
    /// Images that cannot be built, and why; the others can.
    Broken(Vec<(u32, String)>),
    No(NoAnswer),
}

impl Unanswered {
    /// Whether a single party may be why.
    fn is_of_one(&self) -> bool {
        match self {
            Self::Stale | Self::Broken(_) | Self::No(NoAnswer::Connect(_)) => false,
            Self::Locked | Self::No(NoAnswer::Silent) => true,
            Self::No(NoAnswer::Query(error)) => error.as_db_error().is_some_and(|db| !is_passing(db)),
        }
    }
}

impl<E: Into<NoAnswer>> From<E> for Unanswered {
    fn from(error: E) -> Self {
        Self::No(error.into())
    }
}

struct Check<'a> {
    pool: &'a Pool,
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
    /// Numbers of images; left out for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<Vec<u32>>,
}

/// What the block of [`question`] has found.
#[derive(Deserialize)]
struct Found {
    /// One text per party.
    verdicts: Vec<Option<String>>,
    /// Numbers of images that cannot be built. Then there are no verdicts.
    broken: Vec<u32>,
    /// SQLSTATEs: why they cannot be built.
    reasons: Vec<String>,
}

impl Check<'_> {
    async fn parties(&self, parties: &[&Asked]) -> Result<Vec<Verdict>, Unanswered> {
        let mut verdicts = vec![Verdict::default(); parties.len()];
        if !self.images.objects().is_empty() {
            verdicts.clear();
            for chunk in parties.chunks(PARTIES) {
                verdicts.extend(self.chunk(chunk).await?);
            }
            self.ask_failed_by_row(parties, &mut verdicts).await?;
        }
        for (asked, verdict) in parties.iter().zip(&mut verdicts) {
            self.withhold(asked, verdict);
        }
        Ok(verdicts)
    }

    /// Asks for some parties together, or each alone if one of them holds up all.
    async fn chunk(&self, parties: &[&Asked]) -> Result<Vec<Verdict>, Unanswered> {
        match self.ask(parties, TOGETHER).await {
            Err(error) if error.is_of_one() => {}
            answer => return answer,
        }
        let mut verdicts = Vec::with_capacity(parties.len());
        for asked in parties {
            verdicts.push(self.ask_alone(asked).await?);
        }
        Ok(verdicts)
    }

    /// Asks again, for each row, for parties whose policies raised an error: one of the rows may be why.
    async fn ask_failed_by_row(
        &self,
        parties: &[&Asked],
        verdicts: &mut [Verdict],
    ) -> Result<(), Unanswered> {
        let raised = verdicts.iter().filter(|verdict| verdict.raised()).count();
        if raised > ASK_BY_ROW || self.inquiry.rows.len() == 1 {
            return Ok(());
        }
        for (asked, verdict) in parties.iter().zip(verdicts).filter(|(_, verdict)| verdict.raised()) {
            *verdict = self.ask_by_row(asked).await?;
        }
        Ok(())
    }

    /// Withholds the rows of a party that cannot be judged.
    fn withhold(&self, asked: &Asked, verdict: &mut Verdict) {
        for (row, why) in self.images.withheld(&asked.rows) {
            let failure = || (Failure { error: why.to_owned(), slow: false }, Vec::new());
            let failed = &mut verdict.failed.get_or_insert_with(failure).1;
            if !failed.contains(&row) {
                failed.push(row);
            }
        }
    }

    /// Asks for one party, so that only it can be held up.
    async fn ask_alone(&self, asked: &Asked) -> Result<Verdict, Unanswered> {
        match self.ask(&[asked], ALONE).await {
            Ok(mut verdicts) => Ok(verdicts.pop().unwrap_or_default()),
            Err(Unanswered::Locked) => {
                let error = sqlstate::brief(SqlState::LOCK_NOT_AVAILABLE.code());
                Ok(Verdict::failed(Failure { error, slow: true }, &asked.rows))
            }
            Err(Unanswered::No(NoAnswer::Silent)) => {
                let error = sqlstate::brief(SqlState::QUERY_CANCELED.code());
                Ok(Verdict::failed(Failure { error, slow: true }, &asked.rows))
            }
            Err(Unanswered::No(NoAnswer::Query(error))) => match error.as_db_error() {
                Some(db) if !is_passing(db) => Ok(Verdict::failed(Failure::of(db), &asked.rows)),
                _ => Err(error.into()),
            },
            Err(error) => Err(error),
        }
    }

    /// Asks for one party row by row.
    async fn ask_by_row(&self, asked: &Asked) -> Result<Verdict, Unanswered> {
        let mut all = Verdict::default();
        for row in asked.rows.iter().filter(|row| self.images.number(**row).is_some()) {
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
    async fn ask(&self, parties: &[&Asked], limit: Duration) -> Result<Vec<Verdict>, Unanswered> {
        let input = self.job(parties);
        let mut pauses = Pauses::new();
        loop {
            let begun = Instant::now();
            let guest = Guest::new(pool::get(self.pool).await?, limit);
            let answer =
                guest.answer(async |guest: &Guest| self.round_trip(guest, &input, parties, limit).await);
            let (snapshot, verdicts) = match answer.await? {
                // Whoever really waits for a lock does so for half of the limit.
                Err(Unanswered::No(error))
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

    fn job(&self, parties: &[&Asked]) -> String {
        let all = self.inquiry.rows.len();
        let rows = |asked: &Asked| {
            let some = asked.rows.len() < all;
            some.then(|| asked.rows.iter().filter_map(|row| self.images.number(*row)).collect())
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
        serde_json::to_string(&Job { images: self.images.objects(), parties }).unwrap_or_default()
    }

    /// The statements travel together; whatever becomes of one, the last ends the transaction.
    async fn round_trip(
        &self,
        guest: &Guest,
        input: &str,
        parties: &[&Asked],
        limit: Duration,
    ) -> Result<(Snapshot, Vec<Verdict>), Unanswered> {
        // Who waits for a lock is not slow: that limit is reached first.
        let locks = (limit / 2).as_millis().to_string();
        let limit = limit.as_millis().to_string();
        let plans = if self.inquiry.shares_plans { "force_generic_plan" } else { "force_custom_plan" };
        let settings: [(&(dyn ToSql + Sync), Type); 5] = [
            (&input, Type::TEXT),
            (&limit, Type::TEXT),
            (&locks, Type::TEXT),
            (&plans, Type::TEXT),
            (&self.role, Type::TEXT),
        ];
        let fingerprint = guest.prepare_typed_cached(policies::FINGERPRINT, &[Type::OID]).await?;
        let table: [&(dyn ToSql + Sync); 1] = [&self.inquiry.table.oid];
        guest.enter();
        let (begun, given, known, asked, found, left) = tokio::join!(
            biased;
            guest.batch_execute(BEGIN),
            async {
                let rows = guest.query_typed(SETTINGS, &settings).await?;
                guest.begun(&rows)?;
                Ok::<_, Error>(rows)
            },
            guest.query_one(&fingerprint, &table),
            guest.batch_execute(&self.policies.question),
            guest.query_typed("select pg_catalog.current_setting('realtime.verdicts', true)", &[]),
            guest.leave(),
        );
        begun?;
        let given = given?;
        if known?.try_get::<_, String>(0)? != self.policies.fingerprint {
            return Err(Unanswered::Stale);
        }
        asked?;
        let found = found?;
        left?;
        let snapshot: Option<String> = given.first().map(|row| row.try_get(0)).transpose()?;
        let snapshot = snapshot.and_then(|text| Snapshot::parse(&text)).unwrap_or_default();
        let found: Option<String> = found.first().map(|row| row.try_get(0)).transpose()?.flatten();
        Ok((snapshot, self.verdicts(found.as_deref(), parties)?))
    }

    /// Reads what was found. An answer that is missing hides the rows.
    fn verdicts(&self, found: Option<&str>, parties: &[&Asked]) -> Result<Vec<Verdict>, Unanswered> {
        let Some(found) = found.and_then(|text| serde_json::from_str::<Found>(text).ok()) else {
            return Ok(vec![Verdict::default(); parties.len()]);
        };
        if !found.broken.is_empty() {
            return Err(Unanswered::Broken(found.broken.into_iter().zip(found.reasons).collect()));
        }
        let texts = found.verdicts.iter().map(Option::as_deref).chain(std::iter::repeat(None));
        let row = |number| self.images.row(number);
        Ok(parties.iter().zip(texts).map(|(asked, text)| verdict(text, asked, row)).collect())
    }
}

/// Begins a transaction that sees one snapshot.
const BEGIN: &str = "begin isolation level repeatable read read only; set local search_path to default";

/// The snapshot, and the settings of a question.
const SETTINGS: &str = concat!(
    "select pg_catalog.pg_current_snapshot()::pg_catalog.text, pg_catalog.set_config('realtime.check', $1, true),
        pg_catalog.set_config('statement_timeout', $2, true), pg_catalog.set_config('lock_timeout', $3, true),
        pg_catalog.set_config('plan_cache_mode', $4, true), pg_catalog.set_config('jit', 'off', true),
        pg_catalog.set_config('role', $5, true), ",
    session_columns!()
);

/// Whether an error is nobody's policy's fault: the server is going down or out of something, or a lock is held that
/// others wait for too. The question is put again.
fn is_passing(error: &DbError) -> bool {
    let code = error.code();
    let class = code.code().get(..2).unwrap_or_default();
    *code == SqlState::LOCK_NOT_AVAILABLE
        || (matches!(class, "08" | "53" | "57" | "58") && *code != SqlState::QUERY_CANCELED)
}

/// `=1,5` for images that are seen, whose rows `row` tells; `!22012` for an error of that code.
fn verdict(text: Option<&str>, asked: &Asked, row: impl Fn(u32) -> Option<u32>) -> Verdict {
    match text.map(|text| text.strip_prefix('=').ok_or(text)) {
        Some(Ok(numbers)) => {
            let row = |text: &str| text.parse().ok().and_then(&row);
            Verdict { seen: numbers.split(',').filter_map(row).collect(), failed: None }
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
        let verdict = |text| verdict(text, &asked, |number| number.checked_sub(1));
        assert_eq!(verdict(Some("=1,100,7")).seen, [0, 99, 6]);
        assert_eq!(verdict(Some("=")), Verdict::default());
        assert_eq!(verdict(None), Verdict::default());
        let failure = Failure { error: "22012 division_by_zero".to_owned(), slow: false };
        let failed = verdict(Some("!22012"));
        assert_eq!(failed, Verdict { seen: Vec::new(), failed: Some((failure, vec![3, 4])) });
    }
}
