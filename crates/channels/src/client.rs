//! The client of a session: where its frames go, what they are made with, and what a step leaves behind for others.

use std::{
    net::IpAddr,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture};
use realtime_hub::{Delivery, FanOut, Outbox};
use realtime_postgres::AuthorizeRequest;
use realtime_protocol::{Ref, SystemMessage, Vsn, encode};

use crate::{
    counters::TransportKind, diffs::Diffs, effect::Ticket, patience::Patience, tenant_runtime::TenantRuntime,
    token::Token,
};

/// The client of a session.
pub(crate) struct Client {
    pub(crate) vsn: Vsn,
    pub(crate) transport: TransportKind,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) runtime: Arc<TenantRuntime>,
    /// The token of the handshake: channels that bring no token of their own use it.
    pub(crate) token: Arc<Token>,
    /// How long the log still waits for the sockets of this client's address.
    pub(crate) patience: Arc<Patience>,
    /// Headers of the handshake that policies see, as a JSON object.
    headers: Arc<str>,
    /// What the broadcasts begin with that it wants, if it does not want all: of a stream of events.
    pub(crate) only: Option<Arc<[u8]>>,
    /// Holds back presence diffs while joins wait.
    pub(crate) diffs: Diffs,
    /// The number of the last slow step.
    last_step: u32,
    /// Bytes of messages that wait on its topics.
    pub(crate) waiting_bytes: usize,
    /// What this step published and others still have to get. Empty between steps.
    fan_outs: Vec<FanOut>,
    /// Until the room has kept up that could not keep up with what was published. The client is not read meanwhile.
    congestion: Option<BoxFuture<'static, ()>>,
}

impl Client {
    pub(crate) fn new(
        vsn: Vsn,
        outbox: Arc<Outbox>,
        runtime: Arc<TenantRuntime>,
        token: Arc<Token>,
        headers: Arc<str>,
    ) -> Self {
        Self {
            vsn,
            transport: TransportKind::WebSocket,
            outbox,
            runtime,
            token,
            patience: Arc::default(),
            headers,
            only: None,
            diffs: Diffs::of(vsn),
            last_step: 0,
            waiting_bytes: 0,
            fan_outs: Vec::new(),
            congestion: None,
        }
    }

    /// Sets the client's address.
    pub(crate) fn set_address(&mut self, address: Option<IpAddr>) {
        self.patience = self.runtime.routes().patience(address);
    }

    /// The tenant's `external_id`, for log lines.
    pub(crate) fn tenant(&self) -> &str {
        self.runtime.name()
    }

    /// Queues a frame, to be written when the step is over. A closed outbox means that the socket is ending: nothing to do.
    pub(crate) fn send(&self, frame: Bytes) {
        let _ = self.outbox.queue(frame);
    }

    /// Sends a `system` frame of a channel.
    pub(crate) fn system(&self, join_ref: &Ref, topic: &str, message: &SystemMessage) {
        self.runtime.counters().notices.told(message, 1);
        self.send(encode::system(self.vsn, join_ref, topic, message));
    }

    /// Numbers a slow step that begins.
    pub(crate) fn step(&mut self) -> u32 {
        self.last_step = self.last_step.wrapping_add(1);
        self.last_step
    }

    /// A ticket for a slow step that begins.
    pub(crate) fn ticket(&mut self, topic: &Arc<str>) -> Ticket {
        Ticket { topic: Arc::clone(topic), step: self.step() }
    }

    /// The question to the policies for the bearer of a token.
    pub(crate) fn question(&self, topic: &str, token: &Token, presence: bool) -> Box<AuthorizeRequest> {
        Box::new(AuthorizeRequest {
            role: Arc::clone(&token.role),
            claims: Arc::clone(&token.claims),
            topic: sub_topic(topic).unwrap_or_default().into(),
            headers: Arc::clone(&self.headers),
            presence,
        })
    }

    /// Keeps a broadcast until the step is over; then others get it.
    pub(crate) fn said(&mut self, delivery: Delivery) {
        self.fan_outs.extend(delivery.run);
        self.congestion =
            delivery.congestion.map(|congestion| async move { congestion.over().await }.boxed());
    }

    /// Keeps a change of presence until the step is over; then others are told.
    pub(crate) fn changed(&mut self, fan_out: Option<FanOut>) {
        self.fan_outs.extend(fan_out);
    }

    /// Gives others what was published since the last time.
    pub(crate) fn publish(&mut self) {
        for fan_out in self.fan_outs.drain(..) {
            fan_out.run();
        }
        if self.fan_outs.capacity() > 16 {
            self.fan_outs = Vec::new();
        }
    }

    /// Whether a room could not keep up with what was published.
    pub(crate) fn is_congested(&self) -> bool {
        self.congestion.is_some()
    }

    /// Ready when that room has kept up. Pending for ever if there is none.
    pub(crate) fn poll_relieved(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(over) = &mut self.congestion else { return Poll::Pending };
        let polled = over.as_mut().poll(cx);
        if polled.is_ready() {
            self.congestion = None;
        }
        polled
    }

    /// Ends all waiting for the client, which is gone.
    pub(crate) fn gone(&mut self) {
        self.congestion = None;
    }
}

/// The part of a topic after `realtime:`. `None` if it does not begin so.
pub(crate) fn sub_topic(topic: &str) -> Option<&str> {
    topic.strip_prefix("realtime:")
}
