use std::collections::HashMap;

use bytes::Bytes;
use proptest::prelude::*;
use realtime_pgoutput::message::{RelationColumn, ReplicaIdentity};

use super::*;
use crate::builtin_type_name;

fn relation(schema: &str, table: &str, columns: &[&str]) -> Arc<Relation> {
    let column = |name: &&str| RelationColumn {
        identity: false,
        name: (*name).into(),
        type_oid: 25,
        type_modifier: -1,
    };
    Arc::new(Relation {
        oid: 1,
        schema: schema.into(),
        name: table.into(),
        replica_identity: ReplicaIdentity::Default,
        columns: columns.iter().map(column).collect(),
    })
}

fn text(text: &str) -> Value {
    Value::Text(Bytes::copy_from_slice(text.as_bytes()))
}

/// The joined topics that a row is published to, sorted, each as often as it is.
fn hits(plan: &mut Plan, index: &TopicIndex<()>, event: Event, row: Option<&Tuple>) -> Vec<String> {
    let mut hits = Vec::new();
    plan.refresh(index);
    plan.topics(index, event, row, |topic, members| {
        assert!(!members.is_empty());
        hits.push(topic.to_string());
    });
    hits.sort();
    hits
}

/// The same by the definition: every topic of the row is written out and compared.
fn by_definition(relation: &Relation, joined: &[String], row: Option<&Tuple>) -> Vec<String> {
    let (schema, table) = (&relation.schema, &relation.name);
    let mut topics =
        vec![format!("realtime:{schema}"), "realtime:*".to_owned(), format!("realtime:{schema}:{table}")];
    for (column, value) in relation.columns.iter().zip(row.into_iter().flatten()) {
        if let Value::Text(bytes) = value {
            let value = String::from_utf8_lossy(bytes);
            if value.chars().count() < 100 {
                topics.push(format!("realtime:{schema}:{table}:{}=eq.{value}", column.name));
            }
        }
    }
    let joined: HashMap<&str, ()> = joined.iter().map(|topic| (topic.as_str(), ())).collect();
    let mut hits: Vec<_> = topics.into_iter().filter(|topic| joined.contains_key(topic.as_str())).collect();
    hits.sort();
    hits
}

/// Short names and values of the characters that topics are made of.
fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ab:=.é]{0,3}",
        Just("eq.".to_owned()),
        Just("a=eq.b".to_owned()),
        Just("x".repeat(99)),
        Just("x".repeat(100))
    ]
}

proptest! {
    /// Whatever names and values are, the index finds the topics that equal those of the row, and no others.
    #[test]
    fn the_index_is_string_equality(
        (schema, table) in (word(), word()),
        columns in prop::collection::vec((word(), prop::option::of(word())), 0..4),
        others in prop::collection::vec((word(), word(), word(), word()), 0..6),
        from_row in prop::collection::vec(any::<bool>(), 7),
    ) {
        let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
        let relation = relation(&schema, &table, &names);
        let row: Tuple =
            columns.iter().map(|(_, value)| value.as_deref().map_or(Value::Null, text)).collect();
        let mut joined: Vec<String> =
            others.iter().map(|(s, t, c, v)| format!("realtime:{s}:{t}:{c}=eq.{v}")).collect();
        joined.extend(others.iter().map(|(s, t, ..)| format!("realtime:{s}:{t}")));
        let own = columns.iter().map(|(c, v)| format!("realtime:{schema}:{table}:{c}=eq.{}", v.as_deref().unwrap_or("")));
        let own = own.chain([format!("realtime:{schema}"), "realtime:*".to_owned(), format!("realtime:{schema}:{table}")]);
        joined.extend(own.zip(&from_row).filter(|(_, wanted)| **wanted).map(|(topic, _)| topic));

        let mut index = TopicIndex::new(false);
        let mut plan =
            Plan::new(Arc::clone(&relation), &Profile::V0_22, &Restrictions::default(), builtin_type_name);
        for topic in &joined {
            index.insert(&topic.as_str().into(), ());
        }
        prop_assert_eq!(
            hits(&mut plan, &index, Event::Insert, Some(&row)),
            by_definition(&relation, &joined, Some(&row))
        );
        prop_assert_eq!(hits(&mut plan, &index, Event::Truncate, None), by_definition(&relation, &joined, None));
    }
}

/// legacy 19, 21, 22
#[test]
fn a_row_has_topics_of_its_schema_its_table_and_its_values() {
    let mut index = TopicIndex::new(true);
    let mut ids = HashMap::new();
    for topic in [
        "realtime:*",
        "realtime:public",
        "realtime:public:users",
        "realtime:public:users:id=eq.1",
        "realtime:public:users:name=eq.Thomas Shelby",
        "realtime:public:users:name.eq.Thomas Shelby",
        "realtime:public:users:id=eq.01",
        "realtime:public:users:id=eq.",
        "realtime:public:*",
        "realtime:auth",
        "realtime:public:user",
        "realtime:public:users:name=eq.Thomas",
    ] {
        ids.insert(topic, index.insert(&topic.into(), ()));
    }
    let relation = relation("public", "users", &["id", "name"]);
    let mut plan = Plan::new(relation, &Profile::V0_22, &Restrictions::default(), builtin_type_name);
    let row = vec![text("1"), text("Thomas Shelby")];
    let all = [
        "realtime:*",
        "realtime:public",
        "realtime:public:users",
        "realtime:public:users:id=eq.1",
        "realtime:public:users:name.eq.Thomas Shelby",
        "realtime:public:users:name=eq.Thomas Shelby",
    ];
    assert_eq!(hits(&mut plan, &index, Event::Insert, Some(&row)), all);
    // What is joined and left later is seen.
    index.remove("realtime:public:users:id=eq.1", ids["realtime:public:users:id=eq.1"]);
    index.insert(&"realtime:public:users:id=eq.".into(), ());
    assert_eq!(hits(&mut plan, &index, Event::Update, Some(&row)).len(), 5);
    let empty = vec![text(""), Value::Null];
    assert_eq!(
        hits(&mut plan, &index, Event::Update, Some(&empty)).last().unwrap(),
        "realtime:public:users:id=eq."
    );
    let nothing = vec![Value::Unchanged, Value::Null];
    assert_eq!(hits(&mut plan, &index, Event::Update, Some(&nothing)).len(), 3);
    assert_eq!(hits(&mut plan, &index, Event::Truncate, None).len(), 3);
}

#[test]
fn values_of_timestamps_are_topics_in_the_form_that_clients_see() {
    let mut relation = Relation::clone(&relation("s", "t", &["at"]));
    relation.columns[0].type_oid = 1114;
    let relation = Arc::new(relation);
    let mut index = TopicIndex::new(true);
    for topic in ["realtime:s:t:at=eq.2021-02-16T23:47:47Z", "realtime:s:t:at=eq.2021-02-16 23:47:47"] {
        index.insert(&topic.into(), ());
    }
    let row = vec![text("2021-02-16 23:47:47")];
    for (profile, topic) in [
        (Profile::V0_22, "realtime:s:t:at=eq.2021-02-16T23:47:47Z"),
        (Profile::V0_10, "realtime:s:t:at=eq.2021-02-16 23:47:47"),
    ] {
        let mut plan =
            Plan::new(Arc::clone(&relation), &profile, &Restrictions::default(), builtin_type_name);
        assert_eq!(hits(&mut plan, &index, Event::Insert, Some(&row)), [topic]);
    }
}
