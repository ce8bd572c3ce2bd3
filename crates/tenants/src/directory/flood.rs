//! How often the database may be asked for names that nobody knows.

use std::time::Duration;

use tokio::time::Instant;

/// Questions a second, on average.
const RATE: f64 = 100.0;

/// Questions at once.
const BURST: f64 = 200.0;

/// A bucket of tokens that fills at a steady rate; each question takes one. No I/O: time is an argument.
#[derive(Debug)]
pub(super) struct Bucket {
    tokens: f64,
    filled: Instant,
    /// When it was last said that there are none.
    warned: Option<Instant>,
}

impl Bucket {
    pub(super) fn new(now: Instant) -> Self {
        Self { tokens: BURST, filled: now, warned: None }
    }

    /// Whether the question may be asked.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled);
        self.filled = now;
        self.tokens = (self.tokens + passed.as_secs_f64() * RATE).min(BURST);
        let free = self.tokens >= 1.0;
        if free {
            self.tokens -= 1.0;
        }
        free
    }

    /// Whether to say that there are no tokens: once in a while, not for each question.
    pub(super) fn warn(&mut self, now: Instant) -> bool {
        let due = self.warned.is_none_or(|at| now.saturating_duration_since(at) >= Duration::from_secs(10));
        if due {
            self.warned = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floods_are_thinned_out() {
        let begin = Instant::now();
        let mut bucket = Bucket::new(begin);
        assert_eq!((0..1000).filter(|_| bucket.take(begin)).count(), 200);
        let mut answered = 0;
        for millisecond in 1..=2000 {
            let now = begin + Duration::from_millis(millisecond);
            answered += (0..10).filter(|_| bucket.take(now)).count();
        }
        assert!((198..=200).contains(&answered), "{answered}");
        assert_eq!((0..1000).filter(|_| bucket.take(begin + Duration::from_secs(60))).count(), 200);
    }

    #[test]
    fn warnings_are_rare() {
        let begin = Instant::now();
        let mut bucket = Bucket::new(begin);
        let warned = (0..30).filter(|second| bucket.warn(begin + Duration::from_secs(*second))).count();
        assert_eq!(warned, 3);
    }
}
