//! The interface between a WebSocket's task and the receiver of its messages.

use std::sync::Arc;

use bytes::Bytes;
use realtime_channels::driver::{Driver, Ending};
use realtime_hub::Outbox;
use realtime_protocol::Opcode;
use tokio::time::{Duration, Instant};

/// Takes a socket's messages and fills its outbox: a client's session with its [`Driver`], or an echo when the
/// transport is tested alone.
pub trait Conversation: Send + 'static {
    /// Where frames to the client wait.
    fn outbox(&self) -> &Arc<Outbox>;

    /// The tenant that log lines are about.
    fn tenant(&self) -> &str;

    /// Counts the bytes of a read, and the time that handling them took.
    fn count(&self, bytes: usize, took: Duration);

    /// Counts that the socket is closed because it reads too slowly.
    fn count_slow(&self);

    /// Whether messages may be read.
    fn wants_input(&self) -> bool;

    /// Bytes of messages that wait.
    fn waiting_bytes(&self) -> usize;

    /// Takes one message from the client.
    ///
    /// # Errors
    /// When the conversation ends.
    fn receive(&mut self, opcode: Opcode, message: Bytes) -> Result<(), Ending>;

    /// Gives others what was published. Called after every step, before the outbox is written.
    fn flush(&mut self);

    /// Waits for something that does not come from the client, and acts on it. Cancel safe.
    ///
    /// # Errors
    /// When the conversation ends.
    fn event(&mut self) -> impl Future<Output = Result<(), Ending>> + Send;

    /// Acts on signals in the outbox.
    ///
    /// # Errors
    /// When the conversation ends.
    fn signals(&mut self) -> Result<(), Ending>;

    /// The next moment at which [`on_time`](Self::on_time) has something to do.
    fn wake_at(&self) -> Option<Instant>;

    /// Does everything that is due.
    ///
    /// # Errors
    /// When the conversation ends.
    fn on_time(&mut self) -> Result<(), Ending>;

    /// Ends the conversation, before the last frames are written.
    fn end(&mut self);
}

impl Conversation for Driver {
    fn outbox(&self) -> &Arc<Outbox> {
        self.outbox()
    }

    fn tenant(&self) -> &str {
        self.tenant()
    }

    fn count(&self, bytes: usize, took: Duration) {
        self.counters().input_bytes.add(bytes as u64);
        self.counters().node().handled_in.record_time(took);
    }

    fn count_slow(&self) {
        self.counters().node().slow_consumers.add(1);
    }

    fn wants_input(&self) -> bool {
        self.wants_input()
    }

    fn waiting_bytes(&self) -> usize {
        self.waiting_bytes()
    }

    fn receive(&mut self, opcode: Opcode, message: Bytes) -> Result<(), Ending> {
        self.receive(opcode, message)
    }

    fn flush(&mut self) {
        self.flush();
    }

    fn event(&mut self) -> impl Future<Output = Result<(), Ending>> + Send {
        self.event()
    }

    fn signals(&mut self) -> Result<(), Ending> {
        self.signals()
    }

    fn wake_at(&self) -> Option<Instant> {
        self.wake_at()
    }

    fn on_time(&mut self) -> Result<(), Ending> {
        self.on_time()
    }

    fn end(&mut self) {
        self.end();
    }
}
