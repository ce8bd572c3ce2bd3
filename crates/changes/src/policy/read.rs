//! Parts of expressions that are understood: constants, and what is made of a column.

use realtime_pgoutput::Oid;
use sqlparser::ast::{
    BinaryOperator, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments,
    Value as Literal,
};

use super::{
    catalog::{Catalog, Collation, Field, Relation},
    operand::{Operand, Step, is_written},
    types::{
        self, BOOL, BPCHAR, FLOAT4, FLOAT8, INT2, INT4, INT8, JSON, JSONB, NAME, NUMERIC, TEXT, UUID, VARCHAR,
    },
    values::{Value, one},
};
use crate::value::Family;

/// An operand and what is known of it.
#[derive(Debug)]
pub(super) struct Typed {
    pub(super) operand: Operand,
    pub(super) oid: Oid,
    pub(super) is_enum: bool,
    pub(super) collation: Collation,
}

/// Reads expressions about the rows of a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'c> {
    pub(super) catalog: &'c Catalog,
    pub(super) own: &'c Relation,
    /// Whether the row's columns stand behind the table's name: inside of a subquery.
    pub(super) inside: bool,
}

impl<'c> Reader<'c> {
    /// What an expression takes from the row, if that is understood.
    pub(super) fn operand(&self, expression: &Expr) -> Option<Typed> {
        match expression {
            Expr::Nested(inner) => self.operand(inner),
            Expr::Identifier(ident) if !self.inside => self.column(&types::ident_name(ident)),
            Expr::CompoundIdentifier(parts) => match parts.as_slice() {
                [table, column] if types::ident_name(table) == *self.own.name => {
                    self.column(&types::ident_name(column))
                }
                _ => None,
            },
            Expr::Cast { expr, data_type, format: None, .. } => {
                let target = self.target(data_type)?;
                cast(self.operand(expr)?, target)
            }
            Expr::BinaryOp { left, op: BinaryOperator::LongArrow, right } => {
                let mut path = vec![self.text(right)?];
                let base = self.json(left, &mut path)?;
                path.reverse();
                Some(json_text(base, path))
            }
            Expr::BinaryOp { left, op: BinaryOperator::HashLongArrow, right } => {
                let base = self.json(left, &mut Vec::new())?;
                Some(json_text(base, self.path(right)?))
            }
            Expr::Function(call) => self.call(call),
            _ => None,
        }
    }

    fn column(&self, name: &str) -> Option<Typed> {
        let at = self.own.fields.iter().position(|field| *field.name == *name)?;
        let Field { base_oid, is_enum, collation, .. } = self.own.fields.get(at)?;
        Some(Typed {
            operand: Operand { column: at, steps: Vec::new() },
            oid: *base_oid,
            is_enum: *is_enum,
            collation: *collation,
        })
    }

    pub(super) fn target(&self, target: &DataType) -> Option<Oid> {
        types::cast_target(target, self.catalog).ok()?.ok()?
    }

    /// A JSON column behind arrows; their keys are put into `path`, the last one first.
    fn json(&self, expression: &Expr, path: &mut Vec<Box<str>>) -> Option<Typed> {
        match expression {
            Expr::Nested(inner) => self.json(inner, path),
            Expr::BinaryOp { left, op: BinaryOperator::Arrow, right } => {
                path.push(self.text(right)?);
                self.json(left, path)
            }
            other => {
                let base = self.operand(other)?;
                (matches!(base.oid, JSON | JSONB) && base.operand.steps.is_empty()).then_some(base)
            }
        }
    }

    /// A constant of type text.
    fn text(&self, expression: &Expr) -> Option<Box<str>> {
        match self.constant(expression)? {
            (TEXT, Value::One { text, .. }) => String::from_utf8(text.into()).ok().map(Into::into),
            _ => None,
        }
    }

    /// The keys of `'{a,b}'::text[]`. A number may name an element of an array too.
    fn path(&self, expression: &Expr) -> Option<Vec<Box<str>>> {
        let Expr::Cast { expr, data_type, .. } = unnested(expression) else { return None };
        if self.target(data_type)? != types::array_of(TEXT)? {
            return None;
        }
        let text = string(expr)?;
        let body = text.strip_prefix('{')?.strip_suffix('}')?;
        let is_plain = |key: &str| {
            key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
                && key.bytes().any(|byte| byte.is_ascii_alphabetic())
                && !key.eq_ignore_ascii_case("null")
        };
        body.split(',').map(|key| is_plain(key).then(|| key.into())).collect()
    }

    fn call(&self, call: &Function) -> Option<Typed> {
        let FunctionArguments::List(list) = &call.args else { return None };
        let mut arguments = Vec::new();
        for argument in &list.args {
            let FunctionArg::Unnamed(FunctionArgExpr::Expr(argument)) = argument else { return None };
            arguments.push(argument);
        }
        let name = types::parts(&call.name)?;
        match (name.iter().map(String::as_str).collect::<Vec<_>>().as_slice(), arguments.as_slice()) {
            (["lower"], [text]) => {
                let mut typed = self.operand(text)?;
                typed.operand.steps.push(Step::Lower);
                (typed.oid == TEXT).then_some(typed)
            }
            (["coalesce"], [column, constant]) => {
                let mut typed = self.operand(column)?;
                let (oid, Value::One { text, .. }) = self.constant(constant)? else { return None };
                typed.operand.steps.push(Step::OrElse(text));
                (typed.oid == oid).then_some(typed)
            }
            _ => None,
        }
    }

    /// A constant whose text is certain to be the one that PostgreSQL writes.
    pub(super) fn constant(&self, expression: &Expr) -> Option<(Oid, Value)> {
        match expression {
            Expr::Nested(inner) => self.constant(inner),
            Expr::Value(value) => match &value.value {
                Literal::Boolean(value) => Some((BOOL, one(Family::Bool, if *value { "t" } else { "f" })?)),
                Literal::Number(digits, false) => {
                    let oid = if is_written(digits, INT4) {
                        INT4
                    } else if is_written(digits, INT8) {
                        INT8
                    } else {
                        NUMERIC
                    };
                    Some((oid, one(Family::of(oid)?, digits)?))
                }
                _ => None,
            },
            Expr::Cast { expr, data_type, format: None, .. } => {
                let target = self.target(data_type)?;
                self.cast_constant(expr, target)
            }
            _ => None,
        }
    }

    fn cast_constant(&self, inner: &Expr, target: Oid) -> Option<(Oid, Value)> {
        if let Expr::Value(value) = unnested(inner)
            && matches!(value.value, Literal::Null)
        {
            return Some((target, Value::Null));
        }
        if let Some(text) = string(inner) {
            let family = match target {
                TEXT | VARCHAR => Family::Text,
                BPCHAR => Family::Padded,
                BOOL if matches!(text, "true" | "false" | "t" | "f") => Family::Bool,
                INT2 | INT4 | INT8 if is_written(text, target) => Family::Integer,
                UUID if is_written(text, target) => Family::Bytes,
                NUMERIC if is_decimal(text) => Family::Numeric,
                // Labels of an enum, or another type that users made.
                target if target >= types::FIRST_OF_USERS => Family::Text,
                _ => return None,
            };
            return Some((target, one(family, text)?));
        }
        let (from, value) = self.constant(inner)?;
        let fits = match (from, target) {
            (VARCHAR | TEXT, TEXT | VARCHAR) | (INT2, INT4) | (INT2 | INT4, INT8 | FLOAT8) => true,
            (INT2 | INT4 | INT8, NUMERIC) => true,
            (from, target) => from == target,
        };
        if !fits {
            return None;
        }
        match value {
            Value::One { text, .. } if matches!(target, NUMERIC | FLOAT8) => {
                Some((target, one(Family::of(target)?, std::str::from_utf8(&text).ok()?)?))
            }
            value => Some((target, value)),
        }
    }
}

/// Digits with a point, as the catalog prints constants.
fn is_decimal(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

/// An expression without brackets around it.
pub(super) fn unnested(mut expression: &Expr) -> &Expr {
    while let Expr::Nested(inner) = expression {
        expression = inner;
    }
    expression
}

/// A string without escapes.
pub(super) fn string(expression: &Expr) -> Option<&str> {
    match unnested(expression) {
        Expr::Value(value) => match &value.value {
            Literal::SingleQuotedString(text) if !text.contains('\\') => Some(text),
            _ => None,
        },
        _ => None,
    }
}

fn json_text(mut base: Typed, path: Vec<Box<str>>) -> Typed {
    base.operand.steps.push(Step::JsonText(path.into()));
    Typed { oid: TEXT, is_enum: false, collation: Collation::Deterministic, ..base }
}

/// A cast whose result's text is known.
fn cast(mut from: Typed, target: Oid) -> Option<Typed> {
    let step = match (from.oid, target) {
        (from, target) if from == target => None,
        (TEXT, VARCHAR) | (VARCHAR, TEXT) => None,
        (BPCHAR, TEXT | VARCHAR) => Some(Step::TrimBlanks),
        (BOOL, TEXT) => Some(Step::BoolText),
        (INT2 | INT4 | INT8 | NUMERIC | UUID | NAME | JSON | JSONB, TEXT) => None,
        (_, TEXT) if from.is_enum => None,
        (INT2, INT4) | (INT2 | INT4, INT8) | (INT2 | INT4 | INT8, NUMERIC) => None,
        (INT2 | INT4 | INT8, FLOAT8) => None,
        (TEXT | VARCHAR, INT2 | INT4 | INT8 | UUID | BOOL) => Some(Step::Read(target)),
        _ => return None,
    };
    from.operand.steps.extend(step);
    let is_text = |oid| matches!(oid, TEXT | VARCHAR);
    let collation =
        if is_text(from.oid) || from.oid == BPCHAR { from.collation } else { Collation::Deterministic };
    let is_enum = from.is_enum && from.oid == target;
    Some(Typed { oid: target, is_enum, collation, operand: from.operand })
}

/// How values of two types are compared here. `None`: by the database only.
pub(super) fn family_of(left: Oid, right: Oid, is_enum: bool) -> Option<Family> {
    let is_integer = |oid| matches!(oid, INT2 | INT4 | INT8);
    let is_text = |oid| matches!(oid, TEXT | VARCHAR | NAME);
    match (left, right) {
        (left, right) if is_integer(left) && is_integer(right) => Some(Family::Integer),
        (left, right) if is_text(left) && is_text(right) => Some(Family::Text),
        (NUMERIC, other) | (other, NUMERIC) if is_integer(other) => Some(Family::Numeric),
        (FLOAT4, FLOAT4) | (FLOAT8, FLOAT8) => Some(Family::Float),
        (left, right) if left == right && is_enum => Some(Family::Text),
        // bytea is written in one of two ways, by a setting.
        (left, right) if left == right && left != 17 => Family::of(left),
        _ => None,
    }
}

/// Whether a type has no parts of its own to be NULL.
pub(super) const fn is_single(oid: Oid, is_enum: bool) -> bool {
    // Of what comes with PostgreSQL only `record` has parts, and no column is of it.
    oid < types::FIRST_OF_USERS || is_enum
}
