//! What becomes of a policy, in words for whoever wrote it.

use std::collections::BTreeSet;

use realtime_pgoutput::Oid;

use super::{
    atom::{Atom, List, Side},
    catalog::{Catalog, Relation},
    compile::compile,
    compiled::{Compiled, Policy},
    names::TermId,
    scan::Reads,
};

/// What becomes of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// Whether something of it is decided without the database.
    pub decides: bool,
    /// What is asked about each row; nothing if all is compiled.
    pub asked: Vec<Reason>,
    /// The tables that it reads, as far as they are known.
    pub reads: BTreeSet<Oid>,
}

/// A part of a policy that the database is asked about, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The part.
    pub text: Box<str>,
    /// Why it is not compiled, and what helps.
    pub why: String,
}

/// Explains a policy. `own`: its table; `is_kept`: whether all changes of a table come with the log, by `publication`
/// for one. The catalog has to have what the compiler wants.
#[must_use]
pub fn explain(
    policy: Policy<'_>,
    own: &Relation,
    catalog: &Catalog,
    is_kept: impl Fn(Oid) -> bool,
    publication: &str,
) -> Explained {
    // Alone, a restrictive policy would show nothing, whatever it says.
    let compiled = compile(&[Policy { permissive: true, ..policy }], own, catalog);
    let keeps = |reads: &Reads| reads.can_be_kept() && reads.tables.iter().all(|table| is_kept(*table));
    let mut asked: Vec<Reason> = compiled
        .asked()
        .iter()
        .map(|asked| Reason { text: asked.text.clone(), why: asked.why.to_string() })
        .collect();
    let terms = compiled.terms().iter().map(|term| (term.sql(), term.reads()));
    let calls = compiled.calls().iter().map(|call| (call.sql(), call.reads()));
    for (sql, reads) in terms.chain(calls).filter(|(_, reads)| !keeps(reads)) {
        let why = why(reads, catalog, &is_kept, publication);
        asked.push(Reason { text: sql.into(), why });
    }
    asked.dedup();
    let reads = compiled.reads().collect();
    Explained { decides: decides(&compiled, &keeps), asked, reads }
}

/// Whether a leaf is decided without the database.
fn decides(compiled: &Compiled, keeps: &impl Fn(&Reads) -> bool) -> bool {
    let term = |id: &TermId| compiled.terms.get(id.index()).is_some_and(|term| keeps(term.reads()));
    let side = |side: &Side| match side {
        Side::Term(id) => term(id),
        Side::Constant(_) | Side::Operand(_) => true,
    };
    let leaves = compiled.tree.leaves();
    // Without a leaf it is a constant.
    leaves.is_empty()
        || leaves.iter().any(|atom| match atom {
            Atom::Asked => false,
            Atom::Gate(id) | Atom::Member { set: id, .. } | Atom::AnyOf { list: List::Term(id), .. } => {
                term(id)
            }
            Atom::Compare { side: with, .. } | Atom::Has { side: with, .. } => side(with),
            Atom::Call(id) => compiled.calls.get(id.index()).is_some_and(|call| keeps(call.reads())),
            Atom::AnyOf { .. } | Atom::Null(_) | Atom::Like(..) | Atom::Clock { .. } => true,
        })
}

/// Why an answer cannot be kept.
fn why(reads: &Reads, catalog: &Catalog, is_kept: &impl Fn(Oid) -> bool, publication: &str) -> String {
    if let Some(name) = &reads.unwatched {
        return unwatched(name, catalog);
    }
    let missing: Vec<String> = reads
        .tables
        .iter()
        .filter(|table| !is_kept(**table))
        .map(|table| match catalog.relation(*table) {
            Some(relation) => format!("{}.{}", relation.schema, relation.name),
            None => format!("the table with OID {table}"),
        })
        .collect();
    let tables = missing.join(", ");
    format!(
        "the log does not tell of all changes of {tables}: alter publication {publication} add table {tables}, and it \
         will be compiled"
    )
}

/// Why the log does not tell when something changes.
fn unwatched(name: &str, catalog: &Catalog) -> String {
    let functions = catalog.functions(None, name).unwrap_or_default();
    let own = functions.iter().find(|function| *function.schema != *"pg_catalog");
    match own.map(|function| &*function.language) {
        Some("plpgsql") => format!(
            "{name}() is plpgsql with statements that are not read, such as SQL that it puts together: write the \
             membership as a subquery, and it will be compiled"
        ),
        Some("sql") => format!(
            "what {name}() reads could not be told from its body: write the membership as a subquery, and it will be \
             compiled"
        ),
        Some("set") => format!(
            "{name}() has a setting of its own (SET in its definition), and what that changes is not known: leave it out \
             (SET search_path may stay), and it will be compiled"
        ),
        Some(language) => format!(
            "{name}() is written in {language}, which is not read: write the membership as a subquery or as a function \
             in SQL, and it will be compiled"
        ),
        None if !functions.is_empty() && name == "current_setting" => {
            "it reads a setting that is not one of the request: use what the token says, and it will be compiled"
                .to_owned()
        }
        None if !functions.is_empty() => format!("the log does not tell when {name}() gives another answer"),
        None => format!(
            "{name} is a view, or a table of whose changes the log does not tell, such as one with partitions or \
             children: read plain tables, and it will be compiled"
        ),
    }
}
