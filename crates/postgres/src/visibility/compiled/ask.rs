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

/// The answers of parties, as far as they are there within a time limit for each round trip. From the first round trip on
/// that takes too long there are none.
///
/// # Errors
/// When the database cannot be asked at all.
pub(crate) async fn ask_briefly(
    pool: &Pool,
    asking: &Asking<'_>,
    parties: &[&Party],
    limit: Duration,
) -> Result<Vec<Option<Vec<Answer>>>, NoAnswer> {
    briefly(pool, asking, &Ask::all(parties), limit).await
}

async fn briefly(
    pool: &Pool,
    asking: &Asking<'_>,
    parties: &[Ask<'_>],
    limit: Duration,
) -> Result<Vec<Option<Vec<Answer>>>, NoAnswer> {
    let block = question::question(&asking.queries, asking.shares_plans);
    let mut given = Vec::with_capacity(parties.len());
    for chunk in parties.chunks(PARTIES) {
        match unbroken(pool, asking, &block, chunk, limit).await {
            Ok(answers) => given.extend(answers.into_iter().map(Some)),
            Err(error) if !is_of_one(&error) => return Err(error),
            Err(_) => break,
        }
    }
    given.resize(parties.len(), None);
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
) -> Result<Vec<Option<Vec<Answer>>>, NoAnswer> {
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

/// Asks parties of which some hold up the others, however long it takes: those are found by halves. Each answer is
/// `told` as soon as it is there, with the place of its party, until nobody listens.
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
            Ok(answers) => answers.into_iter().map(Given::of).collect(),
            // A real wait for a lock takes half of the limit.
            Err(error) if is_lock(&error) && begun.elapsed() >= ALONE / 4 && locked < WAITS => {
                rest.push((from, to, locked + 1));
                time::sleep(AGAIN).await;
                continue;
            }
            Err(error) if is_lock(&error) && locked < LOCKED || !is_of_one(&error) => {
                rest.push((from, to, locked + 1));
                time::sleep(AGAIN).await;
                continue;
            }
            Err(_) if group.len() > 1 => {
                rest.extend(halves(from, to));
                continue;
            }
            Err(error) => vec![asking.held_up(&error)],
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

fn is_lock(error: &NoAnswer) -> bool {
    error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE)
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
    fn held_up(&self, error: &NoAnswer) -> Given {
        Given { answers: self.none(), held_up: Some(failure(error)) }
    }

    /// Of a party that has no answers.
    fn none(&self) -> Vec<Answer> {
        vec![Err(NoValue::Failed); self.queries.len()]
    }
}

/// Asks some parties. If their session ends it is tried again: whose policies end it does so again.
async fn unbroken(
    pool: &Pool,
    asking: &Asking<'_>,
    block: &str,
    parties: &[Ask<'_>],
    limit: Duration,
) -> Result<Vec<Vec<Answer>>, NoAnswer> {
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
) -> Result<Vec<Vec<Answer>>, NoAnswer> {
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
            return Ok(answers(asking, found.as_deref(), parties.len()));
        }
        time::sleep(pauses.failed(1.0)).await;
    }
}

/// Reads the answers. What is missing has failed.
fn answers(asking: &Asking<'_>, found: Option<&str>, parties: usize) -> Vec<Vec<Answer>> {
    let found: Vec<Option<Vec<Json>>> =
        found.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let missing = std::iter::repeat(&None);
    let of = |party: &Option<Vec<Json>>| {
        let Some(given) = party.as_ref().filter(|given| given.len() == asking.queries.len()) else {
            return asking.none();
        };
        given.iter().map(answer).collect()
    };
    found.iter().chain(missing).take(parties).map(of).collect()
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
