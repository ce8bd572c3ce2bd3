//! What is heard from NATS.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use realtime_hub::Congestion;
use tokio::time::{self, Duration, Instant};

use super::{FIRST_ANSWERS, Inner};
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
const PATIENCE: Duration = Duration::from_secs(5);

/// Size of the parts of an answer, unless NATS takes less.
const PART: usize = 256 * 1024;

/// Room that a part needs beside the records.
const TOLD: usize = 512;

/// Heartbeats of all nodes.
pub(super) async fn beats(inner: Arc<Inner>) {
    let Some(mut messages) = subscribe(&inner, inner.subjects.nodes()).await else { return };
    inner.resumed.notify_one();
    while let Some(message) = next(&inner, &mut messages).await {
        inner.received(&message);
        match serde_json::from_slice::<Beat>(&message) {
            Ok(beat) => inner.heard(beat).await,
            Err(error) => tracing::debug!(%error, "heartbeat that cannot be read"),
        }
    }
}

/// Questions and answers for this node.
pub(super) async fn direct(inner: Arc<Inner>) {
    let Some(mut messages) = subscribe(&inner, inner.subjects.node(inner.id)).await else { return };
    while let Some(message) = next(&inner, &mut messages).await {
        inner.received(&message);
        match Direct::decode(message) {
            Ok((from, Direct::Want { ask, tenants })) => {
                inner.tasks.spawn(answer(Arc::clone(&inner), from, ask, tenants));
            }
            Ok((from, Direct::Told(told))) => {
                let incoming = inner.incoming.read().get(&told.tenant).map(Arc::clone);
                if let Some(incoming) = incoming
                    && let Err(error) = incoming.told(&inner.hub, from, told)
                {
                    inner.malformed(error);
                }
            }
            Ok((from, Direct::Ping(number))) => inner.tell(from, &Direct::Pong(number)).await,
            Ok((_, Direct::Pong(number))) => inner.pong(number),
            Err(error) => inner.malformed(error),
        }
    }
}

/// Tells a node all that is so here about tenants.
async fn answer(inner: Arc<Inner>, to: u32, ask: u64, tenants: Vec<Arc<str>>) {
    for tenant in tenants {
        if let Some(incoming) = inner.incoming.read().get(&tenant) {
            // Those who came since the last heartbeat count too.
            inner.outgoing.users(&tenant, incoming.side().users());
        }
        let Snapshot { as_of, mut records } = inner.outgoing.snapshot(&tenant);
        let max = inner.max_payload().saturating_sub(TOLD).clamp(1, PART);
        let mut offset = 0;
        loop {
            let part = records.split_to(max.min(records.len()));
            let last = records.is_empty();
            let length = part.len() as u64;
            let told = Told { ask, tenant: Arc::clone(&tenant), as_of, offset, last, records: part };
            inner.tell(to, &Direct::Told(told)).await;
            if last {
                break;
            }
            offset += length;
        }
    }
}

/// What is said about a tenant, while this node has sockets of it.
pub(super) async fn tenant(inner: Arc<Inner>, incoming: Arc<Incoming>) {
    // Without a connection nothing will be heard: nobody need wait for it. They are told when there is one.
    if !inner.is_connected() {
        incoming.alone.store(true, Ordering::SeqCst);
        // Still not: it is seen when there is a connection.
        if !inner.is_connected() {
            incoming.ready.send_replace(true);
        }
    }
    let answered_by = Instant::now() + FIRST_ANSWERS;
    let subscribing = subscribe(&inner, inner.subjects.tenant(&incoming.tenant));
    tokio::pin!(subscribing);
    let subscribed = loop {
        tokio::select! {
            biased;
            () = incoming.stop.cancelled() => return,
            subscribed = &mut subscribing => break subscribed,
            // The client may not get to it until there is a connection again.
            () = time::sleep_until(answered_by), if !*incoming.ready.borrow() => {
                incoming.ready.send_replace(true);
            }
        }
    };
    let Some(mut messages) = subscribed else {
        incoming.ready.send_replace(true);
        return;
    };
    let begin = async {
        if let Some(client) = inner.client.get()
            && inner.is_connected()
        {
            inner.barrier(client).await;
        }
        inner.ask_all(&incoming).await;
    };
    tokio::pin!(begin);
    let mut begun = false;
    let mut waiting = Waiting::default();
    loop {
        tokio::select! {
            biased;
            () = incoming.stop.cancelled() => break,
            () = inner.stop.cancelled() => break,
            message = messages.next() => match message {
                Some(message) => waiting.push(&inner, message.payload),
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
            match incoming.envelope(&inner.hub, &inner.asks, message.clone()) {
                Ok(outcome) => {
                    waiting.jams = outcome.congested;
                    waiting.jammed_until = Instant::now() + PATIENCE;
                    inner.counts.gaps.fetch_add(outcome.gap.into(), Ordering::Relaxed);
                    if let (Some(ask), Some(from)) = (outcome.ask, sender(&message)) {
                        inner.put_question(from, ask, std::slice::from_ref(&incoming)).await;
                    }
                }
                Err(error) => inner.malformed(error),
            }
        }
    }
    incoming.forget_all(&inner.hub);
}

/// Who sent an envelope.
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
    fn push(&mut self, inner: &Inner, message: Bytes) {
        inner.received(&message);
        if self.bytes + message.len() <= MAX_WAITING {
            self.bytes += message.len();
            self.messages.push_back(message);
        }
    }

    /// The next, if rooms can take it.
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

    /// Returns when rooms can take more, or have had time enough; pending while they could all along. Cancel safe.
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

pub(crate) async fn subscribe(inner: &Inner, subject: String) -> Option<async_nats::Subscriber> {
    let client = loop {
        match inner.client.get() {
            Some(client) => break client,
            // The server is still starting.
            None => {
                tokio::select! {
                    () = inner.stop.cancelled() => return None,
                    () = time::sleep(Duration::from_millis(10)) => {}
                }
            }
        }
    };
    let subscribed = tokio::select! {
        () = inner.stop.cancelled() => return None,
        subscribed = client.subscribe(subject) => subscribed,
    };
    match subscribed {
        Ok(subscriber) => Some(subscriber),
        Err(error) => {
            tracing::error!(code = "RpcError", %error, "cannot listen to other nodes");
            None
        }
    }
}

pub(super) async fn next(inner: &Inner, messages: &mut async_nats::Subscriber) -> Option<Bytes> {
    tokio::select! {
        () = inner.stop.cancelled() => None,
        message = messages.next() => message.map(|message| message.payload),
    }
}
