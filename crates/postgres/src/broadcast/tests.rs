use realtime_pgoutput::message::{RelationColumn, ReplicaIdentity};

use super::*;

const ID: &str = "84b8504c-64d3-4392-b057-b2eff5ce2dcc";
const LIMIT: usize = 3_000_500;

fn relation(schema: &str, name: &str, columns: &[&str]) -> Relation {
    let column = |name: &&str| RelationColumn {
        identity: false,
        name: (*name).into(),
        type_oid: 25,
        type_modifier: -1,
    };
    Relation {
        oid: 1,
        schema: schema.into(),
        name: name.into(),
        replica_identity: ReplicaIdentity::Default,
        columns: columns.iter().map(column).collect(),
    }
}

const COLUMNS: [&str; 9] = [
    "topic",
    "extension",
    "payload",
    "event",
    "private",
    "updated_at",
    "inserted_at",
    "id",
    "binary_payload",
];

fn columns() -> MessageColumns {
    MessageColumns::of(&relation("realtime", "messages_2026_11_22", &COLUMNS)).unwrap()
}

fn t(text: &str) -> Value {
    Value::Text(Bytes::copy_from_slice(text.as_bytes()))
}

/// A row in the text form, with the values of some columns replaced.
fn row(changes: &[(&str, Value)]) -> Tuple {
    let mut row = vec![
        t("room-1"),
        t("broadcast"),
        t(r#"{"n": 1, "id": "x"}"#),
        t("INSERT"),
        t("t"),
        t("2026-11-22 03:36:56.1"),
        t("2026-11-22 03:36:56.123456"),
        t(ID),
        Value::Null,
    ];
    for (name, value) in changes {
        row[COLUMNS.iter().position(|column| column == name).unwrap()] = value.clone();
    }
    row
}

fn message(changes: &[(&str, Value)]) -> Result<DatabaseBroadcast, NotBroadcast> {
    columns().message(&row(changes), LIMIT)
}

#[test]
fn a_row_is_a_message() {
    let expected = DatabaseBroadcast {
        id: ID.into(),
        topic: "room-1".into(),
        event: "INSERT".into(),
        private: true,
        body: MessageBody::Json(Bytes::from_static(br#"{"n": 1, "id": "x"}"#)),
        inserted_at: UnixMicros(1_795_318_616_123_456),
    };
    assert_eq!(message(&[]), Ok(expected.clone()));
    // Whatever its extension.
    assert_eq!(message(&[("extension", t("presence"))]), Ok(expected.clone()));
    assert_eq!(message(&[("private", t("f"))]).unwrap(), DatabaseBroadcast { private: false, ..expected });
}

#[test]
fn json_shares_the_memory_of_the_row() {
    let row = row(&[]);
    let Value::Text(payload) = &row[2] else { panic!("text expected") };
    let MessageBody::Json(json) = columns().message(&row, LIMIT).unwrap().body else {
        panic!("JSON expected")
    };
    assert_eq!(json.as_ptr(), payload.as_ptr());
}

/// The order of the columns does not matter, nor do further ones of any kind.
#[test]
fn columns_are_found_by_name() {
    let names = ["added", "event", "id", "inserted_at", "payload", "private", "topic"];
    let columns = MessageColumns::of(&relation("realtime", "messages", &names)).unwrap();
    let added = Value::Binary(Bytes::from_static(&[255, 0]));
    let row = vec![added, t("e"), t(ID), t("2026-11-22 00:00:00"), t("[1]"), t("f"), t("x")];
    let message = columns.message(&row, LIMIT).unwrap();
    assert_eq!((&*message.topic, &*message.event), ("x", "e"));
    assert_eq!(message.body, MessageBody::Json(Bytes::from_static(b"[1]")));
    // A row shorter than its relation.
    assert_eq!(columns.message(&row[..3].to_vec(), LIMIT), Err(NotBroadcast::InsertedAtMissing));
}

/// tenant_database 46
#[test]
fn the_first_check_that_fails_counts() {
    use NotBroadcast::*;
    let order = [
        ("inserted_at", InsertedAtMissing),
        ("event", EventMissing),
        ("id", IdMissing),
        ("topic", TopicMissing),
        ("private", PrivateMissing),
        ("payload", PayloadMissing),
    ];
    for (at, (name, expected)) in order.iter().enumerate() {
        assert_eq!(message(&[(name, Value::Null)]), Err(*expected));
        assert_eq!(message(&[(name, Value::Unchanged)]), Err(*expected));
        let all_from_here: Vec<_> = order[at..].iter().map(|(name, _)| (*name, Value::Null)).collect();
        assert_eq!(message(&all_from_here), Err(*expected));
    }
    assert_eq!(message(&[("event", t(""))]).unwrap().event, "".into());
    assert_eq!(message(&[("inserted_at", t("infinity"))]), Err(InsertedAtMissing));
    assert_eq!(message(&[("id", t("x"))]), Err(IdMissing));
    assert_eq!(message(&[("private", t("maybe"))]), Err(PrivateMissing));
    assert_eq!(InsertedAtMissing.to_string(), "inserted_at_missing");
    let invalid = Value::Text(Bytes::from_static(b"\xff"));
    assert_eq!(message(&[("topic", invalid)]), Err(TopicMissing));
}

#[test]
fn the_binary_payload_wins() {
    let body = |text: &str| message(&[("binary_payload", t(text))]).map(|message| message.body);
    let binary = |bytes: &'static [u8]| Ok(MessageBody::Binary(Bytes::from_static(bytes)));
    assert_eq!(body("\\x00fF10"), binary(&[0, 255, 16]));
    assert_eq!(body("\\x"), binary(&[]));
    for bad in ["", "x", "\\x0", "\\x0g", "\\x€"] {
        assert_eq!(body(bad), Err(NotBroadcast::PayloadMissing), "{bad}");
    }
}

/// tenant_database 47
#[test]
fn bodies_have_a_limit() {
    let json = |bytes: usize| message(&[("payload", t(&format!("\"{}\"", "x".repeat(bytes - 2))))]);
    assert!(json(3_000_494).is_ok());
    assert_eq!(json(3_000_495), Err(NotBroadcast::PayloadSizeExceeded));
    let hex = |bytes: usize| message(&[("binary_payload", t(&format!("\\x{}", "0a".repeat(bytes))))]);
    assert!(hex(3_000_494).is_ok());
    assert_eq!(hex(3_000_495), Err(NotBroadcast::PayloadSizeExceeded));
    let raw = |bytes: usize| message(&[("binary_payload", Value::Binary(vec![0; bytes].into()))]);
    assert!(raw(3_000_494).is_ok());
    assert_eq!(raw(3_000_495), Err(NotBroadcast::PayloadSizeExceeded));
}

/// tenant_database 50
#[test]
fn binary_values() {
    let b = |bytes: &[u8]| Value::Binary(Bytes::copy_from_slice(bytes));
    let binary = [
        ("topic", b(b"sixteen-bytes-ok")),
        ("event", b(b"e")),
        ("private", b(&[0])),
        ("inserted_at", b(&1_000_001_i64.to_be_bytes())),
        (
            "id",
            b(&[
                0x84, 0xb8, 0x50, 0x4c, 0x64, 0xd3, 0x43, 0x92, 0xb0, 0x57, 0xb2, 0xef, 0xf5, 0xce, 0x2d,
                0xcc,
            ]),
        ),
        ("payload", b(b"\x01{\"a\": 1}")),
    ];
    let message = message(&binary).unwrap();
    assert_eq!((&*message.topic, &*message.id, message.private), ("sixteen-bytes-ok", ID, false));
    assert_eq!(message.body, MessageBody::Json(Bytes::from_static(b"{\"a\": 1}")));
    assert_eq!(message.inserted_at, UnixMicros::from_postgres(1_000_001));
    for (name, bad) in [
        ("private", b(&[])),
        ("id", b(&[1])),
        ("inserted_at", b(&[1])),
        ("payload", b(&[])),
        ("payload", b(&[2, b'1'])),
        ("inserted_at", b(&i64::MAX.to_be_bytes())),
    ] {
        assert!(super::tests::message(&[(name, bad)]).is_err(), "{name}");
    }
}

/// tenant_database 49
#[test]
fn other_relations_are_not_messages() {
    for (schema, name) in [("public", "messages"), ("public", "test"), ("realtime", "subscription")] {
        assert_eq!(MessageColumns::of(&relation(schema, name, &COLUMNS)), None, "{schema}.{name}");
    }
    assert!(MessageColumns::of(&relation("realtime", "messages", &COLUMNS)).is_some());
}

/// Whatever is in a row, it is judged.
#[test]
fn any_bytes_are_judged() {
    use rand::{Rng as _, SeedableRng as _, seq::IndexedRandom as _};
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let columns = columns();
    let samples: [&[u8]; 8] = [
        b"t",
        b"\\x0g",
        b"\\x00",
        b"2026-11-22 03:36:56",
        b"-9999-99-99",
        b"\xff\xfe",
        b"\x01{}",
        ID.as_bytes(),
    ];
    for _ in 0..20_000 {
        let row: Tuple = (0..random.random_range(0..10))
            .map(|_| {
                let mut bytes = samples.choose(&mut random).map_or(Vec::new(), |sample| sample.to_vec());
                if random.random_bool(0.3) {
                    bytes.truncate(random.random_range(0..=bytes.len()));
                }
                match random.random_range(0..4) {
                    0 => Value::Null,
                    1 => Value::Binary(bytes.into()),
                    _ => Value::Text(bytes.into()),
                }
            })
            .collect();
        let _ = columns.message(&row, random.random_range(0..40));
    }
}
