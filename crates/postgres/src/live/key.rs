//! What tells the rows of a view apart: the primary keys of the tables that it shows, if it shows them.

use std::collections::HashMap;

use realtime_pgoutput::Oid;

use super::node::{self, Query};

/// Deepest nesting of views in views.
const MAX_DEPTH: usize = 32;

/// What is known of relations.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// Numbers of the columns of primary keys, and of unique indexes of materialized views.
    own: HashMap<Oid, Vec<i16>>,
    /// The queries of views of which something can be said.
    queries: HashMap<Oid, Query>,
}

impl Keys {
    pub(super) fn put_key(&mut self, of: Oid, columns: Vec<i16>) {
        self.own.insert(of, columns);
    }

    pub(super) fn put_rule(&mut self, view: Oid, rule: &str) {
        if let Some(query) = node::query(view, rule) {
            self.queries.insert(view, query);
        }
    }

    /// The numbers of columns that tell the rows of a relation apart. `None` if none are known.
    ///
    /// A view of one relation has that one's key. In a join the keys of all relations together are certain to tell rows
    /// apart; what the view shows of them is taken, which is enough where the rest is looked up by foreign keys.
    pub(super) fn of(&self, relation: Oid) -> Option<Vec<i16>> {
        self.find(relation, 0, &mut HashMap::new())
    }

    /// `known`: what was found so far. Views may name others many times over.
    fn find(
        &self,
        relation: Oid,
        depth: usize,
        known: &mut HashMap<Oid, Option<Vec<i16>>>,
    ) -> Option<Vec<i16>> {
        if let Some(own) = self.own.get(&relation) {
            return Some(own.clone());
        }
        if let Some(known) = known.get(&relation) {
            return known.clone();
        }
        let query = self.queries.get(&relation).filter(|_| depth < MAX_DEPTH)?;
        let (mut found, mut seen): (Vec<i16>, Vec<Oid>) = (Vec::new(), Vec::new());
        for of in &query.relations {
            if seen.contains(of) {
                continue;
            }
            seen.push(*of);
            let Some(key) = self.find(*of, depth + 1, known) else { continue };
            let shown =
                |column: &i16| query.shown.iter().any(|shown| shown.of == *of && shown.column == *column);
            if key.iter().all(shown) {
                // A table that is joined with itself shows its key twice.
                let columns =
                    query.shown.iter().filter(|shown| shown.of == *of && key.contains(&shown.column));
                found.extend(columns.map(|shown| shown.number));
            }
        }
        found.sort_unstable();
        let found = (!found.is_empty()).then_some(found);
        known.insert(relation, found.clone());
        found
    }
}

#[cfg(test)]
mod tests {
    use super::{super::node::Shown, *};

    /// A view, what it selects from, and what it shows of that.
    type View<'a> = (Oid, &'a [Oid], &'a [(i16, Oid, i16)]);

    fn keys(views: &[View<'_>]) -> Keys {
        let mut keys = Keys::default();
        keys.put_key(1, vec![1]);
        keys.put_key(2, vec![2, 1]);
        for (view, relations, shown) in views {
            let shown =
                shown.iter().map(|(number, of, column)| Shown { number: *number, of: *of, column: *column });
            keys.queries.insert(*view, Query { relations: relations.to_vec(), shown: shown.collect() });
        }
        keys
    }

    #[test]
    fn views_show_the_keys_of_their_tables() {
        let keys = keys(&[
            (10, &[1], &[(3, 1, 1), (4, 1, 7)]),
            (11, &[1], &[(4, 1, 7)]),
            (12, &[2, 1], &[(1, 2, 1), (2, 1, 1), (3, 2, 2)]),
            (13, &[2, 1], &[(1, 2, 1), (2, 1, 1)]),
            (14, &[1, 1], &[(1, 1, 1), (2, 1, 1)]),
            (15, &[10], &[(1, 10, 3)]),
            (16, &[10], &[(1, 10, 4)]),
            (17, &[17], &[(1, 17, 1)]),
        ]);
        let expected = [
            (1, Some(vec![1])),
            (10, Some(vec![3])),
            (11, None),
            (12, Some(vec![1, 2, 3])),
            (13, Some(vec![2])),
        ];
        for (of, key) in expected {
            assert_eq!(keys.of(of), key, "{of}");
        }
        assert_eq!((keys.of(14), keys.of(15)), (Some(vec![1, 2]), Some(vec![1])));
        assert_eq!((keys.of(16), keys.of(17), keys.of(99)), (None, None, None));
    }
}
