//! One node reads a database for all: how a session is shared with other nodes.
//!
//! Who holds an advisory lock in the database owns the stream. It is taken by the walsender's own session, before the slot
//! is made or read: whoever has the stream has the lock, and loses both at once. The others follow the owner. With a
//! temporary slot a node that can neither follow nor own, or has no connection to the others, reads for itself: that is
//! right too, only dearer.

mod raw;
mod solo;

use std::{fmt, pin::Pin, sync::Arc};

use bytes::Bytes;
use realtime_pgoutput::{Decoder, Lsn};
use solo::{Next, Solo};
use tokio::time::{self, Duration, Instant};

use crate::{
    DatabaseConfig,
    replication::{self, Claim, Event, Raw, ReplicationError, Unfinished, Walsender},
};

/// A future of a trait that is used as an object.
type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Who reads the log of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// This node, for all.
    ThisNode,
    /// This node, because it can neither follow another nor be followed.
    ForItself,
    /// Another node, which this one follows.
    AnotherNode,
}

impl Reader {
    /// In words.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ThisNode => "this node",
            Self::ForItself => "this node, for itself",
            Self::AnotherNode => "another node",
        }
    }
}

/// The other nodes, as far as one database is concerned.
pub trait Sharing: Send + Sync + fmt::Debug {
    /// Whether they can be reached.
    fn is_connected(&self) -> bool;
    /// Whether they have not been reached for so long that they will do without this one.
    fn is_isolated(&self) -> bool;
    /// Whether there are any.
    fn has_others(&self) -> bool;
    /// Name of the advisory lock.
    fn lock_name(&self) -> String;
    /// Follows the node that owns the stream. The error is for the log.
    fn follow(&self) -> Boxed<'_, Result<Box<dyn Following>, String>>;
    /// Begins to own it, at a position. `about` is told to those who follow.
    fn own(&self, position: u64, about: Bytes) -> Box<dyn Owning>;
}

/// A stream that another node owns.
pub trait Following: Send + Sync {
    /// Everything before this position is not in it.
    fn position(&self) -> u64;
    /// What the owner said about it.
    fn about(&self) -> Bytes;
    /// The next event. Cancel safe. After an error there is none.
    fn next(&mut self) -> Boxed<'_, Result<Bytes, String>>;
    /// Everything before this position was handed over.
    fn confirm(&self, position: u64);
}

/// A stream that this node owns.
pub trait Owning: Send + Sync {
    /// The next event, for all who follow.
    fn carry(&self, place: Place, event: Bytes);
    /// A wait for those who are too far behind. Cancel safe.
    fn room(&self) -> Boxed<'_, ()>;
    /// Whether somebody follows.
    fn has_followers(&self) -> bool;
    /// Whether every node follows that has subscribers, as far as is known.
    fn has_all(&self) -> bool;
    /// Up to which position all have taken everything, this node having come as far as `own`.
    fn confirmed(&self, own: u64) -> u64;
}

/// What an event is to a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It begins a transaction.
    Begin,
    /// It is of one.
    Within,
    /// As `Within`; whoever comes later needs the last one of this key.
    Needed(u64),
    /// Everything before this position was in the stream.
    End(u64),
}

/// How long it is tried to follow or to own before a node reads for itself: longer than the server holds the lock of a
/// node that hangs. One that is not connected to the others need not wait.
const PATIENCE: Duration = Duration::from_secs(8);

/// Pause between attempts.
const PAUSE: Duration = Duration::from_millis(150);

/// How long a new owner of a permanent slot waits for the others before it reads: whoever follows from the beginning
/// misses nothing.
const GATHER: Duration = Duration::from_secs(2);

/// How long it waits at the most while nodes with subscribers are missing: longer than a busy one takes to notice that the
/// last owner is gone.
const GATHER_LIMIT: Duration = Duration::from_secs(10);

/// A running replication session, whoever reads the database.
pub(crate) struct Session {
    source: Source,
    decoder: Decoder,
    resumed: bool,
    start: Lsn,
    /// The last position between two transactions.
    reached: Lsn,
    within: bool,
}

enum Source {
    /// This node reads for itself. With the others, if there can be any.
    Own(Box<Walsender>, Option<Solo>),
    /// This node reads for all.
    Shared(Box<Walsender>, Box<dyn Owning>, Arc<dyn Sharing>, bool),
    /// Another node does.
    Followed(Box<dyn Following>),
}

/// Where a session is to begin.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Begin {
    /// A permanent slot that is there is dropped first.
    pub(crate) anew: bool,
    /// Up to where everything was handed over, if anything was.
    pub(crate) since: Option<Lsn>,
    /// This node reads a permanent slot that is there for all from then on.
    pub(crate) not_before: Option<Instant>,
}

impl Session {
    /// Begins a session, and tells which publications it reads.
    pub(crate) async fn start(
        config: &DatabaseConfig,
        publications: &[String],
        begin: Begin,
        unfinished: &Unfinished,
    ) -> Result<(Self, Vec<String>), ReplicationError> {
        let Begin { anew, since, not_before } = begin;
        let own = |walsender, solo| (Self::of(Source::Own(Box::new(walsender), solo)), publications.to_vec());
        let unclaimed = async || -> Result<Walsender, ReplicationError> {
            // A permanent slot has one reader, also among servers that do not know of each other.
            let lock = || Claim::Lock(format!("realtime slot {}", config.slot_name));
            let claim = if config.durable_slot { lock() } else { Claim::None };
            let walsender = Walsender::connect(config, publications, anew, claim, unfinished).await?;
            let mut walsender = walsender.ok_or_else(|| ReplicationError::Taken(config.slot_name.clone()))?;
            begin_streaming(&mut walsender, not_before).await?;
            Ok(walsender)
        };
        let Some(sharing) = &config.sharing else { return Ok(own(unclaimed().await?, None)) };
        let limit = Instant::now() + PATIENCE;
        let mut why = "it is not connected to the others".to_owned();
        loop {
            if sharing.is_connected() {
                match sharing.follow().await {
                    Ok(following) => {
                        let publications = publications_of(&following.about());
                        let mut session = Self::of(Source::Followed(following));
                        session.resumed = since.is_some_and(|since| session.start <= since);
                        return Ok((session, publications));
                    }
                    Err(error) => why = error,
                }
            }
            let claim = Claim::Lock(sharing.lock_name());
            let walsender = Walsender::connect(config, publications, anew, claim, unfinished).await?;
            if let Some(mut walsender) = walsender {
                let start = walsender.start_position();
                let owning = sharing.own(start.0, about(publications));
                if config.durable_slot && walsender.is_resumed() && sharing.has_others() {
                    gather(&*owning).await;
                }
                begin_streaming(&mut walsender, not_before).await?;
                let source =
                    Source::Shared(Box::new(walsender), owning, Arc::clone(sharing), config.durable_slot);
                return Ok((Self::of(source), publications.to_vec()));
            }
            if Instant::now() > limit || !sharing.is_connected() {
                // A permanent slot has one reader.
                if config.durable_slot {
                    return Err(ReplicationError::Shared(why));
                }
                tracing::warn!(
                    database = config.name,
                    reason = why,
                    "the node that reads the database cannot be followed: this one reads it too"
                );
                let solo = Solo::new(sharing, config, publications, unfinished);
                return Ok(own(unclaimed().await?, Some(solo)));
            }
            time::sleep(PAUSE.mul_f64(rand::random_range(0.5..1.5))).await;
        }
    }

    fn of(source: Source) -> Self {
        let (resumed, start) = match &source {
            Source::Own(walsender, _) | Source::Shared(walsender, ..) => {
                (walsender.is_resumed(), walsender.start_position())
            }
            Source::Followed(following) => (false, Lsn(following.position())),
        };
        Self { source, decoder: replication::decoder(), resumed, start, reached: start, within: false }
    }

    /// Whether it goes on where an earlier session ended, so that nothing is missing in between.
    pub(crate) fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// Where it begins: everything before it has been delivered, or is nobody's.
    pub(crate) fn start_position(&self) -> Lsn {
        self.start
    }

    /// The slot that this node reads.
    pub(crate) fn slot(&self) -> Option<&Arc<str>> {
        match &self.source {
            Source::Own(walsender, _) | Source::Shared(walsender, ..) => Some(walsender.slot()),
            Source::Followed(_) => None,
        }
    }

    /// Who reads.
    pub(crate) fn reader(&self) -> Reader {
        match &self.source {
            Source::Own(_, None) | Source::Shared(..) => Reader::ThisNode,
            Source::Own(_, Some(_)) => Reader::ForItself,
            Source::Followed(_) => Reader::AnotherNode,
        }
    }

    /// Whether this node does what is to be done once for all nodes: it reads for all, or is alone. Of those that read
    /// a database at the same time one does, the holder of the lock.
    pub(crate) fn acts(&self) -> bool {
        matches!(&self.source, Source::Own(_, None) | Source::Shared(..))
    }

    /// Whether other nodes follow.
    pub(crate) fn has_followers(&self) -> bool {
        matches!(&self.source, Source::Shared(_, owning, ..) if owning.has_followers())
    }

    /// The next event. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Event, ReplicationError> {
        let raw = loop {
            self.go_over();
            if let Some(raw) = self.read().await? {
                break raw;
            }
        };
        match raw.place() {
            Place::Begin => self.within = true,
            Place::Within | Place::Needed(_) => {}
            Place::End(position) => {
                if matches!(raw, Raw::Commit { .. }) {
                    self.within = false;
                }
                if !self.within {
                    self.reached = self.reached.max(Lsn(position));
                }
            }
        }
        Ok(raw.decode(&mut self.decoder)?)
    }

    /// What comes next. `None`: nothing came, but it is time to see whether there is something to go over to. Cancel safe.
    async fn read(&mut self) -> Result<Option<Raw>, ReplicationError> {
        Ok(Some(match &mut self.source {
            Source::Own(walsender, None) => walsender.next().await?,
            Source::Own(walsender, Some(solo)) => {
                solo.look();
                let Ok(raw) = time::timeout(solo::GLANCE, walsender.next()).await else { return Ok(None) };
                raw?
            }
            Source::Shared(walsender, owning, sharing, durable) => {
                owning.room().await;
                let raw = walsender.next().await?;
                if *durable && sharing.is_isolated() {
                    // The others wait for the slot.
                    return Err(ReplicationError::Shared("it will, this one cannot reach it".to_owned()));
                }
                owning.carry(raw.place(), raw.encode());
                raw
            }
            Source::Followed(following) => {
                let event = following.next().await.map_err(ReplicationError::Shared)?;
                Raw::read(event)
                    .ok_or_else(|| ReplicationError::Shared("it sent what cannot be read".to_owned()))?
            }
        }))
    }

    /// Goes over to the stream that is read for all, when this one has come to where that begins. What comes again is known
    /// by its place.
    fn go_over(&mut self) {
        let Source::Own(_, Some(solo)) = &mut self.source else { return };
        if self.within {
            return;
        }
        let Some(next) = solo.take_next(self.reached) else { return };
        let source = match next {
            Next::Follow(following) => {
                tracing::info!("another node reads the database: this one follows");
                Source::Followed(following)
            }
            Next::Own(walsender, owning) => {
                tracing::info!("no other node reads the database: this one does, for all");
                Source::Shared(walsender, owning, Arc::clone(solo.sharing()), false)
            }
        };
        if let Source::Own(walsender, _) = std::mem::replace(&mut self.source, source) {
            tokio::spawn(walsender.stop());
        }
    }

    /// Everything before this position was handed over; it may be forgotten.
    pub(crate) fn confirm(&self, position: Lsn) {
        match &self.source {
            Source::Own(walsender, _) => walsender.confirm(position),
            Source::Shared(walsender, owning, ..) => {
                walsender.confirm(Lsn(owning.confirmed(position.0)));
            }
            Source::Followed(following) => following.confirm(position.0),
        }
    }

    /// Ends the session; a temporary slot goes with it.
    pub(crate) async fn stop(self) {
        match self.source {
            Source::Own(walsender, _) => walsender.stop().await,
            Source::Shared(walsender, owning, ..) => {
                drop(owning);
                walsender.stop().await;
            }
            Source::Followed(_) => {}
        }
    }
}

/// Starts streaming: at once, or later if it goes on with what was committed before.
async fn begin_streaming(
    walsender: &mut Walsender,
    not_before: Option<Instant>,
) -> Result<(), ReplicationError> {
    match not_before.filter(|limit| walsender.is_resumed() && *limit > Instant::now()) {
        Some(limit) => {
            walsender.start_at(limit);
            Ok(())
        }
        None => walsender.start().await,
    }
}

/// Waits for the others.
async fn gather(owning: &dyn Owning) {
    let begun = Instant::now();
    time::sleep(GATHER).await;
    while !owning.has_all() && begun.elapsed() < GATHER_LIMIT {
        time::sleep(PAUSE).await;
    }
}

fn about(publications: &[String]) -> Bytes {
    serde_json::to_vec(publications).unwrap_or_default().into()
}

fn publications_of(about: &[u8]) -> Vec<String> {
    serde_json::from_slice(about).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// A stream that somebody follows by and by.
    #[derive(Default)]
    struct Stream(Arc<AtomicBool>);

    impl Owning for Stream {
        fn carry(&self, _: Place, _: Bytes) {}

        fn room(&self) -> Boxed<'_, ()> {
            Box::pin(std::future::ready(()))
        }

        fn has_followers(&self) -> bool {
            self.has_all()
        }

        fn has_all(&self) -> bool {
            self.0.load(Ordering::Relaxed)
        }

        fn confirmed(&self, own: u64) -> u64 {
            own
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_owner_waits_for_the_others() {
        let waited = async |after: Duration| {
            let stream = Stream::default();
            let all = Arc::clone(&stream.0);
            tokio::spawn(async move {
                time::sleep(after).await;
                all.store(true, Ordering::Relaxed);
            });
            let begun = Instant::now();
            gather(&stream).await;
            begun.elapsed()
        };
        assert_eq!(waited(Duration::ZERO).await.as_secs(), 2, "who is not known of may come, too");
        assert_eq!(waited(Duration::from_secs(7)).await.as_secs(), 7);
        assert_eq!(waited(Duration::from_secs(1000)).await.as_secs(), 10, "but not for ever");
    }

    #[test]
    fn publications_are_told() {
        let names = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(publications_of(&about(&names)), names);
    }
}
