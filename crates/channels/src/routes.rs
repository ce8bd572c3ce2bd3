//! From a change to the sockets: where each channel is, and which frame it gets.

mod groups;
mod route;

use std::{
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use groups::Groups;
use parking_lot::{Mutex, RwLock};
use realtime_changes::{Action, ChannelId, Delivery, Recipient};
use realtime_pgoutput::Position;
use realtime_postgres::{ChangeSink, Notice};
use realtime_protocol::{Extension, SystemMessage, encode, events};
pub use route::{Gate, Route};
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::{
    counters::MessageType,
    limits::Meters,
    packing::{RowFrame, RowPacking},
    patience::{Behind, Patience, Patiences},
};

/// The routes of one tenant's channels that watch the database.
#[derive(Debug)]
pub struct Routes {
    routes: RwLock<FxHashMap<ChannelId, Arc<Route>>>,
    next: AtomicU64,
    /// The number of the next changes that are counted, which is odd.
    counted: AtomicU32,
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
            counted: AtomicU32::new(1),
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

impl Routes {
    /// Counts some changes that go to the same receivers.
    fn count(&self, to: &[Recipient], groups: &Groups<'_>, changes: usize) {
        let ids: usize = to.iter().map(|recipient| recipient.ids.len()).sum();
        // Never 0, which is no number.
        let number = self.counted.fetch_add(2, Ordering::Relaxed);
        let routes = groups.all.iter().flat_map(|(_, routes)| routes);
        let sockets = routes.filter(|route| route.outbox.is_first(number)).count();
        self.meters.count_rows((ids * changes) as u64, (sockets * changes) as u64);
    }

    /// Queues changes for those who get all of them. `behind` is told of receivers that have fallen behind.
    fn queue(&self, deliveries: &[Delivery], behind: impl Fn(&Route)) {
        let Some(Delivery { recipients, .. }) = deliveries.first() else { return };
        for delivery in deliveries {
            self.meters.counters().payload(MessageType::PostgresChanges, delivery.data.len());
        }
        let routes = self.routes.read();
        let groups = Groups::of(recipients, &routes);
        self.count(recipients, &groups, deliveries.len());
        // Frames are made one after the other. Only their receivers hold them, so they are freed when the receivers
        // are closed.
        let mut packings: SmallVec<[RowPacking; 1]> =
            deliveries.iter().map(|_| RowPacking::default()).collect();
        for (key, routes) in groups.all {
            let frame = |delivery: &Delivery| {
                RowFrame::new(key.frame(delivery.action, &delivery.data, delivery.position))
            };
            let mut frames: SmallVec<[RowFrame; 1]> = deliveries.iter().map(frame).collect();
            for route in routes {
                let parts = frames.iter_mut().zip(deliveries).zip(&mut packings);
                let frames: SmallVec<[Bytes; 1]> = parts
                    .map(|((frame, delivery), packing)| frame.of(&route.outbox, &delivery.data, packing))
                    .collect();
                // A closed outbox belongs to a socket that is ending. It unsubscribes by itself.
                let pushed = match (&*frames, route.after) {
                    ([frame], None) => route.push(frame.clone()),
                    (frames, None) => route.push_all(frames),
                    (frames, Some(_)) => route.push_all(&route.lacking(deliveries, frames)),
                };
                if pushed == Ok(true) {
                    behind(route);
                }
            }
        }
    }
}

impl ChangeSink for Routes {
    /// Queues one frame per recipient. Recipients with equal frames share one.
    fn deliver(&self, delivery: Delivery) {
        self.queue(std::slice::from_ref(&delivery), |route| self.behind.add(&route.outbox, &route.patience));
    }

    /// Queues all frames of a recipient at once.
    fn deliver_missed(&self, deliveries: Vec<Delivery>) {
        for alike in deliveries.chunk_by(|one, next| one.recipients == next.recipients) {
            // Nobody waits for these: no more is read for them until they have room.
            self.queue(alike, |_| {});
        }
    }

    fn rows(&self, to: &[Recipient], rows: &[(Action, Bytes)], first: bool) {
        let routes = self.routes.read();
        let groups = Groups::of(to, &routes);
        if !first {
            self.count(to, &groups, rows.len());
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use realtime_hub::{Closed, Outbox};
    use realtime_protocol::{Ref, Vsn, frame};

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

    fn open(outbox: &Arc<Outbox>) -> Route {
        let mut route = route(outbox);
        route.gate = Gate::open();
        route
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

    /// A client says how many channels and subscriptions it has. The limit is everybody's.
    #[tokio::test(start_paused = true)]
    async fn a_row_counts_once_for_each_socket() {
        let meters = Arc::new(Meters::new(&realtime_tenants::Limits::default()));
        let routes = Routes::new(Arc::clone(&meters));
        let outboxes = [10_000, 10_000].map(|limit| Arc::new(Outbox::new(limit)));
        for (channel, outbox) in (0..).zip([&outboxes[0], &outboxes[1], &outboxes[0], &outboxes[0]]) {
            routes.open(ChannelId(channel), Arc::new(open(outbox)));
        }
        let mut delivery = delivery(1, &[0, 1, 2, 3, 9]);
        delivery.recipients[0].ids = (0..97).collect();
        routes.deliver(delivery.clone());
        let against = async |meters: &Meters| {
            tokio::time::advance(std::time::Duration::from_secs(1)).await;
            meters.rates().0[3].recent
        };
        assert_eq!(
            (meters.db_events().total(), against(&meters).await),
            (101, 2),
            "what nobody gets is shown only"
        );
        routes.deliver(delivery.clone());
        routes.deliver_missed(vec![delivery.clone(), delivery.clone()]);
        assert_eq!((meters.db_events().total(), against(&meters).await), (404, 6));
        routes.rows(
            &delivery.recipients,
            &[(Action::Insert, "{}".into()), (Action::Delete, "{}".into())],
            false,
        );
        assert_eq!((meters.db_events().total(), against(&meters).await), (606, 4));
        let closing = Arc::new(Meters::new(&realtime_tenants::Limits::default()).closing_channels(true));
        let routes = Routes::new(Arc::clone(&closing));
        routes.open(ChannelId(0), Arc::new(open(&outboxes[0])));
        routes.deliver(delivery);
        assert_eq!(against(&closing).await, 101, "as the reference counts");
    }

    fn delivery(number: u64, channels: &[u64]) -> Delivery {
        let recipient =
            |channel: &u64| Recipient { channel: ChannelId(*channel), ids: [7].into_iter().collect() };
        Delivery {
            action: Action::Insert,
            data: format!("{{\"n\":{number}}}").into(),
            recipients: channels.iter().map(recipient).collect(),
            position: Some(Position { commit: realtime_pgoutput::Lsn(number), number: 1 }),
        }
    }

    /// What was missed comes as it would have come live, and is waited for by nobody else.
    #[test]
    fn what_was_missed_comes_in_one_go() {
        let meters = Arc::new(Meters::new(&realtime_tenants::Limits::default()));
        let received = |missed: bool| {
            let routes = Routes::new(Arc::clone(&meters));
            let outboxes: Vec<Arc<Outbox>> = (0..4).map(|_| Arc::new(Outbox::new(2_000))).collect();
            for (channel, outbox) in (0..).zip(&outboxes) {
                let mut route = route(outbox);
                if channel != 2 {
                    route.gate = Gate::open();
                }
                if channel == 3 {
                    route.vsn = Vsn::Events;
                    route.after = Some(Position { commit: realtime_pgoutput::Lsn(2), number: 1 });
                }
                routes.open(ChannelId(channel), Arc::new(route));
            }
            let deliveries: Vec<Delivery> = (1..5)
                .map(|number| delivery(number, &[0, 1, 2, 3]))
                .chain([delivery(5, &[0]), delivery(6, &[1, 9])])
                .collect();
            match missed {
                true => routes.deliver_missed(deliveries),
                false => deliveries.into_iter().for_each(|delivery| routes.deliver(delivery)),
            }
            routes.routes.read()[&ChannelId(2)].open();
            let taken: Vec<Vec<Bytes>> = outboxes
                .iter()
                .map(|outbox| {
                    let mut frames = std::collections::VecDeque::new();
                    outbox.take(&mut frames);
                    frames.into()
                })
                .collect();
            assert_eq!(taken.iter().map(Vec::len).collect::<Vec<_>>(), [5, 5, 4, 2]);
            taken
        };
        assert_eq!(received(true), received(false));

        let routes = Routes::new(meters);
        let outbox = Arc::new(Outbox::new(200));
        let mut route = route(&outbox);
        route.gate = Gate::open();
        routes.open(ChannelId(0), Arc::new(route));
        routes.deliver_missed((0..2).map(|number| delivery(number, &[0])).collect());
        assert!(!outbox.has_room(), "it is behind");
        assert!(routes.relieve().is_none(), "and nobody waits for it");
    }

    /// In whatever order they come.
    #[test]
    fn receivers_of_equal_frames_are_one_group() {
        let outbox = Arc::new(Outbox::new(1_000));
        let mut channel = 0;
        let mut of = |vsn: Vsn, topic: &str, id: u32| {
            let mut route = route(&outbox);
            (route.vsn, route.topic) = (vsn, topic.into());
            channel += 1;
            (Arc::new(route), Recipient { channel: ChannelId(channel - 1), ids: [id].into_iter().collect() })
        };
        let all = [
            of(Vsn::V2, "a", 1),
            of(Vsn::V1, "a", 1),
            of(Vsn::V2, "a", 1),
            of(Vsn::V2, "b", 1),
            of(Vsn::V2, "a", 2),
            of(Vsn::V1, "a", 1),
            of(Vsn::V1, "a", 1),
        ];
        let (routes, recipients): (Vec<Arc<Route>>, Vec<Recipient>) = all.into_iter().unzip();
        let routes = (0..).map(ChannelId).zip(routes).collect();
        let groups = Groups::of(&recipients, &routes);
        let sizes: Vec<usize> = groups.all.iter().map(|(_, routes)| routes.len()).collect();
        assert_eq!(sizes, [2, 3, 1, 1]);
    }
}
