//! The match engine and the payloads, through the crate's public face, on hand-made rows.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use realtime_changes::{
    Action, Attachment, Change, ChannelId, Column, Comparison, Delivery, Engine, RoleAccess, SubscriptionKey,
    SubscriptionSpec, Table, Truth, UnknownTable, plan,
};
use realtime_pgoutput::{
    TypeRegistry,
    message::{OldTuple, Relation, RelationColumn, ReplicaIdentity, Tuple, UnixMicros, Value},
};
use serde_json::{Value as Json, json};

const OID: u32 = 16_384;

/// `notes(id int4 primary key, body text, n int4)`.
fn table() -> Table {
    let column = |name: &str, type_oid, type_name: &str, sql_type: &str| Column {
        name: name.into(),
        type_oid,
        base_oid: type_oid,
        type_name: type_name.into(),
        sql_type: sql_type.into(),
        cast_type: format!("pg_catalog.{type_name}").into(),
        comparison: Comparison::built_in(type_name),
        in_log: true,
    };
    Table {
        oid: OID,
        schema: "public".into(),
        name: "notes".into(),
        columns: vec![
            column("id", 23, "int4", "integer"),
            column("body", 25, "text", "text"),
            column("n", 23, "int4", "integer"),
        ],
        primary_key: vec![0],
        row_security: false,
        plain: true,
        partitioned: false,
        replica_identity: ReplicaIdentity::Default,
    }
}

fn relation(table: &Table) -> Relation {
    let columns = table.columns.iter().enumerate().map(|(at, column)| RelationColumn {
        identity: table.replica_identity == ReplicaIdentity::Full || table.primary_key.contains(&at),
        name: column.name.clone(),
        type_oid: column.type_oid,
        type_modifier: -1,
    });
    Relation {
        oid: OID,
        schema: table.schema.clone(),
        name: table.name.clone(),
        replica_identity: table.replica_identity,
        columns: columns.collect(),
    }
}

fn access(selectable: [bool; 3]) -> RoleAccess {
    RoleAccess { role: "anon".into(), bypasses_rls: false, selectable: selectable.to_vec() }
}

fn row<const N: usize>(values: [Option<&str>; N]) -> Tuple {
    values.map(|value| value.map_or(Value::Null, |text| Value::Text(text.to_owned().into()))).to_vec()
}

struct Fixture {
    engine: Engine,
    table: Arc<Table>,
    relation: Relation,
}

impl Fixture {
    fn new(change: impl FnOnce(&mut Table)) -> Self {
        let mut table = table();
        change(&mut table);
        let (relation, table) = (relation(&table), Arc::new(table));
        let mut engine = Engine::default();
        engine.put_table(Arc::clone(&table), &relation);
        Self { engine, table, relation }
    }

    /// Attaches a subscription of a channel; its literals are taken for canonical.
    fn attach(
        &mut self,
        channel: u64,
        id: u32,
        spec: Json,
        access: &RoleAccess,
    ) -> Result<SubscriptionKey, UnknownTable> {
        let mut parameters = json!({"schema": "public", "table": "notes"});
        for (name, value) in spec.as_object().unwrap() {
            parameters[name] = value.clone();
        }
        let spec = SubscriptionSpec::parse(parameters.as_object().unwrap()).unwrap();
        let plan = plan(&spec, &self.table, access).unwrap();
        let literals: Vec<String> = plan.checks().iter().map(|check| check.literal.to_owned()).collect();
        let attachment = Attachment {
            channel: ChannelId(channel),
            id,
            event: spec.event,
            predicate: plan.compile(&literals, true),
            access: Arc::new(access.clone()),
            claims: format!("{{\"channel\":{channel}}}").into(),
            select: plan.select().map(<[usize]>::to_vec),
        };
        self.engine.attach(OID, attachment)
    }

    fn change<'a>(&'a self, action: Action, new: Option<&'a Tuple>, old: Option<&'a OldTuple>) -> Change<'a> {
        Change { action, relation: &self.relation, new, old, commit_time: UnixMicros(1_714_979_289_987_654) }
    }

    fn deliver(&self, action: Action, new: Option<&Tuple>, old: Option<&OldTuple>) -> Vec<Delivery> {
        let change = self.change(action, new, old);
        let found = self.engine.match_row(&change, UnixMicros(0));
        assert!(found.asked.is_empty());
        found.render(&change, &[], &[], &TypeRegistry::default())
    }

    fn insert(&self, new: &Tuple) -> Vec<Delivery> {
        self.deliver(Action::Insert, Some(new), None)
    }
}

fn data(delivery: &Delivery) -> Json {
    serde_json::from_slice(&delivery.data).unwrap()
}

/// Channels and ids, of all deliveries.
fn recipients(deliveries: &[Delivery]) -> Vec<(u64, Vec<u32>)> {
    let all = deliveries.iter().flat_map(|delivery| &delivery.recipients);
    let mut all: Vec<_> = all.map(|recipient| (recipient.channel.0, recipient.ids.to_vec())).collect();
    all.sort();
    all
}

const ALL: [bool; 3] = [true; 3];

/// postgres_changes 48 to 51
#[test]
fn events_select_actions() {
    let mut fixture = Fixture::new(|_| {});
    for (id, event) in [(1, "*"), (2, "insert"), (3, "UPDATE"), (4, "DELETE")] {
        fixture.attach(u64::from(id), id, json!({ "event": event }), &access(ALL)).unwrap();
    }
    let (new, old) = (row([Some("1"), None, None]), OldTuple::Key(row([Some("1"), None, None])));
    let ids =
        |deliveries: &[Delivery]| -> Vec<u64> { recipients(deliveries).into_iter().map(|r| r.0).collect() };
    assert_eq!(ids(&fixture.insert(&new)), [1, 2]);
    assert_eq!(ids(&fixture.deliver(Action::Update, Some(&new), None)), [1, 3]);
    assert_eq!(ids(&fixture.deliver(Action::Delete, None, Some(&old))), [1, 4]);
}

/// postgres_changes 70, 74: equality is found through the index, and detaching leaves nothing behind
#[test]
fn equality_is_indexed() {
    let mut fixture = Fixture::new(|_| {});
    let mut keys = Vec::new();
    for (id, filter) in [
        (1, "id=eq.5"),
        (2, "id=gt.0,body=eq.hello"),
        (3, "id=eq.6"),
        (4, "id=not.eq.5"),
        (5, "body=in.(hello,world)"),
        (6, "body=in.()"),
    ] {
        keys.push(fixture.attach(u64::from(id), id, json!({ "filter": filter }), &access(ALL)).unwrap());
    }
    let hello = row([Some("5"), Some("hello"), None]);
    assert_eq!(recipients(&fixture.insert(&hello)), [(1, vec![1]), (2, vec![2]), (5, vec![5])]);
    for key in keys {
        fixture.engine.detach(OID, key);
        fixture.engine.detach(OID, key);
    }
    assert!(fixture.insert(&hello).is_empty());
    assert!(!format!("{:?}", fixture.engine).contains("SubscriptionKey"), "{:?}", fixture.engine);
}

/// postgres_changes 46, 47: the whole object
#[test]
fn data_of_an_insert() {
    let mut fixture = Fixture::new(|_| {});
    fixture.attach(1, 9, json!({}), &access(ALL)).unwrap();
    let deliveries = fixture.insert(&row([Some("1"), Some("a\"b"), None]));
    assert_eq!(
        data(&deliveries[0]),
        json!({"type": "INSERT", "schema": "public", "table": "notes", "commit_timestamp": "2024-05-06T07:08:09.987Z",
            "columns": [{"name": "id", "type": "int4"}, {"name": "body", "type": "text"}, {"name": "n", "type": "int4"}],
            "record": {"id": 1, "body": "a\"b", "n": null}, "errors": null})
    );
}

/// postgres_changes 81, 86, 87: one delivery for each set of columns, each channel once in it
#[test]
fn deliveries_are_grouped_by_columns() {
    let mut fixture = Fixture::new(|_| {});
    for (channel, id, select) in
        [(1, 1, json!(["body"])), (1, 2, json!(["body", "id"])), (2, 3, json!(["body"])), (1, 4, json!(null))]
    {
        let spec = if select.is_null() { json!({}) } else { json!({ "select": select }) };
        fixture.attach(channel, id, spec, &access(ALL)).unwrap();
    }
    fixture.attach(3, 5, json!({}), &access([true, true, false])).unwrap();
    let deliveries = fixture.insert(&row([Some("1"), Some("x"), Some("2")]));
    assert_eq!(deliveries.len(), 2, "what a role may read and what is selected are one");
    assert_eq!(data(&deliveries[0])["record"], json!({"id": 1, "body": "x"}));
    assert_eq!(recipients(&deliveries[..1]), [(1, vec![1, 2]), (2, vec![3]), (3, vec![5])]);
    assert_eq!(recipients(&deliveries[1..]), [(1, vec![4])]);
}

/// postgres_changes 91, 92, 105 and decision 6
#[test]
fn refusals_ignore_filters() {
    let mut fixture = Fixture::new(|_| {});
    let filtered = json!({"filter": "n=eq.7"});
    fixture.attach(1, 1, filtered.clone(), &access([false, true, true])).unwrap();
    let new = row([Some("1"), Some("x"), None]);
    let unauthorized = fixture.deliver(Action::Update, Some(&new), None);
    assert_eq!(
        data(&unauthorized[0]),
        json!({"type": "UPDATE", "schema": "public", "table": "notes", "commit_timestamp": "2024-05-06T07:08:09.987Z", "columns": [],
            "record": {}, "old_record": {}, "errors": ["Error 401: Unauthorized"]})
    );
    let mut blind = Fixture::new(|_| {});
    blind.attach(1, 1, json!({}), &access([false; 3])).unwrap();
    let old = OldTuple::Key(row([Some("1"), None, None]));
    assert!(blind.deliver(Action::Delete, None, Some(&old)).is_empty());

    let mut keyless = Fixture::new(|table| table.primary_key.clear());
    keyless.attach(1, 1, filtered, &access(ALL)).unwrap();
    assert_eq!(data(&keyless.insert(&new)[0])["errors"], json!(["Error 400: Bad Request, no primary key"]));
}

/// postgres_changes 97, 99: who is guarded gets only what it was found to see; deletes are their key alone
#[test]
fn row_security_is_never_passed_unchecked() {
    let mut fixture = Fixture::new(|table| table.row_security = true);
    let guarded: Vec<_> =
        (1..=3).map(|n| fixture.attach(n % 2, 1, json!({}), &access(ALL)).unwrap()).collect();
    let bypassing = RoleAccess { bypasses_rls: true, ..access(ALL) };
    let open = fixture.attach(7, 2, json!({}), &bypassing).unwrap();
    let new = row([Some("1"), Some("x"), None]);
    assert_eq!(recipients(&fixture.insert(&new)), [(7, vec![2])], "nobody was found to see it");

    let change = fixture.change(Action::Insert, Some(&new), None);
    let found = fixture.engine.match_row(&change, UnixMicros(0));
    let mut parties: Vec<_> = found.guarded().iter().map(|guarded| guarded.party).collect();
    assert_eq!((found.keys().count() - parties.len(), parties.len()), (1, 3));
    parties.dedup();
    assert_eq!(parties.len(), 2, "equal role and claims are one question");
    let claims = |id| fixture.engine.party(OID, id).unwrap().claims.to_string();
    assert_ne!(claims(parties[0]), claims(parties[1]));
    let types = TypeRegistry::default();
    let deliveries = found.render(&change, &[guarded[1]], &[], &types);
    assert_eq!(recipients(&deliveries), [(0, vec![1]), (7, vec![2])]);

    // Whoever ends while the change waits gets it no more, found to see it or not.
    let mut found = found;
    found.forget(&[guarded[1], open].into_iter().collect());
    assert_eq!(recipients(&found.render(&change, &guarded, &[], &types)), [(1, vec![1, 1])]);

    // A whole row that was deleted is judged too; a key cannot be, so everybody gets it.
    let deleted = fixture.deliver(Action::Delete, None, Some(&OldTuple::Full(new.clone())));
    assert_eq!(data(&deleted[0])["old_record"], json!({"id": 1, "body": "x", "n": null}));
    assert_eq!(recipients(&deleted), [(7, vec![2])], "nobody else was found to have seen it");
    let deleted = fixture.deliver(Action::Delete, None, Some(&OldTuple::Key(new)));
    assert_eq!(data(&deleted[0])["old_record"], json!({"id": 1}));
    assert_eq!(recipients(&deleted).len(), 3);
}

/// postgres_changes 58 to 60, 85, 99
#[test]
fn old_records() {
    let new = row([Some("2"), Some("new"), None]);
    let old_record = |fixture: &Fixture, old: Option<&OldTuple>| {
        data(&fixture.deliver(Action::Update, Some(&new), old)[0])["old_record"].clone()
    };
    let mut fixture = Fixture::new(|_| {});
    fixture.attach(1, 1, json!({}), &access(ALL)).unwrap();
    assert_eq!(old_record(&fixture, None), json!({"id": 2}));
    assert_eq!(old_record(&fixture, Some(&OldTuple::Key(row([Some("1"), None, None])))), json!({"id": 1}));
    let mut fixture = Fixture::new(|table| table.replica_identity = ReplicaIdentity::Full);
    fixture.attach(1, 1, json!({"select": ["n"]}), &access(ALL)).unwrap();
    let full = OldTuple::Full(row([Some("1"), Some("old"), Some("3")]));
    assert_eq!(old_record(&fixture, Some(&full)), json!({"id": 1, "n": 3}));
}

/// postgres_changes 103 and 2.5: a value that an update left alone
#[test]
fn unchanged_values() {
    let mut fixture = Fixture::new(|_| {});
    fixture.attach(1, 1, json!({"filter": "body=eq.long"}), &access(ALL)).unwrap();
    fixture.attach(2, 2, json!({}), &access(ALL)).unwrap();
    let new = vec![Value::Text(Bytes::from_static(b"1")), Value::Unchanged, Value::Null];
    let deliveries = fixture.deliver(Action::Update, Some(&new), None);
    assert_eq!(recipients(&deliveries), [(2, vec![2])]);
    assert_eq!(data(&deliveries[0])["record"], json!({"id": 1, "n": null}));
}

/// postgres_changes 95, 96
#[test]
fn large_changes_are_trimmed() {
    let mut fixture = Fixture::new(|_| {});
    fixture.attach(1, 1, json!({}), &access(ALL)).unwrap();
    let body = |len: usize| "x".repeat(len);
    let trimmed = |body: &str| {
        let data = data(&fixture.insert(&row([Some("1"), Some(body), None]))[0]);
        (data["errors"] == json!(["Error 413: Payload Too Large"]), data["record"].clone())
    };
    assert!(!trimmed(&body(1_000_000)).0);
    assert_eq!(trimmed(&body(1_048_576)), (true, json!({"id": 1})));

    // Old and new count; a value that the update left alone is in the log once.
    let long = body(600_000);
    let update = |new: Tuple, old: Tuple| {
        let deliveries = fixture.deliver(Action::Update, Some(&new), Some(&OldTuple::Full(old)));
        data(&deliveries[0])["errors"].is_array()
    };
    let (one, other) = (row([Some("1"), Some(&long), None]), row([Some("1"), Some(&long), None]));
    assert!(!update(one.clone(), one.clone()));
    assert!(update(one, other));
}

/// Conditions for the database come back as questions; what it answers decides.
#[test]
fn questions() {
    let mut fixture = Fixture::new(|_| {});
    let key = fixture.attach(1, 1, json!({"filter": "n=gt.0,body=not.imatch.^a"}), &access(ALL)).unwrap();
    let new = row([Some("1"), Some("abc"), Some("1")]);
    let change = fixture.change(Action::Insert, Some(&new), None);
    let mut found = fixture.engine.match_row(&change, UnixMicros(0));
    assert_eq!(found.keys().count(), 0);
    let asked = found.asked.pop().unwrap();
    assert_eq!((asked.key, asked.questions.len()), (key, 1));
    let question = &asked.questions[0];
    let part = question.ask.parts.leaves()[0];
    let compare = &part.compare;
    assert_eq!(
        (&*compare.operator, &*compare.type_name, &*compare.literal),
        ("operator(pg_catalog.~*)", "pg_catalog.text", "^a")
    );
    assert_eq!(&part.value[..], b"abc");
    let holds = |answer| question.ask.parts.judge(&mut |_| Truth::known(answer)).holds();
    assert_eq!([Some(true), Some(false), None].map(holds), [false, true, false]);
    found.confirm(asked);
    let deliveries = found.render(&change, &[], &[], &TypeRegistry::default());
    assert_eq!(recipients(&deliveries), [(1, vec![1])]);
    let failing = row([Some("1"), Some("abc"), Some("0")]);
    assert!(
        fixture
            .engine
            .match_row(&fixture.change(Action::Insert, Some(&failing), None), UnixMicros(0))
            .is_empty()
    );
}

/// How a value compares with a literal.
type Holds = fn(i64, i64) -> bool;

/// A condition on `n`: its text, what it means of a value, its literal, and whether it is negated.
type Condition = (String, Holds, i64, bool);

fn condition() -> impl Strategy<Value = Condition> {
    let operators: Vec<(&str, Holds)> = vec![
        ("eq", |a, b| a == b),
        ("neq", |a, b| a != b),
        ("lt", |a, b| a < b),
        ("lte", |a, b| a <= b),
        ("gt", |a, b| a > b),
        ("gte", |a, b| a >= b),
    ];
    (prop::sample::select(operators), -5i64..5, any::<bool>()).prop_map(|((name, holds), literal, negate)| {
        let not = if negate { "not." } else { "" };
        (format!("n={not}{name}.{literal}"), holds, literal, negate)
    })
}

proptest! {
    /// However subscriptions come and go, a row reaches those whose conditions hold, by a reading that knows no index.
    #[test]
    fn the_index_finds_what_a_scan_would(
        subscriptions in prop::collection::vec((prop::collection::vec(condition(), 0..3), any::<bool>()), 0..30),
        rows in prop::collection::vec(prop::option::of(-6i64..6), 1..10),
    ) {
        let mut fixture = Fixture::new(|_| {});
        let mut staying = Vec::new();
        for (at, (conditions, stays)) in subscriptions.iter().enumerate() {
            let filter: Vec<&str> = conditions.iter().map(|condition| &*condition.0).collect();
            let key = fixture.attach(at as u64, 1, json!({ "filter": filter.join(",") }), &access(ALL)).unwrap();
            if *stays {
                staying.push((at as u64, conditions));
            } else {
                fixture.engine.detach(OID, key);
            }
        }
        for n in rows {
            let expected: Vec<_> = staying
                .iter()
                .filter(|(_, conditions)| conditions.iter().all(|(_, holds, literal, negate)| {
                    n.is_some_and(|n| holds(n, *literal) != *negate)
                }))
                .map(|(channel, _)| (*channel, vec![1]))
                .collect();
            let text = n.map(|n| n.to_string());
            prop_assert_eq!(recipients(&fixture.insert(&row([Some("1"), None, text.as_deref()]))), expected);
        }
    }
}
