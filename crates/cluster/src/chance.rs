//! What is random in this crate: numbers that nodes draw, and the order of tables. In its own tests both repeat themselves,
//! so that a seed of the simulation is one run.

#[cfg(not(test))]
pub(crate) use random::{Map, Set, draw};
#[cfg(test)]
pub(crate) use repeatable::{Map, Set, draw, sow};

#[cfg(not(test))]
mod random {
    pub(crate) type Map<K, V> = std::collections::HashMap<K, V>;
    pub(crate) type Set<K> = std::collections::HashSet<K>;

    /// Draws a number that nobody can guess.
    pub(crate) fn draw() -> u64 {
        rand::random()
    }
}

#[cfg(test)]
mod repeatable {
    use std::{
        cell::RefCell,
        collections::{HashMap, HashSet},
        hash::{BuildHasherDefault, DefaultHasher},
    };

    use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

    type Order = BuildHasherDefault<DefaultHasher>;
    pub(crate) type Map<K, V> = HashMap<K, V, Order>;
    pub(crate) type Set<K> = HashSet<K, Order>;

    thread_local! {
        static NUMBERS: RefCell<StdRng> = RefCell::new(StdRng::seed_from_u64(0));
    }

    /// What this thread draws follows from the seed.
    pub(crate) fn sow(seed: u64) {
        NUMBERS.set(StdRng::seed_from_u64(seed));
    }

    pub(crate) fn draw() -> u64 {
        NUMBERS.with_borrow_mut(|numbers| numbers.random())
    }
}
