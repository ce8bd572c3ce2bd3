//! Comparisons of what is made of the row with something else.

use std::sync::Arc;

use realtime_pgoutput::Oid;
use sqlparser::ast::{Expr, FunctionArguments};

use super::{Compiler, Node};
use crate::{
    like,
    policy::{
        Why,
        atom::{Atom, Op, Side},
        catalog::Collation,
        read::{self, Typed, family_of, unnested},
        scan::{Facts, Type},
        types::{self, BOOL, TEXT, TIMESTAMPTZ},
        values::{Kind, Value, one},
    },
    tree::Tree,
    truth::Truth,
    value::Family,
};

/// A side of a comparison.
pub(super) enum Part {
    Operand(Typed),
    Constant(Oid, Value),
    /// Without columns of the row.
    Free(Facts, Type),
    /// `now()`.
    Now,
}

impl Compiler<'_> {
    pub(super) fn part(&mut self, expression: &Expr) -> Result<Part, Why> {
        if let Some((oid, value)) = self.reader.constant(expression) {
            return Ok(Part::Constant(oid, value));
        }
        let (facts, kind) = self.scanner.look_at(expression)?;
        if facts.own.is_empty() {
            return Ok(if facts.clock && is_now(expression) { Part::Now } else { Part::Free(facts, kind) });
        }
        let typed = self.reader.operand(expression);
        typed.map(Part::Operand).ok_or_else(|| Why::not_understood("what it makes of the row"))
    }

    pub(super) fn compare(&mut self, left: &Expr, op: Op, right: &Expr) -> Result<Node, Why> {
        match (self.part(left)?, self.part(right)?) {
            (Part::Operand(typed), other) => self.compare_operand(typed, op, other, right),
            (other, Part::Operand(typed)) => self.compare_operand(typed, op.flipped(), other, left),
            _ => Err(Why::not_understood("what it makes of the row")),
        }
    }

    fn compare_operand(&mut self, typed: Typed, op: Op, other: Part, text: &Expr) -> Result<Node, Why> {
        let other_type = match &other {
            Part::Operand(other) => other.oid,
            Part::Constant(oid, _) => *oid,
            Part::Free(facts, _) if facts.clock => return Err(Why::Clock),
            Part::Free(_, kind) => kind.ok_or(Why::Type)?,
            Part::Now if typed.oid == TIMESTAMPTZ && typed.operand.steps.is_empty() && op != Op::Distinct => {
                return Ok(Tree::Leaf(Atom::Clock { operand: typed.operand, op }));
            }
            Part::Now => return Err(Why::Clock),
        };
        let family = family_of(typed.oid, other_type, typed.is_enum).ok_or(Why::Type)?;
        if op.is_order() {
            let by_bytes = matches!(other, Part::Constant(..)) && typed.collation == Collation::Bytes;
            match family {
                Family::Text | Family::Padded if typed.is_enum => return Err(Why::Type),
                Family::Text | Family::Padded if !by_bytes => return Err(Why::TextOrder),
                family if !family.is_ordered(true) => return Err(Why::Type),
                _ => {}
            }
        }
        let side = match other {
            Part::Operand(other) => Side::Operand(other.operand),
            Part::Constant(_, value) => Side::Constant(in_family(family, value)?),
            Part::Free(facts, _) => Side::Term(self.term(text, facts, Kind::One(family))?),
            Part::Now => return Err(Why::Clock),
        };
        Ok(Tree::Leaf(Atom::Compare { operand: typed.operand, op, family, side }))
    }

    pub(super) fn like(&mut self, left: &Expr, right: &Expr) -> Result<Node, Why> {
        let operator = || Why::Operator("LIKE".into());
        let typed = self.reader.operand(left).filter(|typed| typed.oid == TEXT).ok_or_else(operator)?;
        let Some((TEXT, Value::One { text, .. })) = self.reader.constant(right) else {
            return Err(operator());
        };
        let pattern = std::str::from_utf8(&text).ok().and_then(like::Pattern::new).ok_or_else(operator)?;
        Ok(Tree::Leaf(Atom::Like(typed.operand, Arc::new(pattern))))
    }

    pub(super) fn is_null(&mut self, inner: &Expr) -> Result<Node, Why> {
        match self.reader.operand(inner) {
            Some(typed) if read::is_single(typed.oid, typed.is_enum) => {
                Ok(Tree::Leaf(Atom::Null(typed.operand)))
            }
            Some(_) => Err(Why::Type),
            None => match self.scanner.look_at(inner)? {
                (_, Some(BOOL)) => Ok(self.boolean(inner).is(Truth::NULL)),
                _ => Err(Why::not_understood("what it makes of the row")),
            },
        }
    }
}

/// A constant as it is compared: what it is equal by depends on the other side's type too.
pub(super) fn in_family(family: Family, value: Value) -> Result<Value, Why> {
    match value {
        Value::One { text, .. } => {
            std::str::from_utf8(&text).ok().and_then(|text| one(family, text)).ok_or(Why::Type)
        }
        value => Ok(value),
    }
}

/// Whether an expression is the time of the statement and nothing else.
fn is_now(expression: &Expr) -> bool {
    let Expr::Function(call) = unnested(expression) else { return false };
    let name = types::parts(&call.name).unwrap_or_default();
    let clocks =
        ["now", "current_timestamp", "transaction_timestamp", "statement_timestamp", "clock_timestamp"];
    let no_arguments = match &call.args {
        FunctionArguments::None => true,
        FunctionArguments::List(list) => list.args.is_empty(),
        FunctionArguments::Subquery(_) => false,
    };
    no_arguments && matches!(name.as_slice(), [name] if clocks.contains(&name.as_str()))
}
