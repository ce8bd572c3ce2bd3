//! The query of a result.
//!
//! It runs where names of applications are found, on the search path that policies and functions need: so every operator,
//! type and collation in it bears its schema, and literals say what they are.

use std::fmt::Write as _;

use realtime_changes::{Form, JsonPath, JsonStep, LiveSpec, Sought, Table, Tree, Truth};
use realtime_pgoutput::oid;

use super::{columns::Facts, source::Key};
use crate::quote::quoted;

/// The alias of what is read. Names of columns stand behind it, so it hides none of them.
const ROW: &str = "live_row";

/// What a query is made of.
pub(super) struct Query<'a> {
    pub(super) table: &'a Table,
    /// By column of the table.
    pub(super) facts: &'a [Facts],
    /// The columns to read, by place.
    pub(super) columns: &'a [usize],
    pub(super) conditions: Tree<Sought<'a>>,
    pub(super) live: &'a LiveSpec,
    pub(super) key: &'a Key,
}

impl Query<'_> {
    pub(super) fn text(&self) -> String {
        let columns: Vec<String> = self.columns.iter().map(|at| self.column(*at)).collect();
        let mut sql = format!(
            "select {} from {}.{} as {ROW} where ",
            columns.join(", "),
            quoted(&self.table.schema),
            quoted(&self.table.name)
        );
        self.condition(&mut sql, &self.conditions);
        let order = self.order();
        if !order.is_empty() {
            let _ = write!(sql, " order by {}", order.join(", "));
        }
        if let Some(limit) = self.live.limit {
            let _ = write!(sql, " limit {limit}");
        }
        sql
    }

    fn column(&self, at: usize) -> String {
        let name = self.table.columns.get(at).map(|column| &*column.name).unwrap_or_default();
        format!("{ROW}.{}", quoted(name))
    }

    fn has_order(&self, at: usize) -> bool {
        self.facts.get(at).is_some_and(|facts| facts.has_order)
    }

    /// The order that was asked for, then that of the key, so that rows beyond a limit do not change at random.
    fn order(&self) -> Vec<String> {
        let mut order = Vec::new();
        for by in &self.live.order {
            let Some(at) = self.table.column(&by.column) else { continue };
            let nulls = match by.nulls_first {
                Some(true) => " nulls first",
                Some(false) => " nulls last",
                None => "",
            };
            order.push(format!("{}{}{nulls}", self.column(at), if by.descending { " desc" } else { "" }));
        }
        let key = match self.key {
            Key::Columns(key) => &**key,
            // Without a limit the order of equal rows is nobody's concern.
            Key::WholeRow if self.live.limit.is_none() => &[],
            Key::WholeRow => self.columns,
        };
        let is_asked = |at: &usize| {
            let column = self.table.columns.get(*at);
            column.is_some_and(|column| self.live.order.iter().any(|by| by.column == column.name))
        };
        order.extend(key.iter().filter(|at| !is_asked(at)).map(|at| {
            let column = self.column(*at);
            if self.has_order(*at) {
                return column;
            }
            format!("pg_catalog.format('%s', {column}) collate pg_catalog.\"C\"")
        }));
        order
    }

    /// The nesting of filters is bounded.
    fn condition(&self, sql: &mut String, tree: &Tree<Sought<'_>>) {
        match tree {
            Tree::Leaf(sought) => self.comparison(sql, sought),
            Tree::Known(truth) if *truth == Truth::TRUE => sql.push_str("true"),
            Tree::Known(truth) if *truth == Truth::FALSE => sql.push_str("false"),
            Tree::Known(_) => sql.push_str("null::pg_catalog.bool"),
            Tree::And(parts) => self.joined(sql, parts, " and ", "true"),
            Tree::Or(parts) => self.joined(sql, parts, " or ", "false"),
            Tree::Not(inner) => {
                sql.push_str("(not ");
                self.condition(sql, inner);
                sql.push(')');
            }
            Tree::Is(inner, value) => {
                sql.push('(');
                self.condition(sql, inner);
                sql.push_str(match *value {
                    Truth::TRUE => " is true)",
                    Truth::FALSE => " is false)",
                    _ => " is unknown)",
                });
            }
        }
    }

    fn joined(&self, sql: &mut String, parts: &[Tree<Sought<'_>>], between: &str, none: &str) {
        sql.push('(');
        for (at, part) in parts.iter().enumerate() {
            if at > 0 {
                sql.push_str(between);
            }
            self.condition(sql, part);
        }
        sql.push_str(if parts.is_empty() { none } else { "" });
        sql.push(')');
    }

    fn comparison(&self, sql: &mut String, sought: &Sought<'_>) {
        let Some((operator, form)) = sought.operator else {
            let is = self.is(sought);
            sql.push_str(&if sought.negate { format!("(not {is})") } else { is });
            return;
        };
        let operand = self.operand(sought);
        let literal = self.literal(sought, operator, form);
        let comparison = match form {
            Form::Scalar | Form::Regex => format!("({operand} {operator} {literal})"),
            Form::Array => format!("({operand} {operator} any ({literal}))"),
            Form::Distinct => format!("(({operand} {operator} {literal}) is not true)"),
        };
        sql.push_str(&if sought.negate { format!("(not {comparison})") } else { comparison });
    }

    /// Whether there is nothing. `is null` would also be true of a row of nulls, which is something.
    fn is(&self, sought: &Sought<'_>) -> String {
        let operand = match sought.path {
            Some(path) => self.inside(sought, path),
            None => self.column(sought.column),
        };
        match sought.literal {
            "true" => format!("({operand} is true)"),
            "false" => format!("({operand} is false)"),
            "unknown" => format!("({operand} is unknown)"),
            _ => format!("({operand} is not distinct from null)"),
        }
    }

    /// What is compared: as the type below a domain, by the collation of the type.
    fn operand(&self, sought: &Sought<'_>) -> String {
        if let Some(path) = sought.path {
            return self.inside(sought, path);
        }
        let column = self.column(sought.column);
        let is_domain =
            self.table.columns.get(sought.column).is_some_and(|column| column.type_oid != column.base_oid);
        let typed = if is_domain { format!("{column}::{}", sought.type_name) } else { column };
        match self.facts.get(sought.column).and_then(|facts| facts.collation.as_deref()) {
            Some(collation) => format!("({typed} collate {collation})"),
            None => typed,
        }
    }

    fn inside(&self, sought: &Sought<'_>, path: &JsonPath) -> String {
        let document = if sought.is_jsonb { "jsonb" } else { "json" };
        let mut operand = format!("{}::pg_catalog.{document}", self.column(sought.column));
        for (at, step) in path.steps().iter().enumerate() {
            let last = at + 1 == path.steps().len();
            let arrow = if last && path.is_text() { "->>" } else { "->" };
            let step = match step {
                JsonStep::Key(key) => format!("{}::pg_catalog.text", text(key)),
                JsonStep::Index(index) => format!("({index})::pg_catalog.int4"),
            };
            operand = format!("({operand} operator(pg_catalog.{arrow}) {step})");
        }
        operand
    }

    /// The literal, of the type that is compared. A comparison with a value of somebody's enumeration says its type by
    /// itself: the role need not have the use of the type's schema.
    fn literal(&self, sought: &Sought<'_>, operator: &str, form: Form) -> String {
        let literal = text(sought.literal);
        let is_composite = self.facts.get(sought.column).is_some_and(|facts| facts.is_composite);
        if sought.base_oid >= oid::FIRST_NORMAL && !is_composite && is_comparison(operator) {
            return literal;
        }
        let many = if form == Form::Array { "[]" } else { "" };
        format!("{literal}::{}{many}", sought.type_name)
    }
}

/// Whether an operator compares two values of one type, whichever it is.
fn is_comparison(operator: &str) -> bool {
    let name = operator.strip_prefix("operator(pg_catalog.").and_then(|name| name.strip_suffix(')'));
    matches!(name, Some("=" | "<>" | "<" | "<=" | ">" | ">="))
}

/// A string constant, whatever the database makes of backslashes.
fn text(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

#[cfg(test)]
mod tests {
    use realtime_changes::{Column, Comparison, RoleAccess, SubscriptionSpec, plan};
    use realtime_pgoutput::message::ReplicaIdentity;
    use serde_json::json;

    use super::*;

    fn table() -> Table {
        let column = |name: &str, type_oid, base_oid, type_name: &str| Column {
            name: name.into(),
            type_oid,
            base_oid,
            type_name: type_name.into(),
            sql_type: type_name.into(),
            cast_type: format!("pg_catalog.{type_name}").into(),
            comparison: Comparison::built_in(type_name),
            in_log: true,
        };
        Table {
            oid: 1,
            schema: "s\"".into(),
            name: "t".into(),
            columns: vec![
                column("id", 23, 23, "int4"),
                column("a\"b", 25, 25, "text"),
                column("d", 20_000, 3802, "jsonb"),
                column("m", 20_001, 20_001, "mood"),
                column("j", 114, 114, "json"),
            ],
            primary_key: vec![0],
            row_security: false,
            plain: true,
            partitioned: false,
            replica_identity: ReplicaIdentity::Default,
        }
    }

    fn sql(mut parameters: serde_json::Value, key: &Key) -> String {
        (parameters["schema"], parameters["table"]) = (json!("s\""), json!("t"));
        parameters["live"] = json!(true);
        let spec = SubscriptionSpec::parse(parameters.as_object().unwrap()).unwrap();
        let table = table();
        let access = RoleAccess { role: "r".into(), bypasses_rls: false, selectable: vec![true; 5] };
        let plan = plan(&spec, &table, &access).unwrap();
        let mut facts = vec![Facts { has_order: true, ..Facts::default() }; 5];
        facts[1].collation = Some("pg_catalog.\"default\"".into());
        facts[4].has_order = false;
        let query = Query {
            table: &table,
            facts: &facts,
            columns: &[0, 1],
            conditions: plan.sought(),
            live: spec.live.as_ref().unwrap(),
            key,
        };
        query.text().replace("pg_catalog.", "~")
    }

    #[test]
    fn queries_say_what_is_meant() {
        let own = Key::Columns([0].into());
        let head = r#"select live_row."id", live_row."a""b" from "s"""."t" as live_row where "#;
        for (filter, condition) in [
            ("", "true"),
            ("id=eq.1", "(live_row.\"id\" operator(~=) '1'::~int4)"),
            ("id=not.in.(1,2)", "(not (live_row.\"id\" operator(~=) any ('{1,2}'::~int4[])))"),
            ("a\"b=eq.o'\\", "((live_row.\"a\"\"b\" collate ~\"default\") operator(~=) E'o''\\\\'::~text)"),
            ("m=gt.sad", "(live_row.\"m\" operator(~>) 'sad')"),
            ("m=is.null", "(live_row.\"m\" is not distinct from null)"),
            ("m=isdistinct.x", "((live_row.\"m\" operator(~=) 'x') is not true)"),
            (
                "d->k->-1->>x=eq.y",
                "((((live_row.\"d\"::~jsonb operator(~->) 'k'::~text) operator(~->) (-1)::~int4) operator(~->>) 'x'::~text) operator(~=) 'y'::~text)",
            ),
            (
                "or=(id.lt.1,not.and(id.gt.5,d.cs.{}))",
                "((live_row.\"id\" operator(~<) '1'::~int4) or (not ((live_row.\"id\" operator(~>) '5'::~int4) and (live_row.\"d\"::~jsonb operator(~@>) '{}'::~jsonb))))",
            ),
        ] {
            let expected = format!("{head}{condition} order by live_row.\"id\"");
            assert_eq!(sql(json!({"filter": filter}), &own), expected, "{filter}");
        }
    }

    #[test]
    fn rows_beyond_a_limit_are_always_the_same() {
        let order = |parameters, key: &Key| {
            let sql = sql(parameters, key);
            sql.split_once(" where true").unwrap().1.replace("live_row.", "")
        };
        let (own, whole) = (Key::Columns([0].into()), Key::WholeRow);
        assert_eq!(
            order(json!({"order": "m.desc.nullslast", "limit": 3}), &own),
            " order by \"m\" desc nulls last, \"id\" limit 3"
        );
        assert_eq!(order(json!({"order": "id.desc"}), &own), " order by \"id\" desc");
        assert_eq!(order(json!({}), &whole), "");
        assert_eq!(order(json!({"limit": 2}), &whole), " order by \"id\", \"a\"\"b\" limit 2");
        let documents = Key::Columns([4].into());
        assert_eq!(order(json!({}), &documents), " order by ~format('%s', \"j\") collate ~\"C\"");
    }
}
