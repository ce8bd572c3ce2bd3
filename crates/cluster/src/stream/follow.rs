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
use tokio::time::{self, Duration, Instant, MissedTickBehavior};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::messages::{Header, Kind, ToOwner, Welcome, event, is_listed};
use crate::{
    chance,
    link::{Link, Subscriber},
    wire::Malformed,
};

/// How often a follower says how far it has come.
const ACKNOWLEDGE: Duration = Duration::from_millis(200);

/// How long the owner may take to let a follower in: it waits for the end of a transaction.
const WELCOME: Duration = Duration::from_secs(5);

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

/// A stream that another node owns.
pub struct Followed {
    messages: Subscriber,
    /// The number that this follower drew.
    id: u64,
    stream: u64,
    /// Signs of life in a row that did not name this follower.
    unlisted: u32,
    /// Number of the next message.
    number: u64,
    position: u64,
    about: Bytes,
    /// Events that have come and have not been taken.
    events: VecDeque<Bytes>,
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
    let mut events = VecDeque::new();
    while !welcome.events.is_empty() {
        events.push_back(event(&mut welcome.events)?);
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
        messages,
        id,
        stream: welcome.stream,
        unlisted: 0,
        number: welcome.number,
        position: welcome.position,
        about: welcome.about,
        advance: events.len(),
        events,
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
    let messages = client.subscribe(link.subjects.changes(tenant)).await;
    let messages = messages.map_err(|_| FollowError::NotConnected)?;
    let limit = WELCOME.min(link.config.node_timeout / 2);
    let follow = ToOwner::Follow { follower: id, node: link.id };
    // The server has read the subscription before it passes the question on.
    let answer = client.request(link.subjects.owner(tenant), follow.encode(), Some(limit)).await;
    let answer = answer.map_err(|error| match error {
        RequestErrorKind::NoResponders => FollowError::Nobody,
        _ => FollowError::Silence,
    })?;
    Ok((messages, Welcome::decode(answer)?))
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

    /// The next event. Cancel safe.
    ///
    /// # Errors
    /// [`FollowError`]; then the stream has ended.
    pub async fn next(&mut self) -> Result<Bytes, FollowError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                if self.advance > 0 {
                    self.advance -= 1;
                } else {
                    self.progress.bytes.fetch_add(event.len() as u64, Ordering::Relaxed);
                }
                return Ok(event);
            }
            // Messages that have arrived count, however late we look.
            let message = time::timeout_at(self.heard + self.silence, self.messages.next()).await;
            let message = message.map_err(|_| FollowError::Silence)?.ok_or(FollowError::NotConnected)?;
            self.take(message.payload)?;
        }
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
            Kind::Events | Kind::Piece => self.number += 1,
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
        while !body.is_empty() {
            self.events.push_back(event(&mut body)?);
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
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = link.stop.cancelled() => break,
            _ = ticks.tick() => {
                let bytes = progress.bytes.load(Ordering::Relaxed);
                let confirmed = progress.confirmed.load(Ordering::Relaxed);
                let taken = ToOwner::Taken { follower, stream, bytes, confirmed };
                link.publish(subject.clone(), taken.encode()).await;
            }
        }
    }
    link.publish(subject, ToOwner::Leave { follower, stream }.encode()).await;
}
