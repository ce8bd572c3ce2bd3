//! From a change to the sockets: which channel is where, and the frames it gets.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use realtime_changes::{ChannelId, Delivery};
use realtime_hub::{Closed, Outbox};
use realtime_postgres::{ChangeSink, Notice};
use realtime_protocol::{Extension, Ref, SystemMessage, Vsn, encode};
use tokio::time::{self, Duration, Instant};

use crate::{limits::Meters, metrics::MessageType};

/// Where one joined channel's row changes go, and what their frames look like.
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
    /// How long the tenant's changes still wait for this channel's socket.
    pub patience: Patience,
    /// Keeps frames back until the join was answered.
    pub gate: Gate,
}

impl Route {
    /// Queues a frame. Whether the receiver has fallen behind; an error if its socket is ending.
    fn push(&self, frame: Bytes) -> Result<bool, Closed> {
        match self.gate.keep(frame) {
            Ok(behind) => Ok(behind),
            Err(frame) => self.outbox.push_gauged(frame),
        }
    }

    /// Whether the receiver keeps up.
    fn has_room(&self) -> bool {
        self.gate.has_room() && self.outbox.has_room()
    }

    /// The join was answered: sends what was kept, and everything that follows.
    pub fn open(&self) {
        let mut kept = self.gate.0.lock();
        for frame in kept.take().unwrap_or_default() {
            // A closed outbox belongs to a socket that is ending.
            let _ = self.outbox.push(frame);
        }
    }
}

/// Frames of a channel whose join was not answered yet, in order.
#[derive(Debug)]
pub struct Gate(Mutex<Option<Vec<Bytes>>>);

/// Bytes of frames that a gate keeps before the tenant's changes wait for it to open.
const GATE_ROOM: usize = 256 * 1024;

impl Gate {
    /// A gate that keeps everything until it is opened.
    #[must_use]
    pub fn shut() -> Self {
        Self(Mutex::new(Some(Vec::new())))
    }

    /// A gate that keeps nothing.
    #[must_use]
    pub fn open() -> Self {
        Self(Mutex::new(None))
    }

    /// Keeps a frame if the gate is shut, and tells whether it keeps much; else gives it back.
    fn keep(&self, frame: Bytes) -> Result<bool, Bytes> {
        match &mut *self.0.lock() {
            Some(kept) => {
                kept.push(frame);
                Ok(size(kept) > GATE_ROOM)
            }
            None => Err(frame),
        }
    }

    fn has_room(&self) -> bool {
        self.0.lock().as_ref().is_none_or(|kept| size(kept) <= GATE_ROOM)
    }
}

fn size(frames: &[Bytes]) -> usize {
    frames.iter().map(Bytes::len).sum()
}

/// How long others wait for a receiver that has fallen behind: a while once, then a tenth of the time. Who reads slower
/// than that is closed as a slow consumer when its outbox is full.
#[derive(Debug)]
pub struct Patience(Mutex<(Duration, Instant)>);

/// Longest wait for one receiver.
const PATIENCE: Duration = Duration::from_secs(10);

/// Pause between looks at receivers that have fallen behind.
const LOOK: Duration = Duration::from_millis(2);

impl Default for Patience {
    fn default() -> Self {
        Self(Mutex::new((PATIENCE, Instant::now())))
    }
}

impl Patience {
    /// Takes a pause out of what is left. False if there is nothing left.
    fn spend(&self, pause: Duration) -> bool {
        let mut left = self.0.lock();
        let now = Instant::now();
        let regained = left.0 + (now - left.1) / 10;
        *left = (regained.min(PATIENCE).saturating_sub(pause), now);
        regained > pause
    }
}

/// Receivers whose outboxes are more than half full.
#[derive(Debug, Default)]
pub struct Behind(Mutex<Vec<Arc<Route>>>);

impl Behind {
    /// Adds one, once.
    pub fn add(&self, route: &Arc<Route>) {
        let mut behind = self.0.lock();
        if !behind.iter().any(|known| Arc::ptr_eq(known, route)) {
            behind.push(Arc::clone(route));
        }
    }

    /// A wait for them, if there are any, for as long as each deserves.
    pub fn relieve(&self) -> Option<Pin<Box<dyn Future<Output = ()> + Send + '_>>> {
        if self.0.lock().is_empty() {
            return None;
        }
        Some(Box::pin(async {
            let mut behind = std::mem::take(&mut *self.0.lock());
            loop {
                behind.retain(|route| !route.has_room() && route.patience.spend(LOOK));
                if behind.is_empty() {
                    return;
                }
                time::sleep(LOOK).await;
            }
        }))
    }
}

/// The routes of one tenant's channels that watch the database.
#[derive(Debug)]
pub struct Routes {
    routes: RwLock<HashMap<ChannelId, Arc<Route>>>,
    next: AtomicU64,
    meters: Arc<Meters>,
    behind: Behind,
}

impl Routes {
    /// No routes; what goes through them is counted by `meters`.
    #[must_use]
    pub fn new(meters: Arc<Meters>) -> Self {
        Self { routes: RwLock::default(), next: AtomicU64::new(0), meters, behind: Behind::default() }
    }

    /// What counts the tenant's events.
    #[must_use]
    pub fn meters(&self) -> &Arc<Meters> {
        &self.meters
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.routes.read().len()
    }

    /// Whether there is none.
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
        self.routes.write().insert(channel, route);
    }

    /// Closes it: nothing is delivered any more. Idempotent.
    pub fn close(&self, channel: ChannelId) {
        self.routes.write().remove(&channel);
    }
}

impl ChangeSink for Routes {
    /// Queues one frame per recipient; recipients whose frames are equal share one.
    fn deliver(&self, delivery: Delivery) {
        let ids: usize = delivery.recipients.iter().map(|recipient| recipient.ids.len()).sum();
        self.meters.db_events().add(ids as u64);
        self.meters.metrics().payload(MessageType::PostgresChanges, delivery.data.len());
        let routes = self.routes.read();
        let mut frames: HashMap<FrameKey<'_>, Bytes> = HashMap::new();
        for recipient in &delivery.recipients {
            let Some(route) = routes.get(&recipient.channel) else { continue };
            let key =
                FrameKey { vsn: route.vsn, legacy: route.legacy, topic: &route.topic, ids: &recipient.ids };
            let frame = frames.entry(key).or_insert_with(|| {
                if route.legacy {
                    encode::legacy_change(route.vsn, &route.topic, delivery.action.as_str(), &delivery.data)
                } else {
                    encode::postgres_changes(route.vsn, &route.topic, &recipient.ids, &delivery.data)
                }
            });
            // A closed outbox belongs to a socket that is ending: it will unsubscribe by itself.
            if route.push(frame.clone()) == Ok(true) {
                self.behind.add(route);
            }
        }
    }

    fn relieve(&self) -> Option<Pin<Box<dyn Future<Output = ()> + Send + '_>>> {
        self.behind.relieve()
    }

    fn is_limited(&self) -> bool {
        self.meters.drops_rows()
    }

    fn notice(&self, channel: ChannelId, notice: Notice) {
        let route = self.routes.read().get(&channel).map(Arc::clone);
        let Some(route) = route.filter(|route| !route.quiet) else { return };
        let message = match notice {
            Notice::Subscribed => SystemMessage::subscribed(),
            Notice::Gap { code, text } => SystemMessage::gap(Extension::PostgresChanges, code, text),
            Notice::Warning { code, text } => SystemMessage::warning(Extension::PostgresChanges, code, text),
            Notice::Dropped(count) => {
                let limit = self.meters.db_events().limit();
                SystemMessage::dropped(Extension::PostgresChanges, count, limit)
            }
        };
        let _ = route.push(encode::system(route.vsn, &route.join_ref, &route.topic, &message));
    }
}

/// What makes two change frames equal, beside the change itself.
#[derive(PartialEq, Eq, Hash)]
struct FrameKey<'a> {
    vsn: Vsn,
    legacy: bool,
    topic: &'a str,
    ids: &'a [u32],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn patience_ends_and_comes_back_slowly() {
        let patience = Patience::default();
        let spend = |seconds| patience.spend(Duration::from_secs(seconds));
        assert!(spend(6) && !spend(6) && !spend(1));
        time::advance(Duration::from_secs(20)).await;
        assert!(spend(1) && !spend(3));
        time::advance(Duration::from_secs(1000)).await;
        assert!(spend(9) && !spend(2));
    }
}
