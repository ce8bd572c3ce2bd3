//! The question as statements, put to some parties at once.
//!
//! Others wait for the answers. So a round trip has a time limit, and ends earlier where it can: see [`question`]. Who is
//! stopped by the limit, or meets a lock, has no verdict; the others go on to be asked.
//!
//! [`question`]: super::question

use std::time::Duration;

use deadpool_postgres::Pool;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use tokio::time;
use tokio_postgres::{Error, error::SqlState};

use super::{
    block::{Block, JobParty, Left},
    image::Images,
    inquiry::{Answers, Asked, Failure, Held, Inquiry, Verdict, is_passing},
    policies::Policies,
    snapshot::{Snapshot, pauses},
};
use crate::{
    foreign::{Guest, NoAnswer},
    pool, sqlstate,
};

/// Parties of one round trip.
const PARTIES: usize = 1000;

/// Round trips of an inquiry that one party stops, at most: others wait for each of them. Behind the last nobody is asked.
const STOPS: u32 = 2;

/// Sessions that end in a row; then it is a policy that ends them. A new connection was made in between, so the server is
/// there.
const ENDED: u32 = 2;

/// How many times as long as the others a party takes that is slow for its own reasons.
const OUT_OF_LINE: f64 = 4.0;

/// No verdicts.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// The policies are not those that were known.
    Stale,
    /// Images that cannot be built, and why; the others can.
    Broken(Vec<(u32, String)>),
    No(NoAnswer),
}

impl Unanswered {
    /// What holds up so many parties, if one of them may be why.
    fn of_one(&self, parties: usize) -> Option<Held> {
        match self {
            Self::Stale | Self::Broken(_) | Self::No(NoAnswer::Connect(_)) => None,
            Self::No(NoAnswer::Silent) => Some(Held::Slow),
            Self::No(NoAnswer::Query(error)) => match error.as_db_error() {
                _ if is_ended(error) => Some(Held::Ended),
                Some(db) if *db.code() == SqlState::LOCK_NOT_AVAILABLE => Some(Held::Locked),
                Some(db) if *db.code() == SqlState::QUERY_CANCELED => Some(Held::Slow),
                // Such as claims that PostgreSQL cannot read.
                Some(db) if !is_passing(db) && parties > 1 => Some(Held::NotAsked),
                _ => None,
            },
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
    /// How long a round trip may take.
    pub(super) limit: Duration,
}

/// What the block of [`question`](super::question) reads.
#[derive(Serialize)]
struct Job<'a> {
    images: &'a [Json],
    parties: Vec<JobParty<'a>>,
    /// Seconds after which nobody more is asked.
    slice: f64,
}

/// What the block of [`question`](super::question) has found.
#[derive(Deserialize)]
struct Found {
    /// One text per party that was asked.
    verdicts: Vec<Option<String>>,
    /// Numbers of images that cannot be built. Then there are no verdicts.
    broken: Vec<u32>,
    /// SQLSTATEs: why they cannot be built.
    reasons: Vec<String>,
    /// SQLSTATE: what stopped the party behind the last verdict.
    stopped: Option<String>,
    /// The place of the party that took longest, and how long that was, in seconds.
    slowest: usize,
    longest: f64,
    /// How long all of them took.
    took: f64,
    /// Whether the time limit was reached, and what it stopped has gone on all the same.
    overdue: bool,
}

impl Check<'_> {
    /// What some parties see.
    pub(super) async fn parties(&self, parties: &[&Asked]) -> Result<Answers, Unanswered> {
        let mut answers = Answers::default();
        if self.images.objects().is_empty() {
            answers.verdicts.resize(parties.len(), Ok(Verdict::default()));
        }
        let (mut stops, mut ended, mut paces) = (0, 0, Paces::default());
        while let Some(rest) = parties.get(answers.verdicts.len()..).filter(|rest| !rest.is_empty()) {
            if stops >= STOPS {
                answers.verdicts.resize(parties.len(), Err(Held::NotAsked));
                break;
            }
            let some = rest.get(..PARTIES).unwrap_or(rest);
            let held = match self.ask(some).await {
                Ok(found) => {
                    paces.take(answers.verdicts.len(), &found, self.limit);
                    self.take(&found, some, &mut answers);
                    // Others have waited for who caught its cancellation as long as for who was stopped.
                    stops += u32::from(found.overdue);
                    found.stopped.as_deref().map(|code| (held(code), 1))
                }
                Err(error) => match error.of_one(some.len()) {
                    None => return Err(error),
                    Some(Held::Ended) if ended + 1 < ENDED => {
                        ended += 1;
                        continue;
                    }
                    // Which of them it is was not told.
                    Some(_) if some.len() > 1 => Some((Held::NotAsked, some.len())),
                    Some(held) => Some((held, 1)),
                },
            };
            if let Some((held, parties)) = held {
                stops += 1;
                answers.verdicts.extend(std::iter::repeat_n(Err(held), parties));
            }
        }
        answers.slow = paces.out_of_line();
        for (asked, verdict) in parties.iter().zip(&mut answers.verdicts) {
            if let Ok(verdict) = verdict {
                self.withhold(asked, verdict);
            }
        }
        Ok(answers)
    }

    /// Takes the verdicts of a round trip.
    fn take(&self, found: &Found, parties: &[&Asked], answers: &mut Answers) {
        let texts = found.verdicts.iter().map(Option::as_deref).take(parties.len());
        if found.verdicts.is_empty() && found.stopped.is_none() {
            // A policy has taken the answer away.
            answers.verdicts.resize(answers.verdicts.len() + parties.len(), Ok(Verdict::default()));
        }
        let rows = |number| self.images.rows(number);
        answers
            .verdicts
            .extend(parties.iter().zip(texts).map(|(asked, text)| Ok(verdict(text, asked, rows))));
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

    /// Asks some parties, in a snapshot that has all commits in question. At least one of them was asked.
    async fn ask(&self, parties: &[&Asked]) -> Result<Found, Unanswered> {
        let input = self.job(parties);
        let mut pauses = pauses();
        loop {
            let guest = Guest::new(pool::get(self.pool).await?, self.limit);
            let answer = guest.answer(async |guest: &Guest| self.round_trip(guest, &input).await);
            let (snapshot, found) = answer.await??;
            if !self.inquiry.rows.iter().all(|row| snapshot.has(row.xid)) {
                time::sleep(pauses.failed(1.0)).await;
                continue;
            }
            if !found.broken.is_empty() {
                return Err(Unanswered::Broken(found.broken.into_iter().zip(found.reasons).collect()));
            }
            return Ok(found);
        }
    }

    fn job(&self, parties: &[&Asked]) -> String {
        let all = self.inquiry.rows.len();
        let rows = |asked: &Asked| {
            let some = asked.rows.len() < all;
            some.then(|| self.images.numbers(&asked.rows))
        };
        let parties = parties.iter().map(|asked| JobParty::new(&asked.party, rows(asked))).collect();
        let job = Job { images: self.images.objects(), parties, slice: self.limit.as_secs_f64() / 4.0 };
        // Texts and numbers can always be written as JSON.
        serde_json::to_string(&job).unwrap_or_default()
    }

    async fn round_trip(&self, guest: &Guest, input: &str) -> Result<(Snapshot, Found), Unanswered> {
        let block = Block {
            sql: &self.policies.question,
            job: input,
            role: self.role,
            shares_plans: self.inquiry.shares_plans,
            limit: self.limit,
        };
        let known = (self.inquiry.table.oid, &*self.policies.fingerprint);
        let Some(Left { snapshot, found }) = block.run(guest, Some(known)).await? else {
            return Err(Unanswered::Stale);
        };
        let found = found.and_then(|text| serde_json::from_str::<Found>(&text).ok());
        Ok((snapshot, found.unwrap_or_else(Found::nothing)))
    }
}

impl Found {
    /// What there is if a policy has taken the answer away.
    const fn nothing() -> Self {
        Self {
            verdicts: Vec::new(),
            broken: Vec::new(),
            reasons: Vec::new(),
            stopped: None,
            slowest: 0,
            longest: 0.0,
            took: 0.0,
            overdue: false,
        }
    }
}

/// How long parties took, over the round trips of an inquiry.
#[derive(Debug, Default)]
struct Paces {
    /// Parties that others waited for, by their places: how long they took, and whether they caught their cancellation.
    long: Vec<(usize, f64, bool)>,
    /// How many the others are, and how long they took.
    others: usize,
    took: f64,
}

impl Paces {
    /// Takes what a round trip has found, whose first party is at a place.
    fn take(&mut self, first: usize, found: &Found, limit: Duration) {
        self.others += found.verdicts.len();
        self.took += found.took;
        // A round trip ends behind a party that takes so long: there is one at most.
        let is_long = found.overdue || found.longest >= limit.as_secs_f64() / 4.0;
        if is_long && !found.verdicts.is_empty() {
            self.others -= 1;
            self.took -= found.longest;
            self.long.push((first + found.slowest, found.longest, found.overdue));
        }
    }

    /// Those that took much longer than the others, and that others waited for.
    fn out_of_line(&self) -> Vec<usize> {
        #[expect(clippy::cast_precision_loss, reason = "there are not so many parties")]
        let mean = self.took / self.others as f64;
        let is_slow = |longest: f64| self.others > 0 && longest > OUT_OF_LINE * mean;
        let slow = self.long.iter().filter(|(_, longest, overdue)| *overdue || is_slow(*longest));
        slow.map(|(place, ..)| *place).collect()
    }
}

/// What a party is stopped by.
fn held(code: &str) -> Held {
    if code == SqlState::LOCK_NOT_AVAILABLE.code() { Held::Locked } else { Held::Slow }
}

/// Whether a session has ended.
pub(super) fn is_ended(error: &Error) -> bool {
    error.is_closed() || error.code() == Some(&SqlState::ADMIN_SHUTDOWN)
}

/// `=1,5!3:22012`: images that are seen, and those whose policies raised an error of that code. `rows` tells their rows. An
/// answer that is missing hides them.
fn verdict<'a>(text: Option<&str>, asked: &Asked, rows: impl Fn(u32) -> &'a [u32]) -> Verdict {
    let (seen, failed) = text.and_then(|text| text.strip_prefix('=')?.split_once('!')).unwrap_or_default();
    // Of the rows that an image is of, those that the party was asked about.
    let rows = |text: &str| {
        let rows = text.parse().map(&rows).unwrap_or_default().iter().copied();
        rows.filter(|row| asked.rows.binary_search(row).is_ok())
    };
    let mut verdict = Verdict { seen: seen.split(',').flat_map(rows).collect(), failed: None };
    for (number, code) in failed.split(',').filter_map(|failed| failed.split_once(':')) {
        let mut rows = rows(number).peekable();
        if rows.peek().is_some() {
            let failure = || (Failure { error: sqlstate::brief(code), slow: false }, Vec::new());
            verdict.failed.get_or_insert_with(failure).1.extend(rows);
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use realtime_changes::Party;

    use super::*;

    #[test]
    fn verdicts_are_read() {
        let party = Arc::new(Party { role: "anon".into(), claims: "{}".into() });
        let asked = Asked { party, rows: vec![3, 4, 6, 7] };
        // The images are of these rows.
        let images: [&[u32]; 3] = [&[3, 5, 7], &[4], &[6, 8]];
        let rows = |number: u32| number.checked_sub(1).and_then(|at| images.get(at as usize)).copied();
        let verdict = |text| verdict(text, &asked, |number| rows(number).unwrap_or_default());
        assert_eq!(verdict(Some("=1,100,3!")).seen, [3, 7, 6], "those that were asked about");
        assert_eq!(verdict(Some("=!")), Verdict::default());
        assert_eq!(verdict(Some("=,2!")).seen, [4]);
        assert_eq!(verdict(None), Verdict::default());
        let failure = Failure { error: "22012 division_by_zero".to_owned(), slow: false };
        let failed = verdict(Some("=2!3:22012,9:22012"));
        assert_eq!(failed, Verdict { seen: vec![4], failed: Some((failure, vec![6])) });
    }

    /// Whether one of some parties is noticed that takes so long in a round trip.
    fn is_noticed(parties: usize, longest: f64, took: f64) -> bool {
        let mut paces = Paces::default();
        let verdicts = vec![None; parties];
        let found = Found { verdicts, longest, took, ..Found::nothing() };
        paces.take(0, &found, Duration::from_millis(200));
        !paces.out_of_line().is_empty()
    }

    #[test]
    fn who_takes_much_longer_than_the_others_is_noticed() {
        assert!(is_noticed(3, 0.06, 0.062));
        assert!(!is_noticed(1, 0.19, 0.19), "nobody else waits");
        assert!(!is_noticed(3, 0.06, 0.18), "all of them take long");
        assert!(!is_noticed(3, 0.04, 0.042), "that is not long");
    }

    #[test]
    fn parties_are_compared_over_all_round_trips() {
        let mut paces = Paces::default();
        let mut round_trip = |first, slowest, parties, longest, overdue| {
            let found = Found {
                verdicts: vec![None; parties],
                longest,
                took: longest + 0.001,
                slowest,
                overdue,
                ..Found::nothing()
            };
            paces.take(first, &found, Duration::from_millis(200));
            paces.out_of_line()
        };
        // Each of them is alone in its round trip.
        assert_eq!(round_trip(0, 0, 1, 0.15, false), [0; 0]);
        assert_eq!(round_trip(1, 0, 1, 0.15, false), [0; 0]);
        assert_eq!(round_trip(2, 0, 10, 0.001, false), [0, 1]);
        assert_eq!(round_trip(12, 3, 4, 0.15, false), [0, 1, 15]);
        let mut paces = Paces::default();
        let found =
            Found { verdicts: vec![None], longest: 0.2, took: 0.2, overdue: true, ..Found::nothing() };
        paces.take(7, &found, Duration::from_millis(200));
        assert_eq!(paces.out_of_line(), [7], "it was to be stopped");
    }
}
