use bytes::Bytes;
use realtime_pgoutput::message::{RelationColumn, ReplicaIdentity, Value};
use serde_json::json;

use super::*;

const COLUMNS: &[(&str, Oid, i32)] =
    &[("id", 20, -1), ("task", 25, -1), ("at", 1184, 3), ("mood", 16_400, -1), ("odd", 99_999, -1)];

fn relation(full: bool) -> Message {
    let columns = COLUMNS.iter().enumerate().map(|(at, (name, type_oid, type_modifier))| RelationColumn {
        identity: full || at == 0,
        name: (*name).into(),
        type_oid: *type_oid,
        type_modifier: *type_modifier,
    });
    let replica_identity = if full { ReplicaIdentity::Full } else { ReplicaIdentity::Default };
    let (schema, name) = ("public".into(), "todos".into());
    let relation = Relation { oid: 7, schema, name, replica_identity, columns: columns.collect() };
    Message::Relation { xid: None, relation: Arc::new(relation) }
}

fn text(text: &str) -> Value {
    Value::Text(Bytes::copy_from_slice(text.as_bytes()))
}

fn row(id: &str) -> Tuple {
    vec![text(id), text("Say \"hi\""), text("2021-02-16 23:47:47.5+00"), Value::Null, text("?")]
}

fn key(id: &str) -> Tuple {
    vec![text(id), Value::Null, Value::Null, Value::Null, Value::Null]
}

/// The payloads of messages.
fn payloads(profile: Profile, full: bool, messages: Vec<Message>) -> Vec<serde_json::Value> {
    let mut stream = Stream::new(profile, Restrictions::default());
    let begin = Message::Begin {
        final_lsn: realtime_pgoutput::Lsn(1),
        commit_time: UnixMicros(1_613_971_339_123_456),
        xid: 1,
    };
    let mood = Message::Type { xid: None, oid: 16_400, schema: "public".into(), name: "mood".into() };
    let mut payloads = Vec::new();
    for message in [begin, mood, relation(full)].into_iter().chain(messages) {
        stream.take(&message, |change| {
            assert_eq!(change.table(), ("public", "todos"));
            payloads.push(serde_json::from_slice(change.payload()).unwrap());
        });
    }
    payloads
}

/// legacy 30, 31, 34, 35
#[test]
fn inserts_carry_text() {
    let insert = Message::Insert { xid: None, relation: 7, new: row("3") };
    let column = |name: &str, kind: serde_json::Value, flags: serde_json::Value, modifier: u32| json!({"name": name, "type": kind, "flags": flags, "type_modifier": modifier});
    let expected = json!({
        "type": "INSERT", "schema": "public", "table": "todos", "commit_timestamp": "2021-02-22T05:22:19Z",
        "errors": null,
        "columns": [
            column("id", json!("int8"), json!(["key"]), 4_294_967_295),
            column("task", json!("text"), json!([]), 4_294_967_295),
            column("at", json!("timestamptz"), json!([]), 3),
            column("mood", json!("mood"), json!([]), 4_294_967_295),
            column("odd", json!(99_999), json!([]), 4_294_967_295),
        ],
        "record": {"id": "3", "task": "Say \"hi\"", "at": "2021-02-16T23:47:47.5Z", "mood": null, "odd": "?"},
    });
    let messages = vec![insert.clone(), insert];
    assert_eq!(payloads(Profile::V0_22, false, messages.clone()), [expected.clone(), expected.clone()]);
    let mut older = expected;
    older.as_object_mut().unwrap().remove("errors");
    older["record"]["at"] = json!("2021-02-16 23:47:47.5+00");
    assert_eq!(payloads(Profile::V0_10, false, messages)[1], older);
}

/// legacy 32
#[test]
fn updates_carry_the_old_row_only_if_all_of_it_is_known() {
    let mut new = row("3");
    new[1] = Value::Unchanged;
    let update = |old| Message::Update { xid: None, relation: 7, old, new: new.clone() };
    let messages =
        vec![update(None), update(Some(OldTuple::Key(key("2")))), update(Some(OldTuple::Full(row("2"))))];
    let payloads = payloads(Profile::V0_22, true, messages);
    assert_eq!(payloads[0]["old_record"], json!({}));
    assert_eq!(payloads[1]["old_record"], json!({}));
    assert_eq!(payloads[2]["old_record"]["task"], json!("Say \"hi\""));
    assert_eq!(payloads[2]["record"]["task"], json!("unchanged_toast"));
    assert!(
        payloads[0]["columns"].as_array().unwrap().iter().all(|column| column["flags"] == json!(["key"]))
    );
}

/// legacy 33
#[test]
fn deletes_carry_the_key() {
    let delete = |old| Message::Delete { xid: None, relation: 7, old };
    let payloads = payloads(
        Profile::V0_22,
        false,
        vec![delete(OldTuple::Key(key("2"))), delete(OldTuple::Full(row("2")))],
    );
    assert_eq!(
        payloads[0]["old_record"],
        json!({"id": "2", "task": null, "at": null, "mood": null, "odd": null})
    );
    assert_eq!(payloads[1]["old_record"]["odd"], json!("?"));
    assert!(payloads.iter().all(|payload| payload.get("record").is_none() && payload["errors"].is_null()));
}

/// legacy 26
#[test]
fn truncations_say_little() {
    let truncate =
        Message::Truncate { xid: None, cascade: true, restart_identity: false, relations: vec![7, 8, 7] };
    let expected = json!({"type": "TRUNCATE", "schema": "public", "table": "todos",
        "commit_timestamp": "2021-02-22T05:22:19Z"});
    assert_eq!(payloads(Profile::V0_22, false, vec![truncate]), [expected.clone(), expected]);
}

#[test]
fn a_new_connection_tells_everything_anew() {
    let mut stream = Stream::new(Profile::V0_22, Restrictions::default());
    stream.take(&relation(false), |_| panic!("no change"));
    let insert = Message::Insert { xid: None, relation: 7, new: row("3") };
    let mut changes = 0;
    stream.take(&insert, |_| changes += 1);
    stream.restart();
    stream.take(&insert, |_| changes += 1);
    assert_eq!(changes, 1);
}

/// What the server keeps for itself is nobody's, even if all tables are published.
#[test]
fn the_servers_own_tables_are_not_told() {
    let mut stream = Stream::new(Profile::ANY, Restrictions::default());
    let Message::Relation { relation, .. } = relation(false) else { panic!("a relation") };
    let of = |schema: &str| Message::Relation {
        xid: None,
        relation: Arc::new(Relation { schema: schema.into(), ..(*relation).clone() }),
    };
    let insert = || Message::Insert { xid: None, relation: 7, new: row("1") };
    let truncate =
        || Message::Truncate { xid: None, cascade: false, restart_identity: false, relations: vec![7] };
    let mut told = |messages: [Message; 3]| {
        let mut told = 0;
        for message in messages {
            stream.take(&message, |_| told += 1);
        }
        told
    };
    assert_eq!(told([of("public"), insert(), truncate()]), 2);
    // A table may be moved from one schema to another.
    assert_eq!(told([of("_realtime"), insert(), truncate()]), 0);
    assert_eq!(told([of("realtime"), insert(), truncate()]), 0);
    assert_eq!(told([of("public"), insert(), truncate()]), 2);
}
