//! Leaves out warnings if equal ones come too often. Pure; time is given.
//!
//! Lines are equal if they come from the same place in the program and have the same code and tenant. [`BURST`] of
//! them pass in a [`WINDOW`]. The next one that passes tells how many were left out. If none comes, a separate line
//! tells it.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

/// Equal lines that pass in a window.
const BURST: u32 = 10;

/// Length of a window.
const WINDOW: Duration = Duration::from_secs(10);

/// Kinds of lines that are counted separately. Further ones share one window.
const MAX_KINDS: usize = 4_096;

#[derive(Debug)]
struct Kind<T> {
    began: Instant,
    passed: u32,
    suppressed: u64,
    /// The description of the lines, for the report of what was left out.
    about: T,
}

/// The verdict on a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is written. So many equal ones were left out before it.
    Pass(u64),
    /// It is left out.
    Suppress,
}

/// The windows of recent lines.
#[derive(Debug)]
pub(super) struct Throttle<T> {
    kinds: HashMap<u64, Kind<T>>,
    swept: Instant,
}

impl<T> Throttle<T> {
    pub(super) fn new(now: Instant) -> Self {
        Self { kinds: HashMap::new(), swept: now }
    }

    /// Judges a line. `kind` is a hash of what makes lines equal.
    pub(super) fn judge(&mut self, kind: u64, now: Instant, about: impl FnOnce() -> T) -> Verdict {
        let full = self.kinds.len() >= MAX_KINDS;
        let kind = if full && !self.kinds.contains_key(&kind) { 0 } else { kind };
        let known = self.kinds.entry(kind).or_insert_with(|| Kind {
            began: now,
            passed: 0,
            suppressed: 0,
            about: about(),
        });
        if now.duration_since(known.began) >= WINDOW {
            (known.began, known.passed) = (now, 1);
            return Verdict::Pass(std::mem::take(&mut known.suppressed));
        }
        if known.passed < BURST {
            known.passed += 1;
            return Verdict::Pass(0);
        }
        known.suppressed += 1;
        Verdict::Suppress
    }

    /// Forgets kinds whose window is over. Returns those with lines that were left out, and their number. Does nothing
    /// if called again within a window.
    pub(super) fn sweep(&mut self, now: Instant) -> Vec<(T, u64)> {
        if now.duration_since(self.swept) < WINDOW {
            return Vec::new();
        }
        self.swept = now;
        let over = self.kinds.extract_if(|_, kind| now.duration_since(kind.began) >= WINDOW);
        over.filter(|(_, kind)| kind.suppressed > 0).map(|(_, kind)| (kind.about, kind.suppressed)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_leaves_ten_lines_and_a_number() {
        let start = Instant::now();
        let mut throttle = Throttle::new(start);
        let mut passed = 0;
        for n in 0..1000 {
            let now = start + Duration::from_millis(n);
            passed += u32::from(throttle.judge(1, now, || "a") == Verdict::Pass(0));
        }
        assert_eq!(passed, BURST);
        assert_eq!(throttle.judge(2, start, || "b"), Verdict::Pass(0), "another kind has its own window");
        assert_eq!(throttle.judge(1, start + WINDOW, || "a"), Verdict::Pass(990));
        assert_eq!(throttle.judge(1, start + WINDOW, || "a"), Verdict::Pass(0));
    }

    #[test]
    fn what_nobody_follows_is_told_by_itself() {
        let start = Instant::now();
        let mut throttle = Throttle::new(start);
        for _ in 0..15 {
            throttle.judge(1, start, || "a");
        }
        throttle.judge(2, start, || "b");
        assert_eq!(throttle.sweep(start + WINDOW / 2), []);
        assert_eq!(throttle.sweep(start + WINDOW), [("a", 5)]);
        assert!(throttle.kinds.is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let start = Instant::now();
        let mut throttle = Throttle::new(start);
        for kind in 0..100_000 {
            throttle.judge(kind + 1, start, || ());
        }
        assert!(throttle.kinds.len() <= MAX_KINDS + 1);
        assert_eq!(throttle.judge(999_999, start, || ()), Verdict::Suppress);
    }
}
