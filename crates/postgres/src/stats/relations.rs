//! Counters of tables under row-level security, and what was found wrong about their policies.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use parking_lot::Mutex;
use realtime_metrics::Counter;
use realtime_pgoutput::Oid;

/// Tables of a database that have counters of their own: each is a label value of several metrics. All others together
/// have one more.
pub const MAX_RELATIONS: usize = 100;

/// What the tables beyond [`MAX_RELATIONS`] are counted as. Names of tables have a point behind their schema.
pub const OTHER_RELATIONS: &str = "other";

/// Policies that were found wrong, at most. Beyond it all of a table that is found wrong are left to the database until
/// the worker begins anew.
const MAX_DISTRUSTED: usize = 1_000;

/// What was decided about the rows of a table under row-level security, for one role and claims each.
#[derive(Debug, Default)]
pub struct RelationCounters {
    /// Verdicts that compiled policies gave.
    pub compiled: Counter,
    /// Verdicts that the database was asked for.
    pub asked: Counter,
    /// How often the database was asked.
    pub rounds: Counter,
    /// How long it took to answer, in microseconds, trying again included.
    pub asked_micros: Counter,
    /// Rows that were withheld because the policies could not be evaluated.
    pub withheld: Counter,
    /// Compiled verdicts that the database was asked about too, and answered.
    pub compared: Counter,
    /// Those of them that were wrong.
    pub mismatch: Counter,
}

/// A policy that was found wrong: table, name and condition. Who alters it has it compiled again.
pub(crate) type Distrusted = (Oid, Box<str>, Box<str>);

/// The tables of a database that had rows under row-level security.
#[derive(Debug, Default)]
pub struct RelationStats {
    by_name: Mutex<BTreeMap<Box<str>, Arc<RelationCounters>>>,
    others: Arc<RelationCounters>,
    distrusted: Mutex<BTreeSet<Distrusted>>,
}

impl RelationStats {
    /// The counters of a table.
    pub(crate) fn of(&self, schema: &str, name: &str) -> Arc<RelationCounters> {
        let mut by_name = self.by_name.lock();
        let name = format!("{schema}.{name}");
        if let Some(known) = by_name.get(&*name) {
            return Arc::clone(known);
        }
        if by_name.len() >= MAX_RELATIONS {
            return Arc::clone(&self.others);
        }
        Arc::clone(by_name.entry(name.into()).or_default())
    }

    /// All of them, by name; those without counters of their own as [`OTHER_RELATIONS`].
    #[must_use]
    pub fn all(&self) -> Vec<(Box<str>, Arc<RelationCounters>)> {
        let by_name = self.by_name.lock();
        let mut all: Vec<_> =
            by_name.iter().map(|(name, counters)| (name.clone(), Arc::clone(counters))).collect();
        if by_name.len() >= MAX_RELATIONS {
            all.push((OTHER_RELATIONS.into(), Arc::clone(&self.others)));
        }
        all
    }

    /// A policy was found wrong: it is left to the database from now on.
    pub(crate) fn distrust(&self, policy: Distrusted) {
        let mut distrusted = self.distrusted.lock();
        if distrusted.len() < MAX_DISTRUSTED {
            distrusted.insert(policy);
        }
    }

    /// Those of some policies of a table, by their places, that were found wrong.
    pub(crate) fn distrusted<'a>(
        &self,
        table: Oid,
        policies: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> BTreeSet<usize> {
        let distrusted = self.distrusted.lock();
        if distrusted.is_empty() {
            return BTreeSet::new();
        }
        let is_wrong = |(name, using): (&str, &str)| distrusted.contains(&(table, name.into(), using.into()));
        policies.enumerate().filter(|(_, policy)| is_wrong(*policy)).map(|(at, _)| at).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_are_bounded() {
        let stats = RelationStats::default();
        for n in 0..MAX_RELATIONS + 50 {
            stats.of("public", &format!("t{n}")).compiled.add(1);
            stats.of("public", "t0").asked.add(1);
        }
        let all = stats.all();
        assert_eq!(all.len(), MAX_RELATIONS + 1);
        let other = all.iter().find(|(name, _)| **name == *OTHER_RELATIONS).unwrap();
        assert_eq!(other.1.compiled.get(), 50);
        assert_eq!(stats.of("public", "t0").asked.get(), 150);
    }

    #[test]
    fn a_policy_that_was_altered_is_trusted_again() {
        let stats = RelationStats::default();
        let policies = [("a", "true"), ("b", "owner = me()")];
        assert!(stats.distrusted(1, policies.into_iter()).is_empty());
        stats.distrust((1, "b".into(), "owner = me()".into()));
        assert_eq!(stats.distrusted(1, policies.into_iter()), BTreeSet::from([1]));
        assert!(stats.distrusted(2, policies.into_iter()).is_empty());
        assert!(stats.distrusted(1, [("b", "owner = you()")].into_iter()).is_empty());
    }
}
