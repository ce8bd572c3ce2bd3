//! When results are read.

use std::sync::Arc;

use realtime_changes::Party;
use tokio::time::{self, Duration, Instant};
use tracing::Instrument as _;

use super::{
    Event, Live,
    group::{Group, Stage},
    result::Stale,
    run::Job,
};
use crate::{
    live::{Bounds, Limits, PolicyTables},
    visibility::Passed,
};

/// Part of the pool that readings may have.
const SHARE_OF_POOL: usize = 4;

/// Pause before a receiver without room is looked at again.
const ROOM_PAUSE: Duration = Duration::from_millis(100);

impl Live {
    /// Puts a result into the queue, if it has to be read. One that waits for the clock may have to be read before.
    pub(super) fn schedule(&mut self, result: u32) {
        let Some(kept) = self.results.get_mut(&result) else { return };
        let is_waiting = kept.due.is_some_and(|due| kept.by_clock_at.is_none_or(|at| due < at));
        let Some(at) = kept.next_reading().filter(|_| !is_waiting) else { return };
        if let Some(due) = kept.due.replace(at) {
            self.queue.remove(&(due, result));
        }
        self.queue.insert((at, result));
    }

    /// How many results may be read at once.
    fn places_for_reading(&self) -> usize {
        (self.pool.status().max_size / SHARE_OF_POOL).max(1)
    }

    /// What has to be done next; never while there is nothing. Cancel safe.
    pub(in crate::worker::state) async fn event(&mut self) -> Event {
        let due = match self.queue.first() {
            Some((at, _)) if self.is_open && self.running < self.places_for_reading() => Some(*at),
            _ => None,
        };
        let is_due = async {
            match due {
                Some(at) => time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let rested = async {
            match self.resting.first() {
                Some((until, _)) => time::sleep_until(*until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(done) = self.done.recv() => Event::Done(Box::new(done)),
            () = is_due => Event::Due,
            () = rested => Event::Due,
        }
    }

    /// Begins the readings that are due, as many as may run at once.
    pub(in crate::worker::state) fn begin(&mut self, passed: &Passed, policies: PolicyTables) {
        self.policies = policies;
        let now = Instant::now();
        let mut shared: Option<Arc<Passed>> = None;
        while self.is_open && self.running < self.places_for_reading() {
            let Some((at, result)) = self.queue.first().copied().filter(|(at, _)| *at <= now) else { break };
            self.queue.remove(&(at, result));
            let passed = Arc::clone(shared.get_or_insert_with(|| Arc::new(passed.clone())));
            let job = self.job(result, passed);
            self.schedule(result);
            if let Some(job) = job {
                self.running += 1;
                let tell = self.tell.clone();
                let work = async move {
                    tokio::select! {
                        done = job.run() => drop(tell.send(done)),
                        () = tell.closed() => {}
                    }
                };
                tokio::spawn(work.in_current_span());
            }
        }
    }

    /// A reading of a result, with its keepers.
    fn job(&mut self, result: u32, passed: Arc<Passed>) -> Option<Job> {
        let kept = self.results.get_mut(&result)?;
        kept.due = None;
        if kept.by_clock_at.is_some_and(|at| at <= Instant::now()) {
            (kept.by_clock_at, kept.stale) = (None, Stale::Yes);
        }
        if !kept.wants_reading() {
            return None;
        }
        let sink = &self.sink;
        let has_room =
            |group: &Group| group.to.first().is_none_or(|binding| sink.room(binding.channel) != Some(false));
        let (mut newcomers, wait): (Vec<Group>, Vec<Group>) =
            std::mem::take(&mut kept.newcomers).into_iter().partition(has_room);
        kept.newcomers = wait;
        if newcomers.is_empty() && matches!(kept.stale, Stale::No) {
            kept.not_before = Instant::now() + ROOM_PAUSE;
            return None;
        }
        let first = kept.members.iter().chain(newcomers.iter().flat_map(|group| &group.to)).next();
        let Some(first) = first.map(Arc::clone) else {
            kept.not_before = Instant::now() + ROOM_PAUSE;
            return None;
        };
        self.release(result);
        let kept = self.results.get_mut(&result)?;
        newcomers.iter_mut().for_each(|group| group.goes_on(kept.keeper.as_ref(), &*self.sink));
        let mut groups = Vec::with_capacity(1 + newcomers.len());
        if let Some(keeper) = kept.keeper.take() {
            groups.push(Group::new(keeper, kept.members.clone(), Stage::Complete));
        }
        groups.append(&mut newcomers);
        let newcomers = groups.iter().filter(|group| group.stage != Stage::Complete);
        kept.reading = Some(newcomers.flat_map(|group| &group.to).map(Arc::clone).collect());
        kept.stale = Stale::No;
        if let Some(table) = self.tables.get_mut(&kept.source.oid)
            && kept.place.is_some()
        {
            table.reading.insert(result);
            kept.last = table.last;
        }
        Some(Job {
            result,
            pool: self.pool.clone(),
            sink: Arc::clone(&self.sink),
            publication: self.publication.clone(),
            bounds: Bounds::of(&self.settings, self.policies),
            limits: Limits { time: self.settings.statement_timeout, rows: self.settings.max_rows },
            secret: self.secret,
            spec: Arc::clone(&first.spec),
            party: Party { role: (&*first.role).into(), claims: Arc::clone(&first.claims) },
            source: Arc::clone(&kept.source),
            view: Arc::clone(&kept.view),
            is_doubted: std::mem::take(&mut kept.is_doubted) || kept.lost.is_some(),
            passed,
            groups,
            remembers: self.rests_for.is_some(),
        })
    }

    /// Does what has to be done.
    pub(in crate::worker::state) fn happens(&mut self, event: Event) {
        match event {
            Event::Due => self.forget_rested(Instant::now()),
            Event::Done(done) => {
                self.running = self.running.saturating_sub(1);
                self.finished(*done);
                self.count();
            }
        }
    }
}
