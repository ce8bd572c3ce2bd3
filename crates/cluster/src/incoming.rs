//! What other nodes say about a tenant that this node has sockets of.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use parking_lot::{Mutex, RwLock};
use realtime_hub::{Congestion, Entry, FanOut, Hub, MemberId, Origin, RoomKey, Said};
use realtime_protocol::{Extension, Ref, SystemMessage, encode};
use tokio::{
    sync::watch,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

use crate::{
    track::{Arrival, Track},
    wire::{self, Header, Kind, Malformed, Record, Room, Told},
};

/// Largest message that is put together from pieces: more than any client may send.
const MAX_FRAGMENTED: usize = 80_000_000;

/// What channels are told when something was missed.
const GAP: &str = "The connection to other nodes was lost: messages from there may have been missed";

/// How often the members of a tenant are told that something was missed, at most: where much is lost, each loss is seen.
const TELL_AGAIN: Duration = Duration::from_secs(1);

/// Tells the members of rooms that something was missed.
pub(crate) fn tell_gap(hub: &Hub, of: impl Fn(&RoomKey) -> bool) {
    let message = SystemMessage::gap(Extension::System, "RealtimeNodeDisconnected", GAP);
    hub.tell(of, |vsn, topic| Some(encode::system(vsn, &Ref::null(), topic, &message)));
}

/// A tenant as the node has it.
pub trait TenantSide: Send + Sync + fmt::Debug {
    /// Counts what its rooms deliver.
    fn meter(&self) -> &Arc<dyn realtime_hub::Meter>;
    /// Users on this node.
    fn users(&self) -> u32;
    /// Takes the number of users on other nodes.
    fn set_users_elsewhere(&self, users: u32);
}

/// A tenant that this node listens for.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) tenant: Arc<str>,
    side: RwLock<Arc<dyn TenantSide>>,
    /// Sockets of the tenant.
    pub(crate) holders: AtomicUsize,
    /// Since when there is none.
    pub(crate) idle_since: Mutex<Option<Instant>>,
    /// Somebody began to listen while there was no connection.
    pub(crate) alone: AtomicBool,
    /// Whether what is said from now on will be heard, and what is so elsewhere is known, as far as can be.
    pub(crate) ready: watch::Sender<bool>,
    pub(crate) stop: CancellationToken,
    copies: Mutex<Copies>,
}

#[derive(Debug, Default)]
struct Copies {
    nodes: HashMap<u32, NodeCopy>,
    /// Something was missed that members have not been told of.
    owed: bool,
    /// When they were told last.
    told_at: Option<Instant>,
}

impl Copies {
    /// Whether members have to be told now that something was missed. Once for each time.
    fn take_owed(&mut self) -> bool {
        let now = Instant::now();
        let due = self.owed && self.told_at.is_none_or(|at| now.saturating_duration_since(at) >= TELL_AGAIN);
        if due {
            (self.owed, self.told_at) = (false, Some(now));
        }
        due
    }
}

/// What is known of one node.
#[derive(Debug)]
struct NodeCopy {
    track: Track,
    asked_at: Instant,
    /// Pieces of a large message, from the first on.
    pieces: Option<BytesMut>,
    /// What has come of an answer, and the number of the question.
    answer: (u64, BytesMut),
    /// Who is present there, as this node's rooms have it.
    present: HashSet<(Room, MemberId)>,
    users: u32,
}

/// Numbers of questions.
#[derive(Debug, Default)]
pub(crate) struct Asks(AtomicU64);

impl Asks {
    pub(crate) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// What is to be done after a message.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Put the question of this number to the node that sent it.
    pub(crate) ask: Option<u64>,
    /// Something before it was missed.
    pub(crate) gap: bool,
    /// Rooms that could not keep up.
    pub(crate) congested: Vec<Congestion>,
}

impl Incoming {
    pub(crate) fn new(tenant: Arc<str>, side: Arc<dyn TenantSide>) -> Self {
        Self {
            tenant,
            side: RwLock::new(side),
            holders: AtomicUsize::new(0),
            idle_since: Mutex::default(),
            alone: AtomicBool::new(false),
            ready: watch::Sender::new(false),
            stop: CancellationToken::new(),
            copies: Mutex::default(),
        }
    }

    /// The tenant as the node has it.
    pub(crate) fn side(&self) -> Arc<dyn TenantSide> {
        Arc::clone(&self.side.read())
    }

    /// The node has the tenant as `side` from now on: one that was removed and made again is another tenant of the same
    /// name, and what is known of the other nodes is about that one then.
    pub(crate) fn serve(&self, side: &Arc<dyn TenantSide>) {
        if Arc::ptr_eq(&self.side.read(), side) {
            return;
        }
        let copies = self.copies.lock();
        *self.side.write() = Arc::clone(side);
        self.count_users(&copies);
    }

    /// Takes an envelope.
    pub(crate) fn envelope(
        &self,
        hub: &Arc<Hub>,
        asks: &Asks,
        mut message: Bytes,
    ) -> Result<Outcome, Malformed> {
        let header = Header::decode(&mut message)?;
        let mut outcome = Outcome::default();
        if header.node == hub.node() {
            return Ok(outcome);
        }
        let mut copies = self.copies.lock();
        let Copies { nodes, owed, .. } = &mut *copies;
        let copy = nodes.entry(header.node).or_insert_with(|| {
            let ask = asks.next();
            outcome.ask = Some(ask);
            NodeCopy::asking(ask)
        });
        // A number that is not used is no harm.
        let ask = asks.next();
        match copy.track.arrive(header.number, header.kind == Kind::Mark, ask) {
            Arrival::Next => {}
            Arrival::Again => return Ok(outcome),
            Arrival::AfterGap => {
                *owed = true;
                outcome.gap = true;
                outcome.ask = Some(ask);
                copy.asked_at = Instant::now();
                copy.pieces = None;
            }
        }
        if copies.take_owed() {
            // Before what follows the gap is heard: whoever hears that has been told.
            tracing::warn!(tenant = &*self.tenant, "messages from other nodes may have been missed");
            tell_gap(hub, |room| room.tenant == self.tenant);
        }
        let Some(copy) = copies.nodes.get_mut(&header.node) else { return Ok(outcome) };
        let body = match header.kind {
            Kind::Records => message,
            Kind::Mark => return Ok(outcome),
            Kind::FirstFragment => {
                copy.pieces = Some(BytesMut::from(message));
                return Ok(outcome);
            }
            Kind::Fragment | Kind::LastFragment => {
                // Who has not got the beginning, because it came too late or after a gap, cannot make sense of the rest.
                let Some(mut pieces) = copy.pieces.take() else { return Ok(outcome) };
                pieces.extend_from_slice(&message);
                if pieces.len() > MAX_FRAGMENTED {
                    return Err(Malformed);
                }
                if header.kind == Kind::Fragment {
                    copy.pieces = Some(pieces);
                    return Ok(outcome);
                }
                pieces.freeze()
            }
        };
        let mut fan_outs = Vec::new();
        let mut heard: Vec<RoomKey> = Vec::new();
        let mut users = false;
        for record in wire::records(body)? {
            match record {
                Record::Json(room, payload) => {
                    let key = self.key(&room);
                    fan_outs.extend(hub.hear(&key, &Said::Json(&payload)));
                    heard.push(key);
                }
                Record::User(room, user) => {
                    let key = self.key(&room);
                    fan_outs.extend(hub.hear(&key, &Said::User(&user)));
                    heard.push(key);
                }
                Record::Dropped(room, count) => hub.missed(&self.key(&room), count),
                state => {
                    if let Some(record) = copy.track.record(header.number, state) {
                        users |= matches!(record, Record::Users(_));
                        fan_outs.extend(self.apply(hub, header.node, copy, record));
                    }
                }
            }
        }
        if users {
            self.count_users(&copies);
        }
        drop(copies);
        fan_outs.into_iter().for_each(FanOut::run);
        heard.dedup();
        outcome.congested.extend(heard.iter().filter_map(|key| hub.room_congestion(key)));
        Ok(outcome)
    }

    /// Takes a part of an answer.
    pub(crate) fn told(&self, hub: &Arc<Hub>, node: u32, told: Told) -> Result<(), Malformed> {
        let mut copies = self.copies.lock();
        let Some(copy) = copies.nodes.get_mut(&node) else { return Ok(()) };
        if copy.track.asked() != Some(told.ask) {
            return Ok(());
        }
        copy.asked_at = Instant::now();
        let (ask, parts) = &mut copy.answer;
        if *ask != told.ask || told.offset == 0 {
            (*ask, *parts) = (told.ask, BytesMut::new());
        }
        if parts.len() as u64 != told.offset {
            // A part was lost: there will be another question.
            return Ok(());
        }
        parts.extend_from_slice(&told.records);
        if !told.last {
            return Ok(());
        }
        let records = wire::records(std::mem::take(parts).freeze())?;
        let Some((answer, newer)) = copy.track.told(told.ask, told.as_of, records) else {
            return Ok(());
        };
        let there: HashSet<(Room, MemberId)> = answer
            .iter()
            .filter_map(|record| match record {
                Record::Present(room, member, _) => Some((room.clone(), *member)),
                _ => None,
            })
            .collect();
        let gone: Vec<_> = copy.present.difference(&there).cloned().collect();
        let mut fan_outs: Vec<FanOut> = Vec::new();
        for (room, member) in gone {
            fan_outs.extend(self.apply(hub, node, copy, Record::Absent(room, member)));
        }
        for record in answer.into_iter().chain(newer) {
            fan_outs.extend(self.apply(hub, node, copy, record));
        }
        self.count_users(&copies);
        let complete = copies.nodes.values().all(|copy| copy.track.asked().is_none());
        drop(copies);
        fan_outs.into_iter().for_each(FanOut::run);
        if complete {
            self.ready.send_replace(true);
        }
        Ok(())
    }

    /// Applies a record to what is known of a node.
    fn apply(&self, hub: &Arc<Hub>, node: u32, copy: &mut NodeCopy, record: Record) -> Option<FanOut> {
        let origin = |member| Origin { node, member };
        match record {
            Record::Users(users) => {
                copy.users = users;
                None
            }
            Record::Present(room, member, present) => {
                // Copied: the object would else keep the whole message that it came in.
                let meta = Bytes::copy_from_slice(&present.meta);
                let entry = Entry::remote(&present.key, &present.phx_ref, meta);
                let key = self.key(&room);
                copy.present.insert((room, member));
                hub.set_presence(&key, self.side().meter(), origin(member), Some(entry))
            }
            Record::Absent(room, member) => {
                let key = self.key(&room);
                copy.present.remove(&(room, member));
                hub.set_presence(&key, self.side().meter(), origin(member), None)
            }
            Record::Json(..) | Record::User(..) | Record::Dropped(..) => None,
        }
    }

    /// The question of this number is put to a node: what is so there.
    pub(crate) fn ask(&self, node: u32, ask: u64) {
        let mut copies = self.copies.lock();
        match copies.nodes.get_mut(&node) {
            Some(copy) => {
                copy.track.ask(ask);
                copy.asked_at = Instant::now();
            }
            None => {
                copies.nodes.insert(node, NodeCopy::asking(ask));
            }
        }
    }

    /// Forgets what was so on a node.
    pub(crate) fn forget(&self, hub: &Arc<Hub>, node: u32) {
        let mut copies = self.copies.lock();
        let Some(mut copy) = copies.nodes.remove(&node) else { return };
        let present = std::mem::take(&mut copy.present);
        let fan_outs: Vec<FanOut> = present
            .into_iter()
            .filter_map(|(room, member)| self.apply(hub, node, &mut copy, Record::Absent(room, member)))
            .collect();
        self.count_users(&copies);
        drop(copies);
        fan_outs.into_iter().for_each(FanOut::run);
    }

    /// Forgets everything.
    pub(crate) fn forget_all(&self, hub: &Arc<Hub>) {
        let nodes: Vec<u32> = self.copies.lock().nodes.keys().copied().collect();
        for node in nodes {
            self.forget(hub, node);
        }
    }

    /// Something was missed: members have to be told.
    pub(crate) fn missed(&self) {
        self.copies.lock().owed = true;
    }

    /// Whether members have to be told that something was missed. Once.
    pub(crate) fn take_owed(&self) -> bool {
        self.copies.lock().take_owed()
    }

    /// Nodes that have not answered for so long.
    pub(crate) fn unanswered(&self, patience: Duration, now: Instant) -> Vec<u32> {
        let late = |copy: &NodeCopy| now.saturating_duration_since(copy.asked_at) > patience;
        let copies = self.copies.lock();
        copies
            .nodes
            .iter()
            .filter(|(_, copy)| copy.track.asked().is_some() && late(copy))
            .map(|(node, _)| *node)
            .collect()
    }

    /// Whether all nodes that were asked have answered.
    pub(crate) fn is_complete(&self) -> bool {
        self.copies.lock().nodes.values().all(|copy| copy.track.asked().is_none())
    }

    /// Nodes on which the tenant has users.
    pub(crate) fn populated(&self) -> Vec<u32> {
        let copies = self.copies.lock();
        copies.nodes.iter().filter(|(_, copy)| copy.users > 0).map(|(node, _)| *node).collect()
    }

    fn count_users(&self, copies: &Copies) {
        let users = copies.nodes.values().map(|copy| copy.users).fold(0, u32::saturating_add);
        self.side().set_users_elsewhere(users);
    }

    fn key(&self, room: &Room) -> RoomKey {
        RoomKey { tenant: Arc::clone(&self.tenant), audience: room.audience, topic: Arc::clone(&room.topic) }
    }
}

impl NodeCopy {
    fn asking(ask: u64) -> Self {
        Self {
            track: Track::asking(ask),
            asked_at: Instant::now(),
            pieces: None,
            answer: (0, BytesMut::new()),
            present: HashSet::new(),
            users: 0,
        }
    }
}

#[cfg(test)]
mod tests;
