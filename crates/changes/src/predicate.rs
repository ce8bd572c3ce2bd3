//! Compiled filters and their evaluation, in SQL's three-valued logic (postgres_changes 1.6, row_security 5).

mod condition;
mod keying;
mod planned;
mod test;

pub(crate) use condition::{Condition, IndexKeys};
pub(crate) use keying::Keying;
pub(crate) use planned::Planned;
use test::Answer;

use crate::{question::Question, row::Row, tree::Tree, truth::Truth};

/// Most values that a subscription stands under in the index. One with more is looked at for every row.
const MAX_INDEXED: usize = 1_000;

/// The filter of one subscription on one table.
#[derive(Debug, Clone)]
pub struct Predicate {
    tree: Tree<Condition>,
}

impl Default for Predicate {
    fn default() -> Self {
        Self { tree: Tree::Known(Truth::TRUE) }
    }
}

/// Outcome of a predicate.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Holds,
    Fails,
    /// Holds if all of these do.
    Depends(Vec<Question>),
}

impl Predicate {
    pub(crate) const fn new(tree: Tree<Condition>) -> Self {
        Self { tree }
    }

    /// How the predicate is found from a row's values: by any of these. `None` if it may hold for rows that have none of
    /// them.
    pub(crate) fn index_keys(&self) -> Option<Vec<IndexKeys<'_>>> {
        ways(&self.tree).filter(|ways| are_few(ways))
    }

    /// Evaluates the predicate on a row.
    pub(crate) fn evaluate<'r>(&'r self, row: &Row<'r>) -> Outcome {
        row.begin();
        let truth = self.tree.judge(&mut |condition: &'r Condition| match condition.judge(row) {
            Answer::Known(truth) => truth,
            Answer::Ask(_) => Truth::ANY,
        });
        if truth.holds() {
            return Outcome::Holds;
        }
        if !truth.may_hold() {
            return Outcome::Fails;
        }
        row.begin();
        match self.tree.reduce(&mut |condition: &'r Condition| condition.reduce(row)) {
            Tree::Known(truth) if truth.holds() => Outcome::Holds,
            Tree::Known(_) => Outcome::Fails,
            Tree::And(parts) => Outcome::Depends(parts.into_iter().map(Question::new).collect()),
            tree => Outcome::Depends(vec![Question::new(tree)]),
        }
    }
}

/// Where a condition can be found: by one of its equalities if all of its parts must hold, by one of each part if one must.
fn ways(tree: &Tree<Condition>) -> Option<Vec<IndexKeys<'_>>> {
    match tree {
        Tree::Leaf(condition) => Some(vec![condition.index_keys()?]),
        Tree::And(parts) => parts.iter().filter_map(ways).find(|ways| are_few(ways)),
        Tree::Or(parts) => {
            let parts: Option<Vec<_>> = parts.iter().map(ways).collect();
            Some(parts?.into_iter().flatten().collect())
        }
        Tree::Known(_) | Tree::Not(_) | Tree::Is(..) => None,
    }
}

/// Whether the index takes as many values.
fn are_few(ways: &[IndexKeys<'_>]) -> bool {
    ways.iter().map(|way| way.keys.len()).sum::<usize>() <= MAX_INDEXED
}

#[cfg(test)]
mod tests;
