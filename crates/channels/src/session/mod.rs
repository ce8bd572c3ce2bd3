//! One socket's protocol: a state machine without I/O (protocol 2 to 8).
//!
//! Frames go in, frames come out through the socket's [`Outbox`], slow steps go out as [`Effect`]s and come
//! back as [`Completion`]s. Nothing here waits. Messages on a topic that is being joined wait in order until
//! the join is decided; other topics and heartbeats go on.

mod access_token;
mod allowance;
mod channel;
mod diffs;
mod first_generation;
mod flood;
mod join;
mod joins;
mod merged;
mod policies;
mod push;
mod ready;
mod replay;
mod watch;

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use channel::{Channel, sub_topic};
use diffs::Diffs;
use first_generation::FirstChannel;
use join::Joining;
use joins::Joins;
use realtime_changes::SubscribeRefusal;
use realtime_cluster::Interest;
use realtime_hub::{Congestion, FanOut, Outbox, Signal};
use realtime_postgres::{
    AuthorizeError, AuthorizeRequest, ConnectError, ReadVerdict, ReplayError, ReplayParams, ReplayedMessage,
    Replication, SubscribeRequest, WriteVerdict,
};
use realtime_protocol::{ClientMessage, Opcode, Ref, SystemMessage, Vsn, decode, encode};
use realtime_tenants::{Flood, UserSlot};
use tokio::time::Instant;

use crate::{
    counters::TransportKind, database::Attendance, patience::Patience, tenant_runtime::TenantRuntime,
    token::Token,
};

/// Bytes of messages that may wait for joins to be decided; beyond it the socket is not read.
const MAX_WAITING_BYTES: usize = 1_000_000;

/// Joins that may be undecided at once; beyond it the socket is not read.
const MAX_JOINING: usize = 100;

/// Something the socket's task has to do for its session.
#[derive(Debug)]
pub enum Effect {
    /// Close the socket with this code, after what is queued.
    Close(u16),
    /// Queue these frames after a delay, then close the socket if a code is given.
    SendLater(Duration, Vec<Bytes>, Option<u16>),
    /// Make sure the database can be reached; answer with [`Completion::Database`].
    Database(Ticket),
    /// Get in touch with the database, for a channel that goes without it too; answer with [`Completion::Database`] that it
    /// can go on, after a moment at the latest.
    Contact(Ticket),
    /// Subscribe to row changes; answer with [`Completion::Subscribed`].
    Subscribe(Ticket, Box<SubscribeRequest>),
    /// Ask what may be read of a private topic; answer with [`Completion::Read`].
    AuthorizeRead(Ticket, Box<AuthorizeRequest>),
    /// Ask what may be written to a private topic; answer with [`Completion::Write`].
    AuthorizeWrite(Ticket, Box<AuthorizeRequest>),
    /// Look for stored messages of a topic, named without `realtime:`; answer with [`Completion::Replayed`].
    Replay(Ticket, Box<str>, ReplayParams),
    /// Watch whether broadcasts from the database arrive; answer with [`Completion::ReplicationDiffers`].
    WatchReplication(Replication),
}

/// What became of an [`Effect`].
#[derive(Debug)]
pub enum Completion {
    /// Of [`Effect::Database`].
    Database(Ticket, Result<(), ConnectError>),
    /// Of [`Effect::Subscribe`].
    Subscribed(Ticket, Result<(), SubscribeRefusal>),
    /// Of [`Effect::AuthorizeRead`].
    Read(Ticket, Result<ReadVerdict, AuthorizeError>),
    /// Of [`Effect::AuthorizeWrite`].
    Write(Ticket, Result<WriteVerdict, AuthorizeError>),
    /// Of [`Effect::Replay`].
    Replayed(Ticket, Result<Vec<ReplayedMessage>, ReplayError>),
    /// Of [`Effect::WatchReplication`]: it is no longer so.
    ReplicationDiffers,
}

/// Which step of which channel an effect belongs to. A step that was overtaken is recognised by its number.
#[derive(Debug, Clone)]
pub struct Ticket {
    topic: Arc<str>,
    step: u32,
}

/// What the session knows of a topic.
enum Topic {
    Joining(Box<Joining>),
    Joined(Box<Channel>),
    /// Joined without `config`, where the first generation is served.
    First(Box<FirstChannel>),
}

impl Topic {
    /// The next moment at which something has to be done for it.
    fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Joining(joining) => joining.watching.as_ref().map(|watching| watching.reply_by),
            Self::Joined(channel) => Some(channel.deadline()),
            Self::First(channel) => channel.deadline(),
        }
    }
}

/// The protocol state of one socket.
pub struct Session {
    vsn: Vsn,
    transport: TransportKind,
    outbox: Arc<Outbox>,
    runtime: Arc<TenantRuntime>,
    /// The token of the handshake: what a channel uses that brings none.
    tenant_token: Arc<Token>,
    /// How long the log still waits for the sockets of its client's address.
    patience: Arc<Patience>,
    /// Headers of the handshake that policies see, as a JSON object.
    headers: Arc<str>,
    topics: HashMap<Arc<str>, Topic>,
    /// Counts this socket as a user, from its first join on.
    user: Option<UserSlot>,
    /// Joins that it may still ask for.
    joins: Joins,
    /// Whether a join ever succeeded: the place as a user is kept from then on.
    joined_once: bool,
    /// Keeps broadcasts from the database coming, from the first channel on.
    attendance: Option<Attendance>,
    /// Keeps what is said on other nodes coming.
    interest: Option<Interest>,
    /// Whether an [`Effect::WatchReplication`] is out.
    watching_replication: bool,
    /// Since when there is no channel, once a join was tried.
    abandoned_since: Option<Instant>,
    next_step: u32,
    joining: usize,
    waiting_bytes: usize,
    shutting_down: bool,
    /// What waited on channels that were closed in this step, of each for itself. Empty between steps.
    orphans: Vec<Waiting>,
    /// Keeps diffs of presence back while joins wait.
    diffs: Diffs,
    /// What it sends in each second.
    flood: Flood,
    /// What was published in this step and has to be given to others. Empty between steps.
    fan_outs: Vec<FanOut>,
    /// A room that could not keep up with what was published. The socket is not read meanwhile.
    congestion: Option<Congestion>,
}

/// Close code of a drain: the tenant's sockets are ended, or the node goes down (protocol 1.10, 12).
const CLOSE_RESTART: u16 = 1012;

impl Session {
    /// A session on which nothing is joined.
    #[must_use]
    pub fn new(
        vsn: Vsn,
        outbox: Arc<Outbox>,
        runtime: Arc<TenantRuntime>,
        tenant_token: Arc<Token>,
        headers: Arc<str>,
    ) -> Self {
        Self {
            vsn,
            transport: TransportKind::WebSocket,
            outbox,
            interest: runtime.interest(),
            patience: Arc::default(),
            runtime,
            tenant_token,
            headers,
            topics: HashMap::new(),
            user: None,
            joins: Joins::default(),
            joined_once: false,
            attendance: None,
            watching_replication: false,
            abandoned_since: None,
            next_step: 0,
            joining: 0,
            waiting_bytes: 0,
            shutting_down: false,
            orphans: Vec::new(),
            diffs: Diffs::of(vsn),
            flood: Flood::default(),
            fan_outs: Vec::new(),
            congestion: None,
        }
    }

    /// The same on another transport than a WebSocket: a label of metrics.
    #[must_use]
    pub fn over(mut self, transport: TransportKind) -> Self {
        self.transport = transport;
        self
    }

    /// The same for a client at an address.
    #[must_use]
    pub fn at(mut self, address: Option<IpAddr>) -> Self {
        self.patience = self.runtime.routes().patience(address);
        self
    }

    /// Bytes of messages that wait.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Where the session's frames go.
    #[must_use]
    pub fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    /// Whether more messages may be read. False while too much waits for joins to be decided or for rooms to
    /// keep up.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        self.waiting_bytes < MAX_WAITING_BYTES && self.joining < MAX_JOINING && self.congestion.is_none()
    }

    /// Returns when a room that could not keep up has done so; pending for ever while there is none. Cancel
    /// safe.
    pub async fn relieved(&mut self) {
        match &self.congestion {
            Some(congestion) => congestion.over().await,
            None => std::future::pending().await,
        }
        self.congestion = None;
    }

    /// The next moment at which [`tick`](Self::tick) has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.topics.values().filter_map(Topic::deadline).chain(self.diffs.deadline()).min()
    }

    /// When a socket without channels is given up (protocol 9.5): once it has tried to join, and has none.
    #[must_use]
    pub fn abandoned_at(&self) -> Option<Instant> {
        self.abandoned_since
            .filter(|_| self.topics.is_empty())
            .map(|since| since + self.runtime.no_channel_timeout())
    }

    /// Gives the members of rooms what was published since the last time.
    pub fn flush(&mut self) {
        for fan_out in self.fan_outs.drain(..) {
            fan_out.run();
        }
        if self.fan_outs.capacity() > 16 {
            self.fan_outs = Vec::new();
        }
        self.diffs.release(self.joining, Instant::now(), &self.outbox);
    }

    /// Acts on what happened elsewhere.
    pub fn signal(&mut self, signal: Signal, effects: &mut Vec<Effect>) {
        match signal {
            Signal::TooManyEvents(member) => {
                let topic = self.topics.values().find_map(|topic| match topic {
                    Topic::Joined(channel) if channel.membership.id() == member => Some(&channel.topic),
                    _ => None,
                });
                if let Some(topic) = topic.map(Arc::clone) {
                    self.stop_channel(&topic, push::TOO_MANY_EVENTS);
                }
            }
            Signal::Disconnect => {
                for (name, topic) in &self.topics {
                    if let Topic::Joined(_) = topic {
                        let frame =
                            encode::system(self.vsn, &Ref::null(), name, &SystemMessage::disconnect());
                        self.send(frame);
                        self.runtime.meters().events().add(1);
                    }
                }
                effects.push(Effect::Close(CLOSE_RESTART));
            }
            Signal::DatabaseReplaced { elsewhere } => self.database_replaced(elsewhere, effects),
            Signal::ShutDown => {
                self.shutting_down = true;
                effects.push(Effect::Close(CLOSE_RESTART));
            }
        }
        self.release_orphans(effects);
    }

    /// Takes one message from the client.
    ///
    /// What cannot be understood is dropped, the socket lives (protocol 2.5).
    pub fn receive(&mut self, opcode: Opcode, frame: Bytes, effects: &mut Vec<Effect>) {
        if self.floods() {
            return effects.push(Effect::Close(flood::CLOSE));
        }
        match decode(self.vsn, opcode, &frame) {
            Ok(message) => self.dispatch(message, effects),
            Err(error) => {
                let tenant = &**self.runtime.name();
                tracing::warn!(tenant, code = error.code().as_str(), %error, "message dropped");
            }
        }
        self.release_orphans(effects);
    }

    /// Takes messages that have waited on one topic. If one of them makes the topic wait again, those behind it stay in
    /// their queue: each is moved once, however often that happens.
    fn release(&mut self, mut waiting: Waiting, effects: &mut Vec<Effect>) {
        while let Some(next) = waiting.front() {
            if let Some(queue) = self.queue(&next.topic) {
                while let Some(message) = queue.pop_back() {
                    waiting.push_front(message);
                }
                *queue = waiting;
                return;
            }
            if let Some(message) = waiting.pop_front() {
                self.waiting_bytes -= message.size();
                self.dispatch(message, effects);
            }
        }
    }

    /// Takes what waited on channels that are closed now.
    fn release_orphans(&mut self, effects: &mut Vec<Effect>) {
        while let Some(orphans) = self.orphans.pop() {
            self.release(orphans, effects);
        }
    }

    /// Where messages on a topic have to wait, if they must.
    fn queue(&mut self, topic: &str) -> Option<&mut Waiting> {
        match self.topics.get_mut(topic) {
            Some(Topic::Joining(joining)) => Some(&mut joining.waiting),
            Some(Topic::Joined(channel)) => channel.waiting(),
            Some(Topic::First(_)) | None => None,
        }
    }

    fn dispatch(&mut self, message: ClientMessage, effects: &mut Vec<Effect>) {
        if let Some(queue) = self.queue(&message.topic) {
            // What it is a slice of may be much larger.
            let message = message.compact();
            let size = message.size();
            // Of tokens that wait one behind the other only the last counts.
            let is_token = |message: &ClientMessage| &*message.event == "access_token";
            let replaces = is_token(&message) && queue.back().is_some_and(is_token);
            let before = if replaces { queue.pop_back() } else { None };
            queue.push_back(message);
            self.waiting_bytes += size;
            self.waiting_bytes -= before.map_or(0, |before| before.size());
            return;
        }
        match (&*message.topic, &*message.event) {
            ("phoenix", "heartbeat") => {
                self.send(encode::reply_ok(self.vsn, &Ref::null(), &message.msg_ref, "phoenix", b"{}"));
            }
            (topic, "phx_join") if sub_topic(topic).is_some() => self.join(message, effects),
            (_, "phx_leave") => self.leave(&message),
            (topic, _) => match self.topics.get_mut(topic) {
                Some(Topic::Joined(_)) => self.push(message, effects),
                Some(Topic::First(_)) => self.first_push(&message, effects),
                _ => self.send(encode::reply_error(
                    self.vsn,
                    &Ref::null(),
                    &message.msg_ref,
                    topic,
                    "unmatched topic",
                )),
            },
        }
    }

    /// `phx_leave` (protocol 3.3).
    fn leave(&mut self, message: &ClientMessage) {
        if let Some(Topic::First(_)) = self.topics.get(&*message.topic) {
            return self.leave_first(message);
        }
        let Some(Topic::Joined(channel)) = self.topics.get(&*message.topic) else {
            self.send(encode::reply_ok(self.vsn, &message.join_ref, &message.msg_ref, &message.topic, b"{}"));
            return;
        };
        let stale = !message.join_ref.is_null()
            && !channel.raw_join_ref.is_null()
            && message.join_ref != channel.raw_join_ref;
        if stale {
            return;
        }
        let reply = encode::reply_ok(self.vsn, &channel.join_ref, &message.msg_ref, &channel.topic, b"{}");
        self.end_channel(&message.topic, Some(reply));
    }

    /// Takes the outcome of a slow step.
    pub fn complete(&mut self, completion: Completion, effects: &mut Vec<Effect>) {
        match completion {
            Completion::Database(ticket, result) => self.database_answered(&ticket, result, effects),
            Completion::Subscribed(ticket, result) => match self.topics.get(&ticket.topic) {
                Some(Topic::First(_)) => self.first_answered(&ticket, result),
                _ => self.subscription_answered(&ticket, result, effects),
            },
            Completion::Read(ticket, result) => match self.topics.get(&ticket.topic) {
                Some(Topic::Joining(_)) => self.join_read_answered(&ticket, result, effects),
                _ => self.channel_read_answered(&ticket, result, effects),
            },
            Completion::Write(ticket, result) => self.write_answered(&ticket, result, effects),
            Completion::Replayed(ticket, result) => self.replay_answered(&ticket, result, effects),
            Completion::ReplicationDiffers => self.replication_differs(effects),
        }
        self.release_orphans(effects);
    }

    /// Does what has become due: tokens that expire, subscriptions to be tried again.
    pub fn tick(&mut self, effects: &mut Vec<Effect>) {
        let now = Instant::now();
        let due: Vec<Arc<str>> = self
            .topics
            .iter()
            .filter(|(_, topic)| topic.deadline().is_some_and(|at| at <= now))
            .map(|(name, _)| Arc::clone(name))
            .collect();
        for topic in due {
            if let Some(Topic::Joining(_)) = self.topics.get(&topic) {
                self.answer_join(&topic, effects);
                continue;
            }
            self.tick_first(&topic, now, effects);
            self.recheck_token(&topic, now, effects);
            self.recheck_former(&topic, now, effects);
            self.renew(&topic, effects);
            self.retry_subscription(&topic, now, effects);
            self.give_up_replication(&topic, now);
            self.take_merged(&topic, now);
        }
        self.release_orphans(effects);
    }

    /// Ends all channels: presence leaves are told to others, subscriptions end. For when the socket is gone.
    pub fn end(&mut self) {
        self.congestion = None;
        self.topics.clear();
        self.user = None;
        self.attendance = None;
        self.flush();
        self.interest = None;
    }

    /// The joined channel of a topic.
    fn channel_mut(&mut self, topic: &str) -> Option<&mut Channel> {
        match self.topics.get_mut(topic) {
            Some(Topic::Joined(channel)) => Some(channel),
            _ => None,
        }
    }

    /// Ends a channel and tells the client (`phx_close`).
    fn close_channel(&mut self, topic: &str) {
        self.end_channel(topic, None);
    }

    /// Ends a channel. Nothing comes between the reply to a leave and the close: clients take that for a loss.
    fn end_channel(&mut self, topic: &str, reply: Option<Bytes>) {
        if let Some(Topic::Joined(mut channel)) = self.topics.remove(topic) {
            channel.watch = None;
            self.orphans.extend(channel.policies.take().map(|policies| policies.waiting));
            self.abandoned_since = Some(Instant::now());
            let close = encode::close(self.vsn, &channel.raw_join_ref, topic);
            let frames: Vec<&Bytes> = reply.iter().chain([&close]).collect();
            // A closed outbox means that the socket is ending.
            let _ = self.outbox.send(&frames);
        }
    }

    /// Ends a channel because of an error: a `system` frame that says why, then `phx_close` (protocol 3.8).
    fn stop_channel(&mut self, topic: &str, message: &str) {
        self.system(topic, &SystemMessage::error(message.to_owned()));
        self.close_channel(topic);
        tracing::warn!(tenant = &**self.runtime.name(), code = "ChannelShutdown", "{message}");
    }

    /// Sends a `system` frame on a joined channel.
    fn system(&mut self, topic: &str, message: &SystemMessage) {
        if let Some(Topic::Joined(channel)) = self.topics.get(topic) {
            self.send(encode::system(self.vsn, &channel.join_ref, topic, message));
        }
    }

    /// Queues a frame to the client, to be written when the step is over. A closed outbox means that the socket is ending: nothing to do.
    fn send(&self, frame: Bytes) {
        let _ = self.outbox.queue(frame);
    }

    fn step(&mut self) -> u32 {
        self.next_step = self.next_step.wrapping_add(1);
        self.next_step
    }
}

/// Messages that wait on a topic that is being joined.
type Waiting = VecDeque<ClientMessage>;

#[cfg(test)]
mod tests;
