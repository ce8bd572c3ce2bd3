//! Circuit breakers of a tenant's database: a pool that is too busy, and connecting that keeps failing
//! (tenant_database 3.6, 8.5). Pure; time is given.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// How long an error of the pool counts.
const POOL_WINDOW: Duration = Duration::from_secs(30);

/// Width of the buckets that errors are counted in: bounds memory.
const BUCKET: Duration = Duration::from_secs(1);

/// How long a failed attempt to connect counts.
const CONNECT_WINDOW: Duration = Duration::from_secs(5);

/// Failed attempts within that time that bar further ones.
const CONNECT_FAILURES: usize = 3;

/// Opens when as many questions found no connection as the pool has, within 30 seconds.
#[derive(Debug)]
pub(crate) struct PoolBreaker {
    threshold: usize,
    /// Start of a bucket and the errors in it, oldest first.
    buckets: VecDeque<(Instant, usize)>,
    /// Whether the present trip was told.
    told: bool,
}

/// What the breaker says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    /// Ask the database.
    Closed,
    /// Do not ask it.
    Open {
        /// Whether this is the first time since it opened: operators are told once.
        news: bool,
    },
}

impl PoolBreaker {
    /// A closed breaker for a pool of this size.
    pub(crate) fn new(pool_size: usize) -> Self {
        Self { threshold: pool_size.max(1), buckets: VecDeque::new(), told: false }
    }

    /// Whether the database may be asked.
    pub(crate) fn gate(&mut self, now: Instant) -> Gate {
        while self.buckets.front().is_some_and(|(start, _)| now.duration_since(*start) >= POOL_WINDOW) {
            self.buckets.pop_front();
        }
        let errors: usize = self.buckets.iter().map(|(_, errors)| errors).sum();
        if errors < self.threshold {
            self.told = false;
            return Gate::Closed;
        }
        Gate::Open { news: !std::mem::replace(&mut self.told, true) }
    }

    /// There was no connection to be had.
    pub(crate) fn failed(&mut self, now: Instant) {
        match self.buckets.back_mut() {
            Some((start, errors)) if now.duration_since(*start) < BUCKET => *errors += 1,
            _ => self.buckets.push_back((now, 1)),
        }
    }
}

/// Bars attempts to connect after three that failed within five seconds, until these are past.
#[derive(Debug, Default)]
pub(crate) struct ConnectLimit {
    failures: VecDeque<Instant>,
}

impl ConnectLimit {
    /// Whether an attempt must not be made.
    pub(crate) fn is_reached(&mut self, now: Instant) -> bool {
        while self.failures.front().is_some_and(|at| now.duration_since(*at) >= CONNECT_WINDOW) {
            self.failures.pop_front();
        }
        self.failures.len() >= CONNECT_FAILURES
    }

    /// An attempt failed. Those who waited for it count as one.
    pub(crate) fn failed(&mut self, now: Instant) {
        self.failures.push_back(now);
        if self.failures.len() > CONNECT_FAILURES {
            self.failures.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: f64) -> Duration {
        Duration::from_secs_f64(n)
    }

    /// tenant_database 14
    #[test]
    fn opens_at_the_size_of_the_pool_and_tells_once() {
        let start = Instant::now();
        let mut breaker = PoolBreaker::new(5);
        for n in 0..4 {
            breaker.failed(start + seconds(f64::from(n) * 5.0));
            assert_eq!(breaker.gate(start + seconds(20.0)), Gate::Closed);
        }
        breaker.failed(start + seconds(21.0));
        assert_eq!(breaker.gate(start + seconds(21.0)), Gate::Open { news: true });
        for _ in 0..10 {
            assert_eq!(breaker.gate(start + seconds(22.0)), Gate::Open { news: false });
        }
        // The first error is past.
        assert_eq!(breaker.gate(start + seconds(30.0)), Gate::Closed);
        breaker.failed(start + seconds(30.0));
        assert_eq!(breaker.gate(start + seconds(30.5)), Gate::Open { news: true });
    }

    #[test]
    fn memory_is_bounded_by_the_window() {
        let start = Instant::now();
        let mut breaker = PoolBreaker::new(1);
        for n in 0..100_000 {
            let now = start + seconds(f64::from(n) / 1000.0);
            breaker.failed(now);
            breaker.gate(now);
        }
        assert!(breaker.buckets.len() <= 31, "{}", breaker.buckets.len());
    }

    /// tenant_database 73
    #[test]
    fn three_failures_in_five_seconds_bar_connecting() {
        let start = Instant::now();
        let mut limit = ConnectLimit::default();
        for n in [0.0, 1.0, 2.0] {
            assert!(!limit.is_reached(start + seconds(n)));
            limit.failed(start + seconds(n));
        }
        assert!(limit.is_reached(start + seconds(2.0)));
        assert!(limit.is_reached(start + seconds(4.9)));
        assert!(!limit.is_reached(start + seconds(5.0)));
        limit.failed(start + seconds(5.0));
        assert!(limit.is_reached(start + seconds(5.5)));
    }
}
