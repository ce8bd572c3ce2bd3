//! A follower's side of a stream.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_nats::client::RequestErrorKind;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{self, Duration, Instant, MissedTickBehavior},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    messages::{Header, Kind, ToOwner, Welcome, event, is_listed},
    sorted::{Item, Run, item},
    wish::Wish,
};
use crate::{
    chance::{self, Map},
    link::{Link, Subscriber},
    wire::Malformed,
};

/// How often a follower says how far it has come.
const ACKNOWLEDGE: Duration = Duration::from_millis(200);

/// How long the owner may take to let a follower in: it waits for the end of a transaction.
const WELCOME: Duration = Duration::from_secs(5);

/// After how many of those a follower says again what it wants, if the owner has not taken notice.
const WANT_AGAIN: u32 = 5;

/// How long what is on a strand may come after what the line says of it.
const STRAND: Duration = Duration::from_secs(2);

/// Largest event that is put together from pieces.
const MAX_EVENTS: usize = 300_000_000;

/// After this many signs of life in a row that do not name it, a follower knows that it was dropped. The first ones may
/// have been written before it was let in.
const UNLISTED: u32 = 3;

/// Why a stream cannot be followed, or no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FollowError {
    /// There is no connection to NATS.
    #[error("Not connected to NATS")]
    NotConnected,
    /// No node owns the stream.
    #[error("No node reads the database")]
    Nobody,
    /// The owner did not answer, or has not been heard for too long.
    #[error("The node that reads the database is silent")]
    Silence,
    /// A message was missed.
    #[error("A message of the node that reads the database was missed")]
    Gap,
    /// The owner has dropped this node, and may have told it nothing.
    #[error("The node that reads the database has dropped this one")]
    Dropped,
    /// The owner ended the stream.
    #[error("The node that reads the database ended its stream")]
    Ended,
    /// A message that cannot be read.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// What comes to a follower.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Carried {
    /// An event.
    Event(Bytes),
    /// So many events about a thing that this follower does not want.
    Skipped {
        /// The thing.
        key: u32,
        /// How many.
        events: u32,
    },
    /// From here on comes what this follower has [wanted](Followed::want).
    Granted,
}

/// A stream that another node owns.
pub struct Followed {
    link: Arc<Link>,
    tenant: Arc<str>,
    messages: Subscriber,
    /// The number that this follower drew.
    id: u64,
    stream: u64,
    /// The node of the owner, if that sorts it.
    sorted: Option<u32>,
    /// What this follower wants, as the owner has taken notice of.
    wish: Wish,
    /// The same as it was said last.
    wanted: Option<Wish>,
    /// Strands that are to be listened to before it is said.
    unheard: Vec<u32>,
    strands: Map<u32, Subscriber>,
    /// The number of the message whose items are being taken.
    batch: u64,
    /// How long each strand is in it.
    lengths: Map<u32, usize>,
    /// What has come of the strands in it.
    bodies: Map<u32, BytesMut>,
    /// Until when that may take.
    strand_limit: Option<Instant>,
    /// Signs of life in a row that did not name this follower.
    unlisted: u32,
    /// Number of the next message.
    number: u64,
    position: u64,
    about: Bytes,
    /// What has come and has not been taken.
    items: VecDeque<Item>,
    /// How many of the first events came with the welcome: they do not count as carried.
    advance: usize,
    pieces: BytesMut,
    heard: Instant,
    silence: Duration,
    progress: Arc<Progress>,
    _stop: DropGuard,
}

#[derive(Default)]
struct Progress {
    bytes: AtomicU64,
    confirmed: AtomicU64,
    /// What is said until the owner has taken notice.
    says: Mutex<Option<Bytes>>,
    said: Notify,
}

impl fmt::Debug for Followed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Followed").field("stream", &self.stream).finish_non_exhaustive()
    }
}

/// Follows the stream of a tenant that another node owns.
pub(crate) async fn follow(link: &Arc<Link>, tenant: &Arc<str>) -> Result<Followed, FollowError> {
    let id = chance::draw();
    let (messages, mut welcome) = tokio::select! {
        biased;
        asked = ask(link, tenant, id) => asked?,
        () = link.lost() => return Err(FollowError::NotConnected),
    };
    let mut items = VecDeque::new();
    while !welcome.events.is_empty() {
        items.push_back(Item::Event(event(&mut welcome.events)?));
    }
    let progress = Arc::new(Progress::default());
    progress.confirmed.store(welcome.position, Ordering::Relaxed);
    let stop = CancellationToken::new();
    let acknowledge = acknowledge(
        Arc::clone(link),
        Arc::clone(tenant),
        (id, welcome.stream),
        Arc::clone(&progress),
        stop.clone(),
    );
    link.spawn(acknowledge);
    Ok(Followed {
        link: Arc::clone(link),
        tenant: Arc::clone(tenant),
        messages,
        id,
        stream: welcome.stream,
        sorted: welcome.sorted,
        wish: Wish::default(),
        wanted: None,
        unheard: Vec::new(),
        strands: Map::default(),
        batch: welcome.number,
        lengths: Map::default(),
        bodies: Map::default(),
        strand_limit: None,
        unlisted: 0,
        number: welcome.number,
        position: welcome.position,
        about: welcome.about,
        advance: items.len(),
        items,
        pieces: BytesMut::new(),
        heard: Instant::now(),
        silence: link.config.node_timeout / 2,
        progress,
        _stop: stop.drop_guard(),
    })
}

/// Subscribes to a stream and asks its owner to be let in.
async fn ask(link: &Link, tenant: &str, id: u64) -> Result<(Subscriber, Welcome), FollowError> {
    let client = link.client().ok_or(FollowError::NotConnected)?;
    let subscribe = async |subject| client.subscribe(subject).await.map_err(|_| FollowError::NotConnected);
    let whole = subscribe(link.subjects.changes(tenant)).await?;
    let line = subscribe(link.subjects.line(tenant)).await?;
    let limit = WELCOME.min(link.config.node_timeout / 2);
    let follow = ToOwner::Follow { follower: id, node: link.id, sorted: true };
    // The server has read the subscription before it passes the question on.
    let answer = client.request(link.subjects.owner(tenant), follow.encode(), Some(limit)).await;
    let answer = answer.map_err(|error| match error {
        RequestErrorKind::NoResponders => FollowError::Nobody,
        _ => FollowError::Silence,
    })?;
    let welcome = Welcome::decode(answer)?;
    // An owner that does not know of sorted streams says everything to all.
    Ok((if welcome.sorted.is_some() { line } else { whole }, welcome))
}

impl Followed {
    /// Nothing before this position is in the stream.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// What the owner said about the stream.
    #[must_use]
    pub fn about(&self) -> &Bytes {
        &self.about
    }

    /// Everything before this position was handed over.
    pub fn confirm(&self, position: u64) {
        self.progress.confirmed.fetch_max(position, Ordering::Relaxed);
    }

    /// The node of the owner, if that can leave out what this node does not want.
    #[must_use]
    pub fn sorted_by(&self) -> Option<u32> {
        self.sorted
    }

    /// Says which things this node wants events about, and about which not; events about others come too. It counts from
    /// where [`Carried::Granted`] comes; until then nothing else can be wanted. False: it cannot now.
    pub fn want(&mut self, wanted: Vec<u32>, unwanted: Vec<u32>) -> bool {
        if self.sorted.is_none() || self.wanted.is_some() {
            return false;
        }
        let wish = Wish {
            version: self.wish.version + 1,
            wanted: wanted.into_iter().collect(),
            unwanted: unwanted.into_iter().collect(),
        };
        self.unheard = wish.wanted.iter().filter(|key| !self.strands.contains_key(key)).copied().collect();
        self.wanted = Some(wish);
        true
    }

    /// What comes next. Cancel safe.
    ///
    /// # Errors
    /// [`FollowError`]; then the stream has ended.
    pub async fn next(&mut self) -> Result<Carried, FollowError> {
        loop {
            self.say_wish().await?;
            if let Some(carried) = self.take_item().await? {
                return Ok(carried);
            }
            // Messages that have arrived count, however late we look.
            let message = time::timeout_at(self.heard + self.silence, self.messages.next()).await;
            let message = message.map_err(|_| FollowError::Silence)?.ok_or(FollowError::NotConnected)?;
            self.link.received(&message.payload);
            self.take(message.payload)?;
        }
    }

    /// Says what this node wants, once it listens to it: then the server reads that first.
    async fn say_wish(&mut self) -> Result<(), FollowError> {
        let Some(wish) = self.wanted.as_ref().filter(|wish| wish.version != self.wish.version) else {
            return Ok(());
        };
        let client = self.link.client().ok_or(FollowError::NotConnected)?;
        while let Some(key) = self.unheard.last().copied() {
            let strand = client.subscribe(self.link.subjects.strand(&self.tenant, key)).await;
            self.strands.insert(key, strand.map_err(|_| FollowError::NotConnected)?);
            self.unheard.pop();
        }
        let mut says = self.progress.says.lock();
        if says.is_none() {
            let want = ToOwner::Want { follower: self.id, stream: self.stream, wish: wish.clone() };
            *says = Some(want.encode());
            self.progress.said.notify_one();
        }
        Ok(())
    }

    /// Takes the next of the items that have come. `None`: there is none.
    async fn take_item(&mut self) -> Result<Option<Carried>, FollowError> {
        while let Some(item) = self.items.front() {
            match item {
                Item::Event(event) => {
                    let event = event.clone();
                    self.items.pop_front();
                    if self.advance > 0 {
                        self.advance -= 1;
                    } else {
                        self.progress.bytes.fetch_add(event.len() as u64, Ordering::Relaxed);
                    }
                    return Ok(Some(Carried::Event(event)));
                }
                Item::Told { follower, version } => {
                    let is_mine = *follower == self.id;
                    let version = *version;
                    self.items.pop_front();
                    if is_mine && self.is_granted(version) {
                        return Ok(Some(Carried::Granted));
                    }
                }
                Item::Strand(run) => {
                    let run = *run;
                    if self.wish.unwanted.contains(&run.key) {
                        self.items.pop_front();
                        self.progress.bytes.fetch_add(run.bytes, Ordering::Relaxed);
                        return Ok(Some(Carried::Skipped { key: run.key, events: run.events }));
                    }
                    self.hear_strand(run.key).await?;
                    self.items.pop_front();
                    self.unfold(run)?;
                }
            }
        }
        Ok(None)
    }

    /// The owner has taken notice of what this node wants.
    fn is_granted(&mut self, version: u64) -> bool {
        let Some(wish) = self.wanted.take_if(|wish| wish.version == version) else { return false };
        self.strands.retain(|key, _| wish.wanted.contains(key));
        self.wish = wish;
        *self.progress.says.lock() = None;
        true
    }

    /// Waits until a strand has come as far as the line.
    async fn hear_strand(&mut self, key: u32) -> Result<(), FollowError> {
        let length = self.lengths.get(&key).copied().unwrap_or_default();
        let limit = *self.strand_limit.get_or_insert_with(|| Instant::now() + STRAND);
        let strand = self.strands.get_mut(&key).ok_or(FollowError::Gap)?;
        let body = self.bodies.entry(key).or_default();
        // What has been taken from it counts.
        while body.len() < length {
            let message = time::timeout_at(limit, strand.next()).await.map_err(|_| FollowError::Gap)?;
            let mut message = message.ok_or(FollowError::NotConnected)?.payload;
            self.link.received(&message);
            let header = Header::decode(&mut message)?;
            // It was sent before this node wanted it.
            if header.stream != self.stream || header.number < self.batch {
                continue;
            }
            if header.number > self.batch || body.len() + message.len() > length {
                return Err(FollowError::Gap);
            }
            body.extend_from_slice(&message);
        }
        Ok(())
    }

    /// Puts the events of a run in its place.
    fn unfold(&mut self, run: Run) -> Result<(), FollowError> {
        let (Some(body), Some(length)) = (self.bodies.get_mut(&run.key), self.lengths.get_mut(&run.key))
        else {
            return Err(FollowError::Malformed(Malformed));
        };
        if body.len() < run.len() {
            return Err(FollowError::Malformed(Malformed));
        }
        *length -= run.len().min(*length);
        let mut part = body.split_to(run.len()).freeze();
        let mut events = Vec::new();
        for _ in 0..run.events {
            events.push(Item::Event(event(&mut part)?));
        }
        events.into_iter().rev().for_each(|event| self.items.push_front(event));
        Ok(())
    }

    fn take(&mut self, mut message: Bytes) -> Result<(), FollowError> {
        let header = Header::decode(&mut message)?;
        if header.stream != self.stream {
            return Ok(());
        }
        self.heard = Instant::now();
        let expected = match header.kind {
            Kind::Events | Kind::Piece => self.number,
            Kind::Alive | Kind::End => self.number - 1,
        };
        if header.number < expected {
            // It was sent before this node was let in.
            return Ok(());
        }
        if header.number > expected {
            return Err(FollowError::Gap);
        }
        match header.kind {
            Kind::Alive => return self.alive(&message),
            Kind::End => return Err(FollowError::Ended),
            Kind::Events | Kind::Piece => {
                if self.pieces.is_empty() {
                    self.batch = self.number;
                }
                self.number += 1;
            }
        }
        self.body(header.kind, message)
    }

    /// A sign of life has come.
    fn alive(&mut self, followers: &[u8]) -> Result<(), FollowError> {
        self.unlisted = if is_listed(self.id, followers) { 0 } else { self.unlisted + 1 };
        if self.unlisted < UNLISTED { Ok(()) } else { Err(FollowError::Dropped) }
    }

    /// Takes events, or a piece of them.
    fn body(&mut self, kind: Kind, message: Bytes) -> Result<(), FollowError> {
        let mut body = if self.pieces.is_empty() && kind == Kind::Events {
            message
        } else {
            self.pieces.extend_from_slice(&message);
            if self.pieces.len() > MAX_EVENTS {
                return Err(FollowError::Malformed(Malformed));
            }
            if kind == Kind::Piece {
                return Ok(());
            }
            std::mem::take(&mut self.pieces).freeze()
        };
        self.lengths.clear();
        self.bodies.clear();
        self.strand_limit = None;
        while !body.is_empty() {
            let item = if self.sorted.is_some() { item(&mut body)? } else { Item::Event(event(&mut body)?) };
            if let Item::Strand(run) = item {
                let length = self.lengths.entry(run.key).or_default();
                *length = length.saturating_add(run.len());
            }
            self.items.push_back(item);
        }
        Ok(())
    }
}

/// Tells the owner how far this node has come, until it leaves.
async fn acknowledge(
    link: Arc<Link>,
    tenant: Arc<str>,
    (follower, stream): (u64, u64),
    progress: Arc<Progress>,
    stop: CancellationToken,
) {
    let subject = link.subjects.owner(&tenant);
    let mut ticks = time::interval(ACKNOWLEDGE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut until_again = 0;
    loop {
        let says = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = link.stop.cancelled() => break,
            () = progress.said.notified() => true,
            _ = ticks.tick() => {
                until_again -= until_again.min(1);
                let bytes = progress.bytes.load(Ordering::Relaxed);
                let confirmed = progress.confirmed.load(Ordering::Relaxed);
                let taken = ToOwner::Taken { follower, stream, bytes, confirmed };
                link.publish(subject.clone(), taken.encode()).await;
                until_again == 0
            }
        };
        let wish = if says { progress.says.lock().clone() } else { None };
        if let Some(wish) = wish {
            until_again = WANT_AGAIN;
            link.publish(subject.clone(), wish).await;
        }
    }
    link.publish(subject, ToOwner::Leave { follower, stream }.encode()).await;
}
