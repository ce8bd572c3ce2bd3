//! Asks parties for what compiled policies want to know.

use std::time::Duration;

use deadpool_postgres::Pool;
use realtime_changes::{
    Party,
    policy::{Answer, NoValue},
};
use serde_json::Value as Json;
use tokio::{
    sync::Semaphore,
    time::{self, Instant},
};
use tokio_postgres::error::SqlState;

use super::question;
use crate::{
    foreign::{Guest, NoAnswer},
    pool, sqlstate,
    visibility::{
        block::{Block, JobParty, Left},
        check::is_ended,
        inquiry::{Failure, is_passing},
        snapshot::{Passed, pauses},
    },
};

/// How long the queries of parties may take that are asked beside the stream, each group of them.
const ALONE: Duration = Duration::from_millis(500);

/// How often a group is asked again whose policies say that they met a lock. Real locks are waited for.
const LOCKED: u32 = 3;

/// How often a group is asked again that waits for a lock: some minutes.
const WAITS: u32 = 1_000;

/// How often a group is asked again whose session ended: mostly somebody else ended it.
const ENDED: u32 = 2;

/// Pause before a group is asked again.
const AGAIN: Duration = Duration::from_millis(100);

/// Parties of one round trip.
const PARTIES: usize = 500;

/// Round trips at most whose time is over before all were asked: others wait for each of them.
const STOPS: usize = 2;

/// Queries to be run for parties of one role.
#[derive(Debug)]
pub(crate) struct Asking<'a> {
    pub(crate) role: &'a str,
    /// The queries, and how many columns each has.
    pub(crate) queries: Vec<(&'a str, usize)>,
    /// Whether a plan may serve several parties.
    pub(crate) shares_plans: bool,
    /// The transactions that the answers must have seen.
    pub(crate) passed: &'a Passed,
}

/// What a party has answered.
#[derive(Debug, Clone)]
pub(crate) struct Given {
    /// In the order of the queries.
    pub(crate) answers: Vec<Answer>,
    /// Why nothing was answered: it took too long, met a lock, or its session ended.
    pub(crate) held_up: Option<Failure>,
}

/// What parties have answered for whom others wait.
#[derive(Debug, Default)]
pub(crate) struct InTime {
    /// In the order of the parties. `None`: it was not there in time.
    pub(crate) answers: Vec<Option<Vec<Answer>>>,
    /// Parties, by their places, that took most of the time of a round trip: there was none left for those behind.
    pub(crate) slow: Vec<usize>,
}

/// The answers of parties, as far as they are there within a time limit for each round trip. Behind the second who is asked
/// when it is reached nobody is, nor behind one who meets a lock.
///
/// # Errors
/// When the database cannot be asked at all.
pub(crate) async fn ask_briefly(
    pool: &Pool,
    asking: &Asking<'_>,
    parties: &[&Party],
    limit: Duration,
) -> Result<InTime, NoAnswer> {
    briefly(pool, asking, &Ask::all(parties), limit).await
}

async fn briefly(
    pool: &Pool,
    asking: &Asking<'_>,
    parties: &[Ask<'_>],
    limit: Duration,
) -> Result<InTime, NoAnswer> {
    let block = question::question(&asking.queries, asking.shares_plans);
    let (mut given, mut stops) = (InTime::default(), 0);
    while let Some(rest) = parties.get(given.answers.len()..).filter(|rest| !rest.is_empty() && stops < STOPS)
    {
        let chunk = rest.get(..PARTIES).unwrap_or(rest);
        match unbroken(pool, asking, &block, chunk, limit).await {
            Ok(Found { answers, stopped }) => {
                given.answers.extend(answers.into_iter().map(Some));
                match stopped {
                    // A lock is often in the way of others too.
                    Some(Stopped::Locked) => break,
                    // It is asked beside the stream. Who is late can be in time when it is asked first.
                    Some(Stopped::Slow) => {
                        given.slow.push(given.answers.len());
                        given.answers.push(None);
                    }
                    Some(Stopped::Late) | None => {}
                }
                stops += usize::from(stopped.is_some());
            }
            Err(error) if !is_of_one(&error) => return Err(error),
            Err(_) => break,
        }
    }
    given.answers.resize(parties.len(), None);
    Ok(given)
}

/// The same where each party is asked for some rows only, by their numbers.
///
/// # Errors
/// When the database cannot be asked at all.
pub(crate) async fn ask_each(
    pool: &Pool,
    asking: &Asking<'_>,
    parties: &[(&Party, Vec<u32>)],
    limit: Duration,
) -> Result<InTime, NoAnswer> {
    let parties: Vec<Ask<'_>> =
        parties.iter().map(|(party, rows)| Ask { party, rows: Some(rows.clone()) }).collect();
    briefly(pool, asking, &parties, limit).await
}

/// A party that is asked.
#[derive(Debug)]
struct Ask<'a> {
    party: &'a Party,
    /// Numbers of rows; `None`: all.
    rows: Option<Vec<u32>>,
}

impl<'a> Ask<'a> {
    fn all(parties: &[&'a Party]) -> Vec<Self> {
        parties.iter().map(|party| Self { party, rows: None }).collect()
    }
}

/// Asks parties of which some hold up the others, however long it takes. Who is stopped is asked first the next time; if
/// that happens again, it is that party that holds up the others. Who waits for a lock is asked again behind all others.
/// Where it is not told who it is, it is found by halves. Each answer is `told` as soon as it is there, with the place of its
/// party, until nobody listens.
pub(crate) async fn ask_beside(
    pool: &Pool,
    permits: &Semaphore,
    asking: &Asking<'_>,
    parties: &[&Party],
    mut told: impl FnMut(usize, Given) -> bool,
) {
    let block = question::question(&asking.queries, asking.shares_plans);
    let parties = Ask::all(parties);
    // By place: from, to, and how often a lock was met.
    let mut rest: Vec<(usize, usize, u32)> = halves(0, parties.len());
    while let Some((from, to, locked)) = rest.pop() {
        let group = parties.get(from..to).unwrap_or_default();
        let Ok(permit) = permits.acquire().await else { return };
        let begun = Instant::now();
        let given = unbroken(pool, asking, &block, group, ALONE).await;
        drop(permit);
        let answers = match given {
            Ok(Found { answers, stopped }) => {
                let mut answers: Vec<Given> = answers.into_iter().map(Given::of).collect();
                let mut next = from + answers.len();
                let is_first = answers.is_empty();
                // A real wait for a lock takes half of the limit.
                let tries = if begun.elapsed() >= ALONE / 4 { WAITS } else { LOCKED };
                match stopped {
                    Some(Stopped::Locked) if is_first && locked < tries => {
                        next += 1;
                        if rest.is_empty() && next >= to {
                            time::sleep(AGAIN).await;
                        }
                        rest.insert(0, (from, next, locked + 1));
                    }
                    Some(why) if is_first => {
                        next += 1;
                        answers.push(asking.held_up(why.failure()));
                    }
                    _ => {}
                }
                if next < to {
                    rest.push((next, to, 0));
                }
                answers
            }
            Err(error) if !is_of_one(&error) => {
                rest.push((from, to, locked));
                time::sleep(AGAIN).await;
                continue;
            }
            Err(_) if group.len() > 1 => {
                rest.extend(halves(from, to));
                continue;
            }
            Err(error) => vec![asking.held_up(failure(&error))],
        };
        for (at, given) in (from..).zip(answers) {
            if !told(at, given) {
                return;
            }
        }
    }
}

/// Two groups, or one of one.
fn halves(from: usize, to: usize) -> Vec<(usize, usize, u32)> {
    let middle = from + (to - from).div_ceil(2);
    [(middle, to, 0), (from, middle, 0)].into_iter().filter(|(from, to, _)| from < to).collect()
}

impl Given {
    const fn of(answers: Vec<Answer>) -> Self {
        Self { answers, held_up: None }
    }
}

/// Why a party has not answered, by the code of what stopped it.
fn failure(error: &NoAnswer) -> Failure {
    let code = match error {
        NoAnswer::Query(error) if is_ended(error) => &SqlState::ADMIN_SHUTDOWN,
        error => error.code().unwrap_or(&SqlState::QUERY_CANCELED),
    };
    Failure { error: sqlstate::brief(code.code()), slow: true }
}

/// Whether one party may be why there is no answer.
fn is_of_one(error: &NoAnswer) -> bool {
    match error {
        NoAnswer::Connect(_) => false,
        NoAnswer::Silent => true,
        NoAnswer::Query(error) => {
            is_ended(error)
                || error
                    .as_db_error()
                    .is_some_and(|db| !is_passing(db) || error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE))
        }
    }
}

impl Asking<'_> {
    /// What a party has answered that holds up the others.
    fn held_up(&self, why: Failure) -> Given {
        Given { answers: self.none(), held_up: Some(why) }
    }

    /// Of a party that has no answers.
    fn none(&self) -> Vec<Answer> {
        vec![Err(NoValue::Failed); self.queries.len()]
    }
}

/// What has come of a round trip.
#[derive(Debug, PartialEq)]
struct Found {
    /// Of the first parties, in their order.
    answers: Vec<Vec<Answer>>,
    /// Why there are no more: what the next party was when the time was over.
    stopped: Option<Stopped>,
}

/// A party that was being asked when the time was over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stopped {
    /// It has taken most of the time.
    Slow,
    /// Others have.
    Late,
    /// It has met a lock.
    Locked,
}

impl Stopped {
    /// Why the party has not answered.
    fn failure(self) -> Failure {
        let code = match self {
            Self::Slow | Self::Late => SqlState::QUERY_CANCELED,
            Self::Locked => SqlState::LOCK_NOT_AVAILABLE,
        };
        Failure { error: sqlstate::brief(code.code()), slow: true }
    }

    /// What stands in place of its answers.
    fn read(given: &Json) -> Option<Self> {
        match given.as_str()? {
            question::SLOW => Some(Self::Slow),
            question::LATE => Some(Self::Late),
            question::LOCKED => Some(Self::Locked),
            _ => None,
        }
    }
}

/// Asks some parties. If their session ends it is tried again: whose policies end it does so again.
async fn unbroken(
    pool: &Pool,
    asking: &Asking<'_>,
    block: &str,
    parties: &[Ask<'_>],
    limit: Duration,
) -> Result<Found, NoAnswer> {
    let mut ended = 0;
    loop {
        match some(pool, asking, block, parties, limit).await {
            Err(NoAnswer::Query(error)) if is_ended(&error) && ended < ENDED => ended += 1,
            given => return given,
        }
    }
}

/// Asks some parties, in a snapshot that has all that has passed.
async fn some(
    pool: &Pool,
    asking: &Asking<'_>,
    block: &str,
    parties: &[Ask<'_>],
    limit: Duration,
) -> Result<Found, NoAnswer> {
    let job = parties.iter().map(|ask| JobParty::new(ask.party, ask.rows.clone()));
    let job: Vec<JobParty<'_>> = job.collect();
    // Texts can always be written as JSON.
    let job = serde_json::to_string(&job).unwrap_or_default();
    let (role, shares_plans) = (asking.role, asking.shares_plans);
    let block = Block { sql: block, job: &job, role, shares_plans, limit };
    let mut pauses = pauses();
    loop {
        let guest = Guest::new(pool::get(pool).await?, limit);
        let answer = guest.answer(async |guest: &Guest| block.run(guest, None).await).await;
        let Left { snapshot, found } = answer??.unwrap_or_default();
        if asking.passed.are_in(&snapshot) {
            return Ok(read(asking, found.as_deref(), parties.len()));
        }
        time::sleep(pauses.failed(1.0)).await;
    }
}

/// Reads the answers. What is missing has failed, but behind who was stopped.
fn read(asking: &Asking<'_>, found: Option<&str>, parties: usize) -> Found {
    let found: Vec<Json> = found.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let mut answers = Vec::with_capacity(parties);
    for given in found.iter().take(parties) {
        let stopped = Stopped::read(given);
        if stopped.is_some() {
            return Found { answers, stopped };
        }
        answers.push(match given {
            Json::Array(given) if given.len() == asking.queries.len() => given.iter().map(answer).collect(),
            _ => asking.none(),
        });
    }
    answers.resize(parties, asking.none());
    Found { answers, stopped: None }
}

fn answer(given: &Json) -> Answer {
    match given {
        Json::Array(rows) => rows.iter().map(row).collect::<Option<_>>().ok_or(NoValue::Failed),
        Json::String(text) if text == question::TOO_LARGE => Err(NoValue::NotAsked),
        _ => Err(NoValue::Failed),
    }
}

fn row(row: &Json) -> Option<Vec<Option<String>>> {
    let column = |column: &Json| match column {
        Json::Null => Some(None),
        Json::String(text) => Some(Some(text.clone())),
        _ => None,
    };
    row.as_array()?.iter().map(column).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_end_at_the_party_that_was_stopped() {
        let passed = Passed::default();
        let asking =
            Asking { role: "anon", queries: vec![("select 1", 1)], shares_plans: true, passed: &passed };
        let one = || vec![Ok(vec![vec![Some("a".to_owned())]])];
        let failed = || vec![Err(NoValue::Failed)];
        let whole = |answers| Found { answers, stopped: None };
        assert_eq!(read(&asking, Some(r#"[[[["a"]]], null]"#), 3), whole(vec![one(), failed(), failed()]));
        assert_eq!(read(&asking, Some(r#"[[[["a"]]], "other"]"#), 2), whole(vec![one(), failed()]));
        assert_eq!(read(&asking, None, 2), whole(vec![failed(), failed()]));
        let slow = Found { answers: vec![one()], stopped: Some(Stopped::Slow) };
        assert_eq!(read(&asking, Some(r#"[[[["a"]]], "slow"]"#), 3), slow);
        for (text, stopped) in [(r#"["late"]"#, Stopped::Late), (r#"["locked", null]"#, Stopped::Locked)] {
            assert_eq!(read(&asking, Some(text), 2), Found { answers: vec![], stopped: Some(stopped) });
        }
        let too_large = vec![Err(NoValue::NotAsked)];
        assert_eq!(read(&asking, Some(r#"[["+"]]"#), 1), whole(vec![too_large]));
    }
}
