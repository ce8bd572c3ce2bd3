//! Where the rows of a table that a policy reads are those of the party alone: `m.user_id = auth.uid()`.
//!
//! A table counts as tied where every SELECT that has it in its FROM clause demands such an equality. Then a row with
//! another value can be left out of the table without any answer changing, and a change of the table concerns only the
//! parties that have the value of the row. A row of somebody else's can at most raise.

use sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr,
    JoinConstraint, JoinOperator, Query, Select, SelectItem, SetExpr, TableFactor, TableWithJoins, Value,
};

use super::{Facts, Scanner, Source, has_plain_clauses, uses::Tie};
use crate::policy::{
    catalog::{Collation, Relation},
    parse,
    read::{family_of, unnested},
    types,
};

impl<'c> Scanner<'c> {
    /// Notes which tables of a FROM clause, whose names are in the frame that is open, are tied to the claims.
    pub(super) fn note_ties(&mut self, select: &Select) {
        let Some(frame) = self.frames.last() else { return };
        let known = |(alias, source): &(String, Source<'c>)| match source {
            Source::Relation(relation) => Some((alias.clone(), *relation)),
            _ => None,
        };
        let sources: Vec<(String, &'c Relation)> = frame.aliases.iter().filter_map(known).collect();
        let all_are_known = sources.len() == frame.aliases.len();
        let mut demands = Vec::new();
        if let Some(condition) = &select.selection {
            parts(condition, &mut demands);
        }
        for table in &select.from {
            joined(table, &mut demands);
        }
        for (alias, relation) in &sources {
            let tie = demands.iter().find_map(|demand| {
                let Expr::BinaryOp { left, op: BinaryOperator::Eq, right } = unnested(demand) else {
                    return None;
                };
                let names = Names { alias, relation, sources: &sources, all_are_known };
                self.tie(&names, left, right).or_else(|| self.tie(&names, right, left))
            });
            if let Some(tie) = tie {
                self.facts.reads.uses.tie(relation.oid, tie);
            }
        }
    }

    /// `column = value`.
    pub(super) fn tie(&mut self, names: &Names<'_, 'c>, column: &Expr, value: &Expr) -> Option<Tie> {
        let (column, value) = (names.column(column, self.own.is_none())?, alone(value));
        let field = names.relation.fields.iter().find(|field| *field.name == *column)?;
        if field.collation == Collation::Loose || !self.is_of_claims(value)? {
            return None;
        }
        // What was found out about the whole stays; functions that were looked into have to be once more.
        let (facts, seen) = (std::mem::take(&mut self.facts), std::mem::take(&mut self.seen));
        let found = self.expression(value);
        let Facts { own, reads, clock, loose, role, path, .. } = std::mem::replace(&mut self.facts, facts);
        self.seen = seen;
        let alone = own.is_empty() && reads.tables.is_empty() && reads.can_be_kept();
        // It is asked on the session's path, and stands in a function that may have one of its own.
        let is_moved = path && self.own.is_none();
        if !alone || clock || loose || role || is_moved {
            return None;
        }
        let family = family_of(field.base_oid, found.ok()??, field.is_enum)?;
        Some(Tie { column: column.into(), family, text: parse::text_of(value)?.into() })
    }

    /// Whether an expression is made of constants and calls alone, and means the same wherever it stands. Then: whether
    /// anything is called.
    fn is_of_claims(&self, expression: &Expr) -> Option<bool> {
        match expression {
            Expr::Nested(inner) => self.is_of_claims(inner),
            Expr::Cast { expr, format: None, .. } => self.is_of_claims(expr),
            Expr::Value(value) => match &value.value {
                Value::Placeholder(_) => None,
                _ => Some(false),
            },
            Expr::BinaryOp {
                left,
                op: BinaryOperator::Arrow | BinaryOperator::LongArrow | BinaryOperator::HashLongArrow,
                right,
            } => Some(self.is_of_claims(left)? | self.is_of_claims(right)?),
            Expr::Function(call) => self.is_plain_call(call).then_some(true),
            Expr::Subquery(query) => self.is_of_claims(selected(query)?),
            _ => None,
        }
    }

    fn is_plain_call(&self, call: &Function) -> bool {
        let FunctionArguments::List(list) = &call.args else { return false };
        let argument = |argument: &FunctionArg| match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(argument)) => self.is_of_claims(argument).is_some(),
            _ => false,
        };
        // In the body of a function a name without a schema is looked up on the function's own path.
        let is_of_everybody = match types::parts(&call.name).unwrap_or_default().as_slice() {
            [name] if self.own.is_none() && !matches!(name.as_str(), "coalesce" | "nullif") => {
                let found = self.catalog.functions(None, name).unwrap_or_default();
                !found.is_empty() && found.iter().all(|function| *function.schema == *"pg_catalog")
            }
            [_] | [_, _] => true,
            _ => false,
        };
        is_of_everybody
            && list.clauses.is_empty()
            && list.duplicate_treatment.is_none()
            && call.filter.is_none()
            && call.over.is_none()
            && list.args.iter().all(argument)
    }
}

/// The names that a column can have in a SELECT.
pub(super) struct Names<'n, 'c> {
    /// What the table is called.
    pub(super) alias: &'n str,
    pub(super) relation: &'c Relation,
    /// The tables of the FROM clause.
    pub(super) sources: &'n [(String, &'c Relation)],
    /// Whether there is nothing else in it.
    pub(super) all_are_known: bool,
}

impl Names<'_, '_> {
    /// The name of the column of the table, if an expression is one.
    pub(super) fn column(&self, expression: &Expr, is_body: bool) -> Option<String> {
        match unnested(expression) {
            Expr::CompoundIdentifier(parts) => match parts.as_slice() {
                [alias, column] if types::ident_name(alias) == *self.alias => Some(types::ident_name(column)),
                _ => None,
            },
            // Bodies of functions are as people write them. A column of the FROM clause wins over all others.
            Expr::Identifier(ident) if is_body && self.all_are_known => {
                let column = types::ident_name(ident);
                let has = |relation: &Relation| relation.fields.iter().any(|field| *field.name == *column);
                let owners = self.sources.iter().filter(|(_, relation)| has(relation)).count();
                (owners == 1 && has(self.relation)).then_some(column)
            }
            _ => None,
        }
    }
}

/// The conditions that stand joined by AND.
pub(super) fn parts<'e>(expression: &'e Expr, found: &mut Vec<&'e Expr>) {
    match unnested(expression) {
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            parts(left, found);
            parts(right, found);
        }
        other => found.push(other),
    }
}

/// What inner joins demand. Those of outer joins leave rows in that do not meet them.
pub(super) fn joined<'e>(table: &'e TableWithJoins, found: &mut Vec<&'e Expr>) {
    for factor in std::iter::once(&table.relation).chain(table.joins.iter().map(|join| &join.relation)) {
        // PostgreSQL prints joins in brackets. How deep they may be is known: the scanner has been there.
        if let TableFactor::NestedJoin { table_with_joins, alias: None } = factor {
            joined(table_with_joins, found);
        }
    }
    for join in &table.joins {
        if let JoinOperator::Join(JoinConstraint::On(condition))
        | JoinOperator::Inner(JoinConstraint::On(condition)) = &join.join_operator
        {
            parts(condition, found);
        }
    }
}

/// `(select expression)` without what is around the expression: it means the same.
fn alone(expression: &Expr) -> &Expr {
    match unnested(expression) {
        Expr::Subquery(query) => selected(query).map_or(expression, alone),
        other => other,
    }
}

/// The one expression of `select expression`, if there is nothing beside it: other clauses may raise.
pub(super) fn selected(query: &Query) -> Option<&Expr> {
    let SetExpr::Select(select) = &*query.body else { return None };
    let is_bare = query.with.is_none()
        && query.order_by.is_none()
        && query.limit_clause.is_none()
        && query.fetch.is_none()
        && query.locks.is_empty()
        && query.for_clause.is_none()
        && query.settings.is_none()
        && query.format_clause.is_none()
        && query.pipe_operators.is_empty()
        && select.from.is_empty()
        && select.selection.is_none()
        && is_ungrouped(select)
        && select.having.is_none()
        && select.distinct.is_none()
        && has_plain_clauses(select);
    match select.projection.as_slice() {
        [SelectItem::UnnamedExpr(expression) | SelectItem::ExprWithAlias { expr: expression, .. }]
            if is_bare =>
        {
            Some(expression)
        }
        _ => None,
    }
}

pub(super) fn is_ungrouped(select: &Select) -> bool {
    matches!(&select.group_by, GroupByExpr::Expressions(list, modifiers)
        if list.is_empty() && modifiers.is_empty())
}
