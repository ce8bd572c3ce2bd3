//! Bytes that count against a bound for as long as what takes them is kept.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Bytes that count until this is dropped.
#[derive(Debug)]
pub(super) struct Counted {
    bytes: usize,
    total: Arc<AtomicUsize>,
}

impl Counted {
    pub(super) fn new(bytes: usize, total: &Arc<AtomicUsize>) -> Self {
        total.fetch_add(bytes, Ordering::Relaxed);
        Self { bytes, total: Arc::clone(total) }
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
