//! What other nodes say about a part of a tenant that this node listens to.

mod copies;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
pub(crate) use copies::{Asks, Outcome};
use copies::{Copies, NodeCopy};
use parking_lot::{Mutex, MutexGuard, RwLock};
use realtime_hub::{Congestion, Delivery, Entry, FanOut, Hub, MessageId, Origin, RoomKey, Said};
use realtime_protocol::{ErrorCode, Extension, Ref, SystemMessage, encode};
use tokio::{
    sync::watch,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

use crate::{
    chance::Set,
    common::Common,
    rates::{self, Elsewhere, METERS, Rates},
    scope::{Listens, Part, Parts, Scope},
    wire::{self, Header, Malformed, Record, Room, Told, Unheard},
};

/// What channels are told when something was missed.
const GAP: &str = "The connection to other nodes was lost: messages from there may have been missed";

/// Tells the members of rooms that something was missed.
pub(crate) fn tell_gap(hub: &Hub, of: impl Fn(&RoomKey) -> bool) {
    let message = SystemMessage::gap(Extension::System, ErrorCode::RealtimeNodeDisconnected, GAP);
    hub.doubt_histories(&of, false);
    hub.tell(of, |vsn, topic| Some(encode::system(vsn, &Ref::null(), topic, &message)));
}

/// This node's state of a tenant.
pub trait TenantSide: Send + Sync + fmt::Debug {
    /// Counts what its rooms deliver.
    fn meter(&self) -> &Arc<dyn realtime_hub::Meter>;
    /// Users on this node.
    fn users(&self) -> u32;
    /// The most users that were on this node at once since it was asked last: sockets that live for a moment only are seen.
    fn take_most_users(&self) -> u32 {
        self.users()
    }
    /// Takes the number of users on other nodes.
    fn set_users_elsewhere(&self, users: u32);
    /// How often what is limited happens on this node, and the limits per second.
    fn rates(&self) -> (Rates, [u32; METERS]);
    /// Takes how often it happens on other nodes.
    fn set_rates_elsewhere(&self, elsewhere: &[Elsewhere; METERS]);
    /// How long messages are kept: what is said in a room is still heard for so long after its last member has left.
    fn kept_for(&self) -> Duration {
        Duration::ZERO
    }
}

/// A part of a tenant that this node listens to.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) scope: Scope,
    /// What the parts of the tenant have in common. The part that is the whole keeps up to date where others listen.
    pub(crate) common: Arc<Common>,
    side: RwLock<Arc<dyn TenantSide>>,
    /// Sockets of the tenant; members of the bucket's rooms.
    pub(crate) holders: AtomicUsize,
    /// Since when there are none.
    pub(crate) idle_since: Mutex<Option<Instant>>,
    /// The first of them came while there was no connection.
    pub(crate) alone: AtomicBool,
    /// All nodes that were known have been asked, since it began.
    begun: AtomicBool,
    /// And since there was a connection again.
    asked: AtomicBool,
    /// Whether what is said from now on will be heard, and the state of other nodes is known, as far as possible.
    pub(crate) ready: watch::Sender<bool>,
    pub(crate) stop: CancellationToken,
    copies: Mutex<Copies>,
}

impl Incoming {
    pub(crate) fn new(scope: Scope, common: Arc<Common>, side: Arc<dyn TenantSide>) -> Self {
        Self {
            scope,
            common,
            side: RwLock::new(side),
            holders: AtomicUsize::new(0),
            idle_since: Mutex::default(),
            alone: AtomicBool::new(false),
            begun: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            ready: watch::Sender::new(false),
            stop: CancellationToken::new(),
            copies: Mutex::default(),
        }
    }

    /// Whether it is about the tenant as a whole.
    pub(crate) fn is_whole(&self) -> bool {
        self.scope.part == Part::Whole
    }

    /// This node's state of the tenant.
    pub(crate) fn side(&self) -> Arc<dyn TenantSide> {
        Arc::clone(&self.side.read())
    }

    /// From now on `side` is this node's state of the tenant. A tenant that was removed and created again is another one
    /// with the same name; what is known of the other nodes then concerns the new one.
    pub(crate) fn serve(&self, side: &Arc<dyn TenantSide>) {
        if Arc::ptr_eq(&self.side.read(), side) {
            return;
        }
        let copies = self.copies.lock();
        *self.side.write() = Arc::clone(side);
        self.reckon(&copies);
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
        if !copies.arrive(&header, asks, &mut outcome) {
            return Ok(outcome);
        }
        if outcome.ask.is_some() {
            self.reckon(&copies);
        }
        if self.take_owed_of(&mut copies) {
            // Before what follows the gap is heard: members that hear that have been told.
            let (tenant, code) = (&*self.scope.tenant, ErrorCode::RealtimeNodeDisconnected.as_str());
            tracing::warn!(
                tenant,
                code,
                "messages from other nodes may have been missed; the channels are told"
            );
            tell_gap(hub, |room| {
                room.tenant == self.scope.tenant && Part::of(&room.topic) == self.scope.part
            });
        }
        let Some(copy) = copies.nodes.get_mut(&header.node) else { return Ok(outcome) };
        let Some(body) = copy.assemble(header.kind, message)? else { return Ok(outcome) };
        let mut heard = Heard::default();
        for record in wire::records(body)? {
            self.record(hub, &header, copy, record, &mut heard);
        }
        if heard.whole {
            self.reckon(&copies);
        }
        drop(copies);
        outcome.congested = heard.deliver();
        Ok(outcome)
    }

    /// Takes a record of an envelope.
    fn record(
        &self,
        hub: &Arc<Hub>,
        header: &Header,
        copy: &mut NodeCopy,
        record: Record,
        heard: &mut Heard,
    ) {
        match record {
            Record::Kept(id, said) => self.broadcast(hub, Some(id), &said, heard),
            said @ (Record::Json(..) | Record::User(..)) => self.broadcast(hub, None, &said, heard),
            Record::Dropped(room, count) => hub.missed(&self.key(&room), count),
            state => {
                // `None`: the answer that is awaited will contain it.
                if let Some(record) = copy.track.record(header.number, state) {
                    heard.whole |= matches!(record, Record::Users(_) | Record::Listens(_) | Record::Rates(_));
                    heard.fan_outs.extend(self.apply(hub, header.node, copy, record));
                }
            }
        }
    }

    /// Says a broadcast of another node in its room.
    fn broadcast(&self, hub: &Arc<Hub>, id: Option<MessageId>, record: &Record, heard: &mut Heard) {
        let (room, said) = match record {
            Record::Json(room, payload) => (room, Said::Json(payload)),
            Record::User(room, user) => (room, Said::User(user)),
            _ => return,
        };
        heard.said(hub.hear(&self.key(room), &said, id));
    }

    /// Takes a part of an answer of a node that was started at this time, or later.
    pub(crate) fn told(
        &self,
        hub: &Arc<Hub>,
        node: u32,
        told: Told,
        began: Option<Instant>,
    ) -> Result<(), Malformed> {
        let mut copies = self.copies.lock();
        let Some(copy) = copies.nodes.get_mut(&node) else { return Ok(()) };
        if copy.track.asked() != Some(told.ask) {
            return Ok(());
        }
        let Some(records) = copy.part(&told) else { return Ok(()) };
        let answer = wire::records(records)?;
        let serving_since = copies.serving_since();
        if let Some(copy) = copies.nodes.get_mut(&node)
            && told.as_of > 0
            && copy.may_have_been_unheard(began, serving_since)
        {
            copies.owed = true;
        }
        self.answered(hub, node, copies, (told.ask, told.as_of, told.unheard), answer);
        Ok(())
    }

    /// Takes the answer of a node that has no state.
    pub(crate) fn blank(&self, hub: &Arc<Hub>, node: u32, ask: u64, as_of: u64, unheard: Unheard) {
        let copies = self.copies.lock();
        self.answered(hub, node, copies, (ask, as_of, unheard), Vec::new());
    }

    /// A node has answered: its state as of an envelope replaces the copy.
    fn answered(
        &self,
        hub: &Arc<Hub>,
        node: u32,
        mut copies: MutexGuard<'_, Copies>,
        (ask, as_of, unheard): (u64, u64, Unheard),
        answer: Vec<Record>,
    ) {
        let is_serving = copies.is_serving();
        let Some(copy) = copies.nodes.get_mut(&node) else { return };
        let Some((answer, newer)) = copy.track.told(ask, as_of, answer) else { return };
        if !is_serving {
            copy.track.begin(as_of);
        }
        let missed = copy.may_have_missed(unheard);
        let there: Set<_> = answer
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
        copies.owed |= missed;
        self.reckon(&copies);
        let complete = copies.is_complete();
        drop(copies);
        fan_outs.into_iter().for_each(FanOut::run);
        if complete && self.asked.load(Ordering::SeqCst) {
            self.be_ready();
        }
    }

    /// Applies a record to the copy of a node's state.
    fn apply(&self, hub: &Arc<Hub>, node: u32, copy: &mut NodeCopy, record: Record) -> Option<FanOut> {
        let origin = |member| Origin { node, member };
        match record {
            Record::Users(users) => {
                copy.users = users;
                None
            }
            Record::Present(room, member, present) => {
                // Copied: a slice would keep the whole message that it came in.
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
            Record::Rates(rates) => {
                copy.rates = Some(Box::new(rates));
                None
            }
            Record::Listens(listens) => {
                self.common.regain(copy.listens.take(listens));
                None
            }
            Record::Json(..) | Record::User(..) | Record::Kept(..) | Record::Dropped(..) => None,
        }
    }

    /// A node says, with a question of its own about these parts, what it listens to. Returns the number of a question that
    /// has to be put to it, if it was not known.
    pub(crate) fn listens(&self, asks: &Asks, node: u32, about: Parts, listens: Listens) -> Option<u64> {
        let mut copies = self.copies.lock();
        let mut ask = None;
        let copy = copies.copy(node, || *ask.insert(asks.next()));
        // What it asks about it learns from the answer. Of the rest it may have missed something while it was forgotten here.
        self.common.regain(copy.listens.take(listens) & !about.buckets);
        self.reckon(&copies);
        ask
    }

    /// Nobody who was to be asked before the first members are let in is left to be asked.
    pub(crate) fn all_asked(&self) {
        let copies = self.copies.lock();
        self.begun.store(true, Ordering::SeqCst);
        self.asked.store(true, Ordering::SeqCst);
        self.reckon(&copies);
        let complete = copies.is_complete();
        drop(copies);
        if complete {
            self.be_ready();
        }
    }

    /// There was no connection: other nodes may listen that are not known.
    pub(crate) fn unsettle(&self) {
        let mut copies = self.copies.lock();
        self.asked.store(false, Ordering::SeqCst);
        copies.doubt_all(Instant::now());
        self.reckon(&copies);
    }

    /// The connection has been there for long enough to know the other nodes.
    pub(crate) fn settle(&self) {
        if self.begun.load(Ordering::SeqCst) && !self.asked.load(Ordering::SeqCst) {
            self.all_asked();
        }
    }

    /// Takes the buckets whose listeners were not known for a while, and may have missed something.
    pub(crate) fn take_regained(&self) -> Parts {
        let buckets = if self.is_whole() { self.common.take_regained() } else { 0 };
        Parts { whole: false, buckets }
    }

    /// Lets members in: what other nodes say from now on is heard, or it is told that it may not have been.
    pub(crate) fn be_ready(&self) {
        if *self.ready.borrow() {
            return;
        }
        self.copies.lock().serve(Instant::now());
        self.ready.send_replace(true);
    }

    /// The question of this number is put to a node about its state.
    pub(crate) fn ask(&self, node: u32, ask: u64) {
        let mut copies = self.copies.lock();
        let copy = copies.copy(node, || ask);
        copy.track.ask(ask);
        copy.asked_at = Instant::now();
        self.reckon(&copies);
    }

    /// Forgets the state of a node.
    pub(crate) fn forget(&self, hub: &Arc<Hub>, node: u32) {
        let mut copies = self.copies.lock();
        let Some(mut copy) = copies.remove(node, Instant::now()) else { return };
        let present = std::mem::take(&mut copy.present);
        let fan_outs: Vec<FanOut> = present
            .into_iter()
            .filter_map(|(room, member)| self.apply(hub, node, &mut copy, Record::Absent(room, member)))
            .collect();
        self.reckon(&copies);
        drop(copies);
        fan_outs.into_iter().for_each(FanOut::run);
    }

    /// Forgets everything.
    pub(crate) fn forget_all(&self, hub: &Arc<Hub>) {
        self.begun.store(false, Ordering::SeqCst);
        self.unsettle();
        let nodes: Vec<u32> = self.copies.lock().nodes.keys().copied().collect();
        for node in nodes {
            self.forget(hub, node);
        }
    }

    /// Something was missed: members have to be told.
    pub(crate) fn missed(&self) {
        self.copies.lock().owed = true;
    }

    /// Whether members have to be told that something was missed. True once.
    pub(crate) fn take_owed(&self) -> bool {
        self.take_owed_of(&mut self.copies.lock())
    }

    fn take_owed_of(&self, copies: &mut Copies) -> bool {
        // What concerns the whole tenant is asked again; clients miss nothing of it.
        copies.take_owed() && !self.is_whole()
    }

    /// Nodes that have not answered for longer than `limit`. What others have answered that they had said should have come by
    /// then; otherwise members have missed it.
    pub(crate) fn unanswered(&self, limit: Duration, now: Instant) -> Vec<u32> {
        self.copies.lock().unanswered(limit, now)
    }

    /// Nodes that have said something, longer than `limit` ago, and whose heartbeats are not heard: a last word came late.
    pub(crate) fn strangers(&self, known: &Set<u32>, limit: Duration, now: Instant) -> Vec<u32> {
        self.copies.lock().strangers(known, limit, now)
    }

    /// Nodes on which the tenant has users.
    pub(crate) fn populated(&self) -> Vec<u32> {
        let copies = self.copies.lock();
        copies.nodes.iter().filter(|(_, copy)| copy.users > 0).map(|(node, _)| *node).collect()
    }

    /// Draws the conclusions from what is known of all nodes: how many users there are, and where they listen.
    fn reckon(&self, copies: &Copies) {
        if !self.is_whole() {
            return;
        }
        let users = copies.nodes.values().map(|copy| copy.users).fold(0, u32::saturating_add);
        let side = self.side();
        side.set_users_elsewhere(users);
        let rates = copies.nodes.values().filter_map(|copy| copy.rates.as_deref());
        side.set_rates_elsewhere(&rates::elsewhere(rates));
        let is_known = self.asked.load(Ordering::SeqCst) && copies.is_complete();
        let buckets = copies.nodes.values().fold(0, |all, copy| all | copy.listens.buckets);
        self.common.set_heard(is_known.then_some(buckets));
    }

    fn key(&self, room: &Room) -> RoomKey {
        RoomKey {
            tenant: Arc::clone(&self.scope.tenant),
            audience: room.audience,
            topic: Arc::clone(&room.topic),
        }
    }
}

/// What the records of an envelope have led to.
#[derive(Default)]
struct Heard {
    fan_outs: Vec<FanOut>,
    congested: Vec<Congestion>,
    /// Whether something has changed that concerns the whole tenant.
    whole: bool,
}

impl Heard {
    fn said(&mut self, delivery: Delivery) {
        self.fan_outs.extend(delivery.run);
        self.congested.extend(delivery.congestion);
    }

    /// Serves the rooms; returns those that still cannot keep up.
    fn deliver(self) -> Vec<Congestion> {
        self.fan_outs.into_iter().for_each(FanOut::run);
        self.congested.into_iter().filter(|congestion| !congestion.is_over()).collect()
    }
}

#[cfg(test)]
mod tests;
