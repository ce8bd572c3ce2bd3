//! What is to be asked for parties: terms, and calls with values of a row.

use std::ops::ControlFlow;

use sqlparser::ast::{Expr, visit_expressions};

use super::{
    Bound, Call, CallId, Compiler, Facts, Family, Kind, MAX_TERMS, Owner, Owners, Reads, Term, TermId, Tie,
    Why, parse, scan,
};

impl Compiler<'_> {
    /// Something without columns of the row, to be asked for each party.
    pub(super) fn term(&mut self, expression: &Expr, facts: Facts, kind: Kind) -> Result<TermId, Why> {
        if facts.clock {
            return Err(Why::Clock);
        }
        let text = parse::text_of(expression).ok_or_else(|| Why::not_understood("its syntax"))?;
        self.put_term(format!("select ({text})::pg_catalog.text"), facts, kind)
    }

    pub(super) fn put_term(&mut self, sql: String, facts: Facts, kind: Kind) -> Result<TermId, Why> {
        let known = self.terms.iter().position(|term| *term.sql == *sql && term.kind == kind);
        let at = match known {
            Some(at) => at,
            None if self.terms.len() >= MAX_TERMS => return Err(Why::TooLarge),
            None => {
                let owners = Owners::new();
                self.terms.push(Term { sql: sql.into(), kind, reads: facts.reads, owners, is_aside: false });
                self.terms.len() - 1
            }
        };
        Ok(TermId(u32::try_from(at).unwrap_or(u32::MAX)))
    }

    /// Finds out whose answers changes of the tables that are read concern.
    pub(super) fn find_owners(&mut self) {
        for at in 0..self.terms.len() {
            let reads = self.terms.get(at).map(|term| term.reads.clone()).unwrap_or_default();
            let owners = self.owners(&reads);
            if let Some(term) = self.terms.get_mut(at) {
                term.owners = owners;
            }
        }
        for at in 0..self.calls.len() {
            let reads = self.calls.get(at).map(|call| call.reads.clone()).unwrap_or_default();
            let owners = self.owners(&reads);
            let bounds = self.bounds.get_mut(at).and_then(Option::take).unwrap_or_default();
            let bounds: Option<Vec<Bound>> = bounds.into_iter().map(|bound| self.bound(bound)).collect();
            if let Some(call) = self.calls.get_mut(at) {
                call.owners = owners;
                call.bounds = bounds.unwrap_or_default();
            }
        }
    }

    fn bound(&mut self, bound: scan::Bound) -> Option<Bound> {
        let scan::Bound { schema, table, column, argument, or_null, tie } = bound;
        let term = self.aside(&tie.text, Kind::One(tie.family))?;
        let owner = Owner { column: tie.column, family: tie.family, term };
        Some(Bound { schema, table, column, argument, or_null, owner })
    }

    fn owners(&mut self, reads: &Reads) -> Owners {
        let mut all = Owners::new();
        for (table, ties) in reads.tied() {
            let mut owner = |tie: &Tie| {
                let term = self.aside(&tie.text, Kind::One(tie.family))?;
                Some(Owner { column: tie.column.clone(), family: tie.family, term })
            };
            // One that cannot be told may be anybody.
            let owners: Option<Vec<Owner>> = ties.iter().map(&mut owner).collect();
            all.extend(owners.map(|mut owners| {
                owners.dedup();
                (table, owners)
            }));
        }
        all
    }

    /// A term that decides about no row.
    fn aside(&mut self, text: &str, kind: Kind) -> Option<TermId> {
        let known = self.terms.len();
        let sql = format!("select ({text})::pg_catalog.text");
        let id = self.put_term(sql, Facts::default(), kind).ok()?;
        if let Some(term) = self.terms.get_mut(known) {
            term.is_aside = true;
        }
        Some(id)
    }

    /// Makes terms of what is without columns inside of something that is not evaluated here. PostgreSQL's planner
    /// evaluates such parts to estimate how many rows there are: one that raises fails the whole query, whatever
    /// stands beside it.
    pub(super) fn probe(&mut self, expression: &Expr) {
        let mut free = Vec::new();
        let _ = visit_expressions(expression, |part| {
            if matches!(part, Expr::Function(_) | Expr::Cast { .. } | Expr::BinaryOp { .. })
                && self.reader.constant(part).is_none()
                && let Ok((facts, _)) = self.scanner.look_at(part)
                && facts.own.is_empty()
            {
                free.push((part.clone(), facts));
            }
            ControlFlow::<()>::Continue(())
        });
        for (part, facts) in free {
            // The value does not matter. What depends on the clock is now what it will be.
            let facts = Facts { clock: false, ..facts };
            let _ = self.term(&part, facts, Kind::One(Family::Text));
        }
    }

    /// A condition whose answer is kept for the values of its columns.
    pub(super) fn call(&mut self, expression: &Expr, facts: Facts) -> Option<CallId> {
        let asks = facts.calls || !facts.reads.tables.is_empty() || !facts.reads.can_be_kept();
        // What depends on the columns alone gains nothing.
        if facts.clock || !asks || facts.own.is_empty() || self.calls.len() >= MAX_TERMS {
            return None;
        }
        let text = parse::text_of(expression)?;
        self.probe(expression);
        let bounds = if facts.loose { None } else { self.scanner.bounds(expression) };
        self.bounds.push(bounds);
        self.calls.push(Call {
            sql: text.into(),
            columns: facts.own.into_iter().collect(),
            reads: facts.reads,
            owners: Owners::new(),
            bounds: Vec::new(),
        });
        Some(CallId::at(u32::try_from(self.calls.len() - 1).unwrap_or(u32::MAX)))
    }
}
