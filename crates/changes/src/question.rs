//! Questions about a row that only the database can answer.

use std::sync::Arc;

use bytes::Bytes;

use crate::tree::Tree;

/// How an operator stands between a value and a literal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// `value operator literal`.
    Scalar,
    /// The literal is an array: `value operator any (literal)`.
    Array,
    /// The literal is a regular expression.
    Regex,
    /// The operator is the equality whose opposite is meant; NULL is a value like others.
    Distinct,
}

/// A comparison of a row's value with the literal of a condition.
#[derive(Debug, PartialEq, Eq)]
pub struct Compare {
    /// Type to cast both sides to, quoted.
    pub type_name: Box<str>,
    /// SQL operator with its schema.
    pub operator: Box<str>,
    /// How it is used.
    pub form: Form,
    /// The condition's literal.
    pub literal: Box<str>,
    /// Whether the casts can run code of an application.
    pub runs_code: bool,
}

/// A comparison of one value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// What it is compared with.
    pub compare: Arc<Compare>,
    /// The row's value. It shares the memory of the row.
    pub value: Bytes,
}

/// What the database is asked: whether comparisons hold, joined as a filter joins them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// The comparisons.
    pub parts: Tree<Part>,
    /// Whether they can run code of an application.
    pub runs_code: bool,
}

/// Something only the database can answer: whether a part of a filter holds for a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What is asked.
    pub ask: Ask,
}

impl Question {
    pub(crate) fn new(parts: Tree<Part>) -> Self {
        let runs_code = parts.leaves().iter().any(|part| part.compare.runs_code);
        Self { ask: Ask { parts, runs_code } }
    }

    /// How many comparisons it is.
    #[must_use]
    pub fn size(&self) -> usize {
        self.ask.parts.leaves().len()
    }
}
