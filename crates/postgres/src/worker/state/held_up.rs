//! Parties that held up the others when they were asked for their values: they are not asked with others again, and for a
//! while not at all. Until then their rows are withheld, and their channels told.

use std::{collections::HashMap, sync::Arc};

use realtime_changes::Party;
use realtime_pgoutput::Oid;
use tokio::time::{Duration, Instant};

/// Pause before such a party is asked again: doubles from the first to the second.
const PAUSES: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(1800));

/// Most of them that are known. Beyond it the one is forgotten that is asked again first.
const MAX: usize = 1_000;

/// Parties of tables that held up the others.
#[derive(Debug, Default)]
pub(super) struct HeldUp(HashMap<(Oid, Arc<Party>), Pause>);

#[derive(Debug)]
struct Pause {
    until: Instant,
    length: Duration,
    /// Whether it is over, and the party is asked again: alone.
    is_over: bool,
}

/// How a party may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// With others.
    Full,
    /// Beside the stream.
    Little,
    /// Not now.
    None,
}

impl HeldUp {
    pub(super) fn trust(&self, table: Oid, party: &Arc<Party>) -> Trust {
        if self.0.is_empty() {
            return Trust::Full;
        }
        match self.0.get(&(table, Arc::clone(party))) {
            None => Trust::Full,
            Some(pause) if pause.is_over => Trust::Little,
            Some(_) => Trust::None,
        }
    }

    /// A party that was asked has held up the others, or not.
    pub(super) fn asked(&mut self, table: Oid, party: &Arc<Party>, is_held_up: bool, now: Instant) {
        if !is_held_up && self.0.is_empty() {
            return;
        }
        let key = (table, Arc::clone(party));
        let known = self.0.remove(&key);
        if !is_held_up {
            return;
        }
        if self.0.len() >= MAX {
            let first = self.0.iter().min_by_key(|(_, pause)| pause.until).map(|(key, _)| key.clone());
            first.and_then(|first| self.0.remove(&first));
        }
        let length = known.map_or(PAUSES.0, |pause| (pause.length * 2).min(PAUSES.1));
        self.0.insert(key, Pause { until: now + length, length, is_over: false });
    }

    /// The parties of a table whose pauses are over. Each is told once.
    pub(super) fn over(&mut self, table: Oid, now: Instant) -> Vec<Arc<Party>> {
        let mut over = Vec::new();
        for ((of, party), pause) in &mut self.0 {
            if *of == table && !pause.is_over && pause.until <= now {
                pause.is_over = true;
                over.push(Arc::clone(party));
            }
        }
        over
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_until_a_party_answers_again() {
        let party = Arc::new(Party { role: "anon".into(), claims: "{}".into() });
        let (mut held_up, mut now) = (HeldUp::default(), Instant::now());
        assert_eq!(held_up.trust(1, &party), Trust::Full);
        let mut last = Duration::ZERO;
        for _ in 0..10 {
            held_up.asked(1, &party, true, now);
            assert_eq!((held_up.trust(1, &party), held_up.trust(2, &party)), (Trust::None, Trust::Full));
            let begun = now;
            while held_up.over(1, now).is_empty() {
                now += Duration::from_secs(1);
            }
            assert!(now - begun >= last && now - begun <= PAUSES.1);
            last = now - begun;
            assert_eq!((held_up.trust(1, &party), held_up.over(1, now).len()), (Trust::Little, 0));
        }
        assert_eq!(last, PAUSES.1);
        held_up.asked(1, &party, false, now);
        assert_eq!(held_up.trust(1, &party), Trust::Full);
        assert!(held_up.is_empty());
    }
}
