//! Subqueries: the tables that they read and the names that they bring.

use sqlparser::ast::{
    Distinct, Expr, FunctionArg, GroupByExpr, Join, JoinConstraint, JoinOperator, LimitClause, ObjectName,
    OrderByKind, Query, Select, SelectFlavor, SelectItem, SetExpr, TableAlias, TableFactor, TableWithJoins,
};

use super::{Frame, Scanner, Source, Type};
use crate::policy::{Why, catalog::Relation, parse, types};

impl<'c> Scanner<'c> {
    /// A query; the names and types of its columns.
    pub(super) fn query(&mut self, query: &Query) -> Result<Vec<(String, Type)>, Why> {
        if !is_plain(query) {
            return Err(Why::not_understood("a clause of its subquery"));
        }
        if self.depth >= parse::MAX_DEPTH {
            return Err(Why::TooLarge);
        }
        self.depth += 1;
        self.frames.push(Frame::default());
        let found = self.in_frame(query);
        self.frames.pop();
        self.depth -= 1;
        found
    }

    fn in_frame(&mut self, query: &Query) -> Result<Vec<(String, Type)>, Why> {
        let recursive = query.with.as_ref().is_some_and(|with| with.recursive);
        for expression in query.with.iter().flat_map(|with| &with.cte_tables) {
            let name = types::ident_name(&expression.alias.name);
            if recursive {
                self.bring(name);
                self.query(&expression.query)?;
            } else {
                // Inside of it the name is that of a table: `with t as (select * from t)`.
                self.query(&expression.query)?;
                self.bring(name);
            }
        }
        let columns = self.body(&query.body)?;
        if let Some(order) = &query.order_by {
            match &order.kind {
                OrderByKind::Expressions(list) => self.all(list.iter().map(|item| &item.expr))?,
                OrderByKind::All(_) => return Err(Why::not_understood("a clause of its subquery")),
            }
        }
        match &query.limit_clause {
            None => {}
            Some(LimitClause::LimitOffset { limit, offset, limit_by }) if limit_by.is_empty() => {
                self.all(limit.iter().chain(offset.iter().map(|offset| &offset.value)))?;
            }
            Some(_) => return Err(Why::not_understood("a clause of its subquery")),
        }
        Ok(columns)
    }

    /// Enters the name of a common table expression.
    fn bring(&mut self, name: String) {
        if let Some(frame) = self.frames.last_mut() {
            frame.expressions.push(name);
        }
    }

    fn body(&mut self, body: &SetExpr) -> Result<Vec<(String, Type)>, Why> {
        match body {
            SetExpr::Select(select) => self.select(select),
            SetExpr::Query(query) => self.query(query),
            SetExpr::SetOperation { left, right, .. } => {
                if self.depth >= parse::MAX_DEPTH {
                    return Err(Why::TooLarge);
                }
                self.depth += 1;
                // Each side has a FROM clause of its own.
                let (known, _) = (self.side(left)?, self.side(right)?);
                self.depth -= 1;
                Ok(known)
            }
            SetExpr::Values(values) => {
                for row in &values.rows {
                    self.all(&row.content)?;
                }
                Ok(Vec::new())
            }
            _ => Err(Why::not_understood("a clause of its subquery")),
        }
    }

    fn side(&mut self, side: &SetExpr) -> Result<Vec<(String, Type)>, Why> {
        self.frames.push(Frame::default());
        let found = self.body(side);
        self.frames.pop();
        // Of which side a type is does not matter if both have it; it is not looked into.
        Ok(found?.into_iter().map(|(name, _)| (name, None)).collect())
    }

    fn select(&mut self, select: &Select) -> Result<Vec<(String, Type)>, Why> {
        if !has_plain_clauses(select) {
            return Err(Why::not_understood("a clause of its subquery"));
        }
        self.from(&select.from)?;
        self.all(&select.selection)?;
        self.note_ties(select);
        self.all(&select.having)?;
        match &select.group_by {
            GroupByExpr::Expressions(list, modifiers) if modifiers.is_empty() => self.all(list)?,
            _ => return Err(Why::not_understood("a clause of its subquery")),
        }
        if let Some(Distinct::On(list)) = &select.distinct {
            self.all(list)?;
        }
        let mut columns = Vec::new();
        for item in &select.projection {
            match item {
                SelectItem::UnnamedExpr(expression) => {
                    columns.push((output_name(expression), self.expression(expression)?));
                }
                SelectItem::ExprWithAlias { expr, alias } => {
                    columns.push((types::ident_name(alias), self.expression(expr)?));
                }
                // PostgreSQL prints the columns of a policy; bodies of functions are not typed.
                SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..) if self.own.is_none() => {}
                _ => return Err(Why::WholeRow),
            }
        }
        Ok(columns)
    }

    /// A FROM clause. Its names are entered into the frame that is open.
    pub(super) fn from(&mut self, tables: &[TableWithJoins]) -> Result<(), Why> {
        for table in tables {
            self.factor(&table.relation)?;
            self.joins(&table.joins)?;
        }
        Ok(())
    }

    fn joins(&mut self, joins: &[Join]) -> Result<(), Why> {
        joins.iter().try_for_each(|join| self.factor(&join.relation))?;
        joins.iter().try_for_each(|join| match constraint(&join.join_operator)? {
            JoinConstraint::On(condition) => self.expression(condition).map(drop),
            JoinConstraint::Using(_) | JoinConstraint::Natural => self.operators(&["="]),
            JoinConstraint::None => Ok(()),
            JoinConstraint::UsingAlias(..) => Err(Why::not_understood("a clause of its subquery")),
        })
    }

    fn factor(&mut self, factor: &TableFactor) -> Result<(), Why> {
        let not_understood = || Why::not_understood("a clause of its subquery");
        match factor {
            TableFactor::Table { name, alias, args: None, sample: None, with_hints, .. }
                if with_hints.is_empty() =>
            {
                self.table(name, alias.as_ref())
            }
            TableFactor::Table { name, alias, args: Some(args), .. } => {
                self.table_function(name, &args.args, alias.as_ref())
            }
            TableFactor::Function { name, args, alias, .. } => {
                self.table_function(name, args, alias.as_ref())
            }
            TableFactor::Derived { subquery, alias, sample: None, .. } => {
                let columns = self.query(subquery)?;
                let renamed = alias.as_ref().is_some_and(|alias| !alias.columns.is_empty());
                let source = if renamed { Source::Unknown } else { Source::Query(columns) };
                self.enter(alias.as_ref(), None, source);
                Ok(())
            }
            TableFactor::NestedJoin { table_with_joins, alias: None } => {
                if self.depth >= parse::MAX_DEPTH {
                    return Err(Why::TooLarge);
                }
                self.depth += 1;
                let found = self.from(std::slice::from_ref(table_with_joins));
                self.depth -= 1;
                found
            }
            TableFactor::UNNEST { array_exprs, alias, .. } => {
                self.all(array_exprs)?;
                self.enter(alias.as_ref(), Some("unnest"), Source::Unknown);
                Ok(())
            }
            _ => Err(not_understood()),
        }
    }

    fn table_function(
        &mut self,
        name: &ObjectName,
        args: &[FunctionArg],
        alias: Option<&TableAlias>,
    ) -> Result<(), Why> {
        self.call(name, args)?;
        let parts = types::parts(name).unwrap_or_default();
        self.enter(alias, parts.last().map(String::as_str), Source::Unknown);
        Ok(())
    }

    fn enter(&mut self, alias: Option<&TableAlias>, name: Option<&str>, source: Source<'c>) {
        let alias = alias.map(|alias| types::ident_name(&alias.name));
        let Some(name) = alias.or_else(|| name.map(str::to_owned)) else { return };
        if let Some(frame) = self.frames.last_mut() {
            frame.aliases.push((name, source));
        }
    }

    fn table(&mut self, name: &ObjectName, alias: Option<&TableAlias>) -> Result<(), Why> {
        let parts = types::parts(name).unwrap_or_default();
        let (schema, name) = match parts.as_slice() {
            [name] => (None, name),
            [schema, name] => (Some(schema.as_str()), name),
            _ => return Err(Why::not_understood("a clause of its subquery")),
        };
        if schema.is_none() && self.frames.iter().any(|frame| frame.expressions.contains(name)) {
            self.enter(alias, Some(name), Source::Unknown);
            return Ok(());
        }
        // With an empty search path what stands without a schema is of PostgreSQL's own.
        let schema = if self.own.is_some() { schema.or(Some("pg_catalog")) } else { schema };
        let found: Vec<&'c Relation> = match self.catalog.relations(schema, name) {
            Ok(found) => found,
            Err(wanted) => return self.lacks(wanted),
        };
        let source = match found.as_slice() {
            [] => return Err(Why::not_understood("a clause of its subquery")),
            [relation] if alias.is_none_or(|alias| alias.columns.is_empty()) => Source::Relation(relation),
            _ => Source::Unknown,
        };
        self.enter(alias, Some(name), source);
        for relation in found {
            self.reads(relation);
        }
        Ok(())
    }

    /// A table is read, and with it what its policies read.
    fn reads(&mut self, relation: &'c Relation) {
        if !relation.in_log {
            self.facts.reads.unwatched.get_or_insert_with(|| relation.name.clone());
            return;
        }
        self.facts.reads.tables.insert(relation.oid);
        self.facts.reads.uses.count(relation.oid);
        if self.within.contains(&relation.oid) {
            self.recursive = true;
            return;
        }
        if !self.seen.insert(relation.oid) {
            return;
        }
        self.within.push(relation.oid);
        for policy in &relation.policies {
            let read = parse::expression(policy).and_then(|policy| {
                self.elsewhere(|scanner| {
                    scanner.frames.push(Frame::default());
                    scanner.expression(&policy).map(drop)
                })
            });
            if read.is_err() {
                self.facts.reads.unwatched.get_or_insert_with(|| relation.name.clone());
            }
        }
        self.within.pop();
    }
}

/// Whether a query has only clauses that are understood.
fn is_plain(query: &Query) -> bool {
    query.fetch.is_none()
        && query.locks.is_empty()
        && query.for_clause.is_none()
        && query.settings.is_none()
        && query.format_clause.is_none()
        && query.pipe_operators.is_empty()
        && query.order_by.as_ref().is_none_or(|order| order.interpolate.is_none())
}

/// Whether a SELECT has only clauses that are understood.
pub(in crate::policy) fn has_plain_clauses(select: &Select) -> bool {
    select.select_modifiers.is_none()
        && select.top.is_none()
        && select.exclude.is_none()
        && select.into.is_none()
        && select.lateral_views.is_empty()
        && select.prewhere.is_none()
        && select.connect_by.is_empty()
        && select.cluster_by.is_empty()
        && select.distribute_by.is_empty()
        && select.sort_by.is_empty()
        && select.named_window.is_empty()
        && select.qualify.is_none()
        && select.value_table_mode.is_none()
        && matches!(select.flavor, SelectFlavor::Standard)
}

fn constraint(join: &JoinOperator) -> Result<&JoinConstraint, Why> {
    match join {
        JoinOperator::Join(constraint)
        | JoinOperator::Inner(constraint)
        | JoinOperator::Left(constraint)
        | JoinOperator::LeftOuter(constraint)
        | JoinOperator::Right(constraint)
        | JoinOperator::RightOuter(constraint)
        | JoinOperator::FullOuter(constraint)
        | JoinOperator::CrossJoin(constraint) => Ok(constraint),
        _ => Err(Why::not_understood("a clause of its subquery")),
    }
}

/// What a column of a query is called.
fn output_name(expression: &Expr) -> String {
    match expression {
        Expr::Identifier(ident) => types::ident_name(ident),
        Expr::CompoundIdentifier(parts) => parts.last().map(types::ident_name).unwrap_or_default(),
        _ => String::new(),
    }
}
