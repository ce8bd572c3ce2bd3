//! Reading a result, beside the stream: what differs from what its clients have is told as it is found.

use std::{ops::ControlFlow, sync::Arc};

use bytes::Bytes;
use deadpool_postgres::Pool;
use realtime_changes::{Action, Party, RowView, SubscriptionSpec};
use realtime_live::{Secret, Seen, key, values};
use realtime_pgoutput::{
    Oid,
    message::{Tuple, UnixMicros},
};
use tokio::time::{self, Duration, Instant};

use super::{
    binding::claims_matter,
    group::{Group, Stage, halfway, millis, send},
    view::{self, same_source},
};
use crate::{
    ChangeSink,
    live::{self, Bounds, Limits, LiveRefusal, ReadAt, ReadError, Receive, Source},
    visibility::Passed,
};

/// How long one reading waits for the receiver of first rows. It gets the rest by another one: others wait too.
const ROOM_LIMIT: Duration = Duration::from_millis(250);

/// Pause between looks at a receiver without room.
const ROOM_LOOK: Duration = Duration::from_millis(2);

/// What a reading needs.
pub(super) struct Job {
    pub(super) result: u32,
    pub(super) pool: Pool,
    pub(super) sink: Arc<dyn ChangeSink>,
    pub(super) publication: String,
    pub(super) bounds: Bounds,
    pub(super) limits: Limits,
    pub(super) secret: Secret,
    pub(super) spec: Arc<SubscriptionSpec>,
    pub(super) party: Party,
    pub(super) source: Arc<Source>,
    pub(super) view: Arc<RowView>,
    /// Whether the catalog has to be asked whether the source is still the same.
    pub(super) is_doubted: bool,
    /// What the snapshot must have.
    pub(super) passed: Arc<Passed>,
    pub(super) groups: Vec<Group>,
    /// Whether it is remembered what clients have, for those who come back.
    pub(super) remembers: bool,
}

/// What became of it.
pub(in crate::worker) struct Done {
    pub(super) result: u32,
    pub(super) groups: Vec<Group>,
    pub(super) outcome: Result<ReadAt, Trouble>,
    /// Whether the catalog was asked before.
    pub(super) was_doubted: bool,
    pub(super) took: Duration,
    /// Where the result comes from now, if it was doubted.
    pub(super) source: Option<(Arc<Source>, Arc<RowView>)>,
}

/// Why a result was not read.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The database cannot be asked.
    Unavailable(String),
    /// The query takes too long.
    Slow,
    /// The query fails.
    Failed(String),
    /// The party may not read any more what the query reads: a table of the view, or one that policies read.
    Denied(String),
    /// The binding would be refused by now.
    Refused(LiveRefusal),
    /// Tables that only policies read have to be published before, each with what is said if that cannot be done.
    Lacking(Vec<(Oid, LiveRefusal)>),
    /// More rows than a result may have.
    TooMany,
    /// Two rows have one key.
    NotUnique,
    /// The clients may see different rows by now: nothing was read for all of them.
    Apart,
}

impl Job {
    /// Reads the result, and tells what is new.
    pub(super) async fn run(mut self) -> Done {
        let begun = Instant::now();
        let (mut source, mut outcome) = (None, Ok(()));
        if self.is_doubted {
            let shared = !claims_matter(&self.source);
            outcome = self.look().await.map(|found| source = found);
            if outcome.is_ok() && shared && claims_matter(&self.source) {
                outcome = Err(Trouble::Apart);
            }
        }
        let outcome = match outcome {
            Ok(()) => self.read().await,
            Err(trouble) => Err(trouble),
        };
        let (was_doubted, took) = (self.is_doubted, begun.elapsed());
        Done { result: self.result, groups: self.groups, outcome, was_doubted, took, source }
    }

    /// Asks the catalog where the result comes from. If its rows have another key now, those that were told leave.
    async fn look(&mut self) -> Result<Option<(Arc<Source>, Arc<RowView>)>, Trouble> {
        let looked =
            live::look(&self.pool, &self.publication, &self.spec, &self.party.role, self.bounds).await;
        let source = match looked {
            Ok(source) if !source.lacking.is_empty() => return Err(Trouble::Lacking(source.lacking)),
            Ok(source) => Arc::new(source),
            Err(LiveRefusal::Unavailable(error)) => return Err(Trouble::Unavailable(error.to_string())),
            Err(refusal) => return Err(Trouble::Refused(refusal)),
        };
        if same_source(&source, &self.source) {
            return Ok(None);
        }
        let view = Arc::new(view::of(&source));
        if !view.has_key_of(&self.view) {
            let at = halfway(now());
            let mut groups = std::mem::take(&mut self.groups);
            for group in &mut groups {
                let left = group.keeper.clear();
                let left = left.iter().map(|key| self.left(key, at)).collect::<Vec<_>>();
                send(&*self.sink, &group.to, &left, false);
            }
            self.groups = groups;
        }
        (self.source, self.view) = (source, view);
        Ok(Some((Arc::clone(&self.source), Arc::clone(&self.view))))
    }

    fn left(&self, key: &[u8], at: UnixMicros) -> (Action, Bytes) {
        (Action::Delete, self.view.left(&values(key), at, &self.source.types))
    }

    async fn read(&mut self) -> Result<ReadAt, Trouble> {
        for group in &mut self.groups {
            group.begin();
        }
        let (pool, source, passed) = (self.pool.clone(), Arc::clone(&self.source), Arc::clone(&self.passed));
        let (party, limits) = (self.party.clone(), self.limits);
        let mut telling = Telling { job: self, at: now() };
        let outcome = live::read(&pool, &source, &party, &passed, limits, &mut telling).await;
        let at = telling.at;
        let outcome = outcome.map_err(trouble);
        self.end(outcome.is_ok(), at);
        outcome
    }

    /// Tells the rest.
    fn end(&mut self, whole: bool, at: UnixMicros) {
        let mut groups = std::mem::take(&mut self.groups);
        let comes = |stage: Stage| groups.iter().any(|group| group.stage == stage && !group.is_put_off);
        let (is_moved, is_first) = (comes(Stage::Moved), comes(Stage::First));
        for group in &mut groups {
            if !whole || group.is_put_off {
                group.give_up(&*self.sink);
                continue;
            }
            // The last message to those who have now had all has the time with which they may come back.
            let is_last = |number: usize, count: usize| {
                group.stage == Stage::Complete || number == count && group.last().is_none()
            };
            let count = group.keeper.left().count();
            let left = (1..)
                .zip(group.keeper.left())
                .map(|(number, key)| self.left(key, if is_last(number, count) { at } else { halfway(at) }));
            let left: Vec<_> = left.collect();
            let last = group
                .last()
                .map(|(action, row)| (action, self.view.data(action, row, at, &self.source.types)));
            // Whoever comes with other rights names times at which it had other rows.
            if is_moved || group.stage != Stage::Complete {
                group.keeper.forget();
            }
            group.end(&*self.sink, left, last);
            if self.remembers && (is_moved || is_first) {
                group.keeper.remember();
            }
        }
        self.groups = groups;
    }
}

fn trouble(error: ReadError) -> Trouble {
    match error {
        ReadError::TooMany(_) => Trouble::TooMany,
        ReadError::Slow => Trouble::Slow,
        ReadError::Failed(text) => Trouble::Failed(text),
        ReadError::Denied(text) => Trouble::Denied(text),
        // Only a key that is none stops a reading.
        ReadError::Stopped => Trouble::NotUnique,
        ReadError::Unavailable(error) => Trouble::Unavailable(error.to_string()),
    }
}

/// Takes rows as they are read.
struct Telling<'j> {
    job: &'j mut Job,
    /// When the snapshot was taken.
    at: UnixMicros,
}

impl Receive for Telling<'_> {
    fn begins(&mut self, taken_at: UnixMicros) {
        self.at = taken_at;
        for group in &mut self.job.groups {
            group.keeper.tells_at(millis(taken_at));
        }
    }

    async fn take(&mut self, rows: Vec<Tuple>) -> ControlFlow<()> {
        for (number, row) in rows.iter().enumerate() {
            if !self.row(number, row) {
                return ControlFlow::Break(());
            }
        }
        self.job.groups.iter_mut().for_each(|group| group.hold(&rows));
        self.pace().await;
        ControlFlow::Continue(())
    }
}

impl Telling<'_> {
    /// Finds what a row is to each group. False if its key is none. `number`: its place in the portion.
    fn row(&mut self, number: usize, row: &Tuple) -> bool {
        let Job { view, source, groups, secret, .. } = &mut *self.job;
        let key = key(view.key(row));
        let digest = view::digest(view, row, *secret);
        let (mut insert, mut update, mut first, mut other) = (None, None, None, None);
        for group in groups.iter_mut().filter(|group| !group.is_put_off) {
            let action = match group.keeper.see(&key, digest) {
                Seen::New => Action::Insert,
                Seen::Changed => Action::Update,
                Seen::Same => continue,
                // Without a key rows may be the same in all that is told: they are one.
                Seen::Twice if source.key == live::Key::WholeRow => continue,
                Seen::Twice => return false,
            };
            if group.wants(action) {
                let (data, at) = match (group.stage, action) {
                    (Stage::Complete, Action::Insert) => (&mut insert, self.at),
                    (Stage::Complete, _) => (&mut update, self.at),
                    (_, Action::Insert) => (&mut first, halfway(self.at)),
                    (..) => (&mut other, halfway(self.at)),
                };
                let data = data.get_or_insert_with(|| view.data(action, row, at, &source.types));
                group.push(action, data.clone(), number);
            }
        }
        true
    }

    /// Tells what has gathered, as the receivers have room.
    async fn pace(&mut self) {
        let sink = Arc::clone(&self.job.sink);
        for group in self.job.groups.iter_mut().filter(|group| group.is_full()) {
            group.is_put_off = group.stage != Stage::Complete && !has_room(&*sink, group).await;
            group.tell(&*sink);
        }
        // Receivers of many changes are waited for as those of the log are.
        if let Some(relief) = sink.relieve() {
            relief.await;
        }
    }
}

/// Waits for the receiver of a group, but not for long.
async fn has_room(sink: &dyn ChangeSink, group: &Group) -> bool {
    let Some(binding) = group.to.first() else { return false };
    let until = Instant::now() + ROOM_LIMIT;
    loop {
        match sink.room(binding.channel) {
            Some(true) => return true,
            None => return false,
            Some(false) if binding.is_gone() || Instant::now() >= until => return false,
            Some(false) => time::sleep(ROOM_LOOK).await,
        }
    }
}

/// This machine's time.
pub(super) fn now() -> UnixMicros {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    UnixMicros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
