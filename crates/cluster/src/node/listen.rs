//! What this node hears from NATS.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
};

use async_nats::Subscriber;
use bytes::Bytes;
use futures_util::StreamExt as _;
use realtime_hub::Congestion;
use tokio::time::{self, Duration, Instant};

use super::Node;
use crate::{
    incoming::Incoming,
    members::Beat,
    outgoing::Snapshot,
    wire::{Direct, Told},
};

/// Bytes of a tenant's messages that may wait for a room that cannot keep up. Beyond it messages are lost, which shows
/// as a gap.
const MAX_WAITING: usize = 16_000_000;

/// How long messages of a tenant wait for a room.
const WAIT_FOR_ROOM: Duration = Duration::from_secs(5);

/// How long the first socket of a tenant waits for the state of other nodes. A client that joins later is told as it
/// becomes known, which is right too, only in more frames.
const FIRST_ANSWERS: Duration = Duration::from_secs(1);

/// Size of the parts of an answer, unless NATS takes less.
const PART: usize = 256 * 1024;

/// Bytes that a part needs beside the records.
const TOLD: usize = 512;

/// Hears the heartbeats of all nodes.
pub(crate) async fn beats(node: Arc<Node>) {
    let Some(mut messages) = node.link.subscribe(node.link.subjects.nodes()).await else { return };
    node.link.resumed.notify_one();
    while let Some(message) = node.link.next(&mut messages).await {
        node.link.received(&message);
        match serde_json::from_slice::<Beat>(&message) {
            Ok(beat) => node.heard(beat).await,
            Err(error) => tracing::debug!(%error, "cannot read a heartbeat"),
        }
    }
}

/// Hears questions and answers for this node.
pub(crate) async fn direct(node: Arc<Node>) {
    let Some(mut messages) = node.link.subscribe(node.link.subjects.node(node.link.id)).await else { return };
    while let Some(message) = node.link.next(&mut messages).await {
        node.link.received(&message);
        match Direct::decode(message) {
            Ok((from, Direct::Want { ask, tenants })) => {
                node.link.tasks.spawn(answer(Arc::clone(&node), from, ask, tenants));
            }
            Ok((from, Direct::Told(told))) => {
                let incoming = node.peers.tenant(&told.tenant);
                if let Some(incoming) = incoming
                    && let Err(error) = incoming.told(&node.hub, from, told)
                {
                    node.link.malformed(error);
                }
            }
            Ok((from, Direct::Ping(number))) => node.tell(from, &Direct::Pong(number)).await,
            Ok((_, Direct::Pong(number))) => node.pong(number),
            Err(error) => node.link.malformed(error),
        }
    }
}

/// Tells a node this node's state of tenants.
async fn answer(node: Arc<Node>, to: u32, ask: u64, tenants: Vec<Arc<str>>) {
    for tenant in tenants {
        if let Some(incoming) = node.peers.tenant(&tenant) {
            // Users who came since the last heartbeat count too.
            node.outgoing.users(&tenant, incoming.side().users());
        }
        let Snapshot { as_of, mut records } = node.outgoing.snapshot(&tenant);
        let max = node.link.max_payload().saturating_sub(TOLD).clamp(1, PART);
        let mut offset = 0;
        loop {
            let part = records.split_to(max.min(records.len()));
            let last = records.is_empty();
            let length = part.len() as u64;
            let told = Told { ask, tenant: Arc::clone(&tenant), as_of, offset, last, records: part };
            node.tell(to, &Direct::Told(told)).await;
            if last {
                break;
            }
            offset += length;
        }
    }
}

/// Hears what is said about a tenant, while this node has sockets of it.
pub(crate) async fn tenant(node: Arc<Node>, incoming: Arc<Incoming>) {
    note_isolation(&node, &incoming);
    let answered_by = Instant::now() + FIRST_ANSWERS;
    let Some(mut messages) = subscribe(&node, &incoming, answered_by).await else { return };
    let begin = begin(&node, &incoming);
    tokio::pin!(begin);
    let mut begun = false;
    let mut waiting = Waiting::default();
    loop {
        tokio::select! {
            biased;
            () = incoming.stop.cancelled() => break,
            () = node.link.stop.cancelled() => break,
            message = messages.next() => match message {
                Some(message) => waiting.push(&node, message.payload),
                None => break,
            },
            () = &mut begin, if !begun => {
                begun = true;
                if incoming.is_complete() {
                    incoming.ready.send_replace(true);
                }
            }
            () = waiting.relieved() => {}
            () = time::sleep_until(answered_by), if !*incoming.ready.borrow() => {
                incoming.ready.send_replace(true);
            }
        }
        while let Some(message) = waiting.pop() {
            hear(&node, &incoming, message, &mut waiting).await;
        }
    }
    incoming.forget_all(&node.hub);
}

/// Lets nobody wait for other nodes while there is no connection: nothing would be heard. The members are told once there
/// is one.
fn note_isolation(node: &Node, incoming: &Incoming) {
    if node.link.is_connected() {
        return;
    }
    incoming.alone.store(true, Ordering::SeqCst);
    // Looked at again: a connection that was made in between has not seen the note.
    if !node.link.is_connected() {
        incoming.ready.send_replace(true);
    }
}

/// Subscribes to a tenant's messages. Sockets wait for it until `answered_by` at most: the client may not get to it before
/// there is a connection.
async fn subscribe(node: &Node, incoming: &Incoming, answered_by: Instant) -> Option<Subscriber> {
    let subscribing = node.link.subscribe(node.link.subjects.tenant(&incoming.tenant));
    tokio::pin!(subscribing);
    let subscribed = loop {
        tokio::select! {
            biased;
            () = incoming.stop.cancelled() => return None,
            subscribed = &mut subscribing => break subscribed,
            () = time::sleep_until(answered_by), if !*incoming.ready.borrow() => {
                incoming.ready.send_replace(true);
            }
        }
    };
    if subscribed.is_none() {
        incoming.ready.send_replace(true);
    }
    subscribed
}

/// Asks all nodes about a tenant, once the server has read the subscription: what they say after their answers is heard.
async fn begin(node: &Node, incoming: &Arc<Incoming>) {
    node.link.barrier().await;
    node.ask_all(incoming).await;
}

/// Takes a message about a tenant.
async fn hear(node: &Node, incoming: &Arc<Incoming>, message: Bytes, waiting: &mut Waiting) {
    match incoming.envelope(&node.hub, &node.asks, message.clone()) {
        Ok(outcome) => {
            waiting.jams = outcome.congested;
            waiting.jammed_until = Instant::now() + WAIT_FOR_ROOM;
            node.gaps.fetch_add(outcome.gap.into(), Ordering::Relaxed);
            if let (Some(ask), Some(from)) = (outcome.ask, sender(&message)) {
                node.put_question(from, ask, std::slice::from_ref(incoming)).await;
            }
        }
        Err(error) => node.link.malformed(error),
    }
}

/// The node that sent an envelope.
fn sender(message: &Bytes) -> Option<u32> {
    crate::wire::Header::decode(&mut message.clone()).ok().map(|header| header.node)
}

/// Messages of a tenant that wait for rooms that could not keep up. Empty most of the time.
struct Waiting {
    messages: VecDeque<Bytes>,
    bytes: usize,
    jams: Vec<Congestion>,
    jammed_until: Instant,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { messages: VecDeque::new(), bytes: 0, jams: Vec::new(), jammed_until: Instant::now() }
    }
}

impl Waiting {
    fn push(&mut self, node: &Node, message: Bytes) {
        node.link.received(&message);
        if self.bytes + message.len() <= MAX_WAITING {
            self.bytes += message.len();
            self.messages.push_back(message);
        }
    }

    /// The next message, if rooms can take it.
    fn pop(&mut self) -> Option<Bytes> {
        if !self.jams.is_empty() {
            if Instant::now() < self.jammed_until && !self.jams.iter().all(Congestion::is_over) {
                return None;
            }
            self.jams.clear();
        }
        let message = self.messages.pop_front()?;
        self.bytes -= message.len();
        Some(message)
    }

    /// Returns when rooms can take more, or have had enough time; pending while no room is congested. Cancel safe.
    async fn relieved(&self) {
        if self.jams.is_empty() {
            return std::future::pending().await;
        }
        let over = async {
            for jam in &self.jams {
                jam.over().await;
            }
        };
        let _ = time::timeout_at(self.jammed_until, over).await;
    }
}
