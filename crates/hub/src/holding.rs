//! What a socket holds beside frames.

use std::sync::Arc;

use crate::outbox::Outbox;

/// Bytes that a socket holds beside frames, while this lives.
#[derive(Debug)]
pub struct Holding {
    outbox: Arc<Outbox>,
    bytes: usize,
}

impl Holding {
    /// Nothing yet.
    #[must_use]
    pub fn new(outbox: &Arc<Outbox>) -> Self {
        Self { outbox: Arc::clone(outbox), bytes: 0 }
    }

    /// The socket's outbox.
    #[must_use]
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// It holds this many bytes now.
    pub fn set(&mut self, bytes: usize) {
        if bytes > self.bytes {
            self.outbox.hold(bytes - self.bytes);
        } else if bytes < self.bytes {
            self.outbox.release(self.bytes - bytes);
        }
        self.bytes = bytes;
    }

    /// It holds this many bytes more.
    pub fn add(&mut self, bytes: usize) {
        self.set(self.bytes + bytes);
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.set(0);
    }
}
