//! Parties for whom others have waited: for a while they are asked beside the stream.

use std::{collections::HashMap, sync::Arc};

use realtime_changes::Party;
use realtime_pgoutput::Oid;
use tokio::time::{Duration, Instant};

/// How long a party that was slow is asked beside the stream, also when it has no rows there.
const SLOW: Duration = Duration::from_secs(300);

/// Parties that are known to be slow, at most. Beyond it the one is forgotten that was so the longest time ago.
const MAX_SLOW: usize = 1_000;

/// Parties of tables that the stream does not wait for, and until when.
#[derive(Debug, Default)]
pub(super) struct Slow(HashMap<(Oid, Arc<Party>), Instant>);

impl Slow {
    /// Whether the stream does not wait for a party.
    pub(super) fn has(&self, oid: Oid, party: &Arc<Party>, now: Instant) -> bool {
        !self.0.is_empty() && self.0.get(&(oid, Arc::clone(party))).is_some_and(|until| *until > now)
    }

    /// A party has taken long.
    pub(super) fn put(&mut self, oid: Oid, party: &Arc<Party>, now: Instant) {
        if self.0.len() >= MAX_SLOW {
            self.0.retain(|_, until| *until > now);
        }
        if self.0.len() >= MAX_SLOW {
            let first = self.0.iter().min_by_key(|(_, until)| **until).map(|(name, _)| name.clone());
            first.and_then(|first| self.0.remove(&first));
        }
        self.0.insert((oid, Arc::clone(party)), now + SLOW);
    }

    /// Forgets the parties of a table, or of all.
    pub(super) fn forget(&mut self, of: Option<Oid>) {
        match of {
            Some(oid) => self.0.retain(|(of, _), _| *of != oid),
            None => self.0.clear(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn party(n: usize) -> Arc<Party> {
        Arc::new(Party { role: "anon".into(), claims: n.to_string().into() })
    }

    #[test]
    fn slow_parties_are_known_for_a_while_and_not_without_end() {
        let (mut slow, now) = (Slow::default(), Instant::now());
        slow.put(1, &party(0), now);
        assert!(slow.has(1, &party(0), now) && !slow.has(2, &party(0), now));
        assert!(!slow.has(1, &party(0), now + SLOW));
        for n in 1..=MAX_SLOW {
            slow.put(1, &party(n), now + Duration::from_millis(1));
        }
        assert_eq!(slow.0.len(), MAX_SLOW);
        assert!(!slow.has(1, &party(0), now) && slow.has(1, &party(1), now));
        slow.forget(Some(2));
        assert!(slow.has(1, &party(1), now));
        slow.forget(Some(1));
        assert!(!slow.has(1, &party(1), now));
    }
}
