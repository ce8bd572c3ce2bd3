//! How much the answers take that parties were asked for: a running sum.

use realtime_pgoutput::Oid;
use rustc_hash::{FxHashMap, FxHashSet};

/// Bytes by table. What was not touched is not counted again.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    total: usize,
    of: FxHashMap<Oid, usize>,
    touched: FxHashSet<Oid>,
}

impl Sizes {
    /// The answers for a table may be others now.
    pub(super) fn touch(&mut self, table: Oid) {
        self.touched.insert(table);
    }

    /// All bytes. `size`: those of a table as it is now.
    pub(super) fn total(&mut self, size: impl Fn(Oid) -> usize) -> usize {
        for table in self.touched.drain() {
            let now = size(table);
            let before = match now {
                0 => self.of.remove(&table),
                _ => self.of.insert(table, now),
            };
            self.total = self.total + now - before.unwrap_or_default();
        }
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_touched_is_counted_again() {
        let mut sizes = Sizes::default();
        assert_eq!(sizes.total(|_| unreachable!("nothing was touched")), 0);
        sizes.touch(1);
        sizes.touch(2);
        assert_eq!(sizes.total(|table| table as usize * 10), 30);
        sizes.touch(2);
        let size = |table| if table == 2 { 5 } else { unreachable!("it was not touched") };
        assert_eq!(sizes.total(size), 15);
        sizes.touch(1);
        assert_eq!(sizes.total(|_| 0), 5, "the first is gone");
    }
}
