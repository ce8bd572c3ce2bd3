//! The session: hands each event to the part that it concerns, and carries out what the part decides.

use std::{
    net::IpAddr,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use realtime_cluster::Interest;
use realtime_hub::{Outbox, Signal};
use realtime_protocol::{Opcode, Vsn, decode, events};
use tokio::time::Instant;

use super::{
    admission::{Admission, CLOSE_FLOOD},
    ready::Replicating,
    stop::TOO_MANY_EVENTS,
    topics::{Topic, Topics},
    waiting::Waiting,
};
use crate::{
    client::Client,
    counters::TransportKind,
    database::Attendance,
    effect::{Completion, Effect, Ticket},
    first_generation::Legacy,
    tenant_runtime::TenantRuntime,
    token::Token,
};

mod ends;
mod joining;
mod messages;

/// Bytes of messages that may wait for joins to be decided; beyond it the socket is not read.
const MAX_WAITING_BYTES: usize = 1_000_000;

/// Joins that may be undecided at once; beyond it the socket is not read.
const MAX_JOINING: usize = 100;

/// Close code of a drain: the tenant's sockets are ended, or the node goes down (protocol 1.10, 12).
const CLOSE_RESTART: u16 = 1012;

/// The protocol state of one socket.
pub struct Session {
    client: Client,
    pub(super) topics: Topics,
    admission: Admission,
    /// Watches broadcasts from the database.
    replicating: Replicating,
    /// Keeps the log read for broadcasts from the database, from the first channel on.
    attendance: Option<Attendance>,
    /// Keeps messages from other nodes coming.
    interest: Option<Interest>,
    /// The first generation, if it is served.
    legacy: Option<Arc<Legacy>>,
    /// Messages that waited on channels that were closed in this step, one queue for each channel. Empty between
    /// steps.
    orphans: Vec<Waiting>,
}

impl Session {
    /// A session without channels.
    #[must_use]
    pub fn new(
        vsn: Vsn,
        outbox: Arc<Outbox>,
        runtime: Arc<TenantRuntime>,
        tenant_token: Arc<Token>,
        headers: Arc<str>,
    ) -> Self {
        Self {
            interest: runtime.interest(),
            client: Client::new(vsn, outbox, runtime, tenant_token, headers),
            topics: Topics::default(),
            admission: Admission::default(),
            replicating: Replicating::default(),
            attendance: None,
            legacy: None,
            orphans: Vec::new(),
        }
    }

    /// Sets the transport, a label of metrics. The default is WebSocket.
    #[must_use]
    pub fn over(mut self, transport: TransportKind) -> Self {
        self.client.transport = transport;
        self
    }

    /// Sets the address of the client.
    #[must_use]
    pub fn at(mut self, address: Option<IpAddr>) -> Self {
        self.client.set_address(address);
        self
    }

    /// Sets the event of the broadcasts that a stream of events wants. The default is all.
    #[must_use]
    pub fn only(mut self, event: Option<&str>) -> Self {
        self.client.only = event.map(|event| events::line_of(event).into());
        self
    }

    /// Sets the first generation, which serves joins without `config`.
    #[must_use]
    pub fn serving(mut self, legacy: Option<Arc<Legacy>>) -> Self {
        self.legacy = legacy;
        self
    }

    /// Bytes of messages that wait.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.client.waiting_bytes
    }

    /// Where the session's frames go.
    #[must_use]
    pub fn outbox(&self) -> &Arc<Outbox> {
        &self.client.outbox
    }

    /// Whether more messages may be read. False while too many bytes wait for joins to be decided, or while a room
    /// cannot keep up.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        self.client.waiting_bytes < MAX_WAITING_BYTES
            && self.topics.joining() < MAX_JOINING
            && !self.client.is_congested()
    }

    /// Ready when a room that could not keep up has done so. Pending for ever if there is none.
    pub fn poll_relieved(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.client.poll_relieved(cx)
    }

    /// The next moment at which [`tick`](Self::tick) has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        [self.topics.deadline(), self.client.diffs.deadline()].into_iter().flatten().min()
    }

    /// Whether it has a channel, or a join that is not decided yet.
    #[must_use]
    pub fn has_channels(&self) -> bool {
        self.topics.len() > 0
    }

    /// Whether a channel waits to ask the database for its row changes again: it could not be asked.
    #[must_use]
    pub fn is_retrying(&mut self) -> bool {
        self.topics.iter_mut().any(|(_, topic)| match topic {
            Topic::Joined(channel) => channel.rows.is_retried(),
            _ => false,
        })
    }

    /// When a socket without channels is given up (protocol 9.5). `None` if it has a channel or never tried to join.
    #[must_use]
    pub fn abandoned_at(&self) -> Option<Instant> {
        if self.topics.len() > 0 {
            return None;
        }
        self.admission.abandoned_at(self.client.runtime.no_channel_timeout())
    }

    /// Gives the members of rooms everything that was published since the last call.
    pub fn flush(&mut self) {
        self.client.publish();
        let Client { diffs, outbox, .. } = &mut self.client;
        diffs.release(self.topics.joining(), Instant::now(), outbox);
    }

    /// Ends all channels, because the socket is gone: others are told that it left, and its subscriptions end.
    pub fn end(&mut self) {
        self.client.gone();
        self.topics.clear();
        self.admission.gone();
        self.attendance = None;
        self.flush();
        self.interest = None;
    }

    /// Takes one message from the client.
    ///
    /// A message that cannot be understood is dropped; the socket stays open (protocol 2.5).
    pub fn receive(&mut self, opcode: Opcode, frame: Bytes, effects: &mut Vec<Effect>) {
        if self.admission.floods(&self.client) {
            return effects.push(Effect::Close(CLOSE_FLOOD));
        }
        match decode(self.client.vsn, opcode, &frame) {
            Ok(message) => self.dispatch(message, effects),
            Err(error) => {
                let tenant = self.client.tenant();
                tracing::warn!(tenant, code = error.code().as_str(), %error, "message dropped");
            }
        }
        self.release_orphans(effects);
    }

    /// Acts on a signal from elsewhere.
    pub fn signal(&mut self, signal: Signal, effects: &mut Vec<Effect>) {
        match signal {
            Signal::TooManyEvents(member) => {
                if let Some(topic) = self.topics.of_member(member) {
                    self.stop(&topic, &TOO_MANY_EVENTS.into());
                }
            }
            Signal::PresenceHidden(member) => {
                if let Some(channel) = self.topics.channel_of_member(member) {
                    channel.presence_hidden(&self.client);
                }
            }
            Signal::PresenceBehind(member) => {
                if let Some(channel) = self.topics.channel_of_member(member) {
                    channel.presence.state_sent(false);
                }
            }
            Signal::Disconnect => self.disconnect(effects),
            Signal::DatabaseReplaced { elsewhere } => self.database_replaced(elsewhere, effects),
            Signal::ShutDown => {
                self.admission.shut_down();
                effects.push(Effect::Close(CLOSE_RESTART));
            }
        }
        self.release_orphans(effects);
    }

    /// Takes the outcome of a slow step.
    pub fn complete(&mut self, completion: Completion, effects: &mut Vec<Effect>) {
        let Self { client, topics, .. } = self;
        match completion {
            Completion::Database(Ticket { topic, step }, result) => {
                if let Some(joining) = topics.joining_mut(&topic, step) {
                    let next = joining.contacted(result, client, effects);
                    self.advance(&topic, next, effects);
                }
            }
            Completion::Replayed(Ticket { topic, step }, result) => {
                if let Some(joining) = topics.joining_mut(&topic, step) {
                    let next = joining.replayed(result, client);
                    self.advance(&topic, next, effects);
                }
            }
            Completion::Recalled(Ticket { topic, step }, result) => {
                if let Some(joining) = topics.joining_mut(&topic, step) {
                    let next = joining.recalled(result, client);
                    self.advance(&topic, next, effects);
                }
            }
            Completion::Read(Ticket { topic, step }, result) => {
                if let Some(joining) = topics.joining_mut(&topic, step) {
                    let next = joining.judged(result, client, effects);
                    self.advance(&topic, next, effects);
                } else if let Some(channel) = topics.channel_mut(&topic) {
                    let outcome = channel.read_answered(step, result, client, effects);
                    self.go_on(&topic, outcome, effects);
                }
            }
            Completion::Write(Ticket { topic, step }, result) => {
                if let Some(channel) = topics.channel_mut(&topic) {
                    let outcome = channel.write_answered(step, result, client);
                    self.go_on(&topic, outcome, effects);
                }
            }
            Completion::Subscribed(Ticket { topic, step }, result) => {
                if let Some(joining) = topics.joining_mut(&topic, step) {
                    joining.watched(result);
                    self.answer_join(&topic, effects);
                } else if let Some(channel) = topics.channel_mut(&topic) {
                    channel.tell_subscription(step, result, client);
                } else if let Some(first) = topics.first_mut(&topic) {
                    let outcome = first.answered(step, result, client);
                    self.settle_first(&topic, outcome);
                }
            }
            Completion::ReplicationDiffers => self.replication_differs(effects),
        }
        self.release_orphans(effects);
    }

    /// Does everything that is due: verifies tokens, tries subscriptions again.
    pub fn tick(&mut self, effects: &mut Vec<Effect>) {
        let now = Instant::now();
        for topic in self.topics.due(now) {
            let client = &mut self.client;
            match self.topics.get_mut(&topic) {
                Some(Topic::Joining(_)) => self.answer_join(&topic, effects),
                Some(Topic::Joined(channel)) => {
                    let outcome = channel.tick(now, client, effects);
                    self.settle(&topic, outcome);
                }
                Some(Topic::First(first)) => {
                    let outcome = first.tick(now, client, effects);
                    self.settle_first(&topic, outcome);
                }
                None => {}
            }
        }
        self.release_orphans(effects);
    }
}
