//! Pauses between attempts. Pure: randomness is given.

use std::time::Duration;

/// More doublings than this change nothing: the longest pause is reached, or a pause was given in weeks.
const MAX_DOUBLINGS: u32 = 16;

/// Pauses after attempts that failed in a row. They double from the first to the longest one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// Begins with the first pause.
    #[must_use]
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0 }
    }

    /// Counts a failure. Returns the pause after it, of which `share` is kept: a random number up to 1, so that those who
    /// failed together do not come back together.
    pub fn failed(&mut self, share: f64) -> Duration {
        self.failed_within(self.longest, share)
    }

    /// Counts a failure after which nobody should pause for longer than `longest`.
    pub fn failed_within(&mut self, longest: Duration, share: f64) -> Duration {
        let doubled = self.first.saturating_mul(1 << self.failures.min(MAX_DOUBLINGS));
        self.failures = self.failures.saturating_add(1);
        doubled.min(longest).mul_f64(share.clamp(0.0, 1.0))
    }

    /// An attempt succeeded: the next pause is the first one.
    pub const fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Attempts that have failed in a row.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let mut millis = |share| backoff.failed(share).as_millis();
        assert_eq!(
            [millis(1.0), millis(1.0), millis(0.5), millis(1.0), millis(1.0)],
            [100, 200, 200, 800, 1000]
        );
        assert_eq!(backoff.failed_within(Duration::from_millis(300), 1.0).as_millis(), 300);
        assert_eq!(backoff.failures(), 6);
        backoff.succeeded();
        assert_eq!(backoff.failed(1.0).as_millis(), 100);
    }

    #[test]
    fn many_failures_do_no_harm() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        for _ in 0..100 {
            assert!(backoff.failed(1.0) <= Duration::from_secs(30));
        }
    }
}
