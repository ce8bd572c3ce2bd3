//! How much memory the answers take that policies were asked for, over all databases of a node (row_security 2.2).

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// The memory that kept answers may take, over all databases of a node.
#[derive(Debug)]
pub struct PolicyMemory {
    limit: usize,
    used: AtomicUsize,
}

impl PolicyMemory {
    /// So many bytes.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self { limit, used: AtomicUsize::new(0) }
    }

    /// About how many bytes are in use.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

impl Default for PolicyMemory {
    /// 256 MiB.
    fn default() -> Self {
        Self::new(256 << 20)
    }
}

/// What one database has of it.
#[derive(Debug)]
pub(crate) struct Share {
    of: Arc<PolicyMemory>,
    bytes: usize,
}

impl Share {
    pub(crate) const fn new(of: Arc<PolicyMemory>) -> Self {
        Self { of, bytes: 0 }
    }

    /// The database takes so many bytes by now. Whether all databases together keep to the limit.
    pub(crate) fn takes(&mut self, bytes: usize) -> bool {
        let used = self.of.used.fetch_add(bytes, Ordering::Relaxed) + bytes - self.bytes;
        self.of.used.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = bytes;
        used <= self.of.limit
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_share_the_limit() {
        let memory = Arc::new(PolicyMemory::new(100));
        let (mut a, mut b) = (Share::new(Arc::clone(&memory)), Share::new(Arc::clone(&memory)));
        assert!(a.takes(60) && b.takes(40) && !b.takes(41));
        assert!(a.takes(50) && b.takes(41));
        drop(a);
        assert_eq!(memory.used(), 41);
        assert!(b.takes(100) && !b.takes(101));
        drop(b);
        assert_eq!(memory.used(), 0);
    }
}
