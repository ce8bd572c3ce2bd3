//! The body of an answer with many bytes of messages: made in pieces, as the client takes it.
//!
//! So frames are not copied as a whole, and those that many sessions get stay shared. They stay in their batch, which the
//! session takes back if its client polls again without having read this answer, and the node if it needs the memory.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use realtime_hub::{Batch, Revoked};
use realtime_protocol::frame;
use serde_json::Value;

use crate::turns::Line;

/// Bytes of messages in a piece, before they are written as JSON strings.
const PIECE: usize = 32 * 1024;

/// The answer to a poll.
pub(super) struct Messages {
    batch: Arc<Batch>,
    /// Where it waits for turns to make a piece.
    line: Line,
    /// What follows the messages.
    end: String,
    /// The frame that is written, and the bytes of its payload that were.
    at: (usize, usize),
    progress: Progress,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    New,
    /// Before the first message.
    Begun,
    /// After a message, or within one.
    Among,
    Over,
}

impl Messages {
    /// The answer with these frames, whose other fields are `status` and `token`.
    pub(super) fn new(batch: Arc<Batch>, line: Line, token: &str) -> Self {
        let end = format!(r#"],"status":200,"token":{}}}"#, Value::from(token));
        Self { batch, line, end, at: (0, 0), progress: Progress::New }
    }

    /// The next piece.
    fn piece(&mut self) -> Result<Vec<u8>, Revoked> {
        let mut out = Vec::with_capacity(PIECE + PIECE / 2);
        if self.progress == Progress::New {
            out.extend_from_slice(br#"{"messages":["#);
            self.progress = Progress::Begun;
        }
        while out.len() < PIECE {
            let (number, written) = self.at;
            let Some(frame) = self.batch.frame(number)? else {
                out.extend_from_slice(self.end.as_bytes());
                self.progress = Progress::Over;
                drop(self.batch.take());
                break;
            };
            let payload = frame::payload(&frame).unwrap_or_default();
            if written == 0 {
                let opening: &[u8] = if self.progress == Progress::Begun { b"\"" } else { b",\"" };
                out.extend_from_slice(opening);
                self.progress = Progress::Among;
            }
            let part = part(payload.get(written..).unwrap_or_default(), PIECE);
            escape(part, &mut out);
            self.at.1 += part.len();
            if self.at.1 >= payload.len() {
                out.push(b'"');
                self.at = (number + 1, 0);
            }
        }
        Ok(out)
    }
}

/// The first bytes, `most` at most, that do not end within a character.
fn part(bytes: &[u8], most: usize) -> &[u8] {
    let Some(first) = bytes.get(..most).filter(|first| first.len() < bytes.len()) else { return bytes };
    let is_start = |at: &usize| bytes.get(*at).is_some_and(|byte| byte & 0xC0 != 0x80);
    let end = (most.saturating_sub(3)..=most).rev().find(is_start);
    end.filter(|end| *end > 0).and_then(|end| bytes.get(..end)).unwrap_or(first)
}

/// Appends text as it stands within a JSON string.
fn escape(text: &[u8], out: &mut Vec<u8>) {
    let text = serde_json::to_string(&String::from_utf8_lossy(text)).unwrap_or_default();
    out.extend_from_slice(text.get(1..text.len().saturating_sub(1)).unwrap_or_default().as_bytes());
}

impl Body for Messages {
    type Data = Bytes;
    type Error = Revoked;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Revoked>>> {
        if self.progress == Progress::Over {
            return Poll::Ready(None);
        }
        let _turn = ready!(self.line.poll(cx));
        let piece = self.piece();
        if piece.is_err() {
            self.progress = Progress::Over;
        }
        Poll::Ready(Some(piece.map(|piece| Frame::data(self.batch.piece(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.progress == Progress::Over
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        self.batch.left();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use serde_json::json;

    use realtime_hub::Memory;

    use super::*;
    use crate::turns::Turns;

    fn answer(batch: &Arc<Batch>) -> Messages {
        batch.write(|| {});
        Messages::new(Arc::clone(batch), Turns::new().line(), "a\"b")
    }

    async fn next(answer: &mut Messages) -> Option<Result<Bytes, Revoked>> {
        let frame = poll_fn(|cx| Pin::new(&mut *answer).poll_frame(cx)).await?;
        Some(frame.map(|frame| frame.into_data().unwrap_or_default()))
    }

    #[tokio::test]
    async fn pieces_are_one_text() {
        let large = "ä€\"\u{1}𝄞".repeat(20_000);
        let texts = [large.as_str(), "", "{}", "ab", &large[2..]];
        let frames = texts.iter().map(|text| frame::text(text.as_bytes())).collect();
        let batch = Batch::new(frames, &Memory::new(usize::MAX));
        let mut answer = answer(&batch);
        let mut body = Vec::new();
        let mut pieces = 0;
        while let Some(piece) = next(&mut answer).await {
            let piece = piece.unwrap();
            assert!(piece.len() < 6 * 2 * PIECE, "{}", piece.len());
            assert!(batch.is_underway());
            body.extend_from_slice(&piece);
            pieces += 1;
        }
        assert!(pieces > 10, "{pieces}");
        assert!(!batch.is_underway(), "its pieces are sent");
        let expected = json!({"messages": texts, "status": 200, "token": "a\"b"});
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), expected);
        assert_eq!(batch.take_back(), Ok(Vec::new()));
    }

    #[tokio::test]
    async fn what_is_taken_back_has_no_end() {
        let batch = Batch::new(vec![frame::text(&vec![b'x'; 200_000])], &Memory::new(usize::MAX));
        let mut first = answer(&batch);
        assert!(next(&mut first).await.unwrap().is_ok());
        assert_eq!(batch.take_back().unwrap().len(), 1);
        assert_eq!(next(&mut first).await, Some(Err(Revoked)));
        assert_eq!(next(&mut first).await, None);
        // Nobody can begin it again.
        assert_eq!(next(&mut answer(&batch)).await, Some(Err(Revoked)));
    }

    #[test]
    fn parts_end_between_characters() {
        assert_eq!(part("aä".as_bytes(), 2), b"a");
        assert_eq!(part("aä".as_bytes(), 3), "aä".as_bytes());
        assert_eq!(part("𝄞x".as_bytes(), 4), "𝄞".as_bytes());
        assert_eq!(part(&[0x80; 10], 5), [0x80; 5], "no text at all");
        assert_eq!(part("𝄞x".as_bytes(), 2).len(), 2, "it gets on in any case");
    }
}
