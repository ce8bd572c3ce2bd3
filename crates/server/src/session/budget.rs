//! How many joins one socket may ask for. Pure; time is given.

use realtime_tenants::Limits;
use tokio::time::Instant;

/// Joins at once that every socket has, however few channels it may keep: pages join and leave while they are built.
const LEAST: u32 = 100;

/// A socket may join for ever at this part of the tenant's rate.
const SHARE: f64 = 20.0;

/// Seconds of the tenant's rate that a socket may use at once. What is counted is averaged over ten seconds at first, so
/// that one socket alone never reaches the tenant's limit.
const SECONDS_AT_ONCE: u32 = 5;

/// What a socket has used of its joins. Those that are over are refused before anything is counted of the tenant: a
/// socket that joins in a loop uses up its own share, not that of everybody.
#[derive(Debug)]
pub(super) struct Budget {
    used: f64,
    as_of: Instant,
}

impl Budget {
    pub(super) fn new(now: Instant) -> Self {
        Self { used: 0.0, as_of: now }
    }

    /// Takes one join. False if there are none left.
    pub(super) fn take(&mut self, limits: &Limits, now: Instant) -> bool {
        let per_second = limits.max_joins_per_second;
        // All its channels, and all of them once more when it comes back to them.
        let channels = limits.max_channels_per_client.saturating_mul(2).max(LEAST);
        let at_once = f64::from(channels.min(per_second.saturating_mul(SECONDS_AT_ONCE)).max(1));
        let again = (f64::from(per_second) / SHARE).max(1.0);
        let passed = now.saturating_duration_since(self.as_of).as_secs_f64();
        self.used = (self.used - passed * again).max(0.0);
        self.as_of = now;
        let free = self.used + 1.0 <= at_once;
        if free {
            self.used += 1.0;
        }
        free
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_socket_has_a_share_of_the_joins() {
        let begin = Instant::now();
        let taken = |limits: &Limits, budget: &mut Budget, now| {
            (0..10_000).filter(|_| budget.take(limits, now)).count()
        };
        let usual = Limits::default();
        let mut budget = Budget::new(begin);
        assert_eq!(taken(&usual, &mut budget, begin), 200, "all channels twice");
        assert_eq!(taken(&usual, &mut budget, begin + Duration::from_secs(2)), 10);
        assert_eq!(taken(&usual, &mut budget, begin + Duration::from_secs(600)), 200);
        for (channels, joins, at_once) in [(1, 100, 100), (1000, 1000, 2000), (100, 10, 50), (100, 0, 1)] {
            let limits = Limits { max_channels_per_client: channels, max_joins_per_second: joins, ..usual };
            assert_eq!(taken(&limits, &mut Budget::new(begin), begin), at_once, "{channels}, {joins}");
        }
    }
}
