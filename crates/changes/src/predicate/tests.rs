use std::collections::HashMap;

use bytes::Bytes;
use proptest::prelude::*;
use realtime_pgoutput::{Oid, message::ReplicaIdentity};
use serde_json::json;

use super::*;
use crate::{Column, Comparison, RoleAccess, SubscriptionSpec, Table, cell::Cell, plan, question::Part};

/// `t(id int4, s text, n int4, data jsonb, tags text[])`.
fn table() -> Table {
    let column = |(name, oid, type_name): (&str, Oid, &str)| Column {
        name: name.into(),
        type_oid: oid,
        base_oid: oid,
        type_name: type_name.into(),
        sql_type: type_name.into(),
        cast_type: format!("pg_catalog.{type_name}").into(),
        comparison: Comparison::built_in(type_name),
        in_log: true,
    };
    let columns = [
        ("id", 23, "int4"),
        ("s", 25, "text"),
        ("n", 23, "int4"),
        ("data", 3802, "jsonb"),
        ("tags", 1009, "_text"),
    ];
    Table {
        oid: 1,
        schema: "public".into(),
        name: "t".into(),
        columns: columns.map(column).to_vec(),
        primary_key: vec![0],
        row_security: false,
        plain: true,
        partitioned: false,
        replica_identity: ReplicaIdentity::Default,
    }
}

fn predicate(filter: &str) -> Predicate {
    let parameters = json!({"schema": "public", "table": "t", "filter": filter});
    let spec = SubscriptionSpec::parse(parameters.as_object().unwrap()).unwrap();
    let access = RoleAccess { role: "r".into(), bypasses_rls: false, selectable: vec![true; 5] };
    let plan = plan(&spec, &table(), &access).unwrap();
    let literals: Vec<String> = plan.checks().iter().map(|check| check.literal.to_owned()).collect();
    plan.compile(&literals, false)
}

/// What a filter is for a row; columns that are left out are not in the log.
fn outcome(filter: &str, row: &[(usize, Option<&str>)]) -> Option<bool> {
    let row: HashMap<usize, Option<Bytes>> = row
        .iter()
        .map(|(at, text)| (*at, text.map(|text| Bytes::copy_from_slice(text.as_bytes()))))
        .collect();
    let cell = |at: usize| match row.get(&at) {
        None => Cell::Missing,
        Some(None) => Cell::Null,
        Some(Some(text)) => Cell::Text(text),
    };
    let predicate = predicate(filter);
    let row = Row::new(&cell);
    match predicate.evaluate(&row) {
        Outcome::Holds => Some(true),
        Outcome::Fails => Some(false),
        Outcome::Depends(_) => None,
    }
}

#[test]
fn a_column_that_the_log_does_not_carry_decides_nothing() {
    let key = [(0, Some("1"))];
    for (filter, holds) in [
        ("s=eq.x", false),
        ("s=neq.x", false),
        ("s=is.null", false),
        ("s=not.is.null", false),
        ("s=isdistinct.x", false),
        ("s=gt.a", false),
        ("or=(id.eq.1,s.eq.x)", true),
        ("or=(id.eq.2,s.eq.x)", false),
        ("or=(id.eq.2,s.neq.x,s.is.null)", false),
        ("not.or=(id.eq.2,s.eq.x)", false),
        ("not.and=(id.eq.2,s.eq.x)", true),
        ("not.and=(id.eq.1,s.eq.x)", false),
        ("id=eq.1,or=(s.eq.x,s.is.null,data->>k.is.null,tags.cs.{a})", false),
    ] {
        assert_eq!(outcome(filter, &key), Some(holds), "{filter}");
    }
}

#[test]
fn the_database_is_asked_only_about_what_decides() {
    // Order of texts is the database's.
    let row =
        [(0, Some("1")), (1, Some("b")), (2, None), (3, Some(r#"{"k": {"a": 1}}"#)), (4, Some("[0:0]={a}"))];
    for (filter, known) in [
        ("or=(s.gt.a,id.eq.1)", Some(true)),
        ("or=(id.eq.1,s.gt.a)", Some(true)),
        ("or=(s.gt.a,id.eq.2)", None),
        ("s=gt.a,id=eq.2", Some(false)),
        ("not.or=(s.gt.a,id.eq.1)", Some(false)),
        ("s=gt.a,n=eq.1", Some(false)),
        ("or=(data->k.eq.\"{\\\"a\\\": 2}\",n.is.null)", Some(true)),
        ("data->k=eq.\"{\\\"a\\\": 2}\"", None),
        ("data->k=eq.\"{\\\"a\\\": 1}\"", Some(true)),
        ("tags=cs.{a}", None),
    ] {
        assert_eq!(outcome(filter, &row), known, "{filter}");
    }
    let texts: HashMap<usize, Bytes> =
        [(0, "1"), (1, "b"), (2, "5")].map(|(at, text)| (at, text.into())).into();
    let cell = |at: usize| texts.get(&at).map_or(Cell::Missing, Cell::Text);
    let predicate = predicate("s=gt.a,or=(s.lt.c,and(n.eq.5,s.not.gte.d),id.eq.7),id=eq.1");
    let row = Row::new(&cell);
    let Outcome::Depends(questions) = predicate.evaluate(&row) else { panic!() };
    let leaf = |literal: &str, tree: &Tree<Part>| matches!(tree, Tree::Leaf(part) if &*part.compare.literal == literal && part.value == "b");
    let [first, second] = &*questions else { panic!("{questions:?}") };
    assert!(leaf("a", &first.ask.parts));
    let Tree::Or(parts) = &second.ask.parts else { panic!("{second:?}") };
    assert!(matches!(&**parts, [less, Tree::Not(more)] if leaf("c", less) && leaf("d", more)), "{parts:?}");
}

#[test]
fn equalities_lead_to_a_filter() {
    let ways = |filter: &str| {
        let predicate = predicate(filter);
        let ways = predicate.index_keys()?;
        let key = |way: &IndexKeys<'_>| {
            let mut keys: Vec<String> =
                way.keys.iter().map(|key| String::from_utf8_lossy(key).into_owned()).collect();
            keys.sort();
            (way.operand.column, keys.join(","))
        };
        Some(ways.iter().map(key).collect::<Vec<_>>())
    };
    let way = |column, keys: &str| (column, keys.to_owned());
    assert_eq!(ways("id=eq.1"), Some(vec![way(0, "1")]));
    assert_eq!(ways("n=gt.1,id=in.(1,2),s=eq.x"), Some(vec![way(0, "1,2")]));
    assert_eq!(ways("or=(id.eq.1,n.eq.2)"), Some(vec![way(0, "1"), way(2, "2")]));
    assert_eq!(ways("or=(id.eq.1,and(n.gt.2,s.eq.x))"), Some(vec![way(0, "1"), way(1, "x")]));
    assert_eq!(ways("or=(id.eq.1,n.gt.2)"), None);
    assert_eq!(ways("or=(id.eq.1,n.gt.2),s=eq.x"), Some(vec![way(1, "x")]));
    assert_eq!(ways("or=(data->>k.eq.a,data->n.eq.1)"), Some(vec![way(3, "a"), way(3, "01.")]));
    assert_eq!(ways("id=not.neq.1"), Some(vec![way(0, "1")]));
    for filter in ["", "id=neq.1", "not.or=(id.eq.1,n.eq.2)", "id=is.null", "tags=cs.{a}", "data=eq.{}"] {
        assert_eq!(ways(filter), None, "{filter}");
    }
    let list = |from: usize| (from..from + 100).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let lists = |count: usize| {
        let lists: Vec<String> = (0..count).map(|n| format!("id.in.({})", list(100 * n + 1))).collect();
        format!("or=({})", lists.join(","))
    };
    assert!(ways(&lists(10)).is_some());
    assert_eq!(ways(&lists(11)), None, "too many values for the index");
    assert_eq!(ways(&format!("{},n=eq.1", lists(11))), Some(vec![way(2, "1")]), "another equality serves");
}

proptest! {
    /// Whoever is not found by the index does not match: every row for which a filter may hold has one of its keys.
    #[test]
    fn the_index_leaves_nothing_out(
        leaves in prop::collection::vec((0..3usize, prop::sample::select(vec!["eq", "neq", "gt", "in", "not.neq"]), 0..3u8), 2..6),
        joins in prop::collection::vec(0..4u8, 5),
        row in prop::collection::vec(prop::option::of(0..3u8), 3),
    ) {
        let leaf = |(column, operator, value): &(usize, &str, u8)| {
            let value = if *operator == "in" { format!("({value},7)") } else { value.to_string() };
            format!("{}.{operator}.{value}", ["id", "n", "id"][*column])
        };
        let mut text = leaf(&leaves[0]);
        for (leaf_after, join) in leaves[1..].iter().zip(&joins) {
            let kind = ["or", "and", "not.or", "not.and"][usize::from(*join)];
            text = format!("{kind}({text},{})", leaf(leaf_after));
        }
        let filter = text.replacen('(', "=(", 1);
        let predicate = predicate(&filter);
        let texts: Vec<Option<Bytes>> = row.iter().map(|value| value.map(|value| value.to_string().into())).collect();
        let cell = |at: usize| texts[at].as_ref().map_or(Cell::Null, Cell::Text);
        let view = Row::new(&cell);
        let found = predicate.index_keys().is_none_or(|ways| ways.iter().any(|way| {
            texts[way.operand.column].as_ref().is_some_and(|text| {
                way.keying.key(text).is_some_and(|key| way.keys.contains(&&*key))
            })
        }));
        prop_assert!(found || predicate.evaluate(&view) == Outcome::Fails, "{} on {:?}", filter, row);
    }
}
