//! The session itself: takes what happens to the part that it concerns, and carries out what the part decides.

use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;
use realtime_cluster::Interest;
use realtime_hub::{Outbox, Signal};
use realtime_protocol::{ClientMessage, JoinRefusal, Opcode, Ref, SystemMessage, Vsn, decode, encode};
use tokio::time::Instant;

use super::{
    admission::{Admission, CLOSE_FLOOD, still_good},
    join::{Joining, Next, Request},
    ready::{Ready, Replicating},
    stop::{Stop, TOO_MANY_EVENTS},
    topics::{Topic, Topics},
    waiting::{Waiting, wait},
};
use crate::{
    client::{Client, sub_topic},
    counters::TransportKind,
    database::Attendance,
    effect::{Completion, Effect, Ticket},
    first_generation::{End, FirstChannel, Legacy},
    tenant_runtime::TenantRuntime,
    token::Token,
};

/// Bytes of messages that may wait for joins to be decided; beyond it the socket is not read.
const MAX_WAITING_BYTES: usize = 1_000_000;

/// Joins that may be undecided at once; beyond it the socket is not read.
const MAX_JOINING: usize = 100;

/// Close code of a drain: the tenant's sockets are ended, or the node goes down (protocol 1.10, 12).
const CLOSE_RESTART: u16 = 1012;

/// Close code after a refusal that ends the socket, and of tenants that vanished (protocol 1.10).
const CLOSE_GOING_AWAY: u16 = 1001;

/// Why a channel is stopped that was told too much while messages that it had missed were looked for.
const TOO_MANY_MEANWHILE: &str = "Too many messages came while stored messages were read";

/// The protocol state of one socket.
pub struct Session {
    client: Client,
    pub(super) topics: Topics,
    admission: Admission,
    /// The watch over broadcasts from the database.
    replicating: Replicating,
    /// Keeps broadcasts from the database coming, from the first channel on.
    attendance: Option<Attendance>,
    /// Keeps what is said on other nodes coming.
    interest: Option<Interest>,
    /// What serves the first generation, if it is served.
    legacy: Option<Arc<Legacy>>,
    /// What waited on channels that were closed in this step, of each for itself. Empty between steps.
    orphans: Vec<Waiting>,
}

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

    /// Sets another transport than a WebSocket: a label of metrics.
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

    /// Serves joins without `config` as the first generation did.
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

    /// Whether more messages may be read. False while too much waits for joins to be decided or for rooms to
    /// keep up.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        self.client.waiting_bytes < MAX_WAITING_BYTES
            && self.topics.joining() < MAX_JOINING
            && !self.client.is_congested()
    }

    /// Returns when a room that could not keep up has done so; pending for ever while there is none. Cancel
    /// safe.
    pub async fn relieved(&mut self) {
        self.client.relieved().await;
    }

    /// The next moment at which [`tick`](Self::tick) has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        [self.topics.deadline(), self.client.diffs.deadline()].into_iter().flatten().min()
    }

    /// When a socket without channels is given up (protocol 9.5): once it has tried to join, and has none.
    #[must_use]
    pub fn abandoned_at(&self) -> Option<Instant> {
        if self.topics.len() > 0 {
            return None;
        }
        self.admission.abandoned_at(self.client.runtime.no_channel_timeout())
    }

    /// Gives the members of rooms what was published since the last time.
    pub fn flush(&mut self) {
        self.client.publish();
        let Client { diffs, outbox, .. } = &mut self.client;
        diffs.release(self.topics.joining(), Instant::now(), outbox);
    }

    /// Ends all channels: presence leaves are told to others, subscriptions end. For when the socket is gone.
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
    /// What cannot be understood is dropped, the socket lives (protocol 2.5).
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

    /// Acts on what happened elsewhere.
    pub fn signal(&mut self, signal: Signal, effects: &mut Vec<Effect>) {
        match signal {
            Signal::TooManyEvents(member) => {
                if let Some(topic) = self.topics.of_member(member) {
                    self.stop(&topic, &TOO_MANY_EVENTS.into());
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
                    let next = joining.contacted(result);
                    self.advance(&topic, next, effects);
                }
            }
            Completion::Replayed(Ticket { topic, step }, result) => {
                if let Some(joining) = topics.joining_mut(&topic, step) {
                    let next = joining.replayed(result, client);
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

    /// Does what has become due: tokens that expire, subscriptions to be tried again.
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

/// Messages.
impl Session {
    fn dispatch(&mut self, message: ClientMessage, effects: &mut Vec<Effect>) {
        let Self { client, topics, .. } = self;
        if let Some(queue) = topics.queue(&message.topic) {
            return wait(queue, message, client);
        }
        match (&*message.topic, &*message.event) {
            ("phoenix", "heartbeat") => {
                client.send(encode::reply_ok(client.vsn, &Ref::null(), &message.msg_ref, "phoenix", b"{}"));
            }
            (topic, "phx_join") if sub_topic(topic).is_some() => self.join(message, effects),
            (_, "phx_leave") => self.leave(&message),
            (name, _) => match topics.get_mut(name) {
                Some(Topic::Joined(channel)) => {
                    if let Err(stop) = channel.push(message, client, effects) {
                        let topic = Arc::clone(&channel.topic);
                        self.stop(&topic, &stop);
                    }
                }
                Some(Topic::First(first)) => {
                    let outcome = first.push(&message, client, effects);
                    self.settle_first(&message.topic, outcome);
                }
                _ => {
                    let (vsn, null) = (client.vsn, Ref::null());
                    let text = "unmatched topic";
                    client.send(encode::reply_error(vsn, &null, &message.msg_ref, name, text));
                }
            },
        }
    }

    /// `phx_leave` (protocol 3.3).
    fn leave(&mut self, message: &ClientMessage) {
        let (vsn, msg_ref) = (self.client.vsn, &message.msg_ref);
        match self.topics.get_mut(&message.topic) {
            Some(Topic::First(first)) => {
                if first.leave(message, &self.client) {
                    self.settle_first(&message.topic, Err(End::Left));
                }
            }
            Some(Topic::Joined(channel)) => {
                let is_stale = !message.join_ref.is_null()
                    && !channel.raw_join_ref.is_null()
                    && message.join_ref != channel.raw_join_ref;
                if !is_stale {
                    let topic = Arc::clone(&channel.topic);
                    let reply = encode::reply_ok(vsn, &channel.join_ref, msg_ref, &topic, b"{}");
                    self.end_channel(&topic, Some(reply));
                }
            }
            Some(Topic::Joining(_)) | None => {
                let reply = encode::reply_ok(vsn, &message.join_ref, msg_ref, &message.topic, b"{}");
                self.client.send(reply);
            }
        }
    }

    /// Takes messages that have waited on one topic. If one of them makes the topic wait again, those behind it stay in
    /// their queue: each is moved once, however often that happens.
    fn release(&mut self, mut waiting: Waiting, effects: &mut Vec<Effect>) {
        while let Some(next) = waiting.front() {
            if let Some(queue) = self.topics.queue(&next.topic) {
                while let Some(message) = queue.pop_back() {
                    waiting.push_front(message);
                }
                *queue = waiting;
                return;
            }
            if let Some(message) = waiting.pop_front() {
                self.client.waiting_bytes -= message.size();
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
}

/// Joins.
impl Session {
    /// `phx_join` on a topic that begins with `realtime:`.
    fn join(&mut self, message: ClientMessage, effects: &mut Vec<Effect>) {
        let topic: Arc<str> = (&*message.topic).into();
        self.client.diffs.hold();
        // The old channel of a duplicate join ends first, whatever becomes of the new one (protocol 3.5).
        // Nothing is told of it: clients would take that to be of the new one (clients 2).
        self.topics.remove(&topic);
        let Self { client, topics, admission, legacy, .. } = self;
        let (payload, token) = match admission.admit(&message, topics.len(), legacy.as_ref(), client) {
            Ok(admitted) => admitted,
            Err(refusal) => {
                return self.refuse(&topic, &message.join_ref, &message.msg_ref, &refusal, effects);
            }
        };
        if let Some(legacy) = legacy.as_ref().filter(|_| payload.legacy) {
            let first = FirstChannel::join(legacy, Arc::clone(&topic), &message, token, client, effects);
            admission.joined();
            return topics.insert(topic, Topic::First(Box::new(first)));
        }
        let request = Request::new(Arc::clone(&topic), &message, payload, token, client);
        let is_ready = !request.is_private()
            && client.runtime.database().is_ready()
            && self.interest.as_ref().is_none_or(Interest::is_ready);
        let (joining, next) = Joining::begin(request, is_ready, client, effects);
        match next {
            Next::Waits => topics.insert(topic, Topic::Joining(Box::new(joining))),
            Next::Decided(_) => self.accept(joining, effects),
        }
    }

    /// A join is advanced: it waits for its next stage, or is decided.
    fn advance(&mut self, topic: &Arc<str>, next: Next, effects: &mut Vec<Effect>) {
        let Next::Decided(outcome) = next else { return };
        let Some(Topic::Joining(mut joining)) = self.topics.remove(topic) else { return };
        let waiting = std::mem::take(&mut joining.waiting);
        match outcome.and_then(|()| still_good(&joining.request.token, &self.client)) {
            Ok(()) => self.accept(*joining, effects),
            Err(refusal) => self.refuse_join(&joining.request, &refusal, effects),
        }
        self.release(waiting, effects);
    }

    /// The join succeeds. It is answered when what it wants to watch is watched.
    fn accept(&mut self, mut joining: Joining, effects: &mut Vec<Effect>) {
        if joining.watch(&mut self.client, effects) {
            let topic = Arc::clone(&joining.request.topic);
            self.topics.insert(topic, Topic::Joining(Box::new(joining)));
        } else {
            self.joined(joining, effects);
        }
    }

    /// Answers a join that has waited for what it watches, perhaps in vain.
    fn answer_join(&mut self, topic: &Arc<str>, effects: &mut Vec<Effect>) {
        let Some(Topic::Joining(mut joining)) = self.topics.remove(topic) else { return };
        let waiting = std::mem::take(&mut joining.waiting);
        match still_good(&joining.request.token, &self.client) {
            Ok(()) => self.joined(*joining, effects),
            Err(refusal) => self.refuse_join(&joining.request, &refusal, effects),
        }
        self.release(waiting, effects);
    }

    /// The join succeeded: it is answered, and what was asked for is started.
    fn joined(&mut self, joining: Joining, effects: &mut Vec<Effect>) {
        let Self { client, topics, admission, replicating, attendance, .. } = self;
        client.runtime.counters().node().joined(client.transport, true);
        let (mut channel, welcome, is_whole) = joining.joined(client);
        admission.joined();
        if attendance.is_none() {
            *attendance = Some(client.runtime.database().attend());
        }
        let topic = Arc::clone(&channel.topic);
        let outcome = if is_whole {
            channel.welcome(welcome, replicating, client, effects)
        } else {
            Err(TOO_MANY_MEANWHILE.into())
        };
        topics.insert(Arc::clone(&topic), Topic::Joined(Box::new(channel)));
        self.settle(&topic, outcome);
    }

    fn refuse_join(&mut self, request: &Request, refusal: &JoinRefusal, effects: &mut Vec<Effect>) {
        self.refuse(&request.topic, &request.raw_join_ref, &request.msg_ref, refusal, effects);
    }

    /// Answers a join with an error, after the back-off.
    fn refuse(
        &mut self,
        topic: &str,
        join_ref: &Ref,
        msg_ref: &Ref,
        refusal: &JoinRefusal,
        effects: &mut Vec<Effect>,
    ) {
        let client = &mut self.client;
        tracing::warn!(tenant = client.tenant(), code = refusal.code(), "{refusal}");
        client.runtime.counters().node().joined(client.transport, false);
        self.admission.refused(self.topics.joining() > 0);
        let reply = encode::reply_error(client.vsn, join_ref, msg_ref, topic, &refusal.to_string());
        let close = refusal.closes_socket().then_some(CLOSE_GOING_AWAY);
        let delay = client.runtime.channel_error_backoff();
        if delay.is_zero() {
            client.send(reply);
            effects.extend(close.map(Effect::Close));
        } else {
            client.diffs.refused_later();
            effects.push(Effect::SendLater(delay, vec![reply], close));
        }
    }
}

/// What happens to all channels, and how they end.
impl Session {
    /// The tenant's sockets are ended: each channel is told, then the socket is closed.
    fn disconnect(&mut self, effects: &mut Vec<Effect>) {
        let client = &self.client;
        for (name, topic) in self.topics.iter_mut() {
            if let Topic::Joined(_) = topic {
                client.system(&Ref::null(), name, &SystemMessage::disconnect());
                client.runtime.meters().events().add(1);
            }
        }
        effects.push(Effect::Close(CLOSE_RESTART));
    }

    /// The tenant's database has another handle. If it may be another database (`elsewhere`), its policies are asked about
    /// private channels anew.
    fn database_replaced(&mut self, elsewhere: bool, effects: &mut Vec<Effect>) {
        for topic in self.topics.names() {
            let client = &mut self.client;
            match self.topics.get_mut(&topic) {
                Some(Topic::Joined(channel)) => {
                    let outcome = channel.database_replaced(elsewhere, client, effects);
                    self.settle(&topic, outcome);
                }
                Some(Topic::Joining(joining)) => joining.database_replaced(elsewhere, client, effects),
                Some(Topic::First(first)) => first.database_replaced(client, effects),
                None => {}
            }
        }
    }

    /// What is known of broadcasts from the database has changed: tells the channels that asked.
    fn replication_differs(&mut self, effects: &mut Vec<Effect>) {
        let Self { client, topics, replicating, .. } = self;
        replicating.differs();
        for (_, topic) in topics.iter_mut() {
            if let Topic::Joined(channel) = topic
                && channel.ready != Ready::Unasked
            {
                // Before it is told: what changes meanwhile is seen by the watch.
                replicating.watch(client, effects);
                channel.tell_replication(client);
            }
        }
    }

    /// Ends a channel if it has to end.
    fn settle(&mut self, topic: &str, outcome: Result<(), Stop>) {
        if let Err(stop) = outcome {
            self.stop(topic, &stop);
        }
    }

    /// Takes what has waited for an answer, or ends the channel.
    fn go_on(&mut self, topic: &str, outcome: Result<Waiting, Stop>, effects: &mut Vec<Effect>) {
        match outcome {
            Ok(waiting) => self.release(waiting, effects),
            Err(stop) => self.stop(topic, &stop),
        }
    }

    /// Ends a channel because of an error: a `system` frame that says why, then `phx_close` (protocol 3.8).
    fn stop(&mut self, topic: &str, Stop(text): &Stop) {
        let Self { client, topics, .. } = self;
        if let Some(channel) = topics.channel_mut(topic) {
            client.system(&channel.join_ref, topic, &SystemMessage::error(text.clone().into_owned()));
        }
        self.end_channel(topic, None);
        tracing::warn!(tenant = self.client.tenant(), code = "ChannelShutdown", "{text}");
    }

    /// Ends a channel and tells the client (`phx_close`). Nothing comes between the reply to a leave and the close: clients
    /// take that for a loss.
    fn end_channel(&mut self, topic: &str, reply: Option<Bytes>) {
        if let Some(Topic::Joined(mut channel)) = self.topics.remove(topic) {
            channel.rows.end();
            self.orphans.extend(channel.policies.take().map(|policies| policies.waiting));
            self.admission.ended();
            let close = encode::close(self.client.vsn, &channel.raw_join_ref, topic);
            let frames: Vec<&Bytes> = reply.iter().chain([&close]).collect();
            // A closed outbox means that the socket is ending.
            let _ = self.client.outbox.send(&frames);
        }
    }

    /// Ends a channel of the first generation if it has to end.
    fn settle_first(&mut self, topic: &str, outcome: Result<(), End>) {
        let Err(end) = outcome else { return };
        if let Some(Topic::First(first)) = self.topics.remove(topic) {
            self.admission.ended();
            self.client.send(first.last_word(&end, &self.client));
        }
    }
}
