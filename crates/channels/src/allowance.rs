//! How often a channel may make the database work.

use std::time::Duration;

use tokio::time::Instant;

use crate::budget::Spent;

/// Questions that may be asked at once. A well-behaved client needs fewer.
const AT_ONCE: u32 = 5;

/// Time after which one more question is allowed.
const PAUSE: Duration = Duration::from_secs(2);

/// Time after which all questions are allowed again.
const ALL: Duration = Duration::from_secs(2 * AT_ONCE as u64);

/// Allows some questions at once, then one every [`PAUSE`].
#[derive(Debug, Default)]
pub(crate) struct Allowance(Spent);

impl Allowance {
    /// From when on the next question is allowed: a moment that does not move with the clock, so that whoever waits for it
    /// sees it pass.
    pub(crate) fn next(&self, now: Instant) -> Instant {
        let passed = now.checked_sub(ALL).unwrap_or(now);
        self.0.free_at(PAUSE, ALL).unwrap_or(passed)
    }

    /// Takes one question, if one is allowed.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        self.0.take(PAUSE, ALL, now)
    }

    /// Whether a question is allowed.
    pub(crate) fn is_left(&self, now: Instant) -> bool {
        self.0.allows(PAUSE, ALL, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn some_at_once_then_one_after_each_pause() {
        let mut allowance = Allowance::default();
        let mut takes = |times: u32| (0..times).filter(|_| allowance.take(Instant::now())).count();
        assert_eq!(takes(100), 5);
        tokio::time::advance(PAUSE).await;
        assert_eq!(takes(100), 1);
        tokio::time::advance(PAUSE * 3 + PAUSE / 2).await;
        assert_eq!(takes(100), 3);
        tokio::time::advance(PAUSE * 1000).await;
        assert_eq!(takes(100), 5);
        let next = allowance.next(Instant::now());
        assert_eq!(next, Instant::now() + PAUSE);
    }

    /// Timers look at what is due a little after they were set.
    #[test]
    fn the_moment_that_is_waited_for_stays_and_passes() {
        let (mut allowance, start) = (Allowance::default(), Instant::now());
        (0..AT_ONCE).for_each(|_| assert!(allowance.take(start)));
        let at = allowance.next(start);
        assert_eq!(at, start + PAUSE);
        assert_eq!(allowance.next(start + PAUSE * 2), at);
        assert!(!allowance.is_left(at - Duration::from_nanos(1)) && allowance.is_left(at));
        assert!(Allowance::default().next(start) < start, "nothing was ever asked");
    }
}
