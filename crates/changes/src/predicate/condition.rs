//! Conditions on one operand each.

use super::{
    keying::Keying,
    planned::Planned,
    test::{Answer, Test},
};
use crate::{
    filter::Operator,
    question::Part,
    row::{Got, Operand, Row},
    tree::Tree,
    truth::Truth,
};

/// A compiled condition.
#[derive(Debug, Clone)]
pub(crate) struct Condition {
    operand: Operand,
    test: Test,
    negate: bool,
}

/// A condition that the hash index can serve: any of these keys of this operand.
#[derive(Debug)]
pub(crate) struct IndexKeys<'a> {
    pub(crate) operand: &'a Operand,
    pub(crate) keying: Keying,
    pub(crate) keys: Vec<&'a [u8]>,
}

impl Condition {
    /// A condition with its literal in canonical form.
    pub(crate) fn new(planned: &Planned, literal: &str, collation_is_c: bool) -> Self {
        let test = Test::native(planned, literal, collation_is_c)
            .unwrap_or_else(|| Test::Ask(planned.compare(literal)));
        // NULL stays NULL when negated, so "not equal" is the negation of "equal".
        let opposite = planned.filter.operator == Operator::Neq && test.is_equality();
        Self { operand: planned.operand.clone(), test, negate: planned.filter.negate != opposite }
    }

    /// What the condition is for a row, or what to ask. One on something that the change does not carry is neither true nor
    /// false, and so is its negation: it decides nothing that others do not decide.
    pub(super) fn judge<'r>(&'r self, row: &Row<'r>) -> Answer {
        let got = row.take(&self.operand);
        let answer = match (&got, got.text()) {
            (_, Some(text)) => self.test.on_text(text, self.operand.column, row),
            (Got::Missing, None) => return Answer::Known(Truth::NULL),
            (_, None) => Answer::Known(Truth::known(self.test.on_null())),
        };
        match answer {
            Answer::Known(truth) if self.negate => Answer::Known(truth.not()),
            answer => answer,
        }
    }

    /// What the condition is, or the question in its place.
    pub(super) fn reduce<'r>(&'r self, row: &Row<'r>) -> Tree<Part> {
        match self.judge(row) {
            Answer::Known(truth) => Tree::Known(truth),
            Answer::Ask(part) if self.negate => Tree::Leaf(part).not(),
            Answer::Ask(part) => Tree::Leaf(part),
        }
    }

    pub(super) fn index_keys(&self) -> Option<IndexKeys<'_>> {
        let (keying, keys) = if self.negate { None } else { self.test.keys() }?;
        Some(IndexKeys { operand: &self.operand, keying, keys })
    }
}
