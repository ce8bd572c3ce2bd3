//! Policies that are compiled: what they ask for, and what they say of a row.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use realtime_pgoutput::{Oid, message::UnixMicros};

use super::{
    atom::{Atom, Judged},
    catalog::Wanted,
    names::{CallId, TermId},
    scan::Reads,
    values::{Kind, Value, Values},
    why::Why,
};
use crate::{cell::Cell, tree::Tree, truth::Truth, value::Family};

/// A policy for SELECT or ALL that holds for a role and has a condition. Permissive policies stand in the order in
/// which PostgreSQL evaluates them: that of their names, the last one first.
#[derive(Debug, Clone, Copy)]
pub struct Policy<'a> {
    /// Whether it shows rows (`PERMISSIVE`) or demands something of those that are shown (`RESTRICTIVE`).
    pub permissive: bool,
    /// Its condition as `pg_get_expr` prints it with an empty search path.
    pub using: &'a str,
}

/// The policies of a table that decide for a role.
#[derive(Debug, Clone)]
pub struct Compiled {
    pub(super) tree: Arc<Tree<Atom>>,
    /// What each policy says for itself.
    pub(super) parts: Arc<[Tree<Atom>]>,
    pub(super) terms: Vec<Term>,
    pub(super) calls: Vec<Call>,
    pub(super) asked: Vec<Asked>,
    pub(super) wanted: BTreeSet<Wanted>,
}

/// Whose answers a row of a table that is read concerns: those of the parties for which a term has the value of a
/// column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    /// The column.
    pub(super) column: Box<str>,
    /// How its values are compared.
    pub(super) family: Family,
    pub(super) term: TermId,
}

/// By table that is read: the equalities of which each says whose its rows are. Rows of other tables concern all.
pub(super) type Owners = BTreeMap<Oid, Vec<Owner>>;

/// Something that a party has a value for, whatever the row: what its claims say, a set that is its own.
#[derive(Debug, Clone)]
pub struct Term {
    pub(super) sql: Box<str>,
    pub(super) kind: Kind,
    pub(super) reads: Reads,
    pub(super) owners: Owners,
    /// Whether it decides about no row: it tells whom changes of tables concern.
    pub(super) is_aside: bool,
}

impl Term {
    /// The statement that asks for it, to be run as the role with the party's claims. It has no parameters, and all its
    /// columns are texts.
    #[must_use]
    pub fn sql(&self) -> &str {
        &self.sql
    }

    /// How many columns the answer has.
    #[must_use]
    pub fn width(&self) -> usize {
        self.kind.width()
    }

    /// What the answer depends on beside the claims.
    #[must_use]
    pub const fn reads(&self) -> &Reads {
        &self.reads
    }
}

/// A condition about some columns of the row, whose answer for a party is kept for each combination of their values.
#[derive(Debug, Clone)]
pub struct Call {
    pub(super) sql: Box<str>,
    pub(super) columns: Vec<usize>,
    pub(super) reads: Reads,
    pub(super) owners: Owners,
    /// If there are some, it is false for all for whom none of them holds.
    pub(super) bounds: Vec<Bound>,
}

/// A condition that somebody for whom a call is true may meet: a row of a table has a value of the call's columns in one
/// of its columns, and names the party in another. Values without a NULL alone are bounded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    pub(super) schema: Box<str>,
    pub(super) table: Box<str>,
    pub(super) column: Box<str>,
    pub(super) argument: usize,
    pub(super) or_null: bool,
    pub(super) owner: Owner,
}

impl Bound {
    /// The schema of the table.
    #[must_use]
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// The table.
    #[must_use]
    pub fn table(&self) -> &str {
        &self.table
    }

    /// Its column that is compared with a value, by an equality of PostgreSQL's own.
    #[must_use]
    pub fn column(&self) -> &str {
        &self.column
    }

    /// Whether a row that has NULL there counts too.
    #[must_use]
    pub const fn or_null(&self) -> bool {
        self.or_null
    }

    /// The value: a column of the row that is judged, by index.
    #[must_use]
    pub const fn argument(&self) -> usize {
        self.argument
    }

    /// The column of the table that says for whom.
    #[must_use]
    pub fn owner(&self) -> &str {
        &self.owner.column
    }
}

impl Call {
    /// The condition: an SQL expression in which columns stand alone, or behind the table's name inside of subqueries.
    /// So it means the same over any relation that is called as the table and has these columns, of the same types.
    #[must_use]
    pub fn sql(&self) -> &str {
        &self.sql
    }

    /// The columns, by index.
    #[must_use]
    pub fn columns(&self) -> &[usize] {
        &self.columns
    }

    /// What the answer depends on beside the claims and the columns.
    #[must_use]
    pub const fn reads(&self) -> &Reads {
        &self.reads
    }

    /// For whom it can be true: for those for whom one of these holds. Empty: for anybody.
    #[must_use]
    pub fn bounds(&self) -> &[Bound] {
        &self.bounds
    }
}

/// A part of a policy that is not compiled: where it decides, the database is asked about the row.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Which of the policies it stands in.
    pub policy: usize,
    /// The part.
    pub text: Box<str>,
    /// Why it is not compiled.
    pub why: Why,
    /// The columns that it reads, by index; `None` if that is not known.
    pub columns: Option<BTreeSet<usize>>,
}

/// Rows of columns, as the database answered for a term.
pub type Answer = Result<Vec<Vec<Option<String>>>, NoValue>;

/// Why a term has no value for a party.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoValue {
    /// It failed: nothing is shown to the party without asking about the row.
    Failed,
    /// It was not asked, or the answer cannot be kept: rows that it decides are asked about.
    NotAsked,
}

impl Compiled {
    /// What the compiler looked for and did not find in the catalog. While there is something, the result is right but
    /// more is asked than has to be: load it and compile again.
    #[must_use]
    pub const fn wanted(&self) -> &BTreeSet<Wanted> {
        &self.wanted
    }

    /// What every party has to be asked for.
    #[must_use]
    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// Those of some terms, by their places, that rows are compared with and that may be asked by themselves. What makes a
    /// setting is never understood, and what reads one neither: such terms mean what they mean only where nothing else in
    /// the policies is not understood.
    #[must_use]
    pub fn askable(&self, terms: impl Iterator<Item = usize>) -> Vec<usize> {
        let compared: BTreeSet<usize> =
            self.tree.leaves().into_iter().filter_map(|atom| Some(atom.term()?.index())).collect();
        let is_understood = |term: &usize| self.terms.get(*term).is_some_and(|term| term.reads.can_be_kept());
        let unclear = compared.iter().filter(|term| !is_understood(term)).count();
        let is_clear = self.asked.is_empty() && self.calls.iter().all(|call| call.reads.can_be_kept());
        let alone = unclear <= 1 && is_clear;
        terms.filter(|term| compared.contains(term) && (alone || is_understood(term))).collect()
    }

    /// Conditions whose answers are kept for values of columns.
    #[must_use]
    pub fn calls(&self) -> &[Call] {
        &self.calls
    }

    /// The same with their names.
    pub fn named_calls(&self) -> impl Iterator<Item = (CallId, &Call)> {
        (0..).map(CallId).zip(&self.calls)
    }

    /// The tables that answers to terms and calls depend on, each perhaps several times.
    pub fn reads(&self) -> impl Iterator<Item = Oid> {
        let terms = self.terms.iter().map(Term::reads);
        terms.chain(self.calls.iter().map(Call::reads)).flat_map(|reads| reads.tables.iter().copied())
    }

    /// Whether a row may be seen at one time and not at another, although nothing changes but the clock.
    #[must_use]
    pub fn reads_clock(&self) -> bool {
        self.tree.leaves().into_iter().any(|atom| matches!(atom, Atom::Clock { .. }))
    }

    /// What is not compiled, and why.
    #[must_use]
    pub fn asked(&self) -> &[Asked] {
        &self.asked
    }

    /// The values of a party's terms, by the answers in the order of [`terms`](Self::terms).
    #[must_use]
    pub fn values(&self, answers: &[Answer]) -> Values {
        let mut values = Values { all: vec![Value::Open; self.terms.len()], ..Values::default() };
        let missing = std::iter::repeat(&Err(NoValue::Failed));
        for (at, answer) in answers.iter().chain(missing).take(self.terms.len()).enumerate() {
            self.take(&mut values, at, answer);
        }
        values
    }

    /// The values with new answers to some of the terms, by their places.
    #[must_use]
    pub fn renewed(&self, mut values: Values, answers: &[(usize, Answer)]) -> Values {
        for (at, answer) in answers {
            self.take(&mut values, *at, answer);
        }
        values
    }

    fn take(&self, values: &mut Values, at: usize, answer: &Answer) {
        let (Some(term), Some(slot)) = (self.terms.get(at), values.all.get_mut(at)) else { return };
        *slot = answer.as_ref().map_or(Value::Open, |rows| term.kind.value(rows));
        match answer {
            Err(NoValue::Failed) if !term.is_aside => values.failed.insert(at),
            _ => values.failed.remove(&at),
        };
    }

    /// What can be said of a row for a party. Calls are answered by `call`: open if the answer is not known.
    pub fn judge<'a>(
        &self,
        row: impl Fn(usize) -> Cell<'a>,
        values: &Values,
        now: UnixMicros,
        mut call: impl FnMut(CallId) -> Truth,
    ) -> Truth {
        let with = Judged { values, now };
        values.settle(self.tree.judge(&mut |atom| atom.judge(&row, &with, &mut call)))
    }
}
