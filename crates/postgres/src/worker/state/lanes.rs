//! Filters that take the database long, asked beside the stream: nobody else waits for them.
//!
//! A subscription whose filter was not answered in time gets a lane. Its later rows line up there, those that need no
//! question too, so that it gets them in order. One question is under way at a time, the lanes in turn. A lane that is
//! full withholds rows, and a row whose question takes too long even alone is withheld; its channel is told.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use deadpool_postgres::Pool;
use realtime_changes::{Asked, Question, SubscriptionKey};
use realtime_pgoutput::Oid;
use tokio::{
    sync::mpsc,
    time::{self, Instant},
};
use tokio_postgres::error::SqlState;
use tracing::Instrument as _;

use super::{behind::Behind, counted::Counted, failed::ASK_AGAIN, for_whom::ForWhom, waiting::Waiting};
use crate::{foreign::NoAnswer, questions};

/// Rows of a lane at most.
const MAX_ROWS: usize = 100;

/// Bytes of the rows of all lanes at most, give or take one row.
const MAX_BYTES: usize = 32_000_000;

/// About how many bytes a comparison of a question takes.
const QUESTION_BYTES: usize = 200;

/// How long a filter that took too long is not asked in the stream, and its channel is not told again.
const SLOW: Duration = Duration::from_secs(30);

/// Which subscription, of which table.
pub(super) type Name = (Oid, SubscriptionKey);

/// The lanes, and what asks for them.
#[derive(Debug, Default)]
pub(super) struct Aside {
    lanes: HashMap<Name, Lane>,
    /// Bytes of the rows that are kept.
    bytes: Arc<AtomicUsize>,
    /// The row that came last: several lanes may take it.
    last: Weak<Kept>,
    asker: Option<Asker>,
}

#[derive(Debug)]
struct Asker {
    jobs: mpsc::UnboundedSender<Job>,
    answers: mpsc::UnboundedReceiver<Answer>,
}

#[derive(Debug, Default)]
struct Lane {
    rows: VecDeque<Row>,
    /// It took too long a short while ago.
    slow_until: Option<Instant>,
    told_until: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Row {
    pub(super) kept: Arc<Kept>,
    asked: Option<Asked>,
    /// What is told behind it.
    pub(super) then: Vec<Arc<Behind>>,
    /// The rest of it, beside the row: many lanes may take one.
    _counted: Counted,
}

/// A row that one lane or several keep. It counts once.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) waiting: Waiting,
    counted: Counted,
}

impl Kept {
    pub(super) const fn bytes(&self) -> usize {
        self.counted.bytes()
    }
}

/// A question that is asked alone.
#[derive(Debug)]
struct Job {
    name: Name,
    role: Option<Box<str>>,
    questions: Vec<Question>,
}

/// What came of it.
#[derive(Debug)]
pub(in crate::worker) struct Answer {
    pub(super) name: Name,
    pub(super) outcome: Result<bool, Failure>,
}

/// Why a filter could not be evaluated.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) text: String,
    pub(super) slow: bool,
}

impl Failure {
    pub(super) fn of(error: &NoAnswer) -> Self {
        Self { text: error.brief(), slow: error.code() == Some(&SqlState::QUERY_CANCELED) }
    }
}

/// Whose code the questions of a subscription may run.
pub(super) fn role(asked: &Asked) -> Option<&str> {
    asked.questions.iter().any(|question| question.ask.runs_code).then_some(&*asked.access.role)
}

impl Aside {
    /// The next answer to a question; never while none is asked.
    ///
    /// Cancel safe.
    pub(super) async fn answer(&mut self) -> Answer {
        if let Some(asker) = &mut self.asker
            && let Some(answer) = asker.answers.recv().await
        {
            return answer;
        }
        std::future::pending().await
    }

    /// Whether rows wait, in any lane.
    pub(super) fn has_rows(&self) -> bool {
        !self.lanes.is_empty() && self.lanes.values().any(|lane| !lane.rows.is_empty())
    }

    /// Whether the rows of a subscription go into its lane.
    pub(super) fn takes(&self, oid: Oid, key: SubscriptionKey) -> bool {
        !self.lanes.is_empty()
            && self.lanes.get(&(oid, key)).is_some_and(|lane| {
                !lane.rows.is_empty() || lane.slow_until.is_some_and(|until| until > Instant::now())
            })
    }

    /// The subscription is gone. Whether rows still waited, and what was to be told behind them.
    pub(super) fn forget(&mut self, oid: Oid, key: SubscriptionKey) -> (bool, Vec<Arc<Behind>>) {
        let rows = self.lanes.remove(&(oid, key)).map(|lane| lane.rows).unwrap_or_default();
        (!rows.is_empty(), rows.into_iter().flat_map(|row| row.then).collect())
    }

    /// All subscriptions of a table, or of all, are gone: those whose rows still waited, and what was to be told behind
    /// them.
    pub(super) fn forget_all(&mut self, of: Option<Oid>) -> (Vec<Name>, Vec<Arc<Behind>>) {
        let gone: Vec<Name> =
            self.lanes.keys().filter(|name| of.is_none_or(|oid| name.0 == oid)).copied().collect();
        let (mut waited, mut then) = (Vec::new(), Vec::new());
        for name in gone {
            let (rows, behind) = self.forget(name.0, name.1);
            if rows {
                waited.push(name);
            }
            then.extend(behind);
        }
        (waited, then)
    }

    /// Something is told behind the rows that wait for some subscriptions.
    pub(super) fn put_behind(
        &mut self,
        behind: &Arc<Behind>,
        is_meant: impl Fn(Oid, SubscriptionKey) -> bool,
    ) {
        for ((oid, key), lane) in &mut self.lanes {
            if let Some(last) = lane.rows.back_mut().filter(|_| is_meant(*oid, *key)) {
                last.then.push(Arc::clone(behind));
            }
        }
    }

    /// Keeps a row. `None` if there is no room.
    pub(super) fn keep(&mut self, waiting: &Waiting) -> Option<Arc<Kept>> {
        if let Some(last) = self.last.upgrade().filter(|last| last.waiting.position == waiting.position) {
            return Some(last);
        }
        if self.bytes.load(Ordering::Relaxed) >= MAX_BYTES {
            return None;
        }
        let waiting = waiting.again();
        let counted = Counted::new(waiting.size(), &self.bytes);
        let kept = Arc::new(Kept { waiting, counted });
        self.last = Arc::downgrade(&kept);
        Some(kept)
    }

    /// Bytes of all that waits.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Keeps whom rows are for.
    pub(super) fn for_whom(&self, oid: Oid, keys: Vec<SubscriptionKey>) -> Arc<ForWhom> {
        Arc::new(ForWhom::new(oid, keys, &self.bytes))
    }

    /// Puts a row into a lane. False if there is no room.
    pub(super) fn push(&mut self, pool: &Pool, name: Name, waiting: &Waiting, asked: Option<Asked>) -> bool {
        if self.lanes.get(&name).is_some_and(|lane| lane.rows.len() >= MAX_ROWS) {
            return false;
        }
        let Some(kept) = self.keep(waiting) else { return false };
        let lane = self.lanes.entry(name).or_default();
        let questions = asked.iter().flat_map(|asked| &asked.questions).map(Question::size).sum::<usize>();
        let counted = Counted::new(size_of::<Row>() + questions * QUESTION_BYTES, &self.bytes);
        lane.rows.push_back(Row { kept, asked, then: Vec::new(), _counted: counted });
        if lane.rows.len() == 1 {
            self.ask_next(pool, name);
        }
        true
    }

    /// Asks about the first row of a lane.
    fn ask_next(&mut self, pool: &Pool, name: Name) {
        let Some(first) = self.lanes.get(&name).and_then(|lane| lane.rows.front()) else { return };
        let role = first.asked.as_ref().and_then(role).map(Into::into);
        let questions = first.asked.as_ref().map(|asked| asked.questions.clone()).unwrap_or_default();
        let asker = self.asker.get_or_insert_with(|| Asker::new(pool.clone()));
        // The asker lives as long as `self`.
        let _ = asker.jobs.send(Job { name, role, questions });
    }

    /// Takes the first row of a lane, about which the question was answered, and asks about the next one.
    pub(super) fn pop(&mut self, pool: &Pool, name: Name) -> Option<Row> {
        let row = self.lanes.get_mut(&name)?.rows.pop_front()?;
        self.ask_next(pool, name);
        let now = Instant::now();
        let is_over = |lane: &Lane| lane.rows.is_empty() && lane.slow_until.is_none_or(|until| until <= now);
        if self.lanes.get(&name).is_some_and(is_over) {
            self.lanes.remove(&name);
        }
        Some(row)
    }

    /// Whether a channel is to be told that a row is withheld, because it was not told a short while ago.
    pub(super) fn is_news(&mut self, name: Name, slow: bool) -> bool {
        let now = Instant::now();
        let lane = self.lanes.entry(name).or_default();
        if slow {
            lane.slow_until = Some(now + SLOW);
        }
        let news = lane.told_until.is_none_or(|until| until <= now);
        if news {
            lane.told_until = Some(now + SLOW);
        }
        news
    }
}

impl Asker {
    fn new(pool: Pool) -> Self {
        let (jobs, mut queue) = mpsc::unbounded_channel::<Job>();
        let (tell, answers) = mpsc::unbounded_channel();
        let work = async move {
            while let Some(job) = queue.recv().await {
                let name = job.name;
                let outcome = tokio::select! {
                    outcome = ask(&pool, &job) => outcome,
                    () = tell.closed() => return,
                };
                if tell.send(Answer { name, outcome }).is_err() {
                    return;
                }
            }
        };
        tokio::spawn(work.in_current_span());
        Self { jobs, answers }
    }
}

/// The answer, however long it takes until the database can be asked.
async fn ask(pool: &Pool, job: &Job) -> Result<bool, Failure> {
    let questions: Vec<&Question> = job.questions.iter().collect();
    loop {
        match questions::ask(pool, job.role.as_deref(), &questions).await {
            Ok(answers) => return Ok(!answers.contains(&false)),
            Err(error) if questions::is_about_the_question(&error) => {
                return Err(Failure::of(&error));
            }
            Err(_) => time::sleep(ASK_AGAIN).await,
        }
    }
}
