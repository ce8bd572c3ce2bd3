//! What is remembered of looking up for whom calls can be true: how many values are looked up at once, and where it is of no
//! use for a while.

use std::collections::HashMap;

use realtime_changes::policy::{CallId, CallKey};
use tokio::time::{Duration, Instant};

/// Values that are looked up at once: each is kept with all of its parties until they are answered.
const VALUES: usize = 32;

/// Values of which is remembered that they name too many. Beyond it all are forgotten and looked up again.
const MAX_UNTOLD: usize = 10_000;

/// How long all are asked after it could not be told for whom a call can be true.
const UNTOLD: Duration = Duration::from_secs(60);

/// What is remembered of the calls of a role's policies.
#[derive(Debug, Default)]
pub(super) struct LookingUp {
    /// The calls of which it could not be told for whom they can be true, and until when all are asked.
    untold: HashMap<CallId, Instant>,
    /// The same by values that name too many.
    untold_of: HashMap<(CallId, CallKey), Instant>,
    /// How many values of a call are looked up at once, where fewer are than at most.
    at_once: HashMap<CallId, usize>,
}

impl LookingUp {
    /// Whether it is of use to look a call up.
    pub(super) fn helps(&self, call: CallId, now: Instant) -> bool {
        self.untold.get(&call).is_none_or(|until| *until <= now)
    }

    /// Whether it is of use to look a call up with some values.
    pub(super) fn helps_with(&self, call: CallId, key: &CallKey, now: Instant) -> bool {
        let untold = self.untold_of.get(&(call, key.clone()));
        // What is equal to NULL is named by no row.
        key.values().all(|value| value.is_some()) && untold.is_none_or(|until| *until <= now)
    }

    /// How many values of a call are looked up at once.
    pub(super) fn at_once(&self, call: CallId) -> usize {
        self.at_once.get(&call).copied().unwrap_or(VALUES)
    }

    /// For a while all are asked.
    pub(super) fn distrust(&mut self, call: CallId, now: Instant) {
        self.untold.insert(call, now + UNTOLD);
    }

    /// For a while all are asked for some values.
    pub(super) fn distrust_with(&mut self, call: CallId, key: CallKey, now: Instant) {
        if self.untold_of.len() >= MAX_UNTOLD {
            self.untold_of.retain(|_, until| *until > now);
        }
        if self.untold_of.len() >= MAX_UNTOLD {
            self.untold_of.clear();
        }
        self.untold_of.insert((call, key), now + UNTOLD);
    }

    /// So many values of a call named too many: how many are to be looked up in their place, from now on too.
    pub(super) fn named_too_many(&mut self, call: CallId, values: usize) -> usize {
        let fewer = (values / 2).max(1);
        self.at_once.insert(call, fewer);
        fewer
    }

    /// So many values of a call were told: one more may be, if there were as many as there may be.
    pub(super) fn were_told(&mut self, call: CallId, values: usize) {
        if values < self.at_once(call) {
            return;
        }
        match values + 1 < VALUES {
            true => self.at_once.insert(call, values + 1),
            false => self.at_once.remove(&call),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: CallId = CallId::at(0);
    const B: CallId = CallId::at(1);

    fn key(room: Option<&str>) -> CallKey {
        CallKey::new([room.map(|room| room.as_bytes().into())])
    }

    #[test]
    fn as_many_values_are_looked_up_as_could_be_told() {
        let mut looking_up = LookingUp::default();
        assert_eq!(looking_up.at_once(A), VALUES);
        // Fewer rows came than could be looked up: that says nothing.
        looking_up.were_told(A, 5);
        assert_eq!(looking_up.at_once(A), VALUES);
        assert_eq!(looking_up.named_too_many(A, VALUES), VALUES / 2);
        assert_eq!(looking_up.named_too_many(A, VALUES / 2), VALUES / 4);
        assert_eq!((looking_up.at_once(A), looking_up.at_once(B)), (VALUES / 4, VALUES), "it is remembered");
        looking_up.were_told(A, VALUES / 4);
        assert_eq!(looking_up.at_once(A), VALUES / 4 + 1);
        assert_eq!(looking_up.named_too_many(A, 3), 1);
        assert_eq!(looking_up.named_too_many(A, 1), 1);
        for values in 1..VALUES {
            assert_eq!(looking_up.at_once(A), values);
            looking_up.were_told(A, values);
        }
        assert_eq!(looking_up.at_once(A), VALUES);
        assert_eq!(looking_up.at_once.len(), 0);
    }

    #[test]
    fn what_could_not_be_told_is_not_looked_up_for_a_while() {
        let (mut looking_up, now) = (LookingUp::default(), Instant::now());
        looking_up.distrust_with(A, key(Some("1")), now);
        assert!(!looking_up.helps_with(A, &key(Some("1")), now) && looking_up.helps(A, now));
        assert!(looking_up.helps_with(A, &key(Some("2")), now), "of another value it can be told");
        assert!(looking_up.helps_with(B, &key(Some("1")), now), "and of another call");
        assert!(!looking_up.helps_with(A, &key(None), now));
        looking_up.distrust(A, now);
        assert!(!looking_up.helps(A, now) && looking_up.helps(B, now));
        let later = now + UNTOLD;
        assert!(looking_up.helps(A, later) && looking_up.helps_with(A, &key(Some("1")), later));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut looking_up, now) = (LookingUp::default(), Instant::now());
        for room in 0..MAX_UNTOLD + 10 {
            looking_up.distrust_with(A, key(Some(&room.to_string())), now);
        }
        assert_eq!(looking_up.untold_of.len(), 10);
        assert!(!looking_up.helps_with(A, &key(Some(&MAX_UNTOLD.to_string())), now));
    }
}
