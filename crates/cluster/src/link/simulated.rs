//! A NATS of several servers in memory, for the simulation: what the client does, and how a node stands still.
//!
//! One seed is one run: time is tokio's, all tasks are on one thread, and what is random follows from the seed.

mod faults;
mod net;
mod routing;

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};

use async_nats::{PublishError, client::RequestErrorKind};
use bytes::Bytes;
pub(crate) use net::{Net, Sabotage, Traffic};
use parking_lot::Mutex;
use tokio::{
    sync::mpsc,
    time::{self, Duration},
};

use super::{Link, Received};

/// The largest message of a server as it is set up usually.
const MAX_PAYLOAD: usize = 1_048_576;

/// How long an answer is waited for, as by the real client.
const ANSWER: Duration = Duration::from_secs(2);

impl Link {
    /// Connects with a simulated server.
    pub(crate) fn connect_simulated(self: &Arc<Self>, net: &Arc<Net>, server: usize) -> usize {
        let peer = net.add(self, server);
        let _ = self.client.set(super::Client::Simulated(Client { net: Arc::clone(net), peer }));
        net.connect(peer, server);
        peer
    }
}

/// See [`super::Client`].
#[derive(Debug, Clone)]
pub(crate) struct Client {
    net: Arc<Net>,
    peer: usize,
}

/// See [`super::Subscriber`].
#[derive(Debug)]
pub(crate) struct Subscriber {
    messages: mpsc::Receiver<Received>,
    client: Client,
    number: u64,
}

impl Client {
    pub(crate) fn publish(
        &self,
        subject: String,
        reply: Option<String>,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        self.net.publish(self.peer, subject.into(), reply.map(Into::into), payload);
        Ok(())
    }

    pub(crate) fn subscribe(&self, subject: String) -> Subscriber {
        let (number, messages) = self.net.subscribe(self.peer, subject.into());
        Subscriber { messages, client: self.clone(), number }
    }

    pub(crate) async fn request(
        &self,
        subject: String,
        payload: Bytes,
        limit: Option<Duration>,
    ) -> Result<Bytes, RequestErrorKind> {
        let inbox = self.new_inbox();
        let mut answers = self.subscribe(inbox.clone());
        let _ = self.publish(subject, Some(inbox), payload);
        match time::timeout(limit.unwrap_or(ANSWER), answers.next()).await {
            Err(_) => Err(RequestErrorKind::TimedOut),
            Ok(None) => Err(RequestErrorKind::Other),
            Ok(Some(answer)) if answer.is_nobody => Err(RequestErrorKind::NoResponders),
            Ok(Some(answer)) => Ok(answer.payload),
        }
    }

    pub(crate) fn new_inbox(&self) -> String {
        format!("inbox.{}", self.net.number())
    }

    pub(crate) fn max_payload(&self) -> usize {
        MAX_PAYLOAD
    }
}

impl Subscriber {
    pub(crate) async fn next(&mut self) -> Option<Received> {
        self.messages.recv().await
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.client.net.unsubscribe(self.client.peer, self.number);
    }
}

/// Holds the tasks of a node while it stands still.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    is_shut: AtomicBool,
    numbers: AtomicU64,
    held: Mutex<BTreeMap<u64, Waker>>,
}

impl Gate {
    /// The node stands still from now on.
    pub(crate) fn shut(&self) {
        self.is_shut.store(true, Ordering::SeqCst);
    }

    /// It goes on.
    pub(crate) fn open(&self) {
        self.is_shut.store(false, Ordering::SeqCst);
        std::mem::take(&mut *self.held.lock()).into_values().for_each(Waker::wake);
    }

    /// A task that stands still with its node.
    pub(super) fn hold<F: Future<Output = ()> + Send>(gate: &Arc<Self>, task: F) -> Gated<F> {
        let number = gate.numbers.fetch_add(1, Ordering::Relaxed);
        Gated { gate: Arc::clone(gate), number, task: Box::pin(task) }
    }
}

/// A task of a node.
pub(super) struct Gated<F> {
    gate: Arc<Gate>,
    number: u64,
    task: Pin<Box<F>>,
}

impl<F: Future<Output = ()>> Future for Gated<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.gate.is_shut.load(Ordering::SeqCst) {
            self.gate.held.lock().insert(self.number, cx.waker().clone());
            return Poll::Pending;
        }
        self.task.as_mut().poll(cx)
    }
}
