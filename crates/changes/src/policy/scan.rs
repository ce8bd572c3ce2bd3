//! What an expression depends on: columns of the row, tables, functions, the clock; and its type.
//!
//! Only syntax that is listed here is understood. Everything else is an error, and the part of the policy that has it
//! is asked of the database.

mod bodies;
mod bounds;
mod functions;
mod mentions;
mod plpgsql;
mod queries;
mod ties;
mod uses;

pub(super) use bounds::Bound;
pub use mentions::{Mention, Mentions, Named, mentions};
pub(super) use queries::has_plain_clauses;
pub(super) use uses::Tie;

use std::collections::BTreeSet;

use realtime_pgoutput::Oid;
use rustc_hash::FxHashSet;
use sqlparser::ast::{
    AccessExpr, BinaryOperator, CastKind, Expr, Ident, InTarget, Subscript, TableWithJoins, UnaryOperator,
    Value,
};

use super::{
    Why,
    catalog::{Catalog, Collation, Field, Relation, Wanted},
    parse::MAX_DEPTH,
    types::{self, BOOL, INT4, INT8, NUMERIC, TEXT, TIMESTAMP, TIMESTAMPTZ},
};

/// The tables that an answer depends on beside the row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reads {
    /// The tables, by `pg_class.oid`: the answer is good until one of them changes.
    pub tables: BTreeSet<Oid>,
    /// What else it may depend on, of which the log does not tell: an answer is good for one batch of rows only.
    pub unwatched: Option<Box<str>>,
    /// Where its rows are told apart by whose they are.
    uses: uses::AllUses,
}

impl Reads {
    /// The tables that are read only where a column is equal to something that the claims decide.
    pub(super) fn tied(&self) -> impl Iterator<Item = (Oid, &[Tie])> {
        self.uses.tied()
    }

    /// Whether an answer is good until something changes of which the log tells.
    #[must_use]
    pub fn can_be_kept(&self) -> bool {
        self.unwatched.is_none()
    }
}

/// What was found out about an expression.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    /// The columns of the row, by index.
    pub(super) own: BTreeSet<usize>,
    pub(super) reads: Reads,
    /// Whether the clock decides.
    pub(super) clock: bool,
    /// Whether a collation takes part for which texts can be equal whose bytes are not, or one is named.
    pub(super) loose: bool,
    /// Whether a function that users made is given columns of the row.
    pub(super) calls: bool,
    /// Whether the role decides, which is another one inside of a SECURITY DEFINER function.
    pub(super) role: bool,
    /// Whether the body of a function calls one by a name that the path of schemas decides.
    pub(super) path: bool,
}

/// A type; `None` if it is not known.
pub(super) type Type = Option<Oid>;

/// Names that a FROM clause brings.
#[derive(Debug, Default)]
struct Frame<'c> {
    aliases: Vec<(String, Source<'c>)>,
    /// Common table expressions.
    expressions: Vec<String>,
}

/// What an alias stands for.
#[derive(Debug, Clone)]
enum Source<'c> {
    Relation(&'c Relation),
    Query(Vec<(String, Type)>),
    Unknown,
}

/// Walks through expressions. What it finds is gathered in `facts`.
#[derive(Debug)]
pub(super) struct Scanner<'c> {
    catalog: &'c Catalog,
    /// The table of the policy. `None` in the body of a function or in another table's policy, where names that are
    /// not known are somebody else's.
    own: Option<&'c Relation>,
    pub(super) facts: Facts,
    pub(super) wanted: BTreeSet<Wanted>,
    frames: Vec<Frame<'c>>,
    depth: usize,
    /// Functions and relations that were looked into.
    seen: FxHashSet<Oid>,
    /// Tables whose policies are being looked at, the policy's own first. Policies that come back to one of them are
    /// refused by PostgreSQL.
    within: Vec<Oid>,
    /// Whether that was so.
    pub(super) recursive: bool,
}

impl<'c> Scanner<'c> {
    pub(super) fn new(catalog: &'c Catalog, own: &'c Relation) -> Self {
        Self {
            catalog,
            own: Some(own),
            facts: Facts::default(),
            wanted: BTreeSet::new(),
            frames: Vec::new(),
            depth: 0,
            seen: FxHashSet::default(),
            within: vec![own.oid],
            recursive: false,
        }
    }

    /// What an expression at the top of a policy depends on, and its type.
    pub(super) fn look_at(&mut self, expression: &Expr) -> Result<(Facts, Type), Why> {
        self.start();
        let found = self.expression(expression);
        let facts = std::mem::take(&mut self.facts);
        found.map(|found| (facts, found))
    }

    /// The same for an expression that stands inside of a subquery with this FROM clause.
    pub(super) fn look_at_inside(
        &mut self,
        from: &[TableWithJoins],
        expression: &Expr,
    ) -> Result<(Facts, Type), Why> {
        self.start();
        self.frames.push(Frame::default());
        let found = self.from(from).and_then(|()| {
            // What the FROM clause depends on is not the expression's.
            self.facts = Facts::default();
            self.expression(expression)
        });
        let facts = std::mem::take(&mut self.facts);
        found.map(|found| (facts, found))
    }

    fn start(&mut self) {
        self.facts = Facts::default();
        self.seen.clear();
        self.frames.clear();
        self.depth = 0;
    }

    fn lacks<T>(&mut self, wanted: Wanted) -> Result<T, Why> {
        self.wanted.insert(wanted);
        Err(Why::NotLoaded)
    }

    fn expression(&mut self, expression: &Expr) -> Result<Type, Why> {
        if self.depth >= MAX_DEPTH {
            return Err(Why::TooLarge);
        }
        self.depth += 1;
        let found = self.inner(expression);
        self.depth -= 1;
        found
    }

    fn inner(&mut self, expression: &Expr) -> Result<Type, Why> {
        match expression {
            Expr::Nested(inner) => self.expression(inner),
            Expr::Identifier(ident) => self.bare(ident),
            Expr::CompoundIdentifier(parts) => self.qualified(parts),
            Expr::Value(value) => Ok(literal_type(&value.value)),
            Expr::IsFalse(inner)
            | Expr::IsNotFalse(inner)
            | Expr::IsTrue(inner)
            | Expr::IsNotTrue(inner)
            | Expr::IsNull(inner)
            | Expr::IsNotNull(inner)
            | Expr::IsUnknown(inner)
            | Expr::IsNotUnknown(inner) => self.boolean_of([&**inner]),
            Expr::IsDistinctFrom(a, b) | Expr::IsNotDistinctFrom(a, b) => {
                self.operators(&["="])?;
                self.boolean_of([&**a, &**b])
            }
            Expr::Between { expr, low, high, .. } => {
                self.operators(&["<", "<=", ">", ">="])?;
                self.boolean_of([&**expr, &**low, &**high])
            }
            Expr::Like { expr, pattern, any: false, escape_char: None, .. }
            | Expr::ILike { expr, pattern, any: false, escape_char: None, .. } => {
                self.operators(&["~~", "!~~", "~~*", "!~~*"])?;
                self.boolean_of([&**expr, &**pattern])
            }
            Expr::In { expr, target, global: false, .. } => self.is_in(expr, target),
            Expr::BinaryOp { left, op, right } => self.binary(left, op, right),
            Expr::AnyOp { left, compare_op, right, .. } | Expr::AllOp { left, compare_op, right } => {
                self.operator(compare_op)?;
                self.boolean_of([&**left, &**right])
            }
            Expr::UnaryOp { op: UnaryOperator::Not, expr } => self.boolean_of([&**expr]),
            Expr::UnaryOp { op: UnaryOperator::Plus | UnaryOperator::Minus, expr } => self.expression(expr),
            Expr::Cast { kind, expr, data_type, format: None } => self.cast(kind, expr, data_type),
            Expr::AtTimeZone { timestamp, time_zone } => self.at_time_zone(timestamp, time_zone),
            Expr::Collate { expr, .. } => {
                self.facts.loose = true;
                self.expression(expr)
            }
            Expr::Function(function) => self.function(function),
            Expr::Case { operand, conditions, else_result, .. } => {
                if operand.is_some() {
                    self.operators(&["="])?;
                }
                let operand = operand.as_deref();
                let results = conditions.iter().map(|when| &when.result).chain(else_result.as_deref());
                let tests = operand.into_iter().chain(conditions.iter().map(|when| &when.condition));
                self.all(tests)?;
                self.common(results)
            }
            Expr::Exists { subquery, .. } => {
                self.query(subquery)?;
                Ok(Some(BOOL))
            }
            Expr::Subquery(query) => Ok(self.query(query)?.first().and_then(|(_, column)| *column)),
            Expr::Tuple(parts) => {
                self.all(parts)?;
                Ok(None)
            }
            Expr::Array(array) => Ok(self.common(&array.elem)?.and_then(types::array_of)),
            Expr::CompoundFieldAccess { root, access_chain } => self.access(root, access_chain),
            Expr::Interval(interval) => {
                self.expression(&interval.value)?;
                Ok(Some(1186))
            }
            Expr::Substring { expr, substring_from, substring_for, special: false, .. } => {
                let parts = [Some(&**expr), substring_from.as_deref(), substring_for.as_deref()];
                self.all(parts.into_iter().flatten())?;
                Ok(None)
            }
            Expr::Trim { expr, trim_what, trim_characters: None, .. } => {
                self.all([Some(&**expr), trim_what.as_deref()].into_iter().flatten())?;
                Ok(None)
            }
            Expr::Position { expr, r#in } => {
                self.all([&**expr, &**r#in])?;
                Ok(Some(INT4))
            }
            Expr::Extract { expr, .. } => {
                self.expression(expr)?;
                Ok(None)
            }
            Expr::QualifiedWildcard(..) | Expr::Wildcard(_) => Err(Why::WholeRow),
            _ => Err(Why::not_understood("its syntax")),
        }
    }

    fn all<'e>(&mut self, expressions: impl IntoIterator<Item = &'e Expr>) -> Result<(), Why> {
        expressions.into_iter().try_for_each(|expression| self.expression(expression).map(drop))
    }

    fn boolean_of<const N: usize>(&mut self, expressions: [&Expr; N]) -> Result<Type, Why> {
        self.all(expressions)?;
        Ok(Some(BOOL))
    }

    /// The type that all have; `None` if they have not one.
    fn common<'e>(&mut self, expressions: impl IntoIterator<Item = &'e Expr>) -> Result<Type, Why> {
        let mut found: Vec<Type> = Vec::new();
        for expression in expressions {
            found.push(self.expression(expression)?);
        }
        let first = found.first().copied().flatten();
        Ok(first.filter(|first| found.iter().all(|other| *other == Some(*first))))
    }

    fn is_in(&mut self, expression: &Expr, target: &InTarget) -> Result<Type, Why> {
        if self.own.is_none() {
            self.operators(&["=", "<>"])?;
        }
        self.expression(expression)?;
        match target {
            InTarget::List(list) => self.all(list)?,
            InTarget::Subquery(query) => drop(self.query(query)?),
            InTarget::Unnest(_) | InTarget::Table { .. } => return Err(Why::not_understood("its syntax")),
        }
        Ok(Some(BOOL))
    }

    fn binary(&mut self, left: &Expr, op: &BinaryOperator, right: &Expr) -> Result<Type, Why> {
        self.operator(op)?;
        let (left, right) = (self.expression(left)?, self.expression(right)?);
        use BinaryOperator::{
            And, Arrow, Eq, Gt, GtEq, HashArrow, HashLongArrow, LongArrow, Lt, LtEq, NotEq, Or, StringConcat,
        };
        Ok(match op {
            Eq | NotEq | Gt | GtEq | Lt | LtEq | And | Or => Some(BOOL),
            LongArrow | HashLongArrow => Some(TEXT),
            Arrow | HashArrow => left,
            StringConcat if left == Some(TEXT) && right == Some(TEXT) => Some(TEXT),
            _ => None,
        })
    }

    /// An operator must be one of PostgreSQL's: they are immutable or stable, all of them. A policy's text tells the
    /// schema of others; in the body of a function an operator can be any of its name.
    fn operator(&mut self, operator: &BinaryOperator) -> Result<(), Why> {
        let text = operator.to_string();
        match operator {
            BinaryOperator::Custom(_) | BinaryOperator::PGCustomBinaryOperator(_) => {
                Err(Why::Operator(text.into()))
            }
            _ if self.own.is_some() => Ok(()),
            _ => self.operators(&[text.as_str()]),
        }
    }

    /// Operators that an expression uses without their schema being told.
    fn operators(&mut self, names: &[&str]) -> Result<(), Why> {
        for name in names {
            match self.catalog.is_anybodys_operator(name) {
                Ok(false) => {}
                Ok(true) => return Err(Why::Operator((*name).into())),
                Err(wanted) => return self.lacks(wanted),
            }
        }
        Ok(())
    }

    fn cast(
        &mut self,
        kind: &CastKind,
        inner: &Expr,
        target: &sqlparser::ast::DataType,
    ) -> Result<Type, Why> {
        if !matches!(kind, CastKind::DoubleColon | CastKind::Cast) {
            return Err(Why::not_understood("its syntax"));
        }
        let from = self.expression(inner)?;
        let target = match types::cast_target(target, self.catalog) {
            Ok(target) => target?,
            Err(wanted) => return self.lacks(wanted),
        };
        let reads_text = target.is_some_and(types::is_time) && !from.is_some_and(types::is_time);
        if reads_text && !is_printed_time(inner) {
            // The text may say `now`.
            self.facts.clock = true;
        }
        Ok(target)
    }

    fn at_time_zone(&mut self, time: &Expr, zone: &Expr) -> Result<Type, Why> {
        let time = self.expression(time)?;
        self.expression(zone)?;
        Ok(match time {
            Some(TIMESTAMPTZ) => Some(TIMESTAMP),
            Some(TIMESTAMP) => Some(TIMESTAMPTZ),
            _ => None,
        })
    }

    /// An element of an array.
    fn access(&mut self, root: &Expr, chain: &[AccessExpr]) -> Result<Type, Why> {
        let root = self.expression(root)?;
        let [AccessExpr::Subscript(Subscript::Index { index })] = chain else {
            return Err(Why::not_understood("its syntax"));
        };
        self.expression(index)?;
        Ok(root.and_then(types::element_of))
    }

    /// A name that stands alone: at the top of a policy a column of the row.
    fn bare(&mut self, ident: &Ident) -> Result<Type, Why> {
        match self.own {
            Some(own) if self.frames.is_empty() => self.column_of_row(own, &types::ident_name(ident)),
            Some(_) => Err(Why::UnknownColumn),
            None => Ok(None),
        }
    }

    /// `alias.column`: the innermost alias of the name, or the row.
    fn qualified(&mut self, parts: &[Ident]) -> Result<Type, Why> {
        let [alias, column] = parts else {
            return match parts.last() {
                Some(column) if self.own.is_none() => self.attribute(&types::ident_name(column)),
                _ => Err(Why::UnknownColumn),
            };
        };
        let (alias, column) = (types::ident_name(alias), types::ident_name(column));
        let mut aliases = self.frames.iter().rev().flat_map(|frame| &frame.aliases);
        match (aliases.find(|(known, _)| *known == alias).map(|(_, source)| source), self.own) {
            (Some(Source::Relation(relation)), _) => {
                let field = relation.fields.iter().find(|field| *field.name == *column);
                match field {
                    Some(field) => Ok(self.field(field)),
                    None if self.own.is_some() => Err(Why::UnknownColumn),
                    None => self.attribute(&column),
                }
            }
            (Some(Source::Query(columns)), own) => match columns.iter().find(|(known, _)| *known == column) {
                Some((_, known)) => Ok(*known),
                None if own.is_some() => Ok(None),
                None => self.attribute(&column),
            },
            (Some(Source::Unknown), Some(_)) => Ok(None),
            (Some(Source::Unknown), None) => self.attribute(&column),
            (None, Some(own)) if *own.name == *alias => self.column_of_row(own, &column),
            (None, Some(_)) => Err(Why::UnknownColumn),
            (None, None) => self.attribute(&column),
        }
    }

    fn column_of_row(&mut self, own: &'c Relation, name: &str) -> Result<Type, Why> {
        let at = own.fields.iter().position(|field| *field.name == *name).ok_or(Why::UnknownColumn)?;
        self.facts.own.insert(at);
        Ok(own.fields.get(at).and_then(|field| self.field(field)))
    }

    fn field(&mut self, field: &Field) -> Type {
        self.facts.loose |= field.collation == Collation::Loose;
        Some(field.base_oid)
    }
}

/// The type of a literal that stands without a cast.
fn literal_type(value: &Value) -> Type {
    match value {
        Value::Boolean(_) => Some(BOOL),
        Value::Number(digits, false) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            match digits.parse::<i64>() {
                Ok(number) if i32::try_from(number).is_ok() => Some(INT4),
                Ok(_) => Some(INT8),
                Err(_) => Some(NUMERIC),
            }
        }
        Value::Number(..) => Some(NUMERIC),
        _ => None,
    }
}

/// Whether a text is one that an output function of a time wrote: those say when, not `now`.
fn is_printed_time(expression: &Expr) -> bool {
    match expression {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => text.bytes().next().is_some_and(|byte| byte.is_ascii_digit()),
            _ => false,
        },
        _ => false,
    }
}
