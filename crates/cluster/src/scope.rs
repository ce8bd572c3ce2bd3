//! What a stream of envelopes is about: a tenant as a whole, or those of its rooms that are in one bucket (pure).
//!
//! Topics are hashed into buckets. A node listens to the buckets in which it has members, so what is said in a room goes
//! only to nodes that have members there, or in one of the few rooms of the same bucket.

use std::sync::Arc;

/// Buckets of a tenant: as many as a mask of 64 bits has. Part of the protocol between nodes, as the hash is.
pub const BUCKETS: u8 = 64;

/// A part of what nodes say about a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// What concerns all of the tenant: its users, its rates, the buckets that a node listens to.
    Whole,
    /// The rooms of a bucket, by its number.
    Bucket(u8),
}

impl Part {
    /// The bucket of a topic. Public and private rooms of a name share it.
    #[must_use]
    pub fn of(topic: &str) -> Self {
        // FNV-1a: short, and the same on every node.
        let hash = topic.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
        });
        Self::Bucket(((hash ^ (hash >> 32)) % u64::from(BUCKETS)) as u8)
    }

    /// Its bit in a mask of buckets; none for the whole.
    #[must_use]
    pub const fn bit(self) -> u64 {
        match self {
            Self::Whole => 0,
            Self::Bucket(bucket) => 1 << (bucket % BUCKETS),
        }
    }
}

/// A part of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scope {
    /// The tenant.
    pub tenant: Arc<str>,
    /// The part.
    pub part: Part,
}

impl Scope {
    /// A tenant as a whole.
    #[must_use]
    pub fn whole(tenant: &Arc<str>) -> Self {
        Self { tenant: Arc::clone(tenant), part: Part::Whole }
    }

    /// The bucket of a room.
    #[must_use]
    pub fn of_room(tenant: &Arc<str>, topic: &str) -> Self {
        Self { tenant: Arc::clone(tenant), part: Part::of(topic) }
    }
}

/// Some parts of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Parts {
    /// Whether the whole is one of them.
    pub whole: bool,
    /// The buckets, one bit for each.
    pub buckets: u64,
}

impl Parts {
    /// Adds one.
    pub fn add(&mut self, part: Part) {
        self.whole |= part == Part::Whole;
        self.buckets |= part.bit();
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// All of them.
    pub fn iter(self) -> impl Iterator<Item = Part> {
        let buckets = (0..BUCKETS).map(Part::Bucket).filter(move |part| self.buckets & part.bit() != 0);
        self.whole.then_some(Part::Whole).into_iter().chain(buckets)
    }
}

/// The buckets of a tenant that a node listens to. The highest version counts, in whatever order they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Listens {
    /// Counts the changes of a node, over all tenants.
    pub version: u64,
    /// The buckets, one bit for each.
    pub buckets: u64,
}

impl Listens {
    /// Takes a later version; returns the buckets that are new in it.
    pub fn take(&mut self, other: Self) -> u64 {
        if other.version <= self.version {
            return 0;
        }
        let new = other.buckets & !self.buckets;
        *self = other;
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nodes of one version of the protocol must agree: these values never change within it.
    #[test]
    fn buckets_are_part_of_the_protocol() {
        let bucket = |topic| match Part::of(topic) {
            Part::Bucket(bucket) => bucket,
            Part::Whole => panic!("a room is in a bucket"),
        };
        let buckets = ["realtime:lobby", "realtime:room1", "realtime:", "", "realtime:é"].map(bucket);
        assert_eq!(buckets, EXPECTED);
    }

    const EXPECTED: [u8; 5] = [56, 34, 58, 1, 21];

    #[test]
    fn topics_spread_over_all_buckets() {
        let mut counts = [0_u32; BUCKETS as usize];
        for n in 0..6400 {
            if let Part::Bucket(bucket) = Part::of(&format!("realtime:room-{n}")) {
                counts[usize::from(bucket)] += 1;
            }
        }
        assert!(counts.iter().all(|count| (50..200).contains(count)), "{counts:?}");
    }

    #[test]
    fn an_earlier_version_changes_nothing() {
        let mut listens = Listens::default();
        assert_eq!(listens.take(Listens { version: 2, buckets: 0b101 }), 0b101);
        assert_eq!(listens.take(Listens { version: 1, buckets: 0 }), 0, "it came late");
        assert_eq!(listens.buckets, 0b101);
        assert_eq!(listens.take(Listens { version: 3, buckets: 0b110 }), 0b010);
    }

    #[test]
    fn parts_are_what_was_added() {
        let mut parts = Parts::default();
        assert!(parts.is_empty());
        let all = [Part::Whole, Part::Bucket(0), Part::Bucket(63)];
        all.into_iter().for_each(|part| parts.add(part));
        assert_eq!(parts.iter().collect::<Vec<_>>(), all);
    }
}
