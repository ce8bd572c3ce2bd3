//! Frames on their way to a client that fetches them, in the answer to a poll.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::memory::{Holder, LARGE, Memory};

/// Frames that go to a client together. They are kept until all of them are handed to whoever sends them: a client that
/// has only a part of an answer cannot read it, so all of it can go again. Then what is not sent yet counts: its pieces.
///
/// All that is memory that the node can take back, like that of an outbox. Whoever writes the frames must keep none of
/// them.
pub struct Batch {
    memory: Arc<Memory>,
    /// Itself, for the node's list of those that hold much.
    me: Weak<Self>,
    bytes: usize,
    state: Mutex<State>,
}

/// Ends whoever writes a batch, and drops the pieces.
type Stop = Box<dyn FnOnce() + Send>;

struct State {
    frames: Vec<Bytes>,
    fate: Fate,
    /// Bytes of pieces that are not sent.
    pieces: usize,
    /// There while somebody writes or sends it.
    writer: Option<Stop>,
    /// When that ended.
    ended: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Not handed over to its end.
    Kept,
    HandedOver,
    TakenBack,
    GivenUp,
}

/// The frames are no longer there: they go with another answer, or the node needed their memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("The messages were taken back")]
pub struct Revoked;

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl State {
    /// Nobody writes or sends it any more.
    fn end(&mut self) -> Option<Stop> {
        let writer = self.writer.take();
        if writer.is_some() {
            self.ended = Some(Instant::now());
        }
        writer
    }
}

impl Batch {
    /// Frames that nobody writes yet.
    #[must_use]
    pub fn new(frames: Vec<Bytes>, memory: &Arc<Memory>) -> Arc<Self> {
        let bytes = frames.iter().map(Bytes::len).sum();
        let state = State { frames, fate: Fate::Kept, pieces: 0, writer: None, ended: None };
        let batch = Arc::new_cyclic(|me| Self {
            memory: Arc::clone(memory),
            me: Weak::clone(me),
            bytes,
            state: Mutex::new(state),
        });
        if bytes >= LARGE {
            let me: Weak<dyn Holder> = Weak::<Self>::clone(&batch.me);
            memory.enter(me);
        }
        batch
    }

    /// Bytes of its frames.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Somebody begins to write it; `stop` ends that.
    pub fn write(&self, stop: impl FnOnce() + Send + 'static) {
        let mut state = self.state.lock();
        if matches!(state.fate, Fate::Kept) {
            state.writer = Some(Box::new(stop));
        }
    }

    /// A frame by its number, for whoever writes it. `None` after the last.
    ///
    /// # Errors
    /// It was taken away.
    pub fn frame(&self, number: usize) -> Result<Option<Bytes>, Revoked> {
        let state = self.state.lock();
        if state.fate == Fate::Kept { Ok(state.frames.get(number).cloned()) } else { Err(Revoked) }
    }

    /// Hands all over at once. Nothing if it was taken away.
    #[must_use]
    pub fn take(&self) -> Vec<Bytes> {
        let mut state = self.state.lock();
        if state.fate != Fate::Kept {
            return Vec::new();
        }
        state.fate = Fate::HandedOver;
        std::mem::take(&mut state.frames)
    }

    /// A piece of what is to be sent, which counts until it is dropped.
    #[must_use]
    pub fn piece(self: &Arc<Self>, bytes: Vec<u8>) -> Bytes {
        let mut state = self.state.lock();
        if state.fate != Fate::GivenUp {
            state.pieces += bytes.capacity();
            self.memory.change(0, bytes.capacity());
        }
        drop(state);
        self.memory.relieve();
        Bytes::from_owner(Piece { batch: Arc::clone(self), bytes })
    }

    /// Nobody writes it any more. What was handed over may still be on its way.
    pub fn left(&self) {
        let mut state = self.state.lock();
        if state.fate != Fate::HandedOver || state.pieces == 0 {
            drop(state.end());
        }
    }

    /// Whether somebody writes or sends it.
    #[must_use]
    pub fn is_underway(&self) -> bool {
        self.state.lock().writer.is_some()
    }

    /// When whoever wrote or sent it had done so, or given up.
    #[must_use]
    pub fn ended(&self) -> Option<Instant> {
        self.state.lock().ended
    }

    /// Takes the frames back, to send them again; none if they were handed over. Whoever writes or sends them is told to
    /// stop.
    ///
    /// # Errors
    /// The node needed their memory: they are lost.
    pub fn take_back(&self) -> Result<Vec<Bytes>, Revoked> {
        let mut state = self.state.lock();
        let stop = state.end();
        let frames = std::mem::take(&mut state.frames);
        let fate = state.fate;
        if fate == Fate::Kept {
            state.fate = Fate::TakenBack;
        }
        drop(state);
        if let Some(stop) = stop {
            stop();
        }
        if fate == Fate::GivenUp { Err(Revoked) } else { Ok(frames) }
    }
}

impl Holder for Batch {
    fn load(&self) -> usize {
        let state = self.state.lock();
        let kept = if state.fate == Fate::Kept { self.bytes } else { 0 };
        kept + state.pieces
    }

    fn give_up(&self) {
        let mut state = self.state.lock();
        if state.fate == Fate::Kept || state.pieces > 0 {
            state.fate = Fate::GivenUp;
        }
        let (frames, stop) = (std::mem::take(&mut state.frames), state.end());
        // They are dropped with their connection, in a moment.
        self.memory.change(std::mem::take(&mut state.pieces), 0);
        drop(state);
        drop(frames);
        if let Some(stop) = stop {
            stop();
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if self.bytes >= LARGE {
            self.memory.leave(self.me.as_ptr().addr());
        }
    }
}

/// A piece of what is to be sent.
struct Piece {
    batch: Arc<Batch>,
    bytes: Vec<u8>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut state = self.batch.state.lock();
        if state.fate == Fate::GivenUp {
            return;
        }
        self.batch.memory.change(self.bytes.capacity(), 0);
        state.pieces = state.pieces.saturating_sub(self.bytes.capacity());
        if state.fate == Fate::HandedOver && state.pieces == 0 {
            drop(state.end());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use realtime_protocol::frame;

    use super::*;
    use crate::{Outbox, memory::tests::ALONE};

    const MB: usize = 1_000_000;

    fn flag() -> (Arc<AtomicBool>, impl FnOnce() + Send + 'static) {
        let flag = Arc::new(AtomicBool::new(false));
        let set = Arc::clone(&flag);
        (flag, move || set.store(true, Ordering::Relaxed))
    }

    fn frames(sizes: &[usize]) -> Vec<Bytes> {
        sizes.iter().map(|size| frame::text(&vec![b'x'; *size])).collect()
    }

    #[test]
    fn what_was_not_handed_over_goes_again() {
        let batch = Batch::new(frames(&[1, 2]), &Memory::new(MB));
        let (stopped, stop) = flag();
        batch.write(stop);
        let piece = batch.piece(vec![b'x'; 10]);
        assert!(batch.frame(0).unwrap().is_some() && batch.is_underway());
        assert_eq!(batch.take_back().unwrap(), frames(&[1, 2]));
        assert!(stopped.load(Ordering::Relaxed) && !batch.is_underway());
        assert_eq!((batch.frame(0), batch.take()), (Err(Revoked), Vec::new()));
        drop(piece);
        // Its connection is gone, and nobody has asked again yet.
        let batch = Batch::new(frames(&[1]), &Memory::new(MB));
        batch.write(|| {});
        batch.left();
        assert!(batch.ended().is_some() && !batch.is_underway());
        assert_eq!(batch.take_back(), Ok(frames(&[1])));
    }

    #[test]
    fn what_was_handed_over_counts_until_it_is_sent() {
        let _alone = ALONE.lock();
        let memory = Memory::new(100 * MB);
        let batch = Batch::new(frames(&[20_000]), &memory);
        let (stopped, stop) = flag();
        batch.write(stop);
        assert_eq!(batch.take().len(), 1);
        let piece = batch.piece(vec![b'x'; 30 * MB]);
        batch.left();
        let part = piece.slice(1..);
        drop(piece);
        assert!(batch.is_underway() && memory.used() >= 30 * MB && batch.load() == 30 * MB);
        drop(part);
        assert!(batch.ended().is_some() && memory.used() < 20 * MB && batch.load() == 0);
        assert_eq!(batch.take_back(), Ok(Vec::new()), "the client has it");
        assert!(!stopped.load(Ordering::Relaxed));
    }

    /// A client that polls again without having read its answer costs no more than before.
    #[test]
    fn what_is_not_sent_yet_ends_with_the_next_poll() {
        let batch = Batch::new(frames(&[1]), &Memory::new(MB));
        let (stopped, stop) = flag();
        batch.write(stop);
        let _frames = batch.take();
        let _piece = batch.piece(vec![b'x'; 10]);
        assert_eq!(batch.take_back(), Ok(Vec::new()));
        assert!(stopped.load(Ordering::Relaxed));
    }

    /// It goes when it is the largest, and whoever writes it hears of that.
    #[test]
    fn memory_can_be_had_back() {
        let _alone = ALONE.lock();
        let memory = Memory::new(frame::alive() + 30 * MB);
        let batch = Batch::new(frames(&[6 * MB, 7 * MB]), &memory);
        let (stopped, stop) = flag();
        batch.write(stop);
        let piece = batch.piece(vec![b'x'; MB]);
        let outboxes: Vec<_> = (0..2).map(|_| Outbox::counted(100 * MB, None, &memory)).collect();
        outboxes[0].push(frame::text(&vec![b'x'; 12 * MB])).unwrap();
        assert!(batch.frame(0).is_ok() && !stopped.load(Ordering::Relaxed));
        outboxes[1].push(frame::text(&vec![b'x'; 12 * MB])).unwrap();
        assert!(stopped.load(Ordering::Relaxed));
        assert_eq!((batch.frame(0), batch.take_back()), (Err(Revoked), Err(Revoked)));
        assert!(outboxes.iter().all(|outbox| !outbox.is_closed()));
        let used = memory.used();
        drop(piece);
        assert_eq!(memory.used(), used, "it counts no more");
    }
}
