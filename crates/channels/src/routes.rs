//! From a change to the sockets: where each channel is, and which frame it gets.

use std::{
    collections::HashMap,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use realtime_changes::{Action, ChannelId, Delivery, Recipient};
use realtime_hub::{Closed, Outbox};
use realtime_pgoutput::Position;
use realtime_postgres::{ChangeSink, Notice};
use realtime_protocol::{Extension, Ref, SystemMessage, Vsn, encode, events};
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::time::Instant;

use crate::{
    counters::MessageType,
    limits::Meters,
    packing::{RowFrame, RowPacking},
    patience::{Behind, Patience, Patiences},
};

/// Where the row changes of one joined channel go, and what their frames look like.
#[derive(Debug)]
pub struct Route {
    /// The socket's outbox.
    pub outbox: Arc<Outbox>,
    /// The socket's serializer.
    pub vsn: Vsn,
    /// The topic as the client joined it.
    pub topic: Arc<str>,
    /// The channel's join_ref; `system` frames carry it.
    pub join_ref: Ref,
    /// Joined without `config`: changes come as events INSERT, UPDATE, DELETE (protocol 11.2).
    pub legacy: bool,
    /// A channel of the first generation, which knows no `system` frames.
    pub quiet: bool,
    /// Whether the client may need the event `*` (legacy 2.5).
    pub star: AtomicBool,
    /// How long the tenant's changes still wait for the sockets of this address.
    pub patience: Arc<Patience>,
    /// Holds back frames until the join is answered.
    pub gate: Gate,
    /// The last change that the client of a stream has got, until it was told of a gap.
    pub after: Option<Position>,
    /// Whether the client was told of a gap.
    pub gap: AtomicBool,
}

impl Route {
    /// Queues a frame. Returns whether the receiver has fallen behind, or an error if its socket is ending.
    fn push(&self, frame: Bytes) -> Result<bool, Closed> {
        match self.gate.keep(frame, &self.outbox) {
            Ok(behind) => behind.ok_or(Closed::SlowConsumer),
            Err(frame) => self.outbox.push_gauged(frame),
        }
    }

    /// Whether its client keeps where it is.
    fn is_stream(&self) -> bool {
        self.vsn == Vsn::Events
    }

    /// Whether its client has a change already: with a permanent slot it may come again.
    fn has(&self, position: Option<Position>) -> bool {
        position.zip(self.after).is_some_and(|(position, after)| position <= after)
            && !self.gap.load(Ordering::Relaxed)
    }

    /// Tells its client where it is, unless that is known.
    fn tell(&self, position: Position, frame: &Bytes) {
        if !self.has(Some(position)) {
            // A closed outbox belongs to a socket that is ending. It unsubscribes by itself.
            let _ = self.push(frame.clone());
        }
    }

    /// Sends the held frames and everything that follows, because the join was answered.
    pub fn open(&self) {
        let mut kept = self.gate.0.lock();
        for frame in kept.take().unwrap_or_default() {
            self.outbox.unkeep(frame.len());
            // A closed outbox belongs to a socket that is ending.
            let _ = self.outbox.push(frame);
        }
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        let kept = self.gate.0.get_mut().take().unwrap_or_default();
        self.outbox.unkeep(kept.iter().map(Bytes::len).sum());
    }
}

/// Frames of a channel whose join is not answered yet, in order. They count as part of the outbox.
#[derive(Debug)]
pub struct Gate(Mutex<Option<Vec<Bytes>>>);

impl Gate {
    /// A gate that holds everything until it is opened.
    #[must_use]
    pub fn shut() -> Self {
        Self(Mutex::new(Some(Vec::new())))
    }

    /// A gate that holds nothing.
    #[must_use]
    pub fn open() -> Self {
        Self(Mutex::new(None))
    }

    /// Holds a frame if the gate is shut. Returns whether the receiver is behind, or `None` if its socket was closed
    /// for that. If the gate is open, the frame is given back.
    fn keep(&self, frame: Bytes, outbox: &Outbox) -> Result<Option<bool>, Bytes> {
        match &mut *self.0.lock() {
            Some(kept) => {
                let behind = outbox.keep(frame.len());
                match behind {
                    Some(_) => kept.push(frame),
                    None => outbox.close_slow(),
                }
                Ok(behind)
            }
            None => Err(frame),
        }
    }
}

/// The routes of one tenant's channels that watch the database.
#[derive(Debug)]
pub struct Routes {
    routes: RwLock<FxHashMap<ChannelId, Arc<Route>>>,
    next: AtomicU64,
    meters: Arc<Meters>,
    behind: Behind,
    patiences: Patiences,
    streams: Mutex<Streams>,
}

/// The routes whose clients keep where they are.
#[derive(Debug, Default)]
struct Streams {
    open: FxHashSet<ChannelId>,
    /// When the last one of those that are gone has left.
    left_at: Option<Instant>,
}

impl Routes {
    /// An empty table. `meters` counts the deliveries.
    #[must_use]
    pub fn new(meters: Arc<Meters>) -> Self {
        Self {
            routes: RwLock::default(),
            next: AtomicU64::new(0),
            meters,
            behind: Behind::default(),
            patiences: Patiences::default(),
            streams: Mutex::default(),
        }
    }

    /// How long the tenant's changes wait for the sockets of each address.
    #[must_use]
    pub fn patience(&self, address: Option<IpAddr>) -> Arc<Patience> {
        self.patiences.of(address)
    }

    /// What counts the tenant's events.
    #[must_use]
    pub fn meters(&self) -> &Arc<Meters> {
        &self.meters
    }

    /// Number of routes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.routes.read().len()
    }

    /// Whether there are no routes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A channel id that was never used.
    pub fn next_channel(&self) -> ChannelId {
        ChannelId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Opens the route of a channel.
    pub fn open(&self, channel: ChannelId, route: Arc<Route>) {
        if route.is_stream() {
            self.streams.lock().open.insert(channel);
        }
        self.routes.write().insert(channel, route);
    }

    /// Closes the route of a channel: nothing more is delivered. Idempotent.
    pub fn close(&self, channel: ChannelId) {
        if self.routes.write().remove(&channel).is_some_and(|route| route.is_stream()) {
            let mut streams = self.streams.lock();
            streams.open.remove(&channel);
            streams.left_at = Some(Instant::now());
        }
    }
}

impl ChangeSink for Routes {
    /// Queues one frame per recipient. Recipients with equal frames share one.
    fn deliver(&self, delivery: Delivery) {
        let ids: usize = delivery.recipients.iter().map(|recipient| recipient.ids.len()).sum();
        self.meters.db_events().add(ids as u64);
        self.meters.counters().payload(MessageType::PostgresChanges, delivery.data.len());
        let routes = self.routes.read();
        let mut groups = Groups::default();
        for recipient in &delivery.recipients {
            let Some(route) = routes.get(&recipient.channel) else { continue };
            if !route.has(delivery.position) {
                groups.add(route, recipient);
            }
        }
        // Frames are made one after the other. Only their receivers hold them, so they are freed when the receivers
        // are closed.
        let mut packing = RowPacking::default();
        for (key, routes) in groups.all {
            let mut frame = RowFrame::new(key.frame(delivery.action, &delivery.data, delivery.position));
            for route in routes {
                let frame = frame.of(&route.outbox, &delivery.data, &mut packing);
                // A closed outbox belongs to a socket that is ending. It unsubscribes by itself.
                if route.push(frame) == Ok(true) {
                    self.behind.add(&route.outbox, &route.patience);
                }
            }
        }
    }

    fn rows(&self, to: &[Recipient], rows: &[(Action, Bytes)], first: bool) {
        if !first {
            let ids: usize = to.iter().map(|recipient| recipient.ids.len()).sum();
            self.meters.db_events().add((ids * rows.len()) as u64);
        }
        let routes = self.routes.read();
        let mut groups = Groups::default();
        for recipient in to {
            let Some(route) = routes.get(&recipient.channel) else { continue };
            groups.add(route, recipient);
        }
        for (action, data) in rows {
            self.meters.counters().payload(MessageType::PostgresChanges, data.len());
            let mut packing = RowPacking::default();
            for (key, routes) in &groups.all {
                let mut frame = RowFrame::new(key.frame(*action, data, None));
                for route in routes {
                    let frame = frame.of(&route.outbox, data, &mut packing);
                    // A closed outbox belongs to a socket that is ending. It unsubscribes by itself.
                    if route.push(frame) == Ok(true) && !first {
                        self.behind.add(&route.outbox, &route.patience);
                    }
                }
            }
        }
    }

    fn room(&self, channel: ChannelId) -> Option<bool> {
        let routes = self.routes.read();
        let outbox = routes.get(&channel).map(|route| &route.outbox).filter(|outbox| !outbox.is_closed())?;
        Some(outbox.has_room())
    }

    fn relieve(&self) -> Option<Pin<Box<dyn Future<Output = ()> + Send + '_>>> {
        self.behind.relieve()
    }

    fn has_room(&self, channel: ChannelId) -> bool {
        self.routes.read().get(&channel).is_none_or(|route| route.outbox.has_room())
    }

    fn is_limited(&self) -> bool {
        self.meters.drops_rows()
    }

    fn streams(&self) -> (usize, Option<Instant>) {
        let streams = self.streams.lock();
        (streams.open.len(), streams.left_at)
    }

    fn position(&self, channel: ChannelId, position: Position) -> bool {
        let route = self.routes.read().get(&channel).map(Arc::clone);
        let Some(route) = route.filter(|route| route.is_stream()) else { return false };
        route.tell(position, &events::position(&position));
        true
    }

    fn positions(&self, position: Position, has_all: &dyn Fn(ChannelId) -> bool) {
        let channels: Vec<ChannelId> =
            self.streams.lock().open.iter().copied().filter(|channel| has_all(*channel)).collect();
        let frame = events::position(&position);
        let routes = self.routes.read();
        for route in channels.iter().filter_map(|channel| routes.get(channel)) {
            route.tell(position, &frame);
        }
    }

    fn notice(&self, channel: ChannelId, notice: Notice) {
        let route = self.routes.read().get(&channel).map(Arc::clone);
        let Some(route) = route.filter(|route| !route.quiet) else { return };
        if matches!(notice, Notice::Gap { .. }) {
            route.gap.store(true, Ordering::Relaxed);
        }
        let message = match notice {
            Notice::Subscribed => SystemMessage::subscribed(),
            Notice::Gap { code, text } => SystemMessage::gap(Extension::PostgresChanges, code, text),
            Notice::Warning { code, text } => SystemMessage::warning(Extension::PostgresChanges, code, text),
            Notice::Complete { id, rows } => SystemMessage::complete(id, rows),
            Notice::BeginAnew { id } => SystemMessage::begin_anew(id),
            Notice::CaughtUp => SystemMessage::caught_up(),
            Notice::Dropped(count) => {
                let limit = self.meters.db_events().limit();
                SystemMessage::dropped(Extension::PostgresChanges, count, limit)
            }
        };
        self.meters.counters().notices.told(&message, 1);
        let _ = route.push(encode::system(route.vsn, &route.join_ref, &route.topic, &message));
    }
}

/// What makes two change frames equal, beside the change itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct FrameKey<'a> {
    vsn: Vsn,
    legacy: bool,
    topic: &'a str,
    ids: &'a [u32],
}

/// Receivers by the frame that they get.
#[derive(Default)]
struct Groups<'a> {
    all: Vec<(FrameKey<'a>, Vec<&'a Arc<Route>>)>,
    /// Where each of them is, once there are two. Clients choose topics, so their hashes are keyed.
    places: HashMap<FrameKey<'a>, usize>,
}

impl<'a> Groups<'a> {
    fn add(&mut self, route: &'a Arc<Route>, recipient: &'a Recipient) {
        let key = FrameKey::of(route, recipient);
        // Mostly all get the same as the one before.
        if let Some((_, routes)) = self.all.last_mut().filter(|(last, _)| *last == key) {
            return routes.push(route);
        }
        if let ([(only, _)], true) = (&*self.all, self.places.is_empty()) {
            self.places.insert(*only, 0);
        }
        match self.places.get(&key).and_then(|place| self.all.get_mut(*place)) {
            Some((_, routes)) => routes.push(route),
            None => {
                if !self.all.is_empty() {
                    self.places.insert(key, self.all.len());
                }
                self.all.push((key, vec![route]));
            }
        }
    }
}

impl<'a> FrameKey<'a> {
    fn of(route: &'a Route, recipient: &'a Recipient) -> Self {
        // Events do not carry ids of subscriptions.
        let ids: &[u32] = if route.is_stream() { &[] } else { &recipient.ids };
        Self { vsn: route.vsn, legacy: route.legacy, topic: &route.topic, ids }
    }

    fn frame(&self, action: Action, data: &[u8], position: Option<Position>) -> Bytes {
        if self.vsn == Vsn::Events {
            let position = position.as_ref().map(|position| position as &dyn std::fmt::Display);
            return encode::change_event(action.as_str(), position, data);
        }
        match self.legacy {
            true => encode::legacy_change(self.vsn, self.topic, action.as_str(), data),
            false => encode::postgres_changes(self.vsn, self.topic, self.ids, data),
        }
    }
}

#[cfg(test)]
mod tests {
    use realtime_protocol::frame;

    use super::*;

    fn route(outbox: &Arc<Outbox>) -> Route {
        Route {
            outbox: Arc::clone(outbox),
            vsn: Vsn::V2,
            topic: "realtime:a".into(),
            join_ref: Ref::null(),
            legacy: false,
            quiet: false,
            star: AtomicBool::new(false),
            patience: Arc::default(),
            gate: Gate::shut(),
            after: None,
            gap: AtomicBool::new(false),
        }
    }

    /// Joins that are not answered keep no more for a socket than its outbox does.
    #[test]
    fn gates_share_the_bound_of_their_socket() {
        let outbox = Arc::new(Outbox::new(1_000));
        let gates = [route(&outbox), route(&outbox), route(&outbox)];
        let frame = || frame::text(&[b'x'; 290]);
        assert_eq!(gates[0].push(frame()), Ok(false));
        assert_eq!(gates[1].push(frame()), Ok(true));
        assert!(!outbox.has_room());
        gates[0].open();
        let [first, second, third] = gates;
        drop(second);
        assert_eq!(third.push(frame()), Ok(true), "a join that was given up keeps nothing");
        assert_eq!(first.push(frame()), Ok(true));
        assert_eq!(third.push(frame()), Err(Closed::SlowConsumer));
        assert_eq!(first.push(frame()), Err(Closed::SlowConsumer));
    }
}
