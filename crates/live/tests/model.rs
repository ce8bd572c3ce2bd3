//! Whatever happens to a result, a client that does what it is told has the rows of the model.

use std::collections::BTreeMap;

use proptest::prelude::*;
use realtime_live::{Digest, Digester, Keeper, Secret, Seen, key, values};

/// What happens to a result.
#[derive(Debug, Clone)]
enum Step {
    /// A row is now this one.
    Put(u8, u8),
    /// A row is gone.
    Remove(u8),
    /// The rows changed unseen, and are read again.
    Read(BTreeMap<u8, u8>),
    /// A reading fails after so many rows; so many were told before.
    Fail(BTreeMap<u8, u8>, usize, usize),
    /// All rows leave.
    Clear,
    /// A client moves to another keeper that has the same.
    Copy,
}

type Map = BTreeMap<Vec<u8>, u8>;

/// A keeper, or one that is broken on purpose.
struct Bench {
    keeper: Keeper,
    client: Map,
    model: Map,
    /// Forgets to tell of a row that left.
    forgets: bool,
}

fn name(row: u8) -> Vec<u8> {
    // Short keys and long ones.
    let text = if row.is_multiple_of(3) { format!("{row:060}") } else { row.to_string() };
    key([Some(text.as_bytes()), None])
}

fn digest(value: u8) -> Digest {
    let mut digester = Digester::new(Secret::fixed(3, 4));
    digester.value(Some(&[value]));
    digester.finish()
}

impl Bench {
    fn new(forgets: bool) -> Self {
        let keeper = Keeper::new(Secret::fixed(1, 2));
        Self { keeper, client: Map::new(), model: Map::new(), forgets }
    }

    fn tell(&mut self, seen: Seen, key: &[u8], value: u8) {
        match seen {
            Seen::New => {
                assert_eq!(self.client.insert(key.to_vec(), value), None, "an INSERT of a row that is there")
            }
            Seen::Changed => {
                let before = self.client.insert(key.to_vec(), value);
                assert!(before.is_some_and(|before| before != value), "an UPDATE that changes nothing");
            }
            Seen::Same => {}
            Seen::Twice => assert_ne!(seen, Seen::Twice, "keys are unique here"),
        }
    }

    fn leave(&mut self, key: &[u8]) {
        assert!(self.client.remove(key).is_some(), "a DELETE of a row that is not there");
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Put(row, value) => {
                let key = name(*row);
                let seen = self.keeper.put(&key, digest(*value));
                self.tell(seen, &key, *value);
                self.model.insert(key, *value);
            }
            Step::Remove(row) => {
                let key = name(*row);
                if self.keeper.remove(&key) {
                    self.leave(&key);
                }
                self.model.remove(&key);
            }
            Step::Read(rows) => self.read(rows),
            Step::Fail(rows, all, told) => self.fail(rows, *all, *told),
            Step::Clear => {
                for key in self.keeper.clear() {
                    self.leave(&key);
                }
                self.model.clear();
            }
            Step::Copy => self.keeper = self.keeper.clone(),
        }
    }

    fn read(&mut self, rows: &BTreeMap<u8, u8>) {
        self.model = rows.iter().map(|(row, value)| (name(*row), *value)).collect();
        self.keeper.begin();
        for (key, value) in self.model.clone() {
            let seen = self.keeper.see(&key, digest(value));
            self.tell(seen, &key, value);
        }
        let left: Vec<Vec<u8>> = self.keeper.left().map(<[u8]>::to_vec).collect();
        for key in &left[usize::from(self.forgets && !left.is_empty())..] {
            self.leave(key);
        }
        self.keeper.end();
    }

    /// What is told of a reading that fails is told; nothing else has happened.
    fn fail(&mut self, rows: &BTreeMap<u8, u8>, all: usize, told: usize) {
        self.keeper.begin();
        let mut kept = Vec::new();
        for (at, (row, value)) in rows.iter().take(all).enumerate() {
            let key = name(*row);
            kept.push((self.keeper.see(&key, digest(*value)), key, *value));
            if told > 0 && at + 1 >= told {
                self.keeper.told();
                for (seen, key, value) in std::mem::take(&mut kept) {
                    self.tell(seen, &key, value);
                    if seen != Seen::Same {
                        self.model.insert(key, value);
                    }
                }
            }
        }
        self.keeper.give_up();
    }

    fn check(&self) -> Result<(), String> {
        if self.client != self.model {
            return Err(format!("the client has {:?}, the result is {:?}", self.client, self.model));
        }
        let same = self.keeper.len() == self.model.len() && self.model.keys().all(|key| self.keeper.has(key));
        if same { Ok(()) } else { Err("the keeper has other keys than the result".to_owned()) }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (row, value) = (0..30_u8, 0..4_u8);
    let rows = prop::collection::btree_map(0..30_u8, 0..4_u8, 0..25);
    let step = prop_oneof![
        4 => (row.clone(), value).prop_map(|(row, value)| Step::Put(row, value)),
        3 => row.prop_map(Step::Remove),
        3 => rows.clone().prop_map(Step::Read),
        2 => (rows, 0..25_usize, 0..10_usize).prop_map(|(rows, all, told)| Step::Fail(rows, all, told)),
        1 => Just(Step::Clear),
        1 => Just(Step::Copy),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_client_has_the_rows_of_the_model(steps in steps()) {
        let mut bench = Bench::new(false);
        for step in &steps {
            bench.step(step);
            prop_assert_eq!(bench.check(), Ok(()));
        }
    }
}

/// The check above would see a keeper that is broken.
#[test]
fn a_keeper_that_forgets_a_row_is_caught() {
    let mut bench = Bench::new(true);
    bench.step(&Step::Read([(1, 1), (2, 2)].into()));
    assert_eq!(bench.check(), Ok(()));
    bench.step(&Step::Read([(1, 1)].into()));
    assert!(bench.check().is_err());
    let read = key([Some(b"2".as_slice()), None]);
    assert_eq!(values(&read), [Some(b"2".to_vec()), None]);
}
