//! What a node asks another for its operators: metrics, how it is, what runs of a tenant there. Questions and answers
//! are opaque here.
//!
//! A question goes to a subject of the node's own, apart from what nodes tell each other of tenants, so a long answer
//! holds none of that up. If the node is gone nobody listens there, and NATS says so at once. An answer comes in pieces,
//! each `version u8, kind u8, number u32` and a part of it; one that does not come to its end, or lacks a piece, is none.

use std::{fmt, sync::Arc};

use async_nats::{Message, StatusCode};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures_util::{StreamExt as _, future::BoxFuture};
use parking_lot::RwLock;
use tokio::{
    sync::Semaphore,
    time::{self, Duration, Instant},
};

use crate::{
    Cluster,
    node::{Inner, MARGIN, subscribe},
    wire::WIRE_VERSION,
};

/// Questions that a node works on at once; further ones are refused.
const AT_ONCE: usize = 32;

/// Largest answer. Metrics of ten thousand tenants, compressed, are a tenth of it.
const MAX_ANSWER: usize = 32_000_000;

/// Size of the pieces: what is said in rooms goes between them.
const PIECE: usize = 128 * 1024;

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

/// What answers, once there is something.
pub(crate) struct Answers {
    answerer: RwLock<Option<Arc<dyn Answerer>>>,
    places: Arc<Semaphore>,
}

impl Default for Answers {
    fn default() -> Self {
        Self { answerer: RwLock::default(), places: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers").finish_non_exhaustive()
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// There is no connection to NATS.
    #[error("Not connected to NATS")]
    NotConnected,
    /// The node is gone, or of a release that is not asked such questions.
    #[error("The node does not listen")]
    Gone,
    /// It did not answer in time.
    #[error("Node request timeout")]
    Timeout,
    /// It does not understand the question, or has too many.
    #[error("The node refused the question")]
    Refused,
    /// A part of the answer was lost, or it is larger than it may be.
    #[error("The answer is not whole")]
    Broken,
}

impl Cluster {
    /// Says what answers the questions of other nodes. Until then they are refused.
    pub fn set_answerer(&self, answerer: Arc<dyn Answerer>) {
        *self.0.answers.answerer.write() = Some(answerer);
    }

    /// Asks another node something, and waits for its answer as long as `limit`, and as the node is heard. Cancel safe.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn ask(&self, node: u32, question: Bytes, limit: Duration) -> Result<Bytes, AskError> {
        let inner = &self.0;
        let client = inner.client.get().filter(|_| inner.is_connected()).ok_or(AskError::NotConnected)?;
        let exchange = async {
            let inbox = client.new_inbox();
            let mut pieces = client.subscribe(inbox.clone()).await.map_err(|_| AskError::NotConnected)?;
            let mut message = BytesMut::with_capacity(question.len() + 1);
            message.put_u8(WIRE_VERSION);
            message.put_slice(&question);
            let subject = inner.subjects.questions(node);
            let sent = client.publish_with_reply(subject, inbox, message.freeze()).await;
            sent.map_err(|_| AskError::NotConnected)?;
            let mut answer = Answer::default();
            while let Some(piece) = pieces.next().await {
                if let Some(whole) = answer.take(piece)? {
                    return Ok(whole);
                }
            }
            Err(AskError::NotConnected)
        };
        tokio::select! {
            // Putting the question may take long too, if NATS takes nothing.
            answer = time::timeout(limit, exchange) => answer.unwrap_or(Err(AskError::Timeout)),
            () = inner.unheard(node) => Err(AskError::Gone),
            () = inner.lost() => Err(AskError::NotConnected),
        }
    }
}

impl Inner {
    /// Returns when a node is not heard any more.
    async fn unheard(&self, node: u32) {
        let mut ticks = time::interval(self.config.heartbeat);
        while self.hears(node) {
            ticks.tick().await;
        }
    }
}

/// An answer, as far as it has come.
#[derive(Debug, Default)]
struct Answer {
    body: BytesMut,
    number: u32,
}

impl Answer {
    /// Takes the next piece; the whole if that was the last.
    fn take(&mut self, message: Message) -> Result<Option<Bytes>, AskError> {
        if message.status == Some(StatusCode::NO_RESPONDERS) {
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

/// Questions of other nodes.
pub(crate) async fn listen(inner: Arc<Inner>) {
    let Some(mut questions) = subscribe(&inner, inner.subjects.questions(inner.id)).await else { return };
    loop {
        let message = tokio::select! {
            () = inner.stop.cancelled() => return,
            message = questions.next() => message,
        };
        let Some(message) = message else { return };
        inner.received(&message.payload);
        let mut question = message.payload;
        let Some(reply) = message.reply else { continue };
        if question.try_get_u8() != Ok(WIRE_VERSION) {
            inner.malformed(crate::wire::Malformed);
            continue;
        }
        let answerer = inner.answers.answerer.read().clone();
        let place = Arc::clone(&inner.answers.places).try_acquire_owned();
        let inner = Arc::clone(&inner);
        let tasks = inner.tasks.clone();
        tasks.spawn(async move {
            let answer = match (answerer, &place) {
                (Some(answerer), Ok(_)) => {
                    tokio::select! {
                        answer = answerer.answer(question) => answer,
                        () = inner.stop.cancelled() => return,
                    }
                }
                _ => None,
            };
            let begun = Instant::now();
            let size = PIECE.min(inner.max_payload().saturating_sub(HEADER + MARGIN));
            for piece in pieces(answer, size) {
                inner.publish(reply.to_string(), piece).await;
            }
            tracing::trace!(took = ?begun.elapsed(), "answered a node");
        });
    }
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
