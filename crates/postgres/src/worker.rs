//! The task that reads a tenant's row changes and finds who gets them.
//!
//! It owns the replication session, what is known of relations and types, and the match engine. Changes are
//! handled one after the other, in commit order; while one is being handled, perhaps with a question to the
//! database, the connection is not read further and the walsender waits.
//!
//! Changes that row-level security has to be asked about are asked together: those of a transaction, and of the
//! transactions that came in while the last answer was awaited.

mod command;
mod commands;
mod events;
mod interest;
pub(crate) mod lag;
mod life;
mod meanwhile;
mod past;
mod recall;
mod roster;
mod running;
mod state;
mod streams;
pub(crate) mod stuck;
mod telling;
mod turns;
mod wanting;

use std::sync::Arc;

use bytes::Bytes;
pub(crate) use command::Command;
use deadpool_postgres::Pool;
use futures_util::FutureExt as _;
use interest::Interest;
use meanwhile::{Late, Meanwhile};
use past::Past;
use realtime_pgoutput::Lsn;
use realtime_retry::Backoff;
use running::{REFRESH, RETRY, Running};
pub use state::LiveResult;
use state::{Answer, State};
use streams::Streams;
use stuck::Stuck;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{self, Duration, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use turns::Turns;

use crate::{
    ChangeSink, DatabaseConfig, Stats,
    attendance::Attendees,
    contact::Contact,
    heirloom::Heirloom,
    prepare::Preparation,
    replication::{Event, ReplicationError, Unfinished},
    session::Session,
};

/// Events that are taken one after the other at most, before commands and answers have their turn.
const AT_ONCE: usize = 64;

/// How long events are taken one after the other, give or take one: each may have to ask the database.
const AT_ONCE_FOR: Duration = Duration::from_millis(2);

/// Reads the row changes of one tenant's database and finds who gets them.
pub(crate) struct Worker {
    config: DatabaseConfig,
    pool: Pool,
    stats: Arc<Stats>,
    contact: Arc<Contact>,
    tasks: TaskTracker,
    state: State,
    running: Option<Running>,
    /// Pauses after attempts in a row that failed, or came no further than those before.
    backoff: Backoff,
    /// How far the log was read, by whatever session of the slot.
    furthest: Lsn,
    /// Where a session failed with what it was to read, and how often in a row.
    stuck: Stuck,
    retry_at: Instant,
    /// Whether the permanent slot cannot be read any further and has to be made anew.
    anew: bool,
    /// Those who may get broadcasts.
    attendees: Arc<Attendees>,
    /// Under which number this worker's handle speaks to them.
    reign: u64,
    preparation: watch::Receiver<Preparation>,
    /// Whether the publication had no tables when it was last looked at.
    unpublished: bool,
    /// Whether the channels were told that changes are missing because there is no session.
    gap_told: bool,
    /// Since when nobody has been subscribed.
    idle_since: Option<Instant>,
    /// Up to where the last session handed everything over.
    since: Option<Lsn>,
    unfinished: Unfinished,
    /// When a permanent slot that is there may be read, for the first time.
    resume_at: Instant,
    /// What clients of streams were told.
    streams: Streams,
    /// Whether something was read: whoever comes back after a restart is served already.
    has_read: bool,
    /// What stays behind a permanent slot.
    past: Option<Past>,
    /// What is wanted of a stream that another node reads.
    interest: Interest,
}

impl Worker {
    #[expect(clippy::too_many_arguments, reason = "called once; a builder would say the same in more words")]
    pub(crate) fn new(
        config: DatabaseConfig,
        pool: Pool,
        sink: Arc<dyn ChangeSink>,
        stats: Arc<Stats>,
        contact: Arc<Contact>,
        tasks: TaskTracker,
        attendees: Arc<Attendees>,
        heirloom: Arc<Heirloom>,
        reign: u64,
        preparation: watch::Receiver<Preparation>,
    ) -> Self {
        let (resume_at, durable) = (Instant::now() + config.resume_delay, config.durable_slot);
        let keeps_past = config.durable_slot && config.journal.bytes > 0;
        let past =
            keeps_past.then(|| Past::new(config.slot_name.clone(), config.journal, config.max_lag_bytes));
        Self {
            past,
            state: State::new(pool.clone(), sink, Arc::clone(&stats), &config, heirloom),
            config,
            pool,
            stats,
            contact,
            tasks,
            attendees,
            reign,
            preparation,
            running: None,
            backoff: Backoff::new(RETRY.0, RETRY.1),
            furthest: Lsn::default(),
            stuck: Stuck::default(),
            retry_at: Instant::now(),
            anew: false,
            unpublished: false,
            gap_told: false,
            idle_since: None,
            since: None,
            unfinished: Unfinished::default(),
            resume_at,
            streams: Streams::new(durable),
            has_read: false,
            interest: Interest::default(),
        }
    }

    /// Works until stopped, or until nobody can send commands any more.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>, stop: CancellationToken) {
        let mut meanwhile = Meanwhile::default();
        let mut turns = Turns::default();
        while let Some(work) = self.next_work(&mut commands, &mut meanwhile, &stop, &turns).await {
            match &work {
                Work::Command(_) => turns.command(),
                Work::Replay => turns.replay(),
                _ => turns.other(),
            }
            match self.carry_out(work, &mut commands, &mut meanwhile, &stop).await {
                Outcome::Done => {}
                Outcome::Stopped => break,
                Outcome::TooFar => self.too_far_behind().await,
                Outcome::Ended(reply) => {
                    self.end_by_order().await;
                    let _ = reply.send(());
                }
            }
        }
        self.stop_session().await;
        self.state.hand_over_live().await;
        if let Err(error) = self.unfinished.end(&self.config).await {
            tracing::warn!(code = error.code(), %error, "an unfinished replication slot may remain");
        }
    }

    /// What is to be done next. `None`: nothing any more. Commands that came while something was done (`meanwhile`) come
    /// before others, but not before their turn.
    async fn next_work(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        meanwhile: &mut Meanwhile,
        stop: &CancellationToken,
        turns: &Turns,
    ) -> Option<Work> {
        let attendees = Arc::clone(&self.attendees);
        let wake = self.wake_at();
        let too_far = self.too_far();
        let due = self.state.is_due();
        let replays = self.running.is_some() && self.state.replays(Instant::now());
        let mut session = self.running.as_mut().map(|running| &mut running.session);
        if stop.is_cancelled() {
            return None;
        }
        if too_far.is_cancelled() {
            return Some(Work::TooFar);
        }
        if turns.is_of_log()
            && let Some(event) = next(session.as_deref_mut()).now_or_never()
        {
            return Some(Work::Event(event));
        }
        if turns.is_of_journal() && replays {
            return Some(Work::Replay);
        }
        if let Some(command) = meanwhile.next() {
            return Some(Work::Command(command));
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => None,
            () = too_far.cancelled() => Some(Work::TooFar),
            command = commands.recv() => command.map(Work::Command),
            () = attendees.changed() => Some(Work::Attendance),
            answer = self.state.answer() => Some(Work::Answer(answer)),
            kept = self.interest.recalled() => Some(Work::Recalled(kept)),
            () = sleep_until(wake) => Some(Work::Wake),
            event = next(session) => Some(Work::Event(event)),
            // Only when no event was there: what waits is asked about with as many others as possible.
            () = std::future::ready(()), if due => Some(Work::Flush),
            () = std::future::ready(()), if replays => Some(Work::Replay),
        }
    }

    /// Does something. An answer of the database may be long in coming: what others want meanwhile is taken.
    async fn carry_out(
        &mut self,
        work: Work,
        commands: &mut mpsc::Receiver<Command>,
        meanwhile: &mut Meanwhile,
        stop: &CancellationToken,
    ) -> Outcome {
        let too_far = self.too_far();
        let (roster, sink) = (self.state.roster().clone(), Arc::clone(self.state.sink()));
        let mut late = Late::new(self.running.is_some(), roster, sink);
        let outcome = {
            let work = self.work(work);
            tokio::pin!(work);
            let mut open = true;
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => break Outcome::Stopped,
                    () = too_far.cancelled() => break Outcome::TooFar,
                    () = &mut work => break Outcome::Done,
                    command = commands.recv(), if open && meanwhile.has_room() => match command {
                        Some(Command::EndSession(reply)) => break Outcome::Ended(reply),
                        Some(command) => meanwhile.keep(command),
                        None => open = false,
                    },
                    () = sleep_until(meanwhile.overdue_at()) => meanwhile.refuse_overdue(),
                    () = late.due() => late.tell(),
                }
            }
        };
        // If the session was lost meanwhile, the channels were told that.
        if late.was_told() && self.running.is_some() {
            self.state.confirm_all();
        }
        outcome
    }

    fn too_far(&self) -> CancellationToken {
        self.running.as_ref().map(|running| running.lag.exceeded()).unwrap_or_default()
    }

    async fn work(&mut self, work: Work) {
        self.do_work(work).await;
        self.admit_granted().await;
        self.tell_interest();
        self.state.begin_live();
    }

    async fn do_work(&mut self, work: Work) {
        match work {
            Work::TooFar => self.too_far_behind().await,
            Work::Command(command) => self.command(command).await,
            Work::Attendance => self.attendance(),
            Work::Answer(answer) => {
                let brings_rows = matches!(answer, Answer::Filter(_) | Answer::Beside(_));
                self.state.answered(answer).await;
                if brings_rows {
                    self.state.relieve().await;
                }
            }
            Work::Recalled(kept) => self.state.recalled(kept.unwrap_or_default()),
            Work::Wake => self.wake().await,
            Work::Event(Ok(event)) => self.events(event).await,
            Work::Event(Err(error)) => self.lost(&error),
            Work::Replay => self.replay().await,
            Work::Flush => {
                self.state.flush().await;
                self.confirm_reached().await;
                // Nothing was there before the question; a lag would show by the next event.
                if let Some(running) = &self.running {
                    running.lag.caught_up(true);
                }
            }
        }
    }

    /// Takes an event, and some of those that are there behind it: what has to be looked at between two events costs
    /// more than most of them.
    async fn events(&mut self, first: Event) {
        let mut event = first;
        let mut now = Instant::now();
        let until = now + AT_ONCE_FOR;
        for more in (0..AT_ONCE).rev() {
            self.event(event, now).await;
            self.state.relieve().await;
            now = Instant::now();
            if now >= until {
                return;
            }
            let session = self.running.as_mut().filter(|_| more > 0).map(|running| &mut running.session);
            match next(session).now_or_never() {
                Some(Ok(next)) => event = next,
                Some(Err(error)) => return self.lost(&error),
                None => return,
            }
        }
    }

    /// Whether a session is wanted.
    fn wants_session(&self) -> bool {
        let followed = || self.running.as_ref().is_some_and(|running| running.session.has_followers());
        !self.state.is_empty() || self.config.durable_slot || self.may_hear() || followed()
    }

    /// Whether there is somebody for broadcasts, and perhaps broadcasts.
    fn may_hear(&self) -> bool {
        self.attendees.is_any() && self.state.has_messages() != Some(false)
    }

    /// Somebody has come for broadcasts, or nobody is there for them any more, or they may be published now.
    fn attendance(&mut self) {
        let now = Instant::now();
        match &mut self.running {
            Some(running) => {
                running.refresh_at.get_or_insert(running.refreshed + REFRESH);
            }
            None => {
                self.state.forget_publications();
                if self.backoff.failures() == 0 {
                    self.retry_at = now;
                }
            }
        }
        if self.wants_session() {
            self.idle_since = None;
        } else if self.running.is_some() {
            self.idle_since.get_or_insert(now);
        }
    }

    /// The next moment at which something has to be done.
    fn wake_at(&self) -> Option<Instant> {
        let other = match &self.running {
            Some(running) => {
                let idle = self.idle_since.map(|since| since + self.config.idle_stop);
                [running.refresh_at, idle, self.past_at()].into_iter().flatten().min()
            }
            None if self.wants_session() || self.state.has_vain() => Some(self.retry_at),
            None => None,
        };
        let replay = self.state.replay_at().filter(|_| self.running.is_some());
        let streams = self.streams.wake_at().filter(|_| self.running.is_some());
        let interest = self.interest.wake_at();
        [self.state.tell_dropped_at(), replay, streams, interest, other].into_iter().flatten().min()
    }
}

/// What became of a piece of work.
enum Outcome {
    Done,
    /// The worker is to end.
    Stopped,
    /// The slot keeps too much: the work was given up, and the session has to be.
    TooFar,
    /// An operator ends the session: the work was given up.
    Ended(oneshot::Sender<()>),
}

/// What the worker does next.
enum Work {
    Attendance,
    Answer(Answer),
    /// What the node that reads has kept.
    Recalled(Option<Bytes>),
    TooFar,
    Command(Command),
    Wake,
    Event(Result<Event, ReplicationError>),
    Flush,
    /// Reads the journal further for those who have come back.
    Replay,
}

/// The next event of a session; never without one.
async fn next(session: Option<&mut Session>) -> Result<Event, ReplicationError> {
    match session {
        Some(session) => session.next().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
