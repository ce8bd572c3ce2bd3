//! The filter of a subscription, as a client writes it, from its text to its evaluation on a few rows.
#![cfg_attr(fuzzing, no_main)]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use realtime_changes::{
    Action, Attachment, Change, ChannelId, Column, Comparison, Engine, RoleAccess, SubscriptionSpec, Table,
    plan,
};
use realtime_pgoutput::message::{Relation, RelationColumn, ReplicaIdentity, UnixMicros, Value};
use serde_json::Map;

const COLUMNS: [(&str, u32, &str); 8] = [
    ("id", 23, "int4"),
    ("a", 25, "text"),
    ("b", 16, "bool"),
    ("n", 1700, "numeric"),
    ("tags", 1009, "_text"),
    ("data", 3802, "jsonb"),
    ("doc", 114, "json"),
    ("r", 3904, "int4range"),
];

const ROWS: [[Option<&str>; 8]; 3] = [
    [
        Some("1"),
        Some("a,b"),
        Some("t"),
        Some("1.50"),
        Some("{a,\"b c\",NULL}"),
        Some(r#"{"k": "x", "l": [1, {"k": 2.0}], "o": {"a": null}}"#),
        Some(r#"{"k" : "\ud800", "k": "\u0000"}"#),
        Some("[1,5)"),
    ],
    [None; 8],
    [Some("-2"), Some(""), Some("f"), Some("NaN"), Some("[0:0]={a}"), Some("5"), Some("[]"), Some("empty")],
];

fn table() -> Table {
    let column = |(name, oid, type_name): (&str, u32, &str)| Column {
        name: name.into(),
        type_oid: oid,
        base_oid: oid,
        type_name: type_name.into(),
        sql_type: type_name.into(),
        cast_type: format!("pg_catalog.{type_name}").into(),
        comparison: Comparison::built_in(type_name),
        in_log: true,
    };
    Table {
        oid: 1,
        schema: "public".into(),
        name: "test".into(),
        columns: COLUMNS.map(column).to_vec(),
        primary_key: vec![0],
        row_security: false,
        plain: true,
        partitioned: false,
        replica_identity: ReplicaIdentity::Default,
    }
}

fn relation(table: &Table) -> Relation {
    let columns = table.columns.iter().map(|column| RelationColumn {
        identity: false,
        name: column.name.clone(),
        type_oid: column.type_oid,
        type_modifier: -1,
    });
    Relation {
        oid: 1,
        schema: table.schema.clone(),
        name: table.name.clone(),
        replica_identity: table.replica_identity,
        columns: columns.collect(),
    }
}

fuzz_target!(|data: &[u8]| {
    let Ok(filter) = std::str::from_utf8(data) else { return };
    let params = Map::from_iter(
        [("schema", "public"), ("table", "test"), ("filter", filter)]
            .map(|(name, value)| (name.to_owned(), value.into())),
    );
    let Ok(spec) = SubscriptionSpec::parse(&params) else { return };
    let _ = spec.context();
    assert!(spec.conditions() <= 100, "bounded");
    let table = Arc::new(table());
    let access =
        RoleAccess { role: "anon".into(), bypasses_rls: false, selectable: vec![true; COLUMNS.len()] };
    let Ok(plan) = plan(&spec, &table, &access) else { return };
    let literals: Vec<String> = plan.checks().iter().map(|check| check.literal.to_owned()).collect();
    let relation = relation(&table);
    let mut engine = Engine::default();
    engine.put_table(Arc::clone(&table), &relation);
    let attachment = Attachment {
        channel: ChannelId(1),
        id: 1,
        event: spec.event,
        predicate: plan.compile(&literals, true),
        access: Arc::new(access),
        claims: "{}".into(),
        select: None,
    };
    let Ok(key) = engine.attach(1, attachment) else { return };
    for row in ROWS {
        let new =
            row.map(|text| text.map_or(Value::Null, |text| Value::Text(text.to_owned().into()))).to_vec();
        let change = Change {
            action: Action::Insert,
            relation: &relation,
            new: Some(&new),
            old: None,
            commit_time: UnixMicros(0),
        };
        let found = engine.match_row(&change, UnixMicros(0));
        assert!(found.keys().count() + found.asked.len() <= 1, "once");
    }
    engine.detach(1, key);
});
