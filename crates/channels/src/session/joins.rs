//! How many joins one socket may ask for. Pure; time is given.

use std::time::Duration;

use realtime_tenants::Limits;
use tokio::time::Instant;

use crate::budget::Spent;

/// Joins at once that every socket has, however few channels it may have. Pages join and leave while they are built.
const LEAST: u32 = 100;

/// Part of the tenant's rate at which one socket may join for ever.
const SHARE: f64 = 20.0;

/// Seconds of the tenant's rate that a socket may use at once. The tenant's average is taken over ten seconds at
/// first, so one socket alone never reaches the tenant's limit.
const SECONDS_AT_ONCE: u32 = 5;

/// Joins that a socket has used. Further ones are refused before the tenant counts them, so a socket that joins in a
/// loop uses up its own share and not everyone's.
#[derive(Debug, Default)]
pub(super) struct Joins(Spent);

impl Joins {
    /// Takes one join. False if there are none left.
    pub(super) fn take(&mut self, limits: &Limits, now: Instant) -> bool {
        let per_second = limits.max_joins_per_second;
        // Enough for all channels, and once more for all of them after a reconnect.
        let channels = limits.max_channels_per_client.saturating_mul(2).max(LEAST);
        let at_once = channels.min(per_second.saturating_mul(SECONDS_AT_ONCE)).max(1);
        let cost = Duration::from_secs_f64(1.0 / (f64::from(per_second) / SHARE).max(1.0));
        self.0.take(cost, cost.saturating_mul(at_once), now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_has_a_share_of_the_joins() {
        let begin = Instant::now();
        let taken =
            |limits: &Limits, joins: &mut Joins, now| (0..10_000).filter(|_| joins.take(limits, now)).count();
        let usual = Limits::default();
        let mut joins = Joins::default();
        assert_eq!(taken(&usual, &mut joins, begin), 200, "all channels twice");
        assert_eq!(taken(&usual, &mut joins, begin + Duration::from_secs(2)), 10);
        assert_eq!(taken(&usual, &mut joins, begin + Duration::from_secs(600)), 200);
        for (channels, per_second, at_once) in [(1, 100, 100), (1000, 1000, 2000), (100, 10, 50), (100, 0, 1)]
        {
            let limits =
                Limits { max_channels_per_client: channels, max_joins_per_second: per_second, ..usual };
            assert_eq!(taken(&limits, &mut Joins::default(), begin), at_once, "{channels}, {per_second}");
        }
    }
}
