//! The task that reads a tenant's row changes and finds who gets them.
//!
//! It owns the replication session, what is known of relations and types, and the match engine. Changes are
//! handled one after the other, in commit order; while one is being handled, perhaps with a question to the
//! database, the connection is not read further and the walsender waits.
//!
//! Changes that row-level security has to be asked about are asked together: those of a transaction, and of the
//! transactions that came in while the last answer was awaited.

pub(crate) mod lag;
mod life;
mod meanwhile;
mod state;
pub(crate) mod stuck;

use std::sync::Arc;

use deadpool_postgres::Pool;
use futures_util::FutureExt as _;
use lag::LagWatch;
use meanwhile::{Late, Meanwhile};
use realtime_changes::{Action, ChannelId, SubscribeRefusal};
use realtime_pgoutput::{Lsn, message::Message};
use state::{Answer, Refreshed, State};
use stuck::Stuck;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{self, Duration, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    ChangeSink, DatabaseConfig, Stats, SubscribeRequest,
    attendance::Attendees,
    failpoints::{self, Point},
    prepare::Preparation,
    replication::{Event, ReplicationError, Unfinished},
    sharing::Session,
    subscribe::{Checked, overtaken},
    tenant::Contact,
};

/// How soon after a commit, at the earliest, the publication and the rights of roles are looked at again.
const REFRESH: Duration = Duration::from_secs(1);

/// A request to the worker.
pub(crate) enum Command {
    /// Subscribe a channel whose parameters were checked.
    Subscribe {
        request: SubscribeRequest,
        checked: Checked,
        reply: oneshot::Sender<Result<(), SubscribeRefusal>>,
    },
    /// Remember a channel whose tables are not there, in place of what it had.
    Wait(SubscribeRequest, oneshot::Sender<()>),
    /// End a channel's subscriptions. Its generations have ended before.
    Unsubscribe(ChannelId),
    /// End the session, because an operator says so.
    EndSession(oneshot::Sender<()>),
}

/// The worker of one tenant's database.
pub(crate) struct Worker {
    config: DatabaseConfig,
    pool: Pool,
    stats: Arc<Stats>,
    contact: Arc<Contact>,
    tasks: TaskTracker,
    state: State,
    running: Option<Running>,
    /// Attempts in a row that failed, or came no further than those before.
    failures: u32,
    /// How far the log was read, by whatever session of the slot.
    furthest: Lsn,
    /// Where a session failed with what it was to read, and how often in a row.
    stuck: Stuck,
    retry_at: Instant,
    /// The permanent slot cannot be read any further: it has to be made anew.
    anew: bool,
    /// Those who may get broadcasts.
    attendees: Arc<Attendees>,
    /// Under which number this worker's handle speaks to them.
    reign: u64,
    preparation: watch::Receiver<Preparation>,
    /// The publication had no tables when it was last looked at.
    unpublished: bool,
    /// The channels were told of the gap that the lack of a session makes.
    gap_told: bool,
    /// Since when nobody has been subscribed.
    idle_since: Option<Instant>,
    /// Up to where the last session handed everything over.
    since: Option<Lsn>,
    unfinished: Unfinished,
    /// When a permanent slot that is there may be read.
    resume_at: Instant,
}

/// A session and how far it has come.
struct Running {
    session: Session,
    /// The publications that it reads.
    publications: Vec<String>,
    lag: LagWatch,
    /// End of the last transaction that came whole.
    reached: Lsn,
    /// Up to where commits have been seen to happen, of whatever kind.
    log_end: Lsn,
    /// When the catalog is looked at again, because there were commits since the last time.
    refresh_at: Option<Instant>,
    refreshed: Instant,
    begun: Instant,
}

impl Running {
    async fn confirm(&self, position: Lsn) {
        if failpoints::reach(Point::PositionConfirmed).await {
            return;
        }
        self.session.confirm(position);
        self.lag.confirmed(position);
    }

    /// The log has grown: perhaps by something that it does not tell us.
    fn grown(&mut self, position: Lsn) {
        if position > self.log_end {
            self.log_end = position;
            self.lag.grown(position);
            self.refresh_at.get_or_insert(self.refreshed + REFRESH);
        }
    }
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
        reign: u64,
        preparation: watch::Receiver<Preparation>,
    ) -> Self {
        let resume_at = Instant::now() + config.resume_delay;
        Self {
            state: State::new(pool.clone(), sink, Arc::clone(&stats), config.publication.clone()),
            config,
            pool,
            stats,
            contact,
            tasks,
            attendees,
            reign,
            preparation,
            running: None,
            failures: 0,
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
        }
    }

    /// Works until stopped, or until nobody can send commands any more.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>, stop: CancellationToken) {
        let mut meanwhile = Meanwhile::default();
        let mut commanded = false;
        loop {
            let work = match meanwhile.next() {
                Some(command) => Some(Work::Command(command)),
                None => self.next_work(&mut commands, &stop, commanded).await,
            };
            let Some(work) = work else { break };
            commanded = matches!(work, Work::Command(_));
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
        if let Err(error) = self.unfinished.end(&self.config).await {
            tracing::warn!(code = error.code(), %error, "a slot that was being made may stay");
        }
    }

    /// What is to be done next. `None`: nothing any more. Many commands must not hold up the log: an event has its turn
    /// after each (`commanded`).
    async fn next_work(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        stop: &CancellationToken,
        commanded: bool,
    ) -> Option<Work> {
        let attendees = Arc::clone(&self.attendees);
        let wake = self.wake_at();
        let too_far = self.too_far();
        let due = self.state.is_due();
        let mut session = self.running.as_mut().map(|running| &mut running.session);
        let turn = if commanded { next(session.as_deref_mut()).now_or_never() } else { None };
        tokio::select! {
            biased;
            () = stop.cancelled() => None,
            () = too_far.cancelled() => Some(Work::TooFar),
            Some(event) = std::future::ready(turn) => Some(Work::Event(event)),
            command = commands.recv() => command.map(Work::Command),
            () = attendees.changed() => Some(Work::Attendance),
            answer = self.state.answer() => Some(Work::Answer(answer)),
            () = sleep_until(wake) => Some(Work::Wake),
            event = next(session) => Some(Work::Event(event)),
            // Only when no event was there: what waits is asked about with as many others as possible.
            () = std::future::ready(()), if due => Some(Work::Flush),
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
        // Whoever lost the session meanwhile was told that.
        if late.was_told() && self.running.is_some() {
            self.state.confirm_all();
        }
        outcome
    }

    fn too_far(&self) -> CancellationToken {
        self.running.as_ref().map(|running| running.lag.exceeded()).unwrap_or_default()
    }

    async fn work(&mut self, work: Work) {
        match work {
            Work::TooFar => self.too_far_behind().await,
            Work::Command(command) => self.command(command).await,
            Work::Attendance => self.attendance(),
            Work::Answer(answer) => self.state.answered(answer).await,
            Work::Wake => self.wake().await,
            Work::Event(Ok(event)) => {
                self.event(event).await;
                self.state.relieve().await;
            }
            Work::Event(Err(error)) => self.lost(&error),
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
                if self.failures == 0 {
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
                [running.refresh_at, idle].into_iter().flatten().min()
            }
            None if self.wants_session() || self.state.has_vain() => Some(self.retry_at),
            None => None,
        };
        [self.state.tell_dropped_at(), other].into_iter().flatten().min()
    }

    async fn command(&mut self, command: Command) {
        match command {
            Command::Unsubscribe(channel) => {
                self.state.remove(channel);
                self.perhaps_idle();
            }
            Command::EndSession(reply) => {
                self.end_by_order().await;
                let _ = reply.send(());
            }
            Command::Wait(request, reply) => {
                self.state.wait(request);
                // Who asked may be gone; the channel's end follows as a command of its own.
                let _ = reply.send(());
                if let Some(running) = &mut self.running {
                    // The table may have appeared since it was missed.
                    running.refresh_at.get_or_insert(running.refreshed + REFRESH);
                    self.perhaps_idle();
                } else if !self.wants_session() {
                    self.look_later();
                }
            }
            Command::Subscribe { request, checked, reply } => {
                let outcome = self.subscribe(request, checked).await;
                let subscribed = outcome.is_ok();
                // Who asked may have gone by now; the channel's end follows as a command of its own.
                if reply.send(outcome).is_err() && subscribed {
                    tracing::debug!("a channel was gone before it was subscribed");
                }
            }
        }
    }

    /// Somebody may have been the last who wanted the session.
    fn perhaps_idle(&mut self) {
        if !self.wants_session() {
            self.idle_since.get_or_insert_with(Instant::now);
        }
    }

    /// Subscribes when a session runs: only then will every later commit come through it.
    async fn subscribe(
        &mut self,
        request: SubscribeRequest,
        checked: Checked,
    ) -> Result<(), SubscribeRefusal> {
        if !request.generation.is_current() {
            return Err(overtaken());
        }
        if self.running.is_none() {
            self.resume().await.map_err(|error| SubscribeRefusal::Unavailable(error.told()))?;
        }
        self.idle_since = None;
        self.state.add(request, checked).await
    }

    /// Does what has become due.
    async fn wake(&mut self) {
        let now = Instant::now();
        self.state.tell_dropped(now);
        let Some(running) = &mut self.running else {
            if self.retry_at <= now {
                self.come_back().await;
            }
            return;
        };
        if self.idle_since.is_some_and(|since| since + self.config.idle_stop <= now) {
            self.idle_since = None;
            if !self.wants_session() {
                self.end_idle().await;
            } else if self.state.is_empty() && !self.may_hear() {
                // Others follow; they may go without a word to us.
                self.idle_since = Some(now);
            }
            return;
        }
        if running.refresh_at.is_some_and(|at| at <= now) {
            running.refresh_at = None;
            match self.state.refresh(Some(&running.publications)).await {
                Ok(Refreshed::Differs) => return self.restart().await,
                Ok(Refreshed::Unpublished) if !self.hears() => return self.unpublished().await,
                Ok(Refreshed::Published | Refreshed::Unpublished) => {}
                Err(error) => {
                    tracing::warn!(code = "CheckOidsError", %error, "cannot read the publication, trying again");
                    // What there was to see has not been seen: no further commit need follow it.
                    if let Some(running) = &mut self.running {
                        running.refresh_at = Some(Instant::now() + REFRESH);
                    }
                }
            }
            self.confirm_reached().await;
            if let Some(running) = &mut self.running {
                running.refreshed = Instant::now();
            }
        }
    }

    async fn event(&mut self, event: Event) {
        let message = match event {
            Event::Idle(position) => {
                // It may have gone over to another node's stream meanwhile.
                let reader = self.running.as_ref().map(|running| running.session.reader());
                self.contact.replicates(reader);
                if let Some(running) = &self.running {
                    running.lag.reads(running.session.slot());
                }
                return self.idle(position).await;
            }
            Event::Message(message) => message,
        };
        if let Some(running) = &self.running {
            running.lag.caught_up(false);
        }
        match message {
            Message::Begin { commit_time, final_lsn, xid } => self.state.begin(xid, final_lsn, commit_time),
            Message::Commit { end_lsn, .. } => {
                if let Some(running) = &mut self.running {
                    running.reached = end_lsn;
                    running.grown(end_lsn);
                }
                self.comes_further(end_lsn);
                if self.state.commit() {
                    self.confirm_reached().await;
                }
            }
            Message::Relation { relation, .. } => self.state.relation(relation).await,
            Message::Insert { relation, new, .. } => {
                self.state.broadcast(relation, &new).await;
                self.state.change(Action::Insert, relation, Some(new), None).await;
            }
            Message::Update { relation, old, new, .. } => {
                self.state.change(Action::Update, relation, Some(new), old).await;
            }
            Message::Delete { relation, old, .. } => {
                self.state.change(Action::Delete, relation, None, Some(old)).await;
            }
            Message::Truncate { relations, .. } => self.state.truncated(&relations).await,
            // The others carry nothing for subscribers.
            _ => {}
        }
    }

    /// The server has read its log up to a position. In the middle of a transaction that says nothing. It says so after
    /// every transaction when there is no other: what waits goes on waiting for company.
    async fn idle(&mut self, position: Lsn) {
        if self.state.is_reading() {
            return;
        }
        let Some(running) = &mut self.running else { return };
        running.reached = running.reached.max(position);
        running.grown(position);
        if !self.state.is_due() {
            running.lag.caught_up(true);
            self.confirm_reached().await;
        }
        self.comes_further(position);
    }

    /// Everything up to the last transaction that came whole was handed over.
    async fn confirm_reached(&self) {
        if let Some(running) = &self.running {
            running.confirm(running.reached).await;
        }
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
    TooFar,
    Command(Command),
    Wake,
    Event(Result<Event, ReplicationError>),
    Flush,
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
