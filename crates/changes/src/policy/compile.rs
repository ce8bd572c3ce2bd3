//! From the texts of policies to a tree.

mod arrays;
mod compare;
mod membership;
mod terms;

use std::{collections::BTreeSet, sync::Arc};

use sqlparser::ast::{
    BinaryOperator, CaseWhen, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, InTarget,
    UnaryOperator,
};

use super::{
    Why,
    atom::{Atom, List, Op, Otherwise, Side},
    catalog::{Catalog, Relation},
    compiled::{Asked, Bound, Call, Compiled, Owner, Owners, Policy, Term},
    names::{CallId, TermId},
    operand::Operand,
    parse,
    read::{Reader, Typed, family_of, unnested},
    scan::{self, Facts, Reads, Scanner, Tie, Type},
    types::{self, BOOL, TEXT},
    values::{Kind, Value, ValueSet},
};
use crate::{tree::Tree, truth::Truth, value::Family};

/// Most terms of a table's policies: each is asked for every party.
const MAX_TERMS: usize = 200;

type Node = Tree<Atom>;

/// Compiles the policies of a table that decide for a role. `own` is the table; its fields are in the order in which rows
/// are read.
#[must_use]
pub fn compile(policies: &[Policy<'_>], own: &Relation, catalog: &Catalog) -> Compiled {
    compile_distrusting(policies, own, catalog, &BTreeSet::new())
}

/// The same where some policies, by their places, are left to the database: what they were compiled to was found wrong.
#[must_use]
pub fn compile_distrusting(
    policies: &[Policy<'_>],
    own: &Relation,
    catalog: &Catalog,
    distrusted: &BTreeSet<usize>,
) -> Compiled {
    let mut compiler = Compiler {
        scanner: Scanner::new(catalog, own),
        reader: Reader { catalog, own, inside: false },
        terms: Vec::new(),
        calls: Vec::new(),
        bounds: Vec::new(),
        asked: Vec::new(),
        policy: 0,
    };
    let mut parts = vec![Tree::Known(Truth::NULL); policies.len()];
    let mut of = |permissive: bool| -> Vec<Node> {
        let chosen = policies.iter().enumerate().filter(|(_, policy)| policy.permissive == permissive);
        let one = |(at, policy): (usize, &Policy<'_>)| {
            let node = match distrusted.contains(&at) {
                true => compiler.distrust(at, policy),
                false => compiler.policy(at, policy),
            };
            if let Some(part) = parts.get_mut(at) {
                part.clone_from(&node);
            }
            node
        };
        chosen.map(one).collect()
    };
    let (shown, demanded) = (of(true), of(false));
    let tree = Tree::and(std::iter::once(Tree::or(shown)).chain(demanded));
    let refused = if compiler.scanner.recursive {
        // Whatever the rest says: the database says that it fails.
        Some(Why::Recursive)
    } else {
        (compiler.terms.len() >= MAX_TERMS).then_some(Why::TooLarge)
    };
    if let Some(why) = refused {
        let asked = Asked { policy: 0, text: "".into(), why, columns: None };
        let (tree, wanted) = (Arc::new(Tree::Leaf(Atom::Asked)), compiler.scanner.wanted);
        let parts = Arc::default();
        return Compiled { tree, parts, terms: Vec::new(), calls: Vec::new(), asked: vec![asked], wanted };
    }
    compiler.find_owners();
    Compiled {
        tree: Arc::new(tree),
        parts: parts.into(),
        terms: compiler.terms,
        calls: compiler.calls,
        asked: compiler.asked,
        wanted: compiler.scanner.wanted,
    }
}

struct Compiler<'c> {
    scanner: Scanner<'c>,
    reader: Reader<'c>,
    terms: Vec<Term>,
    calls: Vec<Call>,
    /// By call: for whom it can be true.
    bounds: Vec<Option<Vec<scan::Bound>>>,
    asked: Vec<Asked>,
    /// Which policy is compiled.
    policy: usize,
}

impl<'c> Compiler<'c> {
    fn policy(&mut self, at: usize, policy: &Policy<'_>) -> Node {
        self.policy = at;
        match parse::expression(policy.using) {
            Ok(expression) => self.boolean(&expression),
            Err(why) => self.ask_whole(policy.using, why),
        }
    }

    fn distrust(&mut self, at: usize, policy: &Policy<'_>) -> Node {
        self.policy = at;
        self.ask_whole(policy.using, Why::Distrusted)
    }

    fn ask_whole(&mut self, text: &str, why: Why) -> Node {
        // Whatever its columns are, they are not known.
        self.asked.push(Asked { policy: self.policy, text: text.into(), why, columns: None });
        Tree::Leaf(Atom::Asked)
    }

    fn ask(&mut self, expression: &Expr, why: Why) -> Node {
        self.probe(expression);
        let columns = self.scanner.look_at(expression).ok().map(|(facts, _)| facts.own);
        // The text is for people; what is too deep to be printed safely is not.
        let text = if why == Why::TooLarge { String::from("…") } else { expression.to_string() };
        self.asked.push(Asked { policy: self.policy, text: text.into(), why, columns });
        Tree::Leaf(Atom::Asked)
    }

    /// An expression that stands where a condition stands.
    fn boolean(&mut self, expression: &Expr) -> Node {
        let expression = unnested(expression);
        if let Some((BOOL, value)) = self.reader.constant(expression) {
            return match value {
                Value::One { key, .. } => Tree::Known(Truth::known(Some(*key == *b"t"))),
                _ => Tree::Known(Truth::NULL),
            };
        }
        match self.scanner.look_at(expression) {
            Ok((facts, _)) if facts.own.is_empty() => self.gate(expression, facts),
            Ok((facts, kind)) => {
                self.connective(expression).unwrap_or_else(|| self.leaf(expression, facts, kind))
            }
            Err(why) => self.connective(expression).unwrap_or_else(|| self.ask(expression, why)),
        }
    }

    /// A condition without columns of the row.
    fn gate(&mut self, expression: &Expr, facts: Facts) -> Node {
        match self.term(expression, facts, Kind::One(Family::Bool)) {
            Ok(term) => Tree::Leaf(Atom::Gate(term)),
            // A part of it may be without what stands in the way.
            Err(why) => self.connective(expression).unwrap_or_else(|| self.ask(expression, why)),
        }
    }

    /// AND, OR, NOT and what is made of them. `None` if it is none of these.
    fn connective(&mut self, expression: &Expr) -> Option<Node> {
        Some(match expression {
            Expr::BinaryOp { op: op @ (BinaryOperator::And | BinaryOperator::Or), .. } => {
                let parts: Vec<Node> =
                    chain(expression, op).into_iter().map(|part| self.boolean(part)).collect();
                if *op == BinaryOperator::And { Tree::and(parts) } else { Tree::or(parts) }
            }
            Expr::UnaryOp { op: UnaryOperator::Not, expr } => self.boolean(expr).not(),
            Expr::IsTrue(inner) => self.boolean(inner).is(Truth::TRUE),
            Expr::IsNotTrue(inner) => self.boolean(inner).is(Truth::TRUE).not(),
            Expr::IsFalse(inner) => self.boolean(inner).is(Truth::FALSE),
            Expr::IsNotFalse(inner) => self.boolean(inner).is(Truth::FALSE).not(),
            Expr::IsUnknown(inner) => self.boolean(inner).is(Truth::NULL),
            Expr::IsNotUnknown(inner) => self.boolean(inner).is(Truth::NULL).not(),
            Expr::Case { operand: None, conditions, else_result, .. } => {
                self.case(conditions, else_result.as_deref())
            }
            Expr::Function(call) => {
                let arguments = coalesced(call)?;
                let parts: Vec<Node> = arguments.into_iter().map(|part| self.boolean(part)).collect();
                coalesce(parts)
            }
            _ => return None,
        })
    }

    fn case(&mut self, conditions: &[CaseWhen], otherwise: Option<&Expr>) -> Node {
        let mut before: Vec<Node> = Vec::new();
        let mut ways = Vec::new();
        for CaseWhen { condition, result } in conditions {
            let taken = self.boolean(condition).is(Truth::TRUE);
            let result = self.boolean(result);
            ways.push(Tree::and(before.iter().cloned().chain([taken.clone(), result])));
            before.push(taken.not());
        }
        let otherwise = otherwise.map_or(Tree::Known(Truth::NULL), |otherwise| self.boolean(otherwise));
        before.push(otherwise);
        ways.push(Tree::and(before));
        Tree::or(ways)
    }

    /// A condition that columns of the row decide.
    fn leaf(&mut self, expression: &Expr, facts: Facts, kind: Type) -> Node {
        let tried = if facts.loose { Err(Why::Collation) } else { self.native(expression, kind) };
        let why = match tried {
            Ok(node) => return node,
            Err(why) => why,
        };
        match self.call(expression, facts) {
            Some(call) => Tree::Leaf(Atom::Call(call)),
            None => self.ask(expression, why),
        }
    }

    /// A condition that is evaluated here.
    fn native(&mut self, expression: &Expr, kind: Type) -> Result<Node, Why> {
        match expression {
            Expr::BinaryOp { left, op, right } => match comparison(op) {
                Some(op) => self.compare(left, op, right),
                None if *op == BinaryOperator::PGLikeMatch => self.like(left, right),
                None if *op == BinaryOperator::PGNotLikeMatch => Ok(self.like(left, right)?.not()),
                None => Err(Why::Operator(op.to_string().into())),
            },
            Expr::IsDistinctFrom(left, right) => self.compare(left, Op::Distinct, right),
            Expr::IsNotDistinctFrom(left, right) => Ok(self.compare(left, Op::Distinct, right)?.not()),
            Expr::IsNull(inner) => self.is_null(inner),
            Expr::IsNotNull(inner) => Ok(self.is_null(inner)?.not()),
            Expr::AnyOp { left, compare_op: BinaryOperator::Eq, right, .. } => self.any(left, right),
            Expr::AllOp { left, compare_op: BinaryOperator::NotEq, right } => {
                Ok(self.any(left, right)?.not())
            }
            Expr::In { expr, target: InTarget::Subquery(query), negated, global: false } => {
                let node = self.member(expr, query)?;
                Ok(if *negated { node.not() } else { node })
            }
            Expr::Exists { subquery, negated } => {
                let node = self.exists(subquery)?;
                Ok(if *negated { node.not() } else { node })
            }
            other => match self.reader.operand(other) {
                Some(Typed { operand, oid: BOOL, .. }) if kind == Some(BOOL) => Ok(is_true(operand)),
                Some(_) => Err(Why::Type),
                None => Err(Why::not_understood("what it makes of the row")),
            },
        }
    }
}

/// The parts of a chain of one operator, in their order.
fn chain<'e>(expression: &'e Expr, wanted: &BinaryOperator) -> Vec<&'e Expr> {
    let mut parts = Vec::new();
    let mut rest = expression;
    while let Expr::BinaryOp { left, op, right } = rest
        && op == wanted
    {
        parts.push(&**right);
        rest = left;
    }
    parts.push(rest);
    parts.reverse();
    parts
}

/// The arguments of a call of `coalesce`.
fn coalesced(call: &Function) -> Option<Vec<&Expr>> {
    let name = types::parts(&call.name)?;
    let FunctionArguments::List(list) = &call.args else { return None };
    if name.as_slice() != ["coalesce"] {
        return None;
    }
    let argument = |argument| match argument {
        &FunctionArg::Unnamed(FunctionArgExpr::Expr(ref argument)) => Some(argument),
        _ => None,
    };
    list.args.iter().map(argument).collect()
}

/// The first of some conditions that is not NULL.
fn coalesce(parts: Vec<Node>) -> Node {
    parts.into_iter().rev().fold(Tree::Known(Truth::NULL), |rest, part| {
        let is_null = part.clone().is(Truth::NULL);
        Tree::or([Tree::and([is_null.clone().not(), part]), Tree::and([is_null, rest])])
    })
}

fn comparison(op: &BinaryOperator) -> Option<Op> {
    Some(match op {
        BinaryOperator::Eq => Op::Equal,
        BinaryOperator::NotEq => Op::NotEqual,
        BinaryOperator::Lt => Op::Less,
        BinaryOperator::LtEq => Op::LessOrEqual,
        BinaryOperator::Gt => Op::Greater,
        BinaryOperator::GtEq => Op::GreaterOrEqual,
        _ => return None,
    })
}

/// A boolean column that stands as a condition.
fn is_true(operand: Operand) -> Node {
    let value = Value::One { text: (*b"t").into(), key: (*b"t").into() };
    Tree::Leaf(Atom::Compare { operand, op: Op::Equal, family: Family::Bool, side: Side::Constant(value) })
}
