//! What the body of a function names: relations, functions, operators. Whoever only wants to know what may be read takes all
//! of it, and need not understand what it does; what the names mean, the catalog says.

use std::{collections::BTreeSet, ops::ControlFlow};

use sqlparser::ast::{
    AccessExpr, BinaryOperator, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName,
    Query, SetExpr, Statement, TableFactor, Visit as _, Visitor,
};

use super::{bodies, functions, plpgsql};
use crate::policy::{parse, types};

/// Words without which a body that is not understood reads nothing.
const READING: [&str; 7] = ["from", "join", "table", "execute", "perform", "call", "select"];

/// Names without a schema that are PostgreSQL's own, beside those of [`functions::SETTLED`], and what looks like a function.
const OWN: [&str; 30] = [
    "abs",
    "any",
    "array",
    "array_agg",
    "array_length",
    "avg",
    "btrim",
    "cast",
    "coalesce",
    "count",
    "exists",
    "greatest",
    "least",
    "left",
    "length",
    "lower",
    "ltrim",
    "max",
    "min",
    "now",
    "nullif",
    "replace",
    "right",
    "row",
    "rtrim",
    "split_part",
    "substring",
    "sum",
    "trim",
    "upper",
];

/// What is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Named {
    /// A table, or something that is used like one.
    Relation,
    /// A function that is given so many arguments.
    Function(usize),
    /// What stands behind a point: it may be a function that is given the row, as in `select m.is_active from m`.
    Attribute,
    /// An operator.
    Operator,
}

/// A name in the body of a function.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mention {
    /// What it names.
    pub what: Named,
    /// The schema, if it is told.
    pub schema: Option<Box<str>>,
    /// The name, as the catalog has it.
    pub name: Box<str>,
}

/// The names in the body of a function.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mentions {
    /// Each once. Names that are certainly PostgreSQL's own functions are left out.
    pub names: BTreeSet<Mention>,
    /// Whether it can read nothing else: all of it is understood, and it builds no statements as it runs.
    pub are_all: bool,
}

/// Finds the names in the body of a function in SQL or PL/pgSQL. Of other languages nothing is said.
#[must_use]
pub fn mentions(language: &str, body: &str) -> Mentions {
    let found = match language {
        "sql" => bodies::queries(body).map(|statements| (statements, true)),
        "plpgsql" if body.len() <= parse::MAX_BYTES => {
            plpgsql::queries_as_far(body).map(|(texts, are_all)| {
                let parsed: Vec<_> = texts.iter().map(|text| parse::statements(text)).collect();
                let are_all = are_all && parsed.iter().all(Option::is_some);
                (parsed.into_iter().flatten().flatten().collect(), are_all)
            })
        }
        _ => None,
    };
    let Some((statements, are_all)) = found else {
        let are_all = matches!(language, "sql" | "plpgsql") && !may_read(language, body);
        return Mentions { names: BTreeSet::new(), are_all };
    };
    let mut names = Names { are_all, ..Names::default() };
    for statement in &statements {
        names.are_all &= matches!(statement, Statement::Query(_));
        let _ = statement.visit(&mut names);
    }
    Mentions { names: names.found, are_all: names.are_all }
}

/// Whether a body that is not understood may read something: by the words in it. Each body in SQL has one SELECT.
fn may_read(language: &str, body: &str) -> bool {
    let words = || body.split(|next: char| !next.is_alphanumeric() && next != '_');
    let is_one = |word: &str, wanted: &str| word.eq_ignore_ascii_case(wanted);
    let selects = words().filter(|word| is_one(word, "select")).count();
    selects > usize::from(language == "sql")
        || words().any(|word| READING.iter().any(|reading| *reading != "select" && is_one(word, reading)))
}

/// The names of common table expressions that a query has.
#[derive(Debug, Default)]
struct Frame {
    names: Vec<String>,
    /// How many of them are known so far: the others come behind.
    known: usize,
}

#[derive(Debug, Default)]
struct Names {
    found: BTreeSet<Mention>,
    are_all: bool,
    frames: Vec<Frame>,
    /// Whether the relation that comes next is a function.
    is_call: bool,
}

impl Names {
    fn put(&mut self, what: Named, name: &ObjectName) {
        let Some(mut parts) = types::parts(name) else {
            self.are_all = false;
            return;
        };
        let Some(name) = parts.pop() else { return };
        let schema = parts.pop();
        let is_own = match schema.as_deref() {
            None => OWN.contains(&name.as_str()) || functions::SETTLED.contains(&name.as_str()),
            Some(schema) => schema == functions::BUILT_IN,
        };
        if !(is_own && matches!(what, Named::Function(_))) {
            self.enter(what, schema, name);
        }
    }

    fn enter(&mut self, what: Named, schema: Option<String>, name: String) {
        self.found.insert(Mention { what, schema: schema.map(Into::into), name: name.into() });
    }

    fn attribute(&mut self, ident: &Ident) {
        self.enter(Named::Attribute, None, types::ident_name(ident));
    }

    fn operator(&mut self, operator: &BinaryOperator) {
        let name = match operator {
            BinaryOperator::PGCustomBinaryOperator(parts) => parts.last().cloned().unwrap_or_default(),
            other => other.to_string(),
        };
        self.enter(Named::Operator, None, name);
    }

    fn call(&mut self, name: &ObjectName, args: &[FunctionArg]) {
        let is_given = |arg: &&FunctionArg| !matches!(arg, FunctionArg::Unnamed(FunctionArgExpr::Wildcard));
        self.put(Named::Function(args.iter().filter(is_given).count()), name);
    }

    fn is_expression(&self, name: &ObjectName) -> bool {
        let parts = types::parts(name).unwrap_or_default();
        let [name] = parts.as_slice() else { return false };
        self.frames.iter().any(|frame| frame.names.iter().take(frame.known).any(|known| known == name))
    }
}

impl Visitor for Names {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let with = query.with.iter();
        let names: Vec<String> = with
            .flat_map(|with| &with.cte_tables)
            .map(|expression| types::ident_name(&expression.alias.name))
            .collect();
        let is_recursive = query.with.as_ref().is_some_and(|with| with.recursive);
        let known = if is_recursive { names.len() } else { 0 };
        self.are_all &= !has_bare_table(&query.body);
        self.frames.push(Frame { names, known });
        ControlFlow::Continue(())
    }

    /// The queries of common table expressions come first, in their order.
    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.frames.pop();
        if let Some(frame) = self.frames.last_mut() {
            frame.known += 1;
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        match factor {
            TableFactor::Table { name, args: Some(args), .. } => {
                self.call(name, &args.args);
                self.is_call = true;
            }
            TableFactor::Function { name, args, .. } => self.call(name, args),
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, name: &ObjectName) -> ControlFlow<()> {
        if !std::mem::take(&mut self.is_call) && !self.is_expression(name) {
            self.put(Named::Relation, name);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<()> {
        match expression {
            Expr::Function(call) => match &call.args {
                FunctionArguments::List(list) => self.call(&call.name, &list.args),
                FunctionArguments::None | FunctionArguments::Subquery(_) => {}
            },
            Expr::CompoundIdentifier(parts) => parts.last().into_iter().for_each(|last| self.attribute(last)),
            Expr::CompoundFieldAccess { access_chain, .. } => {
                for access in access_chain {
                    if let AccessExpr::Dot(Expr::Identifier(ident)) = access {
                        self.attribute(ident);
                    }
                }
            }
            Expr::BinaryOp { op, .. }
            | Expr::AnyOp { compare_op: op, .. }
            | Expr::AllOp { compare_op: op, .. } => self.operator(op),
            Expr::UnaryOp { op, .. } => self.enter(Named::Operator, None, op.to_string()),
            Expr::IsDistinctFrom(..) | Expr::IsNotDistinctFrom(..) | Expr::In { .. } => {
                self.operator(&BinaryOperator::Eq);
            }
            Expr::Between { .. } => {
                self.operator(&BinaryOperator::GtEq);
                self.operator(&BinaryOperator::LtEq);
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// Whether a query has `table t`, of which the parser does not tell the name as it was written.
fn has_bare_table(body: &SetExpr) -> bool {
    let mut rest = vec![body];
    while let Some(body) = rest.pop() {
        match body {
            SetExpr::Table(_) => return true,
            SetExpr::SetOperation { left, right, .. } => rest.extend([&**left, &**right]),
            // Another query is visited by itself.
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(language: &str, body: &str) -> (Vec<String>, bool) {
        let Mentions { names, are_all } = mentions(language, body);
        let text = |Mention { what, schema, name }: &Mention| {
            let schema = schema.iter().map(|schema| format!("{schema}.")).collect::<String>();
            match what {
                Named::Relation => Some(format!("{schema}{name}")),
                Named::Function(count) => Some(format!("{schema}{name}({count})")),
                Named::Attribute => Some(format!(".{name}")),
                Named::Operator => None,
            }
        };
        (names.iter().filter_map(text).collect(), are_all)
    }

    #[test]
    fn bodies_name_what_they_read() {
        for (language, body, expected) in [
            ("sql", "select true", &[][..]),
            (
                "sql",
                "select exists (select from public.Members m where m.who = me())",
                &["public.members", "me(0)", ".who"],
            ),
            ("sql", "BEGIN ATOMIC\n SELECT a FROM \"T t\";\nEND", &["T t"]),
            (
                "sql",
                "select count(*), now(), pg_catalog.version() from a, lateral f(1, g()) x",
                &["a", "g(0)", "f(2)"],
            ),
            ("sql", "select * from my_rooms($1) r join b using (room)", &["b", "my_rooms(1)"]),
            // The name is that of a table where the expression is not there yet.
            ("sql", "with t as (select * from t), u as (select * from t) select * from t, u, v", &["t", "v"]),
            ("sql", "with u as (select * from t) select * from t, u where exists (select from u)", &["t"]),
            ("sql", "with recursive t as (select 1 union all select * from t) select * from t", &[]),
            (
                "sql",
                "select (select a from x), array(select b from y), a in (select c from z) from w",
                &["w", "x", "y", "z"],
            ),
            (
                "plpgsql",
                "declare r record; begin select * into r from x where x.a = f(1); if r.b then return query select a from y; end if; exception when others then return; end",
                &["x", "y", "f(1)", ".a", ".b"],
            ),
        ] {
            let expected: Vec<String> = expected.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(of(language, body), (expected, true), "{body}");
        }
    }

    #[test]
    fn what_is_left_out_is_told() {
        for (language, body, expected) in [
            ("plpgsql", "begin execute 'select ' || x; return a in (select b from t); end", &["t"][..]),
            ("plpgsql", "begin delete from t; return exists (select from u); end", &["u"]),
            ("sql", "delete from t where a in (select b from u)", &["t", "u"]),
            ("sql", "select (from t", &[]),
            ("sql", "select some thing that; nobody understands (select 1)", &[]),
            ("sql", "select 1 from t union all (table u)", &["t"]),
            ("plpython3u", "return 1", &[]),
        ] {
            let expected: Vec<String> = expected.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(of(language, body), (expected, false), "{body}");
        }
        // Nothing can be read without a word for it.
        assert_eq!(of("sql", "select xmlthis(is not sql for us as)"), (Vec::new(), true));
    }
}
