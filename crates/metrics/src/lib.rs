//! Counters and histograms for hot paths: a few atomics each, read by whatever exposes them.
//!
//! Pure. Nothing here has a name, a label or a lock: those belong to the readers.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The sum of what was added since the start.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of a histogram's buckets, inclusive, in ascending order. Larger values count in one more bucket.
pub type Bounds = &'static [u64];

/// Converts bounds from milliseconds to microseconds.
#[must_use]
pub const fn milliseconds<const N: usize>(bounds: [u64; N]) -> [u64; N] {
    let mut micros = bounds;
    let mut i = 0;
    // A loop by index: iterators are not const. The index is below the length.
    #[allow(clippy::indexing_slicing)]
    while i < N {
        micros[i] = bounds[i] * 1000;
        i += 1;
    }
    micros
}

/// Counts measurements by size. Durations are kept in microseconds. A measurement costs two atomic additions.
#[derive(Debug)]
pub struct Histogram {
    bounds: Bounds,
    /// One for each bound and one for what is larger.
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    /// A histogram without measurements.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            buckets: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
        }
    }

    /// Records a measurement.
    pub fn record(&self, value: u64) {
        let place = self.bounds.iter().position(|bound| value <= *bound).unwrap_or(self.bounds.len());
        if let Some(bucket) = self.buckets.get(place) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Records a duration.
    pub fn record_time(&self, took: Duration) {
        self.record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    /// Number of measurements.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }

    /// Sum of all measurements.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.sum.load(Ordering::Relaxed)
    }

    /// The measurements so far.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            bounds: self.bounds,
            buckets: self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect(),
            sum: self.sum(),
        }
    }
}

/// The measurements of a [`Histogram`] at some moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    bounds: Bounds,
    buckets: Vec<u64>,
    sum: u64,
}

impl Snapshot {
    /// Adds the measurements of another snapshot with the same bounds; an empty one takes any bounds.
    pub fn merge(&mut self, other: &Self) {
        if self.buckets.is_empty() {
            self.clone_from(other);
            return;
        }
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
        self.sum += other.sum;
    }

    /// For each bound, how many measurements were not larger.
    pub fn cumulative(&self) -> impl Iterator<Item = (u64, u64)> {
        let sums = self.buckets.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        self.bounds.iter().copied().zip(sums)
    }

    /// Number of measurements.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Sum of all measurements.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = &[10, 100];

    #[test]
    fn bounds_are_inclusive_and_counts_cumulative() {
        let histogram = Histogram::new(BOUNDS);
        for value in [0, 10, 11, 100, 101, 5000] {
            histogram.record(value);
        }
        let seen = histogram.snapshot();
        assert_eq!(seen.cumulative().collect::<Vec<_>>(), [(10, 2), (100, 4)]);
        assert_eq!((seen.count(), seen.sum()), (6, 5222));
        assert_eq!((histogram.count(), histogram.sum()), (6, 5222));
    }

    #[test]
    fn what_several_saw_is_added_up() {
        let (one, other) = (Histogram::new(BOUNDS), Histogram::new(BOUNDS));
        one.record(5);
        other.record(50);
        other.record(500);
        let mut all = Snapshot::default();
        assert_eq!(all.count(), 0);
        all.merge(&one.snapshot());
        all.merge(&other.snapshot());
        assert_eq!(all.cumulative().collect::<Vec<_>>(), [(10, 1), (100, 2)]);
        assert_eq!((all.count(), all.sum()), (3, 555));
    }

    #[test]
    fn times_are_microseconds() {
        const MILLIS: Bounds = &milliseconds([1, 250]);
        let histogram = Histogram::new(MILLIS);
        histogram.record_time(Duration::from_millis(250));
        assert_eq!(histogram.snapshot().cumulative().collect::<Vec<_>>(), [(1000, 0), (250_000, 1)]);
    }
}
