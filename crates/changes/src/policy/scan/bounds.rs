//! For whom a function can be true: `exists (select from members m where m.room = $1 and m.who = auth.uid())` is false for
//! everybody whom no row of the table names beside the argument.
//!
//! Only where it is certain that the function is false for all others, and raises nothing for them that it does not raise
//! for anybody, something is said. What is left out costs more questions, never another answer.

use realtime_pgoutput::Oid;
use sqlparser::ast::{
    BinaryOperator, Distinct, Expr, Function as Call, FunctionArg, FunctionArgExpr, FunctionArguments, Ident,
    InTarget, JoinOperator, LimitClause, Query, Select, SelectItem, SetExpr, Statement, TableFactor,
    UnaryOperator, Value,
};

use super::{
    Frame, Scanner, Source, bodies,
    functions::{BUILT_IN, meant},
    has_plain_clauses, plpgsql,
    ties::{Names, is_ungrouped, joined, parts, selected},
    uses::Tie,
};
use crate::policy::{
    catalog::{Collation, Function, Relation},
    parse,
    read::{family_of, unnested},
    types::{self, BOOL},
};

/// Deepest nesting of what a function returns.
const MAX_DEPTH: usize = 20;

/// Columns that every table has: they win over arguments of their names.
const OF_SYSTEM: [&str; 6] = ["tableoid", "ctid", "xmin", "cmin", "xmax", "cmax"];

/// A variable of every function in PL/pgSQL.
const FOUND: &str = "found";

/// A function is true for those alone who are named by a row of a table that has an argument in one of its columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::policy) struct Bound {
    pub(in crate::policy) schema: Box<str>,
    pub(in crate::policy) table: Box<str>,
    /// The column that is compared with the argument.
    pub(in crate::policy) column: Box<str>,
    /// The argument: a column of the row that is judged, by index.
    pub(in crate::policy) argument: usize,
    /// Whether a NULL in the column makes the function something else than false.
    pub(in crate::policy) or_null: bool,
    /// The column that names somebody.
    pub(in crate::policy) tie: Tie,
}

/// A function that is called with columns of the row.
struct Called<'c> {
    function: &'c Function,
    /// The arguments that are columns, by index.
    columns: Vec<Option<usize>>,
}

impl<'c> Scanner<'c> {
    /// The bounds of a call at the top of a policy: for whom none holds it is false. `None`: it may be true for anybody.
    pub(in crate::policy) fn bounds(&mut self, expression: &Expr) -> Option<Vec<Bound>> {
        let Expr::Function(call) = unnested(expression) else { return None };
        self.start();
        let called = self.called(call);
        self.start();
        let called = called?;
        let body = match &*called.function.language {
            "sql" => bodies::queries(&called.function.body)?,
            "plpgsql" => parse::statements(&format!("select {}", plpgsql::returned(&called.function.body)?))?,
            _ => return None,
        };
        let [Statement::Query(query)] = body.as_slice() else { return None };
        // As for all that is in the body of a function.
        let (own, within, recursive) = (self.own.take(), std::mem::take(&mut self.within), self.recursive);
        let bounds = selected(query).and_then(|value| self.only_for(value, &called, 0));
        (self.own, self.within, self.recursive) = (own, within, recursive);
        self.start();
        bounds.filter(|bounds| !bounds.is_empty())
    }

    /// The function that is called, if there is no doubt which one, and what it is given.
    fn called(&mut self, call: &Call) -> Option<Called<'c>> {
        let own = self.own?;
        let FunctionArguments::List(list) = &call.args else { return None };
        if call.filter.is_some() || call.over.is_some() || !list.clauses.is_empty() {
            return None;
        }
        let argument = |argument| match argument {
            &FunctionArg::Unnamed(FunctionArgExpr::Expr(ref argument)) => Some(argument),
            _ => None,
        };
        let arguments: Vec<&Expr> = list.args.iter().map(argument).collect::<Option<_>>()?;
        let kinds = self.kinds(&arguments).ok()?;
        let parts = types::parts(&call.name)?;
        let [schema, name] = parts.as_slice() else { return None };
        let found = self.catalog.functions(Some(schema.as_str()), name).ok()?;
        let found = meant(found, kinds.len(), &kinds);
        let [function] = found.as_slice() else { return None };
        let is_plain = *function.schema != *BUILT_IN
            && function.arguments.len() == arguments.len()
            && function.result == BOOL
            && !function.variadic
            && !function.returns_set
            && !function.is_aggregate;
        let given = arguments.into_iter().zip(kinds).zip(&function.arguments);
        let columns = given.map(|((argument, kind), wanted)| of_row(own, argument, kind, *wanted));
        let columns = columns.collect::<Option<_>>()?;
        is_plain.then_some(Called { function, columns })
    }

    /// Those for whom an expression in the body is anything but false.
    fn only_for(&mut self, expression: &Expr, called: &Called<'c>, depth: usize) -> Option<Vec<Bound>> {
        if depth > MAX_DEPTH {
            return None;
        }
        match unnested(expression) {
            Expr::Value(value) if value.value == Value::Boolean(false) => Some(Vec::new()),
            Expr::BinaryOp { left, op: BinaryOperator::Or, right } => {
                let mut bounds = self.only_for(left, called, depth + 1)?;
                bounds.extend(self.only_for(right, called, depth + 1)?);
                Some(bounds)
            }
            Expr::Subquery(query) => self.only_for(selected(query)?, called, depth + 1),
            Expr::Exists { subquery, negated: false } => {
                self.only_for_rows(subquery, called, |_, _| Some(None))
            }
            Expr::In { expr, target: InTarget::Subquery(query), negated: false, global: false } => {
                let argument = argument(expr, called)?;
                self.only_for_rows(query, called, |names, select| {
                    let [SelectItem::UnnamedExpr(column) | SelectItem::ExprWithAlias { expr: column, .. }] =
                        select.projection.as_slice()
                    else {
                        return None;
                    };
                    let is_certain = !is_ambiguous(column, names, called);
                    Some(Some((names.column(column, true).filter(|_| is_certain)?, argument)))
                })
            }
            _ => None,
        }
    }

    /// Those for whom a query has rows. `compared`: the column of a table that an argument is compared with outside of the
    /// query, if it is.
    fn only_for_rows(
        &mut self,
        query: &Query,
        called: &Called<'c>,
        compared: impl Fn(&Names<'_, 'c>, &Select) -> Option<Option<(String, usize)>>,
    ) -> Option<Vec<Bound>> {
        let select = plain_select(query)?;
        self.frames.push(Frame::default());
        let is_read = self.from(&select.from).is_ok();
        let known = |(_, source): &(String, Source<'c>)| matches!(source, Source::Relation(_));
        let frame = self.frames.last().filter(|frame| is_read && frame.aliases.iter().all(known));
        let sources: Vec<(String, &'c Relation)> = frame.map_or(Vec::new(), |frame| {
            let relation = |(alias, source): &(String, Source<'c>)| match source {
                Source::Relation(relation) => Some((alias.clone(), *relation)),
                _ => None,
            };
            frame.aliases.iter().filter_map(relation).collect()
        });
        let bound = sources.iter().find_map(|(alias, relation)| {
            let names = Names { alias, relation, sources: &sources, all_are_known: true };
            self.bound(&names, select, called, compared(&names, select)?)
        });
        self.frames.pop();
        // A table whose policies decide for the function may raise for one and not for another.
        let is_open = |(_, relation): &(String, &Relation)| {
            relation.in_log
                && (relation.policies.is_empty()
                    || called.function.runs_as.is_some()
                        && (called.function.owner_bypasses || relation.exempt == called.function.runs_as))
        };
        bound.filter(|_| sources.iter().all(is_open)).map(|bound| vec![bound])
    }

    /// What a query demands of a row of one of its tables: an argument in one column, somebody's name in another.
    fn bound(
        &mut self,
        names: &Names<'_, 'c>,
        select: &Select,
        called: &Called<'c>,
        compared: Option<(String, usize)>,
    ) -> Option<Bound> {
        let mut demands = Vec::new();
        parts(select.selection.as_ref()?, &mut demands);
        select.from.iter().for_each(|table| joined(table, &mut demands));
        let or_null = compared.is_some();
        let (mut tie, mut argument) = (None, compared);
        for demand in demands {
            let Expr::BinaryOp { left, op: BinaryOperator::Eq, right } = unnested(demand) else {
                if !is_calm(demand, names, called, 0) {
                    return None;
                }
                continue;
            };
            let is_tie = tie.is_none() && {
                tie = self.tie(names, left, right).or_else(|| self.tie(names, right, left));
                tie.is_some()
            };
            if is_tie {
                if is_ambiguous(left, names, called) || is_ambiguous(right, names, called) {
                    return None;
                }
                continue;
            }
            if !is_calm(demand, names, called, 0) {
                return None;
            }
            argument = argument
                .or_else(|| named_argument(names, left, right, called))
                .or_else(|| named_argument(names, right, left, called));
        }
        let (column, at) = argument?;
        let field = names.relation.fields.iter().find(|field| *field.name == *column)?;
        let wanted = *called.function.arguments.get(at)?;
        if field.is_domain || field.collation == Collation::Loose {
            return None;
        }
        family_of(field.base_oid, wanted, field.is_enum)?;
        Some(Bound {
            schema: names.relation.schema.clone(),
            table: names.relation.name.clone(),
            column: column.into(),
            argument: (*called.columns.get(at)?)?,
            or_null,
            tie: tie?,
        })
    }
}

/// The column of the row that an argument is, if it needs no cast. `None` if it is something else than a column or a constant:
/// what decides it otherwise may be NULL or raise for one party, and not for another.
fn of_row(own: &Relation, argument: &Expr, kind: Option<Oid>, wanted: Oid) -> Option<Option<usize>> {
    // A cast of the users' may do anything.
    let is_built_in = |oid: Oid| oid < types::FIRST_OF_USERS;
    if kind != Some(wanted) && !(is_built_in(wanted) && kind.is_none_or(is_built_in)) {
        return None;
    }
    match unnested(argument) {
        Expr::Identifier(ident) => {
            let name = types::ident_name(ident);
            let at = own.fields.iter().position(|field| *field.name == *name)?;
            let field = own.fields.get(at)?;
            let is_same = field.base_oid == wanted && !field.is_domain;
            Some((is_same && field.collation != Collation::Loose).then_some(at))
        }
        Expr::Value(_) => Some(None),
        Expr::Cast { expr, format: None, .. } => matches!(unnested(expr), Expr::Value(_)).then_some(None),
        _ => None,
    }
}

/// `column = argument`.
fn named_argument(
    names: &Names<'_, '_>,
    column: &Expr,
    value: &Expr,
    called: &Called<'_>,
) -> Option<(String, usize)> {
    let argument = argument(value, called)?;
    let is_of_from = match unnested(value) {
        Expr::Identifier(ident) => is_column(names, ident) || is_alias(names, ident),
        // What the FROM clause has wins over the function's name.
        Expr::CompoundIdentifier(parts) => parts.first().is_some_and(|first| is_alias(names, first)),
        _ => false,
    };
    if is_of_from {
        return None;
    }
    Some((names.column(column, true)?, argument))
}

/// The number of the argument that an expression is, if no column is called so.
fn argument(expression: &Expr, called: &Called<'_>) -> Option<usize> {
    let of_name = |ident: &Ident| {
        let name = types::ident_name(ident);
        let is_plpgsql = *called.function.language == *"plpgsql";
        if OF_SYSTEM.contains(&name.as_str()) || is_plpgsql && name == FOUND {
            return None;
        }
        let mut found = called.function.names.iter().enumerate().filter(|(_, known)| ***known == *name);
        let (at, _) = found.next()?;
        found.next().is_none().then_some(at)
    };
    match unnested(expression) {
        Expr::Identifier(ident) => of_name(ident),
        Expr::CompoundIdentifier(parts) => match parts.as_slice() {
            [function, ident] if types::ident_name(function) == *called.function.name => of_name(ident),
            _ => None,
        },
        Expr::Value(value) => match &value.value {
            Value::Placeholder(text) => text.strip_prefix('$')?.parse::<usize>().ok()?.checked_sub(1),
            _ => None,
        },
        _ => None,
    }
}

fn is_column(names: &Names<'_, '_>, ident: &Ident) -> bool {
    let name = types::ident_name(ident);
    names.sources.iter().any(|(_, relation)| relation.fields.iter().any(|field| *field.name == *name))
}

/// Whether a name is that of a table in FROM.
fn is_alias(names: &Names<'_, '_>, ident: &Ident) -> bool {
    let name = types::ident_name(ident);
    names.sources.iter().any(|(alias, _)| *alias == name)
}

/// Whether it depends on a setting what a name in PL/pgSQL is: a column, or an argument.
fn is_ambiguous(expression: &Expr, names: &Names<'_, '_>, called: &Called<'_>) -> bool {
    let Expr::Identifier(ident) = unnested(expression) else { return false };
    let name = types::ident_name(ident);
    *called.function.language == *"plpgsql"
        && is_column(names, ident)
        && called.function.names.iter().any(|known| **known == *name)
}

/// Whether a condition compares columns, arguments and constants and does nothing else: it raises nothing.
fn is_calm(expression: &Expr, names: &Names<'_, '_>, called: &Called<'_>, depth: usize) -> bool {
    if depth > MAX_DEPTH {
        return false;
    }
    let is_calm = |part: &Expr| is_calm(part, names, called, depth + 1);
    match expression {
        Expr::Nested(inner)
        | Expr::IsNull(inner)
        | Expr::IsNotNull(inner)
        | Expr::IsTrue(inner)
        | Expr::IsNotTrue(inner)
        | Expr::IsFalse(inner)
        | Expr::IsNotFalse(inner)
        | Expr::UnaryOp { op: UnaryOperator::Not, expr: inner } => is_calm(inner),
        Expr::Value(_) => true,
        Expr::Cast { expr, format: None, .. } => matches!(unnested(expr), Expr::Value(_)),
        Expr::Identifier(ident) => {
            !is_ambiguous(expression, names, called)
                && (is_column(names, ident) || argument(expression, called).is_some())
        }
        Expr::CompoundIdentifier(parts) => match parts.as_slice() {
            [alias, column] => {
                let (alias, column) = (types::ident_name(alias), types::ident_name(column));
                let of_alias = names.sources.iter().find(|(known, _)| *known == alias);
                match of_alias {
                    Some((_, relation)) => relation.fields.iter().any(|field| *field.name == *column),
                    None => argument(expression, called).is_some(),
                }
            }
            _ => false,
        },
        Expr::BinaryOp {
            left,
            op:
                BinaryOperator::Eq
                | BinaryOperator::NotEq
                | BinaryOperator::Lt
                | BinaryOperator::LtEq
                | BinaryOperator::Gt
                | BinaryOperator::GtEq
                | BinaryOperator::And
                | BinaryOperator::Or,
            right,
        } => is_calm(left) && is_calm(right),
        Expr::In { expr, target: InTarget::List(list), global: false, .. } => {
            is_calm(expr) && list.iter().all(is_calm)
        }
        Expr::AnyOp { left, compare_op: BinaryOperator::Eq, right, .. } => {
            let Expr::Array(array) = unnested(right) else { return false };
            is_calm(left) && array.elem.iter().all(is_calm)
        }
        _ => false,
    }
}

/// A query whose rows are those of its FROM and WHERE, or some of them.
fn plain_select(query: &Query) -> Option<&Select> {
    let SetExpr::Select(select) = &*query.body else { return None };
    let is_number = |limit: &Expr| matches!(limit, Expr::Value(_));
    let is_short = match &query.limit_clause {
        None => true,
        Some(LimitClause::LimitOffset { limit, offset: None, limit_by }) => {
            limit_by.is_empty() && limit.as_ref().is_none_or(is_number)
        }
        Some(_) => false,
    };
    let is_harmless = |item: &SelectItem| match item {
        SelectItem::Wildcard(_) => true,
        SelectItem::UnnamedExpr(part) | SelectItem::ExprWithAlias { expr: part, .. } => {
            matches!(unnested(part), Expr::Value(_) | Expr::Identifier(_) | Expr::CompoundIdentifier(_))
        }
        _ => false,
    };
    let is_plain = query.with.is_none()
        && query.order_by.is_none()
        && query.fetch.is_none()
        && query.locks.is_empty()
        && is_short
        && is_ungrouped(select)
        && !matches!(select.distinct, Some(Distinct::On(_)))
        && select.having.is_none()
        && select.projection.iter().all(is_harmless)
        && is_joined_inside(select)
        && has_plain_clauses(select);
    is_plain.then_some(&**select)
}

/// Whether a query has no joins but inner ones, none of them in brackets.
fn is_joined_inside(select: &Select) -> bool {
    select.from.iter().all(|table| {
        let is_table = |factor: &TableFactor| matches!(factor, TableFactor::Table { .. });
        let is_inner = |join: &JoinOperator| {
            matches!(join, JoinOperator::Join(_) | JoinOperator::Inner(_) | JoinOperator::CrossJoin(_))
        };
        is_table(&table.relation)
            && table.joins.iter().all(|join| is_table(&join.relation) && is_inner(&join.join_operator))
    })
}

#[cfg(test)]
mod tests;
