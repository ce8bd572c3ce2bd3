//! Conditions that are bound to a table.

use std::sync::Arc;

use realtime_pgoutput::Oid;

use crate::{
    catalog::Comparison,
    filter::Filter,
    question::{Compare, Form},
    row::Operand,
};

/// A condition whose literal the database has not seen yet.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    pub(crate) operand: Operand,
    pub(crate) filter: Filter,
    pub(crate) cast_type: Box<str>,
    pub(crate) base_oid: Oid,
    pub(crate) comparison: Comparison,
    /// The SQL operator with its schema, and how it is used. `None` for `is`.
    pub(crate) sql: Option<(Box<str>, Form)>,
    /// The literal is known to be in canonical form: the database need not be asked.
    pub(crate) settled: bool,
}

impl Planned {
    /// What the database is asked where this condition is not evaluated here.
    pub(super) fn compare(&self, literal: &str) -> Arc<Compare> {
        let (operator, form) = self.sql.clone().unwrap_or_else(|| (Box::default(), Form::Scalar));
        Arc::new(Compare {
            type_name: self.comparison.type_name.clone(),
            operator,
            form,
            literal: literal.into(),
            runs_code: self.comparison.runs_code,
        })
    }
}
