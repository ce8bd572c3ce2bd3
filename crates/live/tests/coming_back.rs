//! Whatever has happened while a client was away: if it is known what it has, it gets what it lacks.

use std::collections::BTreeMap;

use proptest::prelude::*;
use realtime_live::{Digest, Digester, Keeper, Secret, Seen, halfway, key};

type Map = BTreeMap<Vec<u8>, u8>;

/// What happens to a result. Each is told with a time: so many milliseconds behind the one before, or before it.
#[derive(Debug, Clone)]
enum Step {
    /// Rows are now these; those without a value are gone.
    Commit(Vec<(u8, Option<u8>)>, i64),
    /// The rows changed unseen, and are read again.
    Read(BTreeMap<u8, u8>, i64),
    /// A reading fails after so many rows were told.
    Fail(BTreeMap<u8, u8>, usize, i64),
}

/// A client that went away: the last time that it has got, and what it had then.
#[derive(Debug, Clone)]
struct Away {
    time: i64,
    map: Map,
}

struct World {
    keeper: Keeper,
    /// What a client has that has been there all the time.
    map: Map,
    time: i64,
    /// One client went away after each message.
    away: Vec<Away>,
}

fn name(row: u8) -> Vec<u8> {
    let text = if row.is_multiple_of(3) { format!("{row:060}") } else { row.to_string() };
    key([Some(text.as_bytes())])
}

fn digest(value: u8) -> Digest {
    let mut digester = Digester::new(Secret::fixed(3, 4));
    digester.value(Some(&[value]));
    digester.finish()
}

impl World {
    fn new(first: &BTreeMap<u8, u8>) -> Self {
        let (keeper, time) = (Keeper::new(Secret::fixed(1, 2)), 1_700_000_000_001);
        let mut world = Self { keeper, map: Map::new(), time, away: Vec::new() };
        world.read(first);
        // Before that a client names a time that is no place.
        world.away = vec![Away { time: world.time, map: world.map.clone() }];
        world
    }

    fn tell(&mut self, key: &[u8], value: Option<u8>) {
        match value {
            Some(value) => drop(self.map.insert(key.to_vec(), value)),
            None => drop(self.map.remove(key)),
        }
        self.away.push(Away { time: self.time, map: self.map.clone() });
    }

    fn begin(&mut self, later: i64) {
        self.time += later;
        self.keeper.tells_at(self.time);
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Commit(rows, later) => {
                self.begin(*later);
                for (row, value) in rows {
                    let key = name(*row);
                    let is_told = match value {
                        Some(value) => self.keeper.put(&key, digest(*value)) != Seen::Same,
                        None => self.keeper.remove(&key),
                    };
                    if is_told {
                        self.tell(&key, *value);
                    }
                }
            }
            Step::Read(rows, later) => {
                self.begin(*later);
                self.read(rows);
            }
            Step::Fail(rows, told, later) => {
                self.begin(*later);
                self.keeper.begin();
                for (row, value) in rows.iter().take(*told) {
                    let key = name(*row);
                    self.keeper.told();
                    if self.keeper.see(&key, digest(*value)) != Seen::Same {
                        self.tell(&key, Some(*value));
                    }
                }
                self.keeper.give_up();
            }
        }
    }

    fn read(&mut self, rows: &BTreeMap<u8, u8>) {
        self.keeper.tells_at(self.time);
        self.keeper.begin();
        for (row, value) in rows {
            let key = name(*row);
            if self.keeper.see(&key, digest(*value)) != Seen::Same {
                self.tell(&key, Some(*value));
            }
        }
        let left: Vec<Vec<u8>> = self.keeper.left().map(<[u8]>::to_vec).collect();
        left.iter().for_each(|key| self.tell(key, None));
        self.keeper.end();
        self.keeper.remember();
        // Whoever came meanwhile has all rows.
        self.away.push(Away { time: self.time, map: self.map.clone() });
    }

    /// What a client has after it has come back with a time, and how much it was told. `None`: it has to begin anew.
    /// `is_right`: whether the time is the one that it has got last.
    fn comes_back(&self, time: i64, mut map: Map, is_right: bool) -> Option<(Map, usize)> {
        let mut keeper = self.keeper.of_client(time)?;
        let mut told = 0;
        keeper.begin();
        keeper.told();
        for (key, value) in &self.map {
            let seen = keeper.see(key, digest(*value));
            if seen != Seen::Same {
                let had = map.insert(key.clone(), *value);
                assert!(seen != Seen::New || had.is_none() || !is_right, "an INSERT of a row that is there");
                told += 1;
            }
        }
        for key in keeper.left() {
            map.remove(key);
            told += 1;
        }
        keeper.end();
        assert_eq!(keeper.len(), self.map.len());
        Some((map, told))
    }

    fn check(&self) -> Result<usize, String> {
        let mut known = 0;
        for away in &self.away {
            if let Some((map, _)) = self.comes_back(away.time, away.map.clone(), true) {
                known += 1;
                if map != self.map {
                    return Err(format!("{away:?} has {map:?}, the result is {:?}", self.map));
                }
            }
        }
        Ok(known)
    }
}

fn rows() -> impl Strategy<Value = BTreeMap<u8, u8>> {
    prop::collection::btree_map(0..30_u8, 0..4_u8, 0..25)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let later = || prop_oneof![4 => 0..300_i64, 1 => -200..0_i64];
    let changes = prop::collection::vec((0..30_u8, prop::option::of(0..4_u8)), 1..6);
    let step = prop_oneof![
        5 => (changes, later()).prop_map(|(rows, later)| Step::Commit(rows, later)),
        2 => (rows(), later()).prop_map(|(rows, later)| Step::Read(rows, later)),
        1 => (rows(), 0..10_usize, later()).prop_map(|(rows, told, later)| Step::Fail(rows, told, later)),
    ];
    prop::collection::vec(step, 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn a_client_that_comes_back_gets_what_it_lacks(first in rows(), steps in steps()) {
        let mut world = World::new(&first);
        for step in &steps {
            world.step(step);
        }
        prop_assert!(world.check().is_ok(), "{:?}", world.check());
    }
}

/// It gets what has changed, and not all rows.
#[test]
fn little_comes_to_who_has_missed_little() {
    let mut world = World::new(&(0..30).map(|row| (row, 0)).collect());
    world.step(&Step::Commit(vec![(1, Some(1))], 10));
    let away = world.away.last().unwrap().clone();
    world.step(&Step::Commit(vec![(2, Some(1)), (3, None)], 10));
    world.step(&Step::Commit(vec![(3, Some(2)), (4, None)], 10));
    let (map, told) = world.comes_back(away.time, away.map.clone(), true).unwrap();
    assert_eq!((map == world.map, told), (true, 4), "with the row of the time that it has named");
    // The check would see a client that is taken for one that has more.
    let later = world.time;
    assert_ne!(world.comes_back(later, away.map, false).unwrap().0, world.map);
    assert_eq!(world.check(), Ok(world.away.len()));
}

#[test]
fn what_is_not_known_is_not_guessed() {
    let mut world = World::new(&[(1, 1), (2, 2)].into());
    world.step(&Step::Commit(vec![(1, Some(2))], 10));
    let map = Map::new();
    for time in [0, i64::MAX, world.time + 1, world.time - 1, halfway(world.time * 1_000) / 1_000] {
        assert!(world.keeper.of_client(time).is_none(), "{time}");
    }
    assert!(world.comes_back(world.time, map, false).is_some());
    world.keeper.forget();
    assert!(world.keeper.of_client(world.time).is_none());
}
