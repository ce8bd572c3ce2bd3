//! Who sees a row: row-level security, asked of the database itself (postgres_changes 3).
//!
//! All parties are asked for all rows in one round trip. Each party is asked in a subtransaction of its own, as its
//! role and with its claims, so that a policy that raises fails nobody else; the transaction is read only and rolled
//! back, so that nothing of a party stays on the session. One statement per party, never one for several: PostgreSQL
//! evaluates `(select auth.uid())` once per statement, and the second party would see with the eyes of the first.
//!
//! The transaction sees one snapshot. A commit can reach us through the log before it becomes visible to others: then
//! nothing is concluded from its absence and the question is put again.

mod question;
mod snapshot;
mod troubled;

use std::{sync::Arc, time::Duration};

use question::question;
use realtime_changes::{Change, Party, Table};
use realtime_pgoutput::message::Value;
use serde::Serialize;
pub(crate) use snapshot::wait_until_visible;
use snapshot::{Pauses, Snapshot};
use tokio_postgres::{
    Client,
    error::{DbError, SqlState},
    types::{ToSql, Type},
};
pub(crate) use troubled::Troubled;

use crate::sqlstate;

/// How long the policies of all parties may take together for some rows; then each party is asked alone.
const TOGETHER: Duration = Duration::from_secs(2);

/// How long the policies of one party may take when it is asked alone.
const ALONE: Duration = Duration::from_millis(500);

/// Parties of one round trip.
const PARTIES: usize = 1000;

/// Parties that failed on several rows and are asked again for each row, at most: it may be one row's fault.
const ASK_BY_ROW: usize = 4;

/// Rows of a table that parties are asked about.
#[derive(Debug)]
pub(crate) struct Inquiry<'a> {
    pub(crate) table: &'a Table,
    /// Texts of the rows' primary keys.
    pub(crate) keys: Vec<Vec<String>>,
    /// The transactions that wrote the rows.
    pub(crate) xids: Vec<u32>,
    pub(crate) parties: Vec<Asked>,
    /// Whether a plan may serve several parties. Not where it could carry the claims of one over to the next.
    pub(crate) shares_plans: bool,
}

/// A party and the rows that concern it, as ascending indexes of [`Inquiry::keys`].
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) party: Arc<Party>,
    pub(crate) rows: Vec<u32>,
}

/// What a party sees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The rows that are there for it, in no order.
    pub(crate) seen: Vec<u32>,
    /// The rows for which the policies could not be evaluated, and why.
    pub(crate) failed: Option<(Failure, Vec<u32>)>,
}

impl Verdict {
    fn failed(failure: Failure, asked: &Asked) -> Self {
        Self { seen: Vec::new(), failed: Some((failure, asked.rows.clone())) }
    }

    fn raised(&self) -> bool {
        self.failed.as_ref().is_some_and(|(failure, _)| !failure.slow)
    }
}

/// Why policies could not be evaluated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The database's words.
    pub(crate) error: String,
    /// Whether they took too long.
    pub(crate) slow: bool,
}

/// The texts of a new row's primary key. `None` if the change does not carry it.
pub(crate) fn key(table: &Table, change: &Change<'_>) -> Option<Vec<String>> {
    let new = change.new?;
    let text = |column: &usize| {
        let name = &table.columns.get(*column)?.name;
        let at = change.relation.columns.iter().position(|column| column.name == *name)?;
        match new.get(at)? {
            Value::Text(text) => std::str::from_utf8(text).ok().map(str::to_owned),
            _ => None,
        }
    };
    table.primary_key.iter().map(text).collect()
}

/// What each party sees of its rows, in the order of the parties.
///
/// # Errors
/// When the database cannot be asked at all.
pub(crate) async fn check(
    client: &Client,
    inquiry: &Inquiry<'_>,
) -> Result<Vec<Verdict>, tokio_postgres::Error> {
    let check = Check { client, question: &question(inquiry.table), inquiry };
    let mut verdicts = Vec::with_capacity(inquiry.parties.len());
    for parties in inquiry.parties.chunks(PARTIES) {
        match check.ask(parties, TOGETHER).await {
            Ok(some) => verdicts.extend(some),
            Err(error) if error.as_db_error().is_none_or(is_passing) => return Err(error),
            // One of them held up all.
            Err(_) => {
                for asked in parties {
                    verdicts.push(check.ask_alone(asked).await?);
                }
            }
        }
    }
    if inquiry.keys.len() > 1 && verdicts.iter().filter(|verdict| verdict.raised()).count() <= ASK_BY_ROW {
        for (asked, verdict) in
            inquiry.parties.iter().zip(&mut verdicts).filter(|(_, verdict)| verdict.raised())
        {
            *verdict = check.ask_by_row(asked).await?;
        }
    }
    Ok(verdicts)
}

struct Check<'a> {
    client: &'a Client,
    question: &'a str,
    inquiry: &'a Inquiry<'a>,
}

/// What the block of [`question`] reads.
#[derive(Serialize)]
struct Job<'a> {
    keys: &'a [Vec<String>],
    parties: Vec<JobParty<'a>>,
}

#[derive(Serialize)]
struct JobParty<'a> {
    role: &'a str,
    claims: &'a str,
    /// Counted from one; left out for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<Vec<u32>>,
}

impl Check<'_> {
    /// Asks for one party, so that only it can be held up.
    async fn ask_alone(&self, asked: &Asked) -> Result<Verdict, tokio_postgres::Error> {
        match self.ask(std::slice::from_ref(asked), ALONE).await {
            Ok(mut verdicts) => Ok(verdicts.pop().unwrap_or_default()),
            Err(error) => match error.as_db_error() {
                Some(db) if !is_passing(db) => {
                    let slow = *db.code() == SqlState::QUERY_CANCELED;
                    Ok(Verdict::failed(Failure { error: sqlstate::brief(db.code().code()), slow }, asked))
                }
                _ => Err(error),
            },
        }
    }

    /// Asks for one party row by row.
    async fn ask_by_row(&self, asked: &Asked) -> Result<Verdict, tokio_postgres::Error> {
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
    async fn ask(&self, parties: &[Asked], limit: Duration) -> Result<Vec<Verdict>, tokio_postgres::Error> {
        let input = self.job(parties);
        let mut pauses = Pauses::new();
        loop {
            let (snapshot, verdicts) = self.round_trip(&input, parties, limit).await?;
            if self.inquiry.xids.iter().all(|xid| snapshot.has(*xid)) {
                return Ok(verdicts);
            }
            pauses.next().await;
        }
    }

    fn job(&self, parties: &[Asked]) -> String {
        let all = self.inquiry.keys.len();
        let party = |asked: &'_ Asked| {
            let some = asked.rows.len() < all;
            some.then(|| asked.rows.iter().map(|row| row + 1).collect())
        };
        let parties = parties
            .iter()
            .map(|asked| JobParty {
                role: &asked.party.role,
                claims: &asked.party.claims,
                rows: party(asked),
            })
            .collect();
        // Texts and numbers can always be written as JSON.
        serde_json::to_string(&Job { keys: &self.inquiry.keys, parties }).unwrap_or_default()
    }

    /// The five statements travel together; whatever becomes of one, the last ends the transaction.
    async fn round_trip(
        &self,
        input: &str,
        parties: &[Asked],
        limit: Duration,
    ) -> Result<(Snapshot, Vec<Verdict>), tokio_postgres::Error> {
        // Who waits for a lock is not slow: that limit is reached first.
        let locks = (limit / 2).as_millis().to_string();
        let limit = limit.as_millis().to_string();
        let plans = if self.inquiry.shares_plans { "force_generic_plan" } else { "force_custom_plan" };
        let parameters: [(&(dyn ToSql + Sync), Type); 4] =
            [(&input, Type::TEXT), (&limit, Type::TEXT), (&locks, Type::TEXT), (&plans, Type::TEXT)];
        let (begun, given, asked, answer, ended) = tokio::join!(
            biased;
            self.client.batch_execute(
                "begin isolation level repeatable read read only; set local search_path to default",
            ),
            self.client.query_typed(
                // One plan serves all parties: planning for each costs as much as looking. And it must look at the
                // places: a scan of the table, which seems cheaper for a small one, would run the policies on every
                // row, and fail for rows that nobody asked about.
                "select pg_catalog.pg_current_snapshot()::pg_catalog.text,
                    pg_catalog.set_config('realtime.check', $1, true),
                    pg_catalog.set_config('statement_timeout', $2, true),
                    pg_catalog.set_config('plan_cache_mode', $4, true),
                    pg_catalog.set_config('random_page_cost', '0', true),
                    pg_catalog.set_config('jit', 'off', true),
                    pg_catalog.set_config('lock_timeout', $3, true)",
                &parameters,
            ),
            self.client.batch_execute(self.question),
            self.client.query_typed("select pg_catalog.current_setting('realtime.verdicts', true)", &[]),
            self.client.batch_execute("rollback"),
        );
        begun?;
        let given = given?;
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

/// Whether an error is nobody's policy's fault: the server is going down or out of something, or a lock is held that
/// others wait for too. The question is put again.
fn is_passing(error: &DbError) -> bool {
    let code = error.code();
    let class = code.code().get(..2).unwrap_or_default();
    *code == SqlState::LOCK_NOT_AVAILABLE
        || (matches!(class, "08" | "53" | "57" | "58") && *code != SqlState::QUERY_CANCELED)
}

/// `=1,5` for rows that are seen, counted from one; anything else is an error's text.
fn verdict(text: Option<&str>, asked: &Asked) -> Verdict {
    match text.map(|text| text.strip_prefix('=').ok_or(text)) {
        Some(Ok(rows)) => {
            let row = |text: &str| text.parse::<u32>().ok()?.checked_sub(1);
            Verdict { seen: rows.split(',').filter_map(row).collect(), failed: None }
        }
        // The text may quote a row: clients get the code and what it is called.
        Some(Err(error)) => {
            let code = error.strip_prefix("ERROR ").unwrap_or(error).split(' ').next().unwrap_or_default();
            Verdict::failed(Failure { error: sqlstate::brief(code), slow: false }, asked)
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
        let failed = verdict(Some("ERROR 22012 ann: my IBAN is secret"), &asked);
        assert_eq!(failed, Verdict { seen: Vec::new(), failed: Some((failure, vec![3, 4])) });
    }
}
