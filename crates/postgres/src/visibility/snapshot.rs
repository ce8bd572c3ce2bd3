//! Which transactions a snapshot has.

use std::{collections::VecDeque, time::Duration};

use realtime_retry::Backoff;
use tokio::time;
use tokio_postgres::Client;

/// Pauses before a commit that is not visible yet is looked for again: from the first, doubling, to the second.
const UNSEEN: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));

/// The pauses between looks at a commit that is not visible yet.
pub(crate) const fn pauses() -> Backoff {
    Backoff::new(UNSEEN.0, UNSEEN.1)
}

/// Waits until everybody can see what a transaction has committed. The log has a commit a little earlier, and much
/// earlier where commits wait for standbys.
pub(crate) async fn wait_until_visible(client: &Client, xid: u32) -> Result<(), tokio_postgres::Error> {
    let mut pauses = pauses();
    loop {
        let row = client.query_one("select pg_catalog.pg_current_snapshot()::text", &[]).await?;
        let text: String = row.try_get(0)?;
        if Snapshot::parse(&text).unwrap_or_default().has(xid) {
            return Ok(());
        }
        time::sleep(pauses.failed(1.0)).await;
    }
}

/// A snapshot of PostgreSQL, of which only the low halves of transaction ids count: the log has no more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// First id that had not been given out.
    xmax: u32,
    /// Those that were running.
    running: Vec<u32>,
}

impl Snapshot {
    /// From `xmin:xmax:xip,xip`, the text form of `pg_snapshot`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let (_, xmax, running) = (parts.next()?, parts.next()?, parts.next()?);
        let running = running.split(',').filter(|xid| !xid.is_empty()).map(low).collect::<Option<_>>()?;
        Some(Self { xmax: low(xmax)?, running })
    }

    /// Whether what a transaction committed can be seen, given that it did commit.
    pub(crate) fn has(&self, xid: u32) -> bool {
        // Ids go round: half of them lie behind, half ahead. `as` keeps the bits, which is what is wanted.
        #[expect(clippy::cast_possible_wrap, reason = "the sign tells behind from ahead")]
        let behind = (xid.wrapping_sub(self.xmax) as i32) < 0;
        behind && !self.running.contains(&xid)
    }
}

/// Transactions that have passed in the log at most. A snapshot that lacks an older one is not known here.
const MAX_PASSED: usize = 10_000;

/// The transactions that have passed in the log lately. A snapshot can lack some of them: those whose commits are not
/// visible to others yet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Passed(VecDeque<u32>);

impl Passed {
    pub(crate) fn push(&mut self, xid: u32) {
        if self.0.len() >= MAX_PASSED {
            self.0.pop_front();
        }
        self.0.push_back(xid);
    }

    /// Whether a snapshot has all of them.
    pub(crate) fn are_in(&self, snapshot: &Snapshot) -> bool {
        let Some(last) = self.0.back() else { return true };
        // Nearly always nothing runs, or nothing that has passed.
        let runs = |xid: &u32| self.0.contains(xid);
        snapshot.has(*last)
            && !snapshot.running.iter().any(runs)
            && self.0.iter().rev().take(100).all(|xid| snapshot.has(*xid))
    }
}

fn low(xid: &str) -> Option<u32> {
    let xid: u64 = xid.parse().ok()?;
    u32::try_from(xid & u64::from(u32::MAX)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_snapshot_has() {
        let snapshot = Snapshot::parse("740:745:740,742").unwrap();
        let seen: Vec<u32> = (738..748).filter(|xid| snapshot.has(*xid)).collect();
        assert_eq!(seen, [738, 739, 741, 743, 744]);
        assert!(Snapshot::parse("740:745:").unwrap().has(740));
        // Beyond four thousand million transactions the log's ids start again.
        let late = Snapshot::parse("8589934590:8589934597:8589934591").unwrap();
        assert!(late.has(u32::MAX - 1) && !late.has(u32::MAX) && late.has(4) && !late.has(5));
        for bad in ["", "1:2", "a:b:", "1:2:x"] {
            assert_eq!(Snapshot::parse(bad), None, "{bad}");
        }
    }
}
