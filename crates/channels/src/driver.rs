//! What a session needs around it, whatever the transport: its slow steps, timers and signals.

mod slow;
mod steps;

use std::{future::poll_fn, sync::Arc, task::Poll};

use bytes::Bytes;
use realtime_hub::Outbox;
use realtime_protocol::Opcode;
use slow::Slow;
use tokio::time::Instant;

use crate::{
    counters::TenantCounters,
    effect::Effect,
    session::Session,
    sockets::{Era, SocketGuard},
    tenant_runtime::TenantRuntime,
};

/// Refusals that may wait at once. Beyond it the socket is not read until some were sent.
const MAX_DELAYED: usize = 64;

/// Why a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Without a close frame.
    Drop,
    /// With this WebSocket close code, after the queued frames.
    Close(u16),
}

/// A refusal that waits: when to send it, its frames, and the code to close the socket with afterwards.
type Delayed = (Instant, Vec<Bytes>, Option<u16>);

/// A session, and what it waits for.
///
/// After each step the caller has to call [`flush`](Self::flush), which gives others what was published, and has to
/// write the outbox.
pub struct Driver {
    session: Session,
    runtime: Arc<TenantRuntime>,
    /// What the session asked for in this step. Empty between steps.
    effects: Vec<Effect>,
    /// Slow steps, and the watch over broadcasts from the database. Empty while idle.
    slow: Slow,
    /// Refusals that wait for their time, in no order.
    delayed: Vec<Delayed>,
    _guard: SocketGuard,
}

impl Driver {
    /// Drives a session that was admitted in an era.
    #[must_use]
    pub fn new(session: Session, runtime: Arc<TenantRuntime>, era: Era) -> Self {
        let guard = runtime.sockets().enter(session.outbox(), era);
        Self {
            session,
            runtime,
            effects: Vec::new(),
            slow: Slow::default(),
            delayed: Vec::new(),
            _guard: guard,
        }
    }

    /// Where frames to the client wait.
    #[must_use]
    pub fn outbox(&self) -> &Arc<Outbox> {
        self.session.outbox()
    }

    /// The counters of its tenant.
    #[must_use]
    pub fn counters(&self) -> &TenantCounters {
        self.runtime.counters()
    }

    /// Its tenant's `external_id`.
    #[must_use]
    pub fn tenant(&self) -> &str {
        self.runtime.name()
    }

    /// Whether its session has a channel, or a join that is not decided yet.
    #[must_use]
    pub fn has_channels(&self) -> bool {
        self.session.has_channels()
    }

    /// Whether a channel waits to ask the database for its row changes again.
    #[must_use]
    pub fn is_retrying(&mut self) -> bool {
        self.session.is_retrying()
    }

    /// Whether messages may be read.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        self.session.wants_input() && self.delayed.len() < MAX_DELAYED
    }

    /// Bytes of messages that wait.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.session.waiting_bytes()
    }

    /// Takes one message from the client.
    ///
    /// # Errors
    /// When the session ends.
    pub fn receive(&mut self, opcode: Opcode, message: Bytes) -> Result<(), Ending> {
        self.session.receive(opcode, message, &mut self.effects);
        self.carry_out()
    }

    /// Gives the members of rooms what was published.
    pub fn flush(&mut self) {
        self.session.flush();
    }

    /// Waits for a slow step to end or for a room to keep up, and then goes on with it. Pending for ever if there is
    /// neither. Cancel safe.
    ///
    /// # Errors
    /// When the session ends.
    pub fn event(&mut self) -> impl Future<Output = Result<(), Ending>> + Send {
        // No `async fn`: each socket has the future in memory all the time.
        poll_fn(|cx| {
            if let Poll::Ready(completion) = self.slow.poll(cx) {
                self.session.complete(completion, &mut self.effects);
                return Poll::Ready(self.carry_out());
            }
            self.session.poll_relieved(cx).map(Ok)
        })
    }

    /// Acts on signals of others.
    ///
    /// # Errors
    /// When the session ends.
    pub fn signals(&mut self) -> Result<(), Ending> {
        for signal in self.session.outbox().take_signals() {
            self.session.signal(signal, &mut self.effects);
        }
        self.carry_out()
    }

    /// The next moment at which [`on_time`](Self::on_time) has something to do.
    #[must_use]
    pub fn wake_at(&self) -> Option<Instant> {
        let delayed = self.delayed.iter().map(|(at, ..)| *at).min();
        [delayed, self.session.deadline(), self.session.abandoned_at()].into_iter().flatten().min()
    }

    /// Does everything that is due.
    ///
    /// # Errors
    /// When the session ends.
    pub fn on_time(&mut self) -> Result<(), Ending> {
        let now = Instant::now();
        if self.session.abandoned_at().is_some_and(|at| now >= at) {
            tracing::debug!("socket without channels dropped");
            return Err(Ending::Drop);
        }
        let mut i = 0;
        while let Some((at, ..)) = self.delayed.get(i) {
            if *at <= now {
                let (_, frames, close) = self.delayed.swap_remove(i);
                for frame in frames {
                    let _ = self.session.outbox().queue(frame);
                }
                if let Some(code) = close {
                    return Err(Ending::Close(code));
                }
            } else {
                i += 1;
            }
        }
        self.session.tick(&mut self.effects);
        self.carry_out()
    }

    /// Ends all channels.
    pub fn end(&mut self) {
        self.session.end();
        self.slow.clear();
        self.delayed.clear();
    }

    /// Does what the session has asked for.
    fn carry_out(&mut self) -> Result<(), Ending> {
        let mut end = Ok(());
        for effect in std::mem::take(&mut self.effects) {
            let runtime = Arc::clone(&self.runtime);
            match effect {
                Effect::Close(code) => end = Err(Ending::Close(code)),
                Effect::SendLater(delay, frames, close) => {
                    self.delayed.push((Instant::now() + delay, frames, close));
                }
                Effect::WatchReplication(from) => self.slow.watch(steps::watch_replication(runtime, from)),
                Effect::Database(ticket) => self.slow.begin(steps::database(runtime, ticket)),
                Effect::Contact(ticket) => self.slow.begin(steps::contact(runtime, ticket)),
                Effect::AuthorizeRead(ticket, request) => {
                    self.slow.begin(steps::read(runtime, ticket, request))
                }
                Effect::AuthorizeWrite(ticket, request) => {
                    self.slow.begin(steps::write(runtime, ticket, request))
                }
                Effect::Replay(ticket, topic, params) => {
                    self.slow.begin(steps::replay(runtime, ticket, topic, params));
                }
                Effect::Recall(ticket, room, asked) => {
                    self.slow.begin(steps::recall(runtime, ticket, room, asked))
                }
                Effect::Subscribe(ticket, request) => {
                    self.slow.begin(steps::subscribe(runtime, ticket, request))
                }
            }
        }
        end
    }
}
