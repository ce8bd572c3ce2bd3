//! One result: who has it, and what is to be done for it.

use std::sync::Arc;

use realtime_changes::RowView;
use realtime_live::Keeper;
use realtime_pgoutput::message::UnixMicros;
use realtime_retry::Backoff;
use tokio::time::{Duration, Instant};

use super::{
    binding::{Binding, Identity, Name},
    direct::{Direct, Image},
    group::{Group, Stage},
};
use crate::{live::Source, visibility::Snapshot};

/// Pauses after readings in a row that failed: from the first, doubling, to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// Transactions that are remembered for a result until it is read: what a reading has seen need not be read again.
const MAX_REMEMBERED: usize = 64;

/// A result that is kept.
pub(super) struct Kept {
    pub(super) identity: Identity,
    pub(super) source: Arc<Source>,
    pub(super) view: Arc<RowView>,
    /// Who has what the keeper has.
    pub(super) members: Vec<Arc<Binding>>,
    /// What they have. `None`: nobody has it, or a reading has the keeper.
    pub(super) keeper: Option<Keeper>,
    /// Who waits for first rows.
    pub(super) newcomers: Vec<Group>,
    /// While it is read: those of the newcomers that the reading began with.
    pub(super) reading: Option<Vec<Arc<Binding>>>,
    /// Bindings that go to other results when the reading is over.
    pub(super) moving: Vec<Moving>,
    pub(super) stale: Stale,
    /// Whether the catalog may say something else about it by now.
    pub(super) is_doubted: bool,
    /// Why there are no rows at the moment, as was told.
    pub(super) lost: Option<String>,
    /// The code that its clients were told of readings that fail.
    pub(super) told: Option<&'static str>,
    pub(super) backoff: Backoff,
    /// When it may be read again.
    pub(super) not_before: Instant,
    /// When it is read again by the clock, if the log does not tell all that changes it.
    pub(super) by_clock_at: Option<Instant>,
    /// How long the last reading took.
    pub(super) took: Option<Duration>,
    /// What the last reading saw, while the log may still bring what it saw.
    pub(super) seen: Option<(Snapshot, Instant)>,
    /// How the log tells of its rows, if it does.
    pub(super) direct: Option<Arc<Direct>>,
    /// While it is read: what the log has told of its rows.
    pub(super) queued: Vec<Queued>,
    /// Where it is found by rows, if it is.
    pub(super) place: Option<Place>,
    /// The last transaction that had changed rows of its table when the last reading began.
    pub(super) last: u64,
    /// Whether what policies read has changed while it was read.
    pub(super) is_policy_changed: bool,
    /// When it is read, if it is to be.
    pub(super) due: Option<Instant>,
    /// While nobody has it: how long it is kept for those who come back.
    pub(super) rests_until: Option<Instant>,
    /// Memory of the keepers, as it was counted.
    pub(super) bytes: usize,
}

/// About how many bytes the way from a row to a result takes.
const WAY_BYTES: usize = 12;

/// How long the log may take to bring what a reading has seen. Ids of transactions come round much later.
const SEEN_FOR: Duration = Duration::from_secs(3_600);

/// Where a result is found by rows of its table.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) ring: u32,
    /// The number of its party.
    pub(super) party: u32,
}

/// Whether rows are in a result, by their places among the images of a transaction.
pub(super) type Fates = Vec<(u32, bool)>;

/// Changes that came while a result was read.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) xid: u32,
    pub(super) at: UnixMicros,
    pub(super) images: Arc<[Image]>,
    pub(super) fates: Fates,
}

/// A binding that goes to another result.
pub(super) struct Moving {
    pub(super) binding: Arc<Binding>,
    /// Where that comes from. `None`: it was refused, and its rows leave.
    pub(super) to: Option<Arc<Source>>,
}

/// What has happened since a result was read.
#[derive(Debug, Default)]
pub(super) enum Stale {
    /// Nothing.
    #[default]
    No,
    /// These transactions have passed.
    By(Vec<u32>),
    /// It has to be read in any case.
    Yes,
}

impl Stale {
    pub(super) fn by(&mut self, xid: u32) {
        match self {
            Self::No => *self = Self::By(vec![xid]),
            Self::By(xids) if xids.len() < MAX_REMEMBERED => xids.push(xid),
            Self::By(_) => *self = Self::Yes,
            Self::Yes => {}
        }
    }

    /// A reading that began before has seen this snapshot.
    pub(super) fn was_read(&mut self, snapshot: &Snapshot) {
        if let Self::By(xids) = self {
            xids.retain(|xid| !snapshot.has(*xid));
            if xids.is_empty() {
                *self = Self::No;
            }
        }
    }
}

impl Kept {
    pub(super) fn new(identity: Identity, source: Arc<Source>, view: Arc<RowView>) -> Self {
        Self {
            identity,
            source,
            view,
            members: Vec::new(),
            keeper: None,
            newcomers: Vec::new(),
            reading: None,
            moving: Vec::new(),
            stale: Stale::No,
            is_doubted: false,
            lost: None,
            told: None,
            backoff: Backoff::new(RETRY.0, RETRY.1),
            not_before: Instant::now(),
            by_clock_at: None,
            took: None,
            seen: None,
            direct: None,
            queued: Vec::new(),
            place: None,
            last: 0,
            is_policy_changed: false,
            due: None,
            rests_until: None,
            bytes: 0,
        }
    }

    /// Whether the last reading saw a transaction.
    pub(super) fn has_seen(&mut self, xid: u32) -> bool {
        if self.seen.as_ref().is_some_and(|(_, at)| at.elapsed() > SEEN_FOR) {
            self.seen = None;
        }
        self.seen.as_ref().is_some_and(|(snapshot, _)| snapshot.has(xid))
    }

    /// Whether nobody wants it.
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
            && self.newcomers.is_empty()
            && self.reading.as_ref().is_none_or(Vec::is_empty)
    }

    /// Whether it is kept for those who come back only.
    pub(super) const fn is_resting(&self) -> bool {
        self.rests_until.is_some()
    }

    /// Whether it has to be read.
    pub(super) fn wants_reading(&self) -> bool {
        self.reading.is_none()
            && !self.is_empty()
            && (!self.newcomers.is_empty() && self.lost.is_none() || !matches!(self.stale, Stale::No))
    }

    /// When it is to be read next, if it is.
    pub(super) fn next_reading(&self) -> Option<Instant> {
        if self.wants_reading() {
            return Some(self.not_before.max(Instant::now()));
        }
        let may = self.reading.is_none() && !self.is_empty() && self.lost.is_none();
        self.by_clock_at.filter(|_| may).map(|at| at.max(self.not_before))
    }

    /// The table or view of a result and its role, for lines of the log.
    pub(super) fn about(&self) -> (Option<String>, Option<Arc<str>>) {
        self.bindings().next().map(|binding| (binding.spec.place(), Arc::clone(&binding.role))).unzip()
    }

    /// All bindings.
    pub(super) fn bindings(&self) -> impl Iterator<Item = &Arc<Binding>> {
        let newcomers = self.newcomers.iter().flat_map(|group| &group.to);
        self.members.iter().chain(newcomers).chain(self.reading.iter().flatten())
    }

    /// Whether nobody but this binding has what the keeper has: then the keeper goes with it.
    pub(super) fn is_last(&self, name: Name) -> bool {
        matches!(&*self.members, [last] if last.name() == name)
    }

    /// Takes a binding out, with what it has. To be called while nothing is read.
    pub(super) fn take(&mut self, name: Name) -> Option<Group> {
        let of = |binding: &Arc<Binding>| binding.name() == name;
        if let Some(at) = self.newcomers.iter().position(|group| group.to.iter().any(of)) {
            return Some(self.newcomers.swap_remove(at));
        }
        let at = self.members.iter().position(of)?;
        let binding = self.members.swap_remove(at);
        let keeper = match self.members.is_empty() {
            true => self.keeper.take(),
            false => self.keeper.clone(),
        };
        keeper.map(|keeper| Group::new(keeper, vec![binding], Stage::Moved))
    }

    /// A binding leaves. `rests`: what it has is kept for those who come back.
    pub(super) fn leave(&mut self, name: Name, rests: bool) {
        for binding in self.bindings().filter(|binding| binding.name() == name) {
            binding.leave();
        }
        let stays = |binding: &Arc<Binding>| binding.name() != name;
        self.members.retain(stays);
        self.newcomers.retain(|group| group.to.iter().all(stays));
        if let Some(reading) = &mut self.reading {
            reading.retain(stays);
        }
        self.moving.retain(|moving| moving.binding.name() != name);
        if self.members.is_empty() && !rests {
            // A reading brings its own back.
            self.keeper = None;
        }
    }

    /// What its keepers take, and what leads from rows to it.
    pub(super) fn measure(&self) -> usize {
        let newcomers = self.newcomers.iter().map(|group| group.keeper.bytes());
        let ways = if self.place.is_some() { self.rows() * WAY_BYTES } else { 0 };
        self.keeper.iter().map(Keeper::bytes).sum::<usize>() + newcomers.sum::<usize>() + ways
    }

    /// How many rows are kept.
    pub(super) fn rows(&self) -> usize {
        self.keeper.as_ref().map_or(0, Keeper::len)
    }
}
