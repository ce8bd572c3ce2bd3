//! Those who have the same rows of a result, and what they are told next.

use std::sync::Arc;

use bytes::Bytes;
use realtime_changes::{Action, ChannelId, EventFilter, Place, Recipient, Since};
use realtime_live::Keeper;
use realtime_pgoutput::message::{Tuple, UnixMicros};

use super::binding::{Binding, wants};
use crate::{ChangeSink, Notice};

/// What is told at once to those who have the first rows already: all that one reading has found, if it is no more.
const TOGETHER: usize = 1 << 20;

/// First rows are sent in portions of about this many bytes, as the receiver has room.
const PORTION: usize = 64 << 10;

/// Who has the same rows.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) keeper: Keeper,
    pub(super) to: Vec<Arc<Binding>>,
    pub(super) stage: Stage,
    /// Where one that comes back says that it was, until that is looked at.
    pub(super) since: Option<Since>,
    /// Whether it is left out of the reading: its receiver had no room.
    pub(super) is_put_off: bool,
    /// What was found and not told yet.
    pending: Vec<(Action, Bytes)>,
    bytes: usize,
    /// Whether something of this reading was told.
    has_told: bool,
    /// The last row that was found for those who have not had all, held back: it is told with another time if it is the
    /// last of all.
    held: Option<(Tuple, (Action, Bytes))>,
    /// Which row of the portion that is read has been found last.
    latest: Option<usize>,
}

/// A time as clients see it.
pub(super) const fn millis(time: UnixMicros) -> i64 {
    time.0.div_euclid(1_000)
}

/// The time of what is told to those who have not had all: they cannot come back with it.
pub(super) const fn halfway(time: UnixMicros) -> UnixMicros {
    UnixMicros(realtime_live::halfway(time.0))
}

/// How far those of a group have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// One binding that has not had all first rows.
    First,
    /// One binding that comes from another result.
    Moved,
    /// All who have had them.
    Complete,
}

impl Group {
    pub(super) fn new(keeper: Keeper, to: Vec<Arc<Binding>>, stage: Stage) -> Self {
        Self {
            keeper,
            to,
            stage,
            since: None,
            is_put_off: false,
            pending: Vec::new(),
            bytes: 0,
            has_told: false,
            held: None,
            latest: None,
        }
    }

    /// One that comes back goes on where it was, if it is known what it has; or is told that it begins anew. `known`: what
    /// the clients of the result have.
    pub(super) fn goes_on(&mut self, known: Option<&Keeper>, sink: &dyn ChangeSink) {
        let Some(since) = self.since.take() else { return };
        let has_all = self.to.iter().all(|binding| binding.event() == EventFilter::All);
        let had = match since.place {
            Place::From(time) => known.filter(|_| has_all).and_then(|known| known.of_client(millis(time))),
            // Rows of results have no other places.
            Place::After(_) => None,
        };
        match had {
            Some(had) => self.keeper = had,
            None => {
                for binding in &self.to {
                    sink.notice(binding.channel, Notice::BeginAnew { id: binding.id });
                }
            }
        }
    }

    /// A reading begins.
    pub(super) fn begin(&mut self) {
        (self.is_put_off, self.has_told, self.latest) = (false, false, None);
        self.keeper.begin();
        if self.stage != Stage::Complete {
            // What was sent is known row by row.
            self.keeper.told();
        }
    }

    /// A row was found: the one with this number of the portion that is read.
    pub(super) fn push(&mut self, action: Action, data: Bytes, number: usize) {
        self.let_go();
        self.latest = Some(number);
        self.bytes += data.len();
        self.pending.push((action, data));
    }

    /// A portion was read: the last row of it is held back.
    pub(super) fn hold(&mut self, portion: &[Tuple]) {
        let latest = self.latest.take().filter(|_| self.stage != Stage::Complete);
        if let Some(row) = latest.and_then(|number| portion.get(number))
            && let Some(found) = self.pending.pop()
        {
            self.bytes -= found.1.len();
            self.held = Some((row.clone(), found));
        }
    }

    /// The row that was held back is not the last.
    fn let_go(&mut self) {
        if let Some((_, found)) = self.held.take() {
            self.bytes += found.1.len();
            self.pending.push(found);
        }
    }

    /// The row that is held back, and as what it is told.
    pub(super) fn last(&self) -> Option<(Action, &Tuple)> {
        self.held.as_ref().map(|(row, (action, _))| (*action, row))
    }

    /// Whether what waits should be told before more is read.
    pub(super) const fn is_full(&self) -> bool {
        match self.stage {
            Stage::Complete => self.bytes >= TOGETHER,
            Stage::First | Stage::Moved => self.bytes >= PORTION,
        }
    }

    /// Whether one of them is told such a thing.
    pub(super) fn wants(&self, action: Action) -> bool {
        self.to.iter().any(|binding| wants(binding.event(), action))
    }

    /// Tells what waits: from now on it cannot be undone.
    pub(super) fn tell(&mut self, sink: &dyn ChangeSink) {
        if self.bytes > 0 {
            self.keeper.told();
            self.has_told = true;
        }
        self.bytes = 0;
        let rows = std::mem::take(&mut self.pending);
        send(sink, &self.to, &rows, self.stage != Stage::Complete);
    }

    /// The reading has seen all rows. `left`: what is told of those that it has not seen, before anything else that
    /// waits. `last`: what is told in place of the row that is held back.
    pub(super) fn end(
        &mut self,
        sink: &dyn ChangeSink,
        mut left: Vec<(Action, Bytes)>,
        last: Option<(Action, Bytes)>,
    ) {
        left.append(&mut self.pending);
        left.extend(last);
        self.held = None;
        self.bytes = 0;
        self.keeper.end();
        send(sink, &self.to, &left, self.stage != Stage::Complete);
        if self.stage == Stage::First {
            for binding in self.to.iter().filter(|binding| !binding.is_gone()) {
                sink.notice(binding.channel, Notice::Complete { id: binding.id, rows: self.keeper.len() });
            }
        }
        self.stage = Stage::Complete;
    }

    /// The reading has failed. If nothing of it was told, nothing has happened; else what was found is told.
    pub(super) fn give_up(&mut self, sink: &dyn ChangeSink) {
        self.let_go();
        if self.has_told || self.stage != Stage::Complete {
            self.tell(sink);
        }
        self.pending.clear();
        self.bytes = 0;
        self.keeper.give_up();
    }
}

/// Sends rows to bindings, in their order.
pub(super) fn send(sink: &dyn ChangeSink, to: &[Arc<Binding>], rows: &[(Action, Bytes)], first: bool) {
    if rows.is_empty() {
        return;
    }
    for event in [EventFilter::All, EventFilter::Insert, EventFilter::Update, EventFilter::Delete] {
        let those = to.iter().filter(|binding| binding.event() == event && !binding.is_gone());
        let recipients = recipients(those.map(|binding| (binding.channel, binding.id)));
        if recipients.is_empty() {
            continue;
        }
        if event == EventFilter::All {
            sink.rows(&recipients, rows, first);
        } else {
            let wanted: Vec<(Action, Bytes)> =
                rows.iter().filter(|(action, _)| wants(event, *action)).cloned().collect();
            sink.rows(&recipients, &wanted, first);
        }
    }
}

/// Each channel once.
fn recipients(names: impl Iterator<Item = (ChannelId, u32)>) -> Vec<Recipient> {
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    let mut recipients: Vec<Recipient> = Vec::new();
    for (channel, id) in names {
        match recipients.last_mut().filter(|last| last.channel == channel) {
            Some(last) => last.ids.push(id),
            None => recipients.push(Recipient { channel, ids: [id].into_iter().collect() }),
        }
    }
    recipients
}
