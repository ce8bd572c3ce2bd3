//! Through which equalities a party can reach rows.

use crate::{
    policy::{
        atom::{Atom, List, Op, Side},
        names::CallId,
        operand::Operand,
        values::{Value, Values},
    },
    tree::Tree,
    truth::Truth,
    value::Family,
};

/// The tree of a policy.
type Node = Tree<Atom>;

/// What a row is looked up by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Path {
    /// The key of some operands.
    Key(Vec<(Operand, Family)>),
    /// Each element of an array.
    Elements(Operand, Family),
}

/// How a party can reach rows.
#[derive(Debug)]
pub(super) enum Reach<'t> {
    /// Not at all.
    Never,
    /// In ways that no key tells.
    Always,
    /// Only in these ways.
    By(Vec<Way<'t>>),
}

/// An equality that a row has to meet.
#[derive(Debug)]
pub(super) enum Way<'t> {
    Keys(Path, Vec<&'t [u8]>),
    Call(CallId),
}

/// What a call counts when ways are compared: it is asked for each value.
const CALL_COST: usize = 1_000;

impl Reach<'_> {
    fn cost(&self) -> usize {
        match self {
            Self::Never => 0,
            Self::Always => usize::MAX,
            Self::By(ways) => ways.iter().map(Way::cost).sum(),
        }
    }
}

impl Way<'_> {
    fn cost(&self) -> usize {
        match self {
            Self::Keys(_, keys) => keys.len(),
            Self::Call(_) => CALL_COST,
        }
    }
}

/// How a party with these values can make a condition true.
pub(super) fn of<'t>(tree: &'t Node, values: &'t Values) -> Reach<'t> {
    if !tree.judge(&mut |atom| atom.judge_any_row(values)).may_hold() {
        return Reach::Never;
    }
    if values.is_failed() {
        return Reach::Always;
    }
    match tree {
        Tree::Leaf(atom) => of_atom(atom, values),
        Tree::And(parts) => {
            parts.iter().map(|part| of(part, values)).min_by_key(Reach::cost).unwrap_or(Reach::Always)
        }
        Tree::Or(parts) => {
            let mut all = Vec::new();
            for part in parts {
                match of(part, values) {
                    Reach::Never => {}
                    Reach::Always => return Reach::Always,
                    Reach::By(ways) => all.extend(ways),
                }
            }
            Reach::By(all)
        }
        Tree::Is(inner, Truth::TRUE) => of(inner, values),
        Tree::Known(_) | Tree::Not(_) | Tree::Is(..) => Reach::Always,
    }
}

fn of_atom<'t>(atom: &'t Atom, values: &'t Values) -> Reach<'t> {
    let side = |side: &'t Side| match side {
        Side::Constant(value) => Some(value),
        Side::Term(term) => Some(values.get(*term)),
        Side::Operand(_) => None,
    };
    let value = match atom {
        Atom::Compare { op: Op::Equal, side: of, .. } | Atom::Has { side: of, .. } => side(of),
        Atom::AnyOf { list: List::Constant(value), .. } => Some(value),
        Atom::AnyOf { list: List::Term(term), .. } | Atom::Member { set: term, .. } => {
            Some(values.get(*term))
        }
        Atom::Call(call) => return Reach::By(vec![Way::Call(*call)]),
        _ => None,
    };
    match (value, path(atom)) {
        (Some(Value::One { key, .. }), Some(path)) => Reach::By(vec![Way::Keys(path, vec![key])]),
        (Some(Value::Set(set)), Some(path)) => {
            Reach::By(vec![Way::Keys(path, set.keys.iter().map(|key| &**key).collect())])
        }
        (Some(Value::Null), _) => Reach::Never,
        _ => Reach::Always,
    }
}

/// What a row is looked up by to meet a condition.
fn path(atom: &Atom) -> Option<Path> {
    match atom {
        Atom::Compare { operand, op: Op::Equal, family, side: Side::Constant(_) | Side::Term(_) }
        | Atom::AnyOf { operand, family, .. } => Some(Path::Key(vec![(operand.clone(), *family)])),
        Atom::Member { operands, .. } => Some(Path::Key(operands.clone())),
        Atom::Has { operand, family, .. } => Some(Path::Elements(operand.clone(), *family)),
        _ => None,
    }
}

/// All that rows may be looked up by.
pub(super) fn paths(tree: &Node) -> Vec<Path> {
    let mut all: Vec<Path> = Vec::new();
    for path in tree.leaves().into_iter().filter_map(path) {
        if !all.contains(&path) {
            all.push(path);
        }
    }
    all
}
