//! What other nodes say about a tenant that this node has sockets of.

mod copies;

use std::{
    collections::HashSet,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize},
    },
};

use bytes::Bytes;
pub(crate) use copies::{Asks, Outcome};
use copies::{Copies, NodeCopy};
use parking_lot::{Mutex, RwLock};
use realtime_hub::{Congestion, Delivery, Entry, FanOut, Hub, Origin, RoomKey, Said};
use realtime_protocol::{ErrorCode, Extension, Ref, SystemMessage, encode};
use tokio::{
    sync::watch,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

use crate::wire::{self, Header, Malformed, Record, Room, Told};

/// What channels are told when something was missed.
const GAP: &str = "The connection to other nodes was lost: messages from there may have been missed";

/// Tells the members of rooms that something was missed.
pub(crate) fn tell_gap(hub: &Hub, of: impl Fn(&RoomKey) -> bool) {
    let message = SystemMessage::gap(Extension::System, ErrorCode::RealtimeNodeDisconnected, GAP);
    hub.tell(of, |vsn, topic| Some(encode::system(vsn, &Ref::null(), topic, &message)));
}

/// This node's state of a tenant.
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
    /// Since when it has no socket.
    pub(crate) idle_since: Mutex<Option<Instant>>,
    /// The first socket came while there was no connection.
    pub(crate) alone: AtomicBool,
    /// Whether what is said from now on will be heard, and the state of other nodes is known, as far as possible.
    pub(crate) ready: watch::Sender<bool>,
    pub(crate) stop: CancellationToken,
    copies: Mutex<Copies>,
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
        if !copies.arrive(&header, asks, &mut outcome) {
            return Ok(outcome);
        }
        if copies.take_owed() {
            // Before what follows the gap is heard: members that hear that have been told.
            tracing::warn!(tenant = &*self.tenant, "messages from other nodes may have been missed");
            tell_gap(hub, |room| room.tenant == self.tenant);
        }
        let Some(copy) = copies.nodes.get_mut(&header.node) else { return Ok(outcome) };
        let Some(body) = copy.assemble(header.kind, message)? else { return Ok(outcome) };
        let mut heard = Heard::default();
        for record in wire::records(body)? {
            self.record(hub, &header, copy, record, &mut heard);
        }
        if heard.users {
            self.count_users(&copies);
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
            Record::Json(room, payload) => heard.said(hub.hear(&self.key(&room), &Said::Json(&payload))),
            Record::User(room, user) => heard.said(hub.hear(&self.key(&room), &Said::User(&user))),
            Record::Dropped(room, count) => hub.missed(&self.key(&room), count),
            state => {
                // `None`: the answer that is awaited will contain it.
                if let Some(record) = copy.track.record(header.number, state) {
                    heard.users |= matches!(record, Record::Users(_));
                    heard.fan_outs.extend(self.apply(hub, header.node, copy, record));
                }
            }
        }
    }

    /// Takes a part of an answer.
    pub(crate) fn told(&self, hub: &Arc<Hub>, node: u32, told: Told) -> Result<(), Malformed> {
        let mut copies = self.copies.lock();
        let Some(copy) = copies.nodes.get_mut(&node) else { return Ok(()) };
        if copy.track.asked() != Some(told.ask) {
            return Ok(());
        }
        let Some(records) = copy.part(&told) else { return Ok(()) };
        let records = wire::records(records)?;
        let Some((answer, newer)) = copy.track.told(told.ask, told.as_of, records) else {
            return Ok(());
        };
        let there: HashSet<_> = answer
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
            Record::Json(..) | Record::User(..) | Record::Dropped(..) => None,
        }
    }

    /// The question of this number is put to a node about its state.
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

    /// Forgets the state of a node.
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

    /// Whether members have to be told that something was missed. True once.
    pub(crate) fn take_owed(&self) -> bool {
        self.copies.lock().take_owed()
    }

    /// Nodes that have not answered for longer than `limit`.
    pub(crate) fn unanswered(&self, limit: Duration, now: Instant) -> Vec<u32> {
        let late = |copy: &NodeCopy| now.saturating_duration_since(copy.asked_at) > limit;
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

/// What the records of an envelope have led to.
#[derive(Default)]
struct Heard {
    fan_outs: Vec<FanOut>,
    congested: Vec<Congestion>,
    /// Whether a number of users has changed.
    users: bool,
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
