//! In which order things are posted: those with a key in common one after the other, as they came, others beside each
//! other, up to a bound.
//!
//! A thing has one key or two: a row whose primary key changes belongs to the old key and to the new one. It is ready when
//! it is the first in the lanes of all its keys, and stays the first until it is done. Keys are digests: two rows with the
//! same one only wait for each other without need.

use std::collections::{HashMap, VecDeque};

/// Names a thing that was taken, until it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(u64);

/// What waits, in lanes.
#[derive(Debug)]
pub struct Lanes<T> {
    lanes: HashMap<u64, VecDeque<u64>>,
    /// What waits and what was taken, by number.
    held: HashMap<u64, Held<T>>,
    ready: VecDeque<u64>,
    taken: usize,
    /// How many may be taken at once.
    most: usize,
    next: u64,
}

#[derive(Debug)]
struct Held<T> {
    /// One or two, no key twice.
    keys: Vec<u64>,
    /// In how many lanes others come before it.
    behind: usize,
    /// `None`: it was taken.
    item: Option<T>,
}

impl<T> Lanes<T> {
    /// Lanes in which nothing waits. `most`: how many things may be taken at once.
    #[must_use]
    pub fn new(most: usize) -> Self {
        let (lanes, held) = (HashMap::new(), HashMap::new());
        Self { lanes, held, ready: VecDeque::new(), taken: 0, most, next: 0 }
    }

    /// Adds a thing behind all others that have one of its keys.
    pub fn push(&mut self, key: u64, other: Option<u64>, item: T) {
        let id = self.next;
        self.next += 1;
        let keys: Vec<u64> = std::iter::once(key).chain(other.filter(|other| *other != key)).collect();
        let mut behind = 0;
        for key in &keys {
            let lane = self.lanes.entry(*key).or_default();
            behind += usize::from(!lane.is_empty());
            lane.push_back(id);
        }
        if behind == 0 {
            self.ready.push_back(id);
        }
        self.held.insert(id, Held { keys, behind, item: Some(item) });
    }

    /// Takes the next thing that may be posted now. Tell when it is [`done`](Self::done).
    pub fn take(&mut self) -> Option<(Ticket, T)> {
        if self.taken >= self.most {
            return None;
        }
        let id = self.ready.pop_front()?;
        let item = self.held.get_mut(&id)?.item.take()?;
        self.taken += 1;
        Some((Ticket(id), item))
    }

    /// A thing that was taken is done: what waits for it may become ready.
    pub fn done(&mut self, ticket: Ticket) {
        let Some(held) = self.held.remove(&ticket.0) else { return };
        self.taken = self.taken.saturating_sub(1);
        for key in held.keys {
            let Some(lane) = self.lanes.get_mut(&key) else { continue };
            // What was taken is the first of its lanes.
            lane.pop_front();
            let Some(first) = lane.front().copied() else {
                self.lanes.remove(&key);
                continue;
            };
            if let Some(held) = self.held.get_mut(&first) {
                held.behind = held.behind.saturating_sub(1);
                if held.behind == 0 {
                    self.ready.push_back(first);
                }
            }
        }
    }

    /// How many things wait or are being posted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_has_one_thing_at_a_time() {
        let mut lanes = Lanes::new(8);
        for (key, other, item) in [(1, None, 'a'), (1, None, 'b'), (2, None, 'c')] {
            lanes.push(key, other, item);
        }
        let (a, first) = lanes.take().unwrap();
        let (_, second) = lanes.take().unwrap();
        assert_eq!((first, second), ('a', 'c'));
        assert!(lanes.take().is_none(), "b waits for a");
        lanes.done(a);
        assert_eq!(lanes.take().unwrap().1, 'b');
    }

    /// A row moves from key 1 to key 2: it comes after both, and both go on behind it.
    #[test]
    fn a_row_whose_key_changes_belongs_to_both() {
        let mut lanes = Lanes::new(8);
        for (key, other, item) in
            [(1, None, 'a'), (2, None, 'b'), (1, Some(2), 'c'), (2, None, 'd'), (1, None, 'e')]
        {
            lanes.push(key, other, item);
        }
        let (a, _) = lanes.take().unwrap();
        let (b, _) = lanes.take().unwrap();
        lanes.done(b);
        assert!(lanes.take().is_none());
        lanes.done(a);
        let (c, third) = lanes.take().unwrap();
        assert_eq!(third, 'c');
        assert!(lanes.take().is_none());
        lanes.done(c);
        let mut rest: Vec<char> = std::iter::from_fn(|| lanes.take().map(|(_, item)| item)).collect();
        rest.sort_unstable();
        assert_eq!(rest, ['d', 'e']);
    }

    #[test]
    fn no_more_than_the_bound_are_taken() {
        let mut lanes = Lanes::new(2);
        (0..5).for_each(|key| lanes.push(key, None, key));
        let (first, _) = lanes.take().unwrap();
        assert!(lanes.take().is_some() && lanes.take().is_none());
        lanes.done(first);
        assert!(lanes.take().is_some() && lanes.take().is_none());
        lanes.done(first);
        assert!(lanes.take().is_none(), "a ticket counts once");
        assert_eq!(lanes.len(), 4);
    }

    proptest! {
        /// Whatever comes and whichever is done first: things of a key are taken in their order, one at a time, and all
        /// are taken in the end.
        #[test]
        fn order_holds_for_each_key(
            things in prop::collection::vec((0u64..4, prop::option::of(0u64..4)), 1..60),
            choices in prop::collection::vec((0u8..3, 0usize..8), 1..400),
            most in 1usize..5,
        ) {
            let mut lanes = Lanes::new(most);
            let keys = |at: usize| {
                let (key, other) = things[at];
                std::iter::once(key).chain(other)
            };
            let (mut pushed, mut taken, mut flying) = (0, Vec::new(), Vec::<(Ticket, usize)>::new());
            // The rest is driven to its end.
            let end = std::iter::repeat_n([(0, 0), (1, 0), (2, 0)], things.len() * 3).flatten();
            for (what, which) in choices.into_iter().chain(end) {
                match what {
                    0 if pushed < things.len() => {
                        lanes.push(things[pushed].0, things[pushed].1, pushed);
                        pushed += 1;
                    }
                    1 => {
                        if let Some((ticket, at)) = lanes.take() {
                            for (_, other) in &flying {
                                prop_assert!(!keys(*other).any(|key| keys(at).any(|own| own == key)));
                            }
                            flying.push((ticket, at));
                            taken.push(at);
                            prop_assert!(flying.len() <= most);
                        }
                    }
                    2 if !flying.is_empty() => {
                        let (ticket, _) = flying.swap_remove(which % flying.len());
                        lanes.done(ticket);
                    }
                    _ => {}
                }
            }
            prop_assert_eq!(taken.len(), things.len());
            prop_assert!(lanes.is_empty() && lanes.lanes.is_empty());
            for key in 0..4 {
                let of_key: Vec<usize> = taken.iter().copied().filter(|at| keys(*at).any(|own| own == key)).collect();
                prop_assert!(of_key.is_sorted());
            }
        }
    }
}
