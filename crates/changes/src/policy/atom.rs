//! The leaves of a policy: what a row decides, given the values that a party's terms have.

use std::{borrow::Cow, cmp::Ordering, sync::Arc};

use realtime_pgoutput::message::UnixMicros;

use super::{
    names::{CallId, TermId},
    operand::{Got, Operand},
    values::{self, Value, Values, elements},
};
use crate::{cell::Cell, like, truth::Truth, value::Family};

/// A leaf of a policy.
#[derive(Debug, Clone)]
pub(super) enum Atom {
    /// A condition without columns of the row.
    Gate(TermId),
    /// An operand is compared.
    Compare { operand: Operand, op: Op, family: Family, side: Side },
    /// `operand = any (array)`.
    AnyOf { operand: Operand, family: Family, list: List },
    /// `value = any (column)`: the column is an array.
    Has { operand: Operand, family: Family, side: Side },
    /// Operands are among the rows of a set.
    Member { operands: Vec<(Operand, Family)>, set: TermId, otherwise: Otherwise },
    /// `operand is null`.
    Null(Operand),
    /// `operand like 'constant'`.
    Like(Operand, Arc<like::Pattern>),
    /// A column of type timestamptz is compared with the clock.
    Clock { operand: Operand, op: Op },
    /// The answer to a call for the row's values.
    Call(CallId),
    /// Only the database knows, of the row as a whole.
    Asked,
}

/// A comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// `is distinct from`.
    Distinct,
}

impl Op {
    /// The comparison with its sides exchanged.
    pub(super) const fn flipped(self) -> Self {
        match self {
            Self::Less => Self::Greater,
            Self::LessOrEqual => Self::GreaterOrEqual,
            Self::Greater => Self::Less,
            Self::GreaterOrEqual => Self::LessOrEqual,
            same => same,
        }
    }

    pub(super) const fn is_order(self) -> bool {
        matches!(self, Self::Less | Self::LessOrEqual | Self::Greater | Self::GreaterOrEqual)
    }

    const fn allows(self, order: Ordering) -> bool {
        match self {
            Self::Equal => order.is_eq(),
            Self::NotEqual | Self::Distinct => order.is_ne(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
        }
    }
}

/// What an operand is compared with.
#[derive(Debug, Clone)]
pub(super) enum Side {
    Constant(Value),
    Term(TermId),
    Operand(Operand),
}

/// The elements of an array.
#[derive(Debug, Clone)]
pub(super) enum List {
    Constant(Value),
    Term(TermId),
}

/// What a membership is when no row of the set is equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Otherwise {
    /// `exists`: false.
    False,
    /// `in`: false, but NULL where a NULL takes part.
    In,
    /// False or NULL; the set does not tell which.
    NotTrue,
}

/// What leaves are judged with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Judged<'v> {
    pub(super) values: &'v Values,
    pub(super) now: UnixMicros,
}

impl Atom {
    /// What the leaf is for a row. Calls are answered by `call`.
    pub(super) fn judge<'a>(
        &self,
        row: &impl Fn(usize) -> Cell<'a>,
        with: &Judged<'_>,
        call: &mut impl FnMut(CallId) -> Truth,
    ) -> Truth {
        match self {
            Self::Gate(term) => gate(with.values.get(*term)),
            Self::Compare { operand, op, family, side } => {
                let left = operand.take(row(operand.column));
                match side {
                    Side::Constant(value) => compare_with(*family, *op, left, value),
                    Side::Term(term) => compare_with(*family, *op, left, with.values.get(*term)),
                    Side::Operand(other) => compare(*family, *op, left, other.take(row(other.column))),
                }
            }
            Self::AnyOf { operand, family, list } => {
                let value = match list {
                    List::Constant(value) => value,
                    List::Term(term) => with.values.get(*term),
                };
                any_of(*family, operand.take(row(operand.column)), value)
            }
            Self::Has { operand, family, side } => {
                let value = match side {
                    Side::Constant(value) => value,
                    Side::Term(term) => with.values.get(*term),
                    Side::Operand(_) => return Truth::OPEN,
                };
                has(*family, operand.take(row(operand.column)), value)
            }
            Self::Member { operands, set, otherwise } => {
                member(operands, with.values.get(*set), *otherwise, row)
            }
            Self::Null(operand) => match operand.take(row(operand.column)) {
                Got::Open => Truth::OPEN,
                got => Truth::known(Some(got == Got::Null)),
            },
            Self::Like(operand, pattern) => match operand.take(row(operand.column)) {
                Got::Open => Truth::OPEN,
                Got::Null => Truth::NULL,
                Got::Text(text) => std::str::from_utf8(&text)
                    .map_or(Truth::OPEN, |text| Truth::known(Some(pattern.matches(text)))),
            },
            Self::Clock { operand, op } => clock(operand.take(row(operand.column)), *op, with.now),
            Self::Call(id) => call(*id),
            Self::Asked => Truth::OPEN,
        }
    }

    /// The term that it compares with, if it does.
    pub(super) fn term(&self) -> Option<TermId> {
        match self {
            Self::Gate(term)
            | Self::Compare { side: Side::Term(term), .. }
            | Self::AnyOf { list: List::Term(term), .. }
            | Self::Has { side: Side::Term(term), .. }
            | Self::Member { set: term, .. } => Some(*term),
            _ => None,
        }
    }

    /// What the leaf is whatever the row: more than nothing for gates, and for what a NULL or an empty set decides.
    pub(super) fn judge_any_row(&self, values: &Values) -> Truth {
        let with_value = |value: &Value| match value {
            Value::Null => Truth::NULL,
            _ => Truth::OPEN,
        };
        match self {
            Self::Gate(term) => gate(values.get(*term)),
            Self::Compare { op: Op::Distinct, .. } => Truth::OPEN,
            Self::Compare { side: Side::Term(term), .. } => with_value(values.get(*term)),
            // An empty array has not even NULL.
            Self::Has { side: Side::Term(term), .. } if *values.get(*term) == Value::Null => Truth::NOT_TRUE,
            Self::AnyOf { list: List::Term(term), .. } => match values.get(*term) {
                Value::Set(set) if set.is_empty() => Truth::FALSE,
                value => with_value(value),
            },
            Self::Member { set, otherwise, .. } => match values.get(*set) {
                Value::Set(set) if set.is_empty() => match otherwise {
                    Otherwise::NotTrue => Truth::NOT_TRUE,
                    _ => Truth::FALSE,
                },
                _ => Truth::OPEN,
            },
            _ => Truth::OPEN,
        }
    }
}

fn gate(value: &Value) -> Truth {
    match value {
        Value::Open => Truth::OPEN,
        Value::Null => Truth::NULL,
        Value::One { key, .. } => Truth::known(Some(**key == *b"t")),
        Value::Set(_) => Truth::OPEN,
    }
}

/// `left op value`, where NULL is a value like others for `is distinct from`.
fn compare_with(family: Family, op: Op, left: Got<'_>, value: &Value) -> Truth {
    match value {
        Value::Open | Value::Set(_) => Truth::OPEN,
        Value::Null => with_null(op, &left, true),
        Value::One { text, key } => match left {
            Got::Text(left) if !op.is_order() => match family.key(&left) {
                Some(left) => Truth::known(Some((*left == **key) == (op == Op::Equal))),
                None => Truth::OPEN,
            },
            Got::Text(left) => ordered(family, op, &left, text),
            left => with_null(op, &left, false),
        },
    }
}

fn compare(family: Family, op: Op, left: Got<'_>, right: Got<'_>) -> Truth {
    match (left, right) {
        (Got::Open, _) | (_, Got::Open) => Truth::OPEN,
        (Got::Text(left), Got::Text(right)) if op.is_order() => ordered(family, op, &left, &right),
        (Got::Text(left), Got::Text(right)) => match (family.key(&left), family.key(&right)) {
            (Some(left), Some(right)) => Truth::known(Some((left == right) == (op == Op::Equal))),
            _ => Truth::OPEN,
        },
        (left, right) => with_null(op, if left == Got::Null { &right } else { &left }, true),
    }
}

/// A comparison in which one side is NULL, or both if `other` is and `left` is.
fn with_null(op: Op, left: &Got<'_>, right_is_null: bool) -> Truth {
    match left {
        Got::Open => Truth::OPEN,
        _ if op != Op::Distinct => Truth::NULL,
        Got::Null => Truth::known(Some(!right_is_null)),
        Got::Text(_) => Truth::TRUE,
    }
}

fn ordered(family: Family, op: Op, left: &[u8], right: &[u8]) -> Truth {
    family.compare(left, right).map_or(Truth::OPEN, |order| Truth::known(Some(op.allows(order))))
}

/// `left = any (list)`.
fn any_of(family: Family, left: Got<'_>, list: &Value) -> Truth {
    match (left, list) {
        (Got::Open, _) | (_, Value::Open | Value::One { .. }) => Truth::OPEN,
        (_, Value::Null) => Truth::NULL,
        (_, Value::Set(set)) if set.is_empty() => Truth::FALSE,
        (Got::Null, _) => Truth::NULL,
        (Got::Text(left), Value::Set(set)) => match family.key(&left) {
            None => Truth::OPEN,
            Some(key) if set.keys.contains(&*key) => Truth::TRUE,
            Some(_) => Truth::known(if set.has_null { None } else { Some(false) }),
        },
    }
}

/// `value = any (array of the row)`.
fn has(family: Family, array: Got<'_>, value: &Value) -> Truth {
    let text = match array {
        Got::Open => return Truth::OPEN,
        Got::Null => return Truth::NULL,
        Got::Text(text) => text,
    };
    let Some((keys, has_null)) = elements(family, &text) else { return Truth::OPEN };
    match value {
        _ if keys.is_empty() && !has_null => Truth::FALSE,
        Value::Open | Value::Set(_) => Truth::OPEN,
        Value::Null => Truth::NULL,
        Value::One { key, .. } if keys.iter().any(|known| **known == **key) => Truth::TRUE,
        Value::One { .. } => Truth::known(if has_null { None } else { Some(false) }),
    }
}

fn member<'a>(
    operands: &[(Operand, Family)],
    set: &Value,
    otherwise: Otherwise,
    row: &impl Fn(usize) -> Cell<'a>,
) -> Truth {
    let Value::Set(set) = set else { return Truth::OPEN };
    let unequal = match otherwise {
        Otherwise::False => Truth::FALSE,
        Otherwise::NotTrue => Truth::NOT_TRUE,
        Otherwise::In if set.has_null => Truth::NULL,
        Otherwise::In => Truth::FALSE,
    };
    match key_of(operands, row) {
        RowKey::Open => Truth::OPEN,
        RowKey::Key(key) => {
            if set.keys.contains(&*key) {
                Truth::TRUE
            } else {
                unequal
            }
        }
        RowKey::Null if otherwise == Otherwise::In && !set.is_empty() => Truth::NULL,
        RowKey::Null if otherwise == Otherwise::In => Truth::FALSE,
        RowKey::Null => unequal,
    }
}

/// What a row has in some operands.
#[derive(Debug)]
pub(super) enum RowKey<'a> {
    Open,
    Null,
    Key(Cow<'a, [u8]>),
}

/// The key of a row in some operands, as sets have it.
pub(super) fn key_of<'a>(operands: &[(Operand, Family)], row: &impl Fn(usize) -> Cell<'a>) -> RowKey<'a> {
    let one = |(operand, family): &(Operand, Family)| match operand.take(row(operand.column)) {
        Got::Open => RowKey::Open,
        Got::Null => RowKey::Null,
        Got::Text(Cow::Borrowed(text)) => family.key(text).map_or(RowKey::Open, RowKey::Key),
        Got::Text(Cow::Owned(text)) => {
            family.key(&text).map_or(RowKey::Open, |key| RowKey::Key(Cow::Owned(key.into_owned())))
        }
    };
    if let [single] = operands {
        return one(single);
    }
    let mut keys = Vec::with_capacity(operands.len());
    let mut has_null = false;
    for operand in operands {
        match one(operand) {
            RowKey::Open => return RowKey::Open,
            RowKey::Null => has_null = true,
            RowKey::Key(key) => keys.push(key),
        }
    }
    if has_null { RowKey::Null } else { RowKey::Key(Cow::Owned(values::joined(&keys))) }
}

/// A timestamptz against the time of judging.
fn clock(got: Got<'_>, op: Op, now: UnixMicros) -> Truth {
    match got {
        Got::Open => Truth::OPEN,
        Got::Null => Truth::NULL,
        Got::Text(text) => match crate::time::parse_timestamptz(&text) {
            Some(time) => Truth::known(Some(op.allows(time.cmp(&now.0)))),
            None => Truth::OPEN,
        },
    }
}
