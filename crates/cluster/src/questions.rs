//! What a node asks another: for its operators metrics, its status, what it runs of a tenant; and what it has kept of a room.
//! Questions and answers of operators are opaque here.
//!
//! A question goes to a subject of the node's own, apart from what nodes tell each other about tenants, so a long answer
//! holds none of that up. If the node is gone nobody listens there, and NATS says so at once. An answer comes in pieces,
//! each of them `version u8, kind u8, number u32` and a part of the answer. An answer that lacks a piece is dropped.

use std::{fmt, sync::Arc};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use parking_lot::RwLock;
use realtime_hub::{Hub, RoomKey};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{self, Duration, Instant},
};

use crate::{
    link::{Link, MARGIN, Received},
    peers::Peers,
    wire::{Malformed, WIRE_VERSION, past},
};

/// Questions that a node works on at once; further ones are refused.
const AT_ONCE: usize = 32;

/// Largest answer. Metrics of ten thousand tenants, compressed, are a tenth of it.
const MAX_ANSWER: usize = 32_000_000;

/// Size of the pieces. What is said in rooms goes between them.
const PIECE: usize = 128 * 1024;

/// Bytes of messages in an answer about a room. A longer history is told in part, and reaches back less far.
const MOST_OF_A_ROOM: usize = 4_000_000;

const HEADER: usize = 6;

/// A piece that is followed by others.
const MORE: u8 = 0;
/// The last piece.
const LAST: u8 = 1;
/// No answer: the question is not understood, or there are too many.
const REFUSED: u8 = 2;

/// What answers the questions of other nodes.
pub trait Answerer: Send + Sync {
    /// The answer; `None` if the question is not understood, or cannot be answered.
    fn answer(&self, question: Bytes) -> BoxFuture<'static, Option<Bytes>>;
}

/// The questions of this node and of others.
pub(crate) struct Questions {
    link: Arc<Link>,
    peers: Arc<Peers>,
    /// Answers questions about rooms.
    hub: Arc<Hub>,
    /// Answers the questions of others, once it is set.
    answerer: RwLock<Option<Arc<dyn Answerer>>>,
    /// One permit for each question that is being answered.
    permits: Arc<Semaphore>,
}

impl fmt::Debug for Questions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Questions").finish_non_exhaustive()
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// There is no connection to NATS.
    #[error("Not connected to NATS")]
    NotConnected,
    /// The node is gone, or its release knows no such questions.
    #[error("The node does not listen")]
    Gone,
    /// The node did not answer in time.
    #[error("Node request timeout")]
    Timeout,
    /// The node does not understand the question, or has too many.
    #[error("The node refused the question")]
    Refused,
    /// A part of the answer was lost, or it is larger than it may be.
    #[error("The answer is incomplete")]
    Broken,
}

impl Questions {
    pub(crate) fn new(link: &Arc<Link>, peers: &Arc<Peers>, hub: &Arc<Hub>) -> Self {
        Self {
            link: Arc::clone(link),
            peers: Arc::clone(peers),
            hub: Arc::clone(hub),
            answerer: RwLock::default(),
            permits: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// Sets what answers the questions of other nodes. Until then they are refused.
    pub(crate) fn set_answerer(&self, answerer: Arc<dyn Answerer>) {
        *self.answerer.write() = Some(answerer);
    }

    /// Asks another node something, and waits for its answer for `limit` at most, and only while the node is heard. Cancel
    /// safe.
    pub(crate) async fn ask(&self, node: u32, question: Bytes, limit: Duration) -> Result<Bytes, AskError> {
        tokio::select! {
            biased;
            // Sending the question may take long too, if NATS takes nothing.
            answer = time::timeout(limit, self.exchange(node, &question)) => {
                answer.unwrap_or(Err(AskError::Timeout))
            }
            () = self.unheard(node) => Err(AskError::Gone),
            () = self.link.lost() => Err(AskError::NotConnected),
        }
    }

    /// Sends a question and collects its answer.
    async fn exchange(&self, node: u32, question: &Bytes) -> Result<Bytes, AskError> {
        let client = self.link.client().ok_or(AskError::NotConnected)?;
        let inbox = client.new_inbox();
        let mut pieces = client.subscribe(inbox.clone()).await.map_err(|_| AskError::NotConnected)?;
        let mut message = BytesMut::with_capacity(question.len() + 1);
        message.put_u8(WIRE_VERSION);
        message.put_slice(question);
        let subject = self.link.subjects.questions(node);
        let sent = client.publish_with_reply(subject, inbox, message.freeze()).await;
        sent.map_err(|_| AskError::NotConnected)?;
        let mut answer = Answer::default();
        while let Some(piece) = pieces.next().await {
            if let Some(whole) = answer.take(piece)? {
                return Ok(whole);
            }
        }
        Err(AskError::NotConnected)
    }

    /// Returns when a node is not heard any more.
    async fn unheard(&self, node: u32) {
        let mut ticks = time::interval(self.link.config.heartbeat);
        while self.peers.hears(node) {
            ticks.tick().await;
        }
    }

    /// Listens for the questions of other nodes, and answers them.
    pub(crate) async fn listen(self: Arc<Self>) {
        let link = &self.link;
        let Some(mut questions) = link.subscribe(link.subjects.questions(link.id)).await else { return };
        loop {
            let message = tokio::select! {
                biased;
                () = link.stop.cancelled() => return,
                message = questions.next() => message,
            };
            let Some(message) = message else { return };
            link.received(&message.payload);
            let mut question = message.payload;
            let Some(reply) = message.reply else { continue };
            if question.try_get_u8() != Ok(WIRE_VERSION) {
                link.malformed(Malformed);
                continue;
            }
            let permit = Arc::clone(&self.permits).try_acquire_owned().ok();
            let answering = Arc::clone(&self).answer(question, reply.to_string(), permit);
            link.spawn(answering);
        }
    }

    /// Answers a question; without a permit it is refused.
    async fn answer(self: Arc<Self>, question: Bytes, reply: String, permit: Option<OwnedSemaphorePermit>) {
        let answerer = self.answerer.read().clone().filter(|_| permit.is_some());
        let room = match past::asked_room(question.clone()) {
            Ok(room) => room,
            Err(error) => return self.link.malformed(error),
        };
        let answer = match answerer {
            _ if room.is_some() => {
                let of = |room: RoomKey| past::encode(&self.hub.tell_history(&room, MOST_OF_A_ROOM));
                permit.as_ref().and(room).map(of)
            }
            Some(answerer) => {
                tokio::select! {
                    biased;
                    answer = answerer.answer(question) => answer,
                    () = self.link.stop.cancelled() => return,
                }
            }
            None => None,
        };
        let begun = Instant::now();
        let size = PIECE.min(self.link.max_payload().saturating_sub(HEADER + MARGIN));
        for piece in pieces(answer, size) {
            self.link.publish(reply.clone(), piece).await;
        }
        tracing::trace!(took = ?begun.elapsed(), "answered a node");
    }
}

/// An answer, as far as it has come.
#[derive(Debug, Default)]
struct Answer {
    body: BytesMut,
    number: u32,
}

impl Answer {
    /// Takes the next piece; returns the whole answer if that was the last.
    fn take(&mut self, message: Received) -> Result<Option<Bytes>, AskError> {
        if message.is_nobody {
            return Err(AskError::Gone);
        }
        self.piece(message.payload)
    }

    fn piece(&mut self, mut piece: Bytes) -> Result<Option<Bytes>, AskError> {
        if piece.len() < HEADER || piece.get_u8() != WIRE_VERSION {
            return Err(AskError::Broken);
        }
        let (kind, number) = (piece.get_u8(), piece.get_u32());
        if kind == REFUSED {
            return Err(AskError::Refused);
        }
        if number != self.number || self.body.len() + piece.len() > MAX_ANSWER {
            return Err(AskError::Broken);
        }
        self.number += 1;
        self.body.put_slice(&piece);
        match kind {
            MORE => Ok(None),
            LAST => Ok(Some(std::mem::take(&mut self.body).freeze())),
            _ => Err(AskError::Broken),
        }
    }
}

/// The pieces of an answer.
fn pieces(answer: Option<Bytes>, size: usize) -> Vec<Bytes> {
    let piece = |kind, number, body: &[u8]| {
        let mut piece = BytesMut::with_capacity(HEADER + body.len());
        piece.put_u8(WIRE_VERSION);
        piece.put_u8(kind);
        piece.put_u32(number);
        piece.put_slice(body);
        piece.freeze()
    };
    let Some(answer) = answer.filter(|answer| answer.len() <= MAX_ANSWER) else {
        return vec![piece(REFUSED, 0, &[])];
    };
    if answer.is_empty() {
        return vec![piece(LAST, 0, &[])];
    }
    let mut bodies = answer.chunks(size.max(1)).peekable();
    let mut pieces = Vec::new();
    let mut number = 0;
    while let Some(body) = bodies.next() {
        pieces.push(piece(if bodies.peek().is_some() { MORE } else { LAST }, number, body));
        number += 1;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn together(pieces: impl IntoIterator<Item = Bytes>) -> Result<Option<Bytes>, AskError> {
        let mut answer = Answer::default();
        let mut whole = None;
        for piece in pieces {
            assert!(whole.is_none(), "nothing follows the last");
            whole = answer.piece(piece)?;
        }
        Ok(whole)
    }

    #[test]
    fn answers_come_in_pieces() {
        let long: Bytes = (0..1000_u32).flat_map(u32::to_be_bytes).collect();
        for (answer, size, count) in
            [(Bytes::new(), 10, 1), (long.slice(..10), 10, 1), (long.slice(..11), 10, 2), (long, 7, 572)]
        {
            let pieces = pieces(Some(answer.clone()), size);
            assert_eq!(pieces.len(), count);
            assert_eq!(together(pieces), Ok(Some(answer)));
        }
    }

    #[test]
    fn what_is_not_whole_is_no_answer() {
        let whole = pieces(Some(Bytes::from_static(b"abcdef")), 2);
        assert_eq!(together(whole[..2].iter().cloned()), Ok(None));
        assert_eq!(together(whole[1..].iter().cloned()), Err(AskError::Broken));
        assert_eq!(together([whole[0].clone(), whole[2].clone()]), Err(AskError::Broken));
        assert_eq!(together([Bytes::from_static(b"\x01\x01")]), Err(AskError::Broken));
        assert_eq!(together([Bytes::from_static(b"\x09\x01\0\0\0\0")]), Err(AskError::Broken));
        assert_eq!(together([Bytes::from_static(b"\x01\x07\0\0\0\0")]), Err(AskError::Broken));
    }

    #[test]
    fn refusals() {
        assert_eq!(together(pieces(None, 10)), Err(AskError::Refused));
        let large = Bytes::from(vec![0; MAX_ANSWER + 1]);
        assert_eq!(together(pieces(Some(large), 1_000_000)), Err(AskError::Refused));
    }
}
