//! A plan as a query sees it: what stands where in SQL. The texts are written where queries are made.

use realtime_pgoutput::Oid;

use super::Plan;
use crate::{path::JsonPath, predicate::Planned, question::Form, tree::Tree};

/// A condition on a column of a table that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sought<'a> {
    /// The column, by its place in the table.
    pub column: usize,
    /// What of its documents is meant.
    pub path: Option<&'a JsonPath>,
    /// Whether these are `jsonb`.
    pub is_jsonb: bool,
    /// The SQL operator with its schema, and how it is used. `None` for `is`.
    pub operator: Option<(&'a str, Form)>,
    /// The literal; for `is` the keyword.
    pub literal: &'a str,
    /// The type that both sides are compared as, quoted.
    pub type_name: &'a str,
    /// The same type.
    pub base_oid: Oid,
    /// Whether the opposite is meant.
    pub negate: bool,
}

impl Plan {
    /// The conditions, joined as the filter joins them.
    #[must_use]
    pub fn sought(&self) -> Tree<Sought<'_>> {
        self.conditions.reduce(&mut |planned: &Planned| {
            Tree::Leaf(Sought {
                column: planned.operand.column,
                path: planned.operand.path.as_deref(),
                is_jsonb: planned.operand.is_jsonb,
                operator: planned.sql.as_ref().map(|(operator, form)| (&**operator, *form)),
                literal: &planned.filter.value,
                type_name: &planned.comparison.type_name,
                base_oid: planned.base_oid,
                negate: planned.filter.negate,
            })
        })
    }
}
