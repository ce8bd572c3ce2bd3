//! The question as statements, put to some parties at once, to one alone, or about one row alone.

use std::{sync::Arc, time::Duration};

use deadpool_postgres::Pool;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use tokio::time::{self, Instant};
use tokio_postgres::{Error, error::SqlState};

use super::{
    block::{Block, JobParty, Left},
    image::Images,
    inquiry::{Asked, Failure, Inquiry, Verdict, is_passing},
    policies::Policies,
    snapshot::{Snapshot, pauses},
};
use crate::{
    foreign::{Guest, NoAnswer},
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

/// Sessions that end in a row while one party is asked alone; then it is the party's policies that end them. A new
/// connection was made in between, so the server is there.
const ENDED: u32 = 3;

/// No verdicts.
#[derive(Debug)]
pub(super) enum Unanswered {
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
            Self::No(NoAnswer::Query(error)) => {
                is_ended(error) || error.as_db_error().is_some_and(|db| !is_passing(db))
            }
        }
    }
}

impl<E: Into<NoAnswer>> From<E> for Unanswered {
    fn from(error: E) -> Self {
        Self::No(error.into())
    }
}

/// A question to one role's policies.
pub(super) struct Check<'a> {
    pub(super) pool: &'a Pool,
    pub(super) inquiry: &'a Inquiry<'a>,
    pub(super) role: &'a str,
    pub(super) policies: &'a Policies,
    pub(super) images: &'a Images,
}

/// What the block of [`question`] reads.
#[derive(Serialize)]
struct Job<'a> {
    images: &'a [Json],
    parties: Vec<JobParty<'a>>,
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
    /// What some parties see.
    pub(super) async fn parties(&self, parties: &[&Asked]) -> Result<Vec<Verdict>, Unanswered> {
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
        let failed = |code: &SqlState| {
            let error = sqlstate::brief(code.code());
            Ok(Verdict::failed(Failure { error, slow: true }, &asked.rows))
        };
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.ask(&[asked], ALONE).await {
                Ok(mut verdicts) => return Ok(verdicts.pop().unwrap_or_default()),
                Err(Unanswered::Locked) => return failed(&SqlState::LOCK_NOT_AVAILABLE),
                Err(Unanswered::No(NoAnswer::Silent)) => return failed(&SqlState::QUERY_CANCELED),
                Err(Unanswered::No(NoAnswer::Query(error))) if is_ended(&error) => {
                    if attempts == ENDED {
                        return failed(&SqlState::ADMIN_SHUTDOWN);
                    }
                }
                Err(Unanswered::No(NoAnswer::Query(error))) => match error.as_db_error() {
                    Some(db) if !is_passing(db) => {
                        return Ok(Verdict::failed(Failure::of(db), &asked.rows));
                    }
                    _ => return Err(error.into()),
                },
                Err(error) => return Err(error),
            }
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
        let mut pauses = pauses();
        loop {
            let begun = Instant::now();
            let guest = Guest::new(pool::get(self.pool).await?, limit);
            let answer =
                guest.answer(async |guest: &Guest| self.round_trip(guest, &input, parties, limit).await);
            let (snapshot, verdicts) = match answer.await? {
                // A real wait for a lock takes half of the limit.
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
            time::sleep(pauses.failed(1.0)).await;
        }
    }

    fn job(&self, parties: &[&Asked]) -> String {
        let all = self.inquiry.rows.len();
        let rows = |asked: &Asked| {
            let some = asked.rows.len() < all;
            some.then(|| asked.rows.iter().filter_map(|row| self.images.number(*row)).collect())
        };
        let parties = parties.iter().map(|asked| JobParty::new(&asked.party, rows(asked))).collect();
        // Texts and numbers can always be written as JSON.
        serde_json::to_string(&Job { images: self.images.objects(), parties }).unwrap_or_default()
    }

    async fn round_trip(
        &self,
        guest: &Guest,
        input: &str,
        parties: &[&Asked],
        limit: Duration,
    ) -> Result<(Snapshot, Vec<Verdict>), Unanswered> {
        let block = Block {
            sql: &self.policies.question,
            job: input,
            role: self.role,
            shares_plans: self.inquiry.shares_plans,
            limit,
        };
        let known = (self.inquiry.table.oid, &*self.policies.fingerprint);
        let Some(Left { snapshot, found }) = block.run(guest, Some(known)).await? else {
            return Err(Unanswered::Stale);
        };
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

/// Whether a session has ended.
pub(super) fn is_ended(error: &Error) -> bool {
    error.is_closed() || error.code() == Some(&SqlState::ADMIN_SHUTDOWN)
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
    use realtime_changes::Party;

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
