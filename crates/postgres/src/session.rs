//! A replication session, whoever reads the database: this node, or another one for all.
//!
//! The holder of an advisory lock in the database owns the stream. It is taken by the walsender's own session, before the slot
//! is made or read: whoever has the stream has the lock, and loses both at once. The others follow the owner. With a
//! temporary slot a node that can neither follow nor own, or has no connection to the others, reads for itself. That is
//! correct too, and costs more.

mod about;
mod raw;
mod solo;
mod unwanted;

use std::sync::Arc;

use about::{about, publications_of};
use bytes::Bytes;
use realtime_pgoutput::{Decoder, Lsn, Oid};
use rustc_hash::FxHashSet;
use solo::{Next, Solo};
use tokio::time::{self, Duration, Instant};
use unwanted::Unwanted;

use crate::{
    Carried, DatabaseConfig, Following, Owning, Place, Reader, Recall, Sharing,
    replication::{self, Claim, Event, Raw, ReplicationError, Unfinished, Walsender},
    sharing::Boxed,
};

/// How long it is tried to follow or to own before a node reads for itself: longer than the server holds the lock of a
/// node that hangs. One that is not connected to the others need not wait.
const CLAIM_ATTEMPTS_LIMIT: Duration = Duration::from_secs(8);

/// Pause between attempts.
const PAUSE: Duration = Duration::from_millis(150);

/// How long a new owner of a permanent slot waits for the others before it reads: whoever follows from the beginning
/// misses nothing.
const GATHER: Duration = Duration::from_secs(2);

/// How long it waits at most while nodes with subscribers are missing: longer than a busy one takes to notice that the
/// last owner is gone.
const GATHER_LIMIT: Duration = Duration::from_secs(10);

/// Longest pause before a node tries again to read a permanent slot that nodes share: whoever pauses for longer than
/// [`GATHER_LIMIT`] is not waited for, and misses what is read meanwhile.
const SHARED_PAUSE: Duration = Duration::from_secs(3);

/// How long a node pauses at most before it tries again to get a session. `longest`: where nobody waits for it.
pub(crate) fn longest_pause(config: &DatabaseConfig, longest: Duration) -> Duration {
    if config.durable_slot && config.sharing.is_some() { longest.min(SHARED_PAUSE) } else { longest }
}

/// A running replication session, whoever reads the database.
pub(crate) struct Session {
    source: Source,
    decoder: Decoder,
    resumed: bool,
    start: Lsn,
    /// The last position between two transactions.
    reached: Lsn,
    within: bool,
    /// The publications that it reads, if these are others since it went over to another stream.
    others: Option<Vec<String>>,
    /// What does not come, because this node does not want it.
    unwanted: Unwanted,
}

enum Source {
    /// This node reads for itself. With the others, if there can be any.
    Own(Box<Walsender>, Option<Solo>),
    /// This node reads for all.
    Shared(Box<Walsender>, Box<dyn Owning>, Arc<dyn Sharing>, bool),
    /// Another node does.
    Followed(Box<dyn Following>),
}

/// What was read.
enum Read {
    Raw(Raw),
    /// So many rows of a relation that is not wanted.
    Skipped(Oid, u32),
    Granted,
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
        let Some(sharing) = &config.sharing else {
            return Self::alone(config, publications, begin, unfinished, None).await;
        };
        let limit = Instant::now() + CLAIM_ATTEMPTS_LIMIT;
        let mut why = "it is not connected to the others".to_owned();
        loop {
            if sharing.is_connected() {
                match sharing.follow().await {
                    Ok(following) => return Ok(Self::following(following, begin)),
                    Err(error) => why = error,
                }
            }
            if let Some(session) = Self::for_all(sharing, config, publications, begin, unfinished).await? {
                return Ok((session, publications.to_vec()));
            }
            if Instant::now() > limit || !sharing.is_connected() {
                // A permanent slot has one reader.
                if config.durable_slot {
                    return Err(ReplicationError::Shared(why));
                }
                tracing::warn!(
                    code = "RpcError",
                    database = config.name,
                    slot = config.slot_name,
                    reason = why,
                    "cannot follow the node that reads the database; reading it too"
                );
                let solo = Solo::new(sharing, config, publications, unfinished);
                return Self::alone(config, publications, begin, unfinished, Some(solo)).await;
            }
            time::sleep(PAUSE.mul_f64(rand::random_range(0.5..1.5))).await;
        }
    }

    /// Reads for this node alone.
    async fn alone(
        config: &DatabaseConfig,
        publications: &[String],
        begin: Begin,
        unfinished: &Unfinished,
        solo: Option<Solo>,
    ) -> Result<(Self, Vec<String>), ReplicationError> {
        // A permanent slot has one reader, also among servers that do not know of each other.
        let lock = || Claim::Lock(format!("realtime slot {}", config.slot_name));
        let claim = match &config.exclusive {
            Some(name) => Claim::Lock(name.clone()),
            None if config.durable_slot => lock(),
            None => Claim::None,
        };
        let walsender = Walsender::connect(config, publications, begin.anew, claim, unfinished).await?;
        let mut walsender = walsender.ok_or_else(|| ReplicationError::Taken(config.slot_name.clone()))?;
        begin_streaming(&mut walsender, begin.not_before).await?;
        let mut session = Self::of(Source::Own(Box::new(walsender), solo));
        // What another holder of such a lock has handed over is done for both.
        if config.exclusive.is_none() {
            session.resumes_behind(begin.since);
        }
        Ok((session, publications.to_vec()))
    }

    /// Follows the node that reads for all.
    fn following(following: Box<dyn Following>, begin: Begin) -> (Self, Vec<String>) {
        let publications = publications_of(&following.about());
        let mut session = Self::of(Source::Followed(following));
        session.resumed = begin.since.is_some();
        session.resumes_behind(begin.since);
        (session, publications)
    }

    /// It goes on only from what this node has handed over: others may have read the slot, and confirmed more.
    fn resumes_behind(&mut self, since: Option<Lsn>) {
        self.resumed &= since.is_none_or(|since| self.start <= since);
    }

    /// Reads for all. `None`: another node has the lock.
    async fn for_all(
        sharing: &Arc<dyn Sharing>,
        config: &DatabaseConfig,
        publications: &[String],
        begin: Begin,
        unfinished: &Unfinished,
    ) -> Result<Option<Self>, ReplicationError> {
        let claim = Claim::Lock(sharing.lock_name());
        let walsender = Walsender::connect(config, publications, begin.anew, claim, unfinished).await?;
        let Some(mut walsender) = walsender else { return Ok(None) };
        let owning = sharing.own(walsender.start_position().0, about(publications));
        if config.durable_slot && walsender.is_resumed() && sharing.has_others() {
            gather(&*owning).await;
        }
        begin_streaming(&mut walsender, begin.not_before).await?;
        let source = Source::Shared(Box::new(walsender), owning, Arc::clone(sharing), config.durable_slot);
        let mut session = Self::of(source);
        session.resumes_behind(begin.since);
        Ok(Some(session))
    }

    fn of(source: Source) -> Self {
        let (resumed, start) = match &source {
            Source::Own(walsender, _) | Source::Shared(walsender, ..) => {
                (walsender.is_resumed(), walsender.start_position())
            }
            Source::Followed(following) => (false, Lsn(following.position())),
        };
        Self {
            source,
            decoder: replication::decoder(),
            resumed,
            start,
            reached: start,
            within: false,
            others: None,
            unwanted: Unwanted::default(),
        }
    }

    /// Whether it can be said now what is wanted.
    pub(crate) fn can_leave_out(&self) -> bool {
        !self.unwanted.waits()
            && matches!(&self.source, Source::Followed(following) if following.can_leave_out())
    }

    /// Asks the node that reads for rows that it has kept. `None`: this node does, or it cannot be asked.
    pub(crate) fn recall(&self, recall: &Recall) -> Option<Boxed<'static, Result<Bytes, String>>> {
        match &self.source {
            Source::Followed(following) => following.recall(recall),
            Source::Own(..) | Source::Shared(..) => None,
        }
    }

    /// What this node does not get.
    pub(crate) const fn unwanted(&self) -> &Unwanted {
        &self.unwanted
    }

    /// Says which relations' rows are wanted and which not; those of others come. To be called when it
    /// [can be](Self::can_leave_out).
    pub(crate) fn want(&mut self, wanted: FxHashSet<Oid>, unwanted: FxHashSet<Oid>) {
        let Source::Followed(following) = &mut self.source else { return };
        if following.want(wanted.iter().copied().collect(), unwanted.iter().copied().collect()) {
            self.unwanted.ask(wanted, unwanted);
        }
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

    /// The publications that it reads, when it has gone over to another stream; once.
    pub(crate) fn take_others(&mut self) -> Option<Vec<String>> {
        self.others.take()
    }

    /// The next event. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Event, ReplicationError> {
        let raw = loop {
            self.go_over();
            match self.read().await? {
                Some(Read::Raw(raw)) => break raw,
                Some(Read::Skipped(relation, rows)) => return Ok(Event::Skipped(relation, rows)),
                Some(Read::Granted) => {
                    self.unwanted.granted();
                    return Ok(Event::Granted);
                }
                None => {}
            }
        };
        match raw.place(self.within) {
            Place::Begin => self.within = true,
            Place::Within | Place::Row(_) | Place::Needed(_) => {}
            Place::End(position) => {
                self.within = false;
                self.reached = self.reached.max(Lsn(position));
            }
        }
        Ok(raw.decode(&mut self.decoder)?)
    }

    /// What comes next. `None`: nothing came, but it is time to see whether there is something to go over to. Cancel safe.
    async fn read(&mut self) -> Result<Option<Read>, ReplicationError> {
        Ok(Some(Read::Raw(match &mut self.source {
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
                    return Err(ReplicationError::Shared(
                        "this node cannot reach the other nodes, which wait for the slot".to_owned(),
                    ));
                }
                owning.carry(raw.place(self.within), raw.encode());
                raw
            }
            Source::Followed(following) => {
                let event = match following.next().await.map_err(ReplicationError::Shared)? {
                    Carried::Event(event) => event,
                    Carried::Skipped { relation, rows } => return Ok(Some(Read::Skipped(relation, rows))),
                    Carried::Granted => return Ok(Some(Read::Granted)),
                };
                Raw::read(event).ok_or_else(|| {
                    ReplicationError::Shared("it sent an event that cannot be decoded".to_owned())
                })?
            }
        })))
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
                tracing::info!("another node reads the database; following it");
                self.others = Some(publications_of(&following.about()));
                Source::Followed(following)
            }
            Next::Own(walsender, owning) => {
                tracing::info!("no other node reads the database; reading it for all nodes");
                Source::Shared(walsender, owning, Arc::clone(solo.sharing()), false)
            }
        };
        self.unwanted = Unwanted::default();
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// A stream that is followed after a while.
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

    /// A stream of another node.
    struct Followed(u64);

    impl Following for Followed {
        fn position(&self) -> u64 {
            self.0
        }

        fn about(&self) -> Bytes {
            about(&["main".to_owned()])
        }

        fn next(&mut self) -> Boxed<'_, Result<Carried, String>> {
            Box::pin(std::future::pending())
        }

        fn can_leave_out(&self) -> bool {
            true
        }

        fn want(&mut self, _: Vec<Oid>, _: Vec<Oid>) -> bool {
            true
        }

        fn recall(&self, _: &Recall) -> Option<Boxed<'static, Result<Bytes, String>>> {
            None
        }

        fn confirm(&self, _: u64) {}
    }

    /// Others may have read a permanent slot, and confirmed what this node has not had.
    #[test]
    fn a_session_that_begins_behind_what_was_handed_over_is_a_gap() {
        let follow = |since| {
            let begin = Begin { since, ..Begin::default() };
            Session::following(Box::new(Followed(10)), begin).0.is_resumed()
        };
        assert_eq!([None, Some(Lsn(9)), Some(Lsn(10))].map(follow), [false, false, true]);
        let read = |since| {
            let mut session = Session::of(Source::Followed(Box::new(Followed(10))));
            // As the slot says.
            session.resumed = true;
            session.resumes_behind(since);
            session.is_resumed()
        };
        assert_eq!([None, Some(Lsn(9)), Some(Lsn(10))].map(read), [true, false, true]);
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
}
