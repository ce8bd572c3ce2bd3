use realtime_pgoutput::message::{RelationColumn, ReplicaIdentity, Tuple, UnixMicros, Value};
use serde_json::json;

use super::*;
use crate::{Column, Comparison, RoleAccess, SubscriptionSpec, plan};

fn watched() -> Watched {
    watched_with(false)
}

fn watched_with(row_security: bool) -> Watched {
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
    let columns = [("id", 23, "int4"), ("body", 25, "text"), ("data", 3802, "jsonb")].map(column).to_vec();
    let table = Table {
        oid: 1,
        schema: "public".into(),
        name: "t".into(),
        columns,
        primary_key: vec![0],
        row_security,
        plain: true,
        partitioned: false,
        replica_identity: ReplicaIdentity::Default,
    };
    Watched::new(Arc::new(table.clone()), &relation(&table), None)
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

fn attach(watched: &mut Watched, key: u64, filter: &str) {
    attach_as(watched, key, filter, "{}");
}

fn attach_as(watched: &mut Watched, key: u64, filter: &str, claims: &str) {
    let parameters = json!({"schema": "public", "table": "t", "filter": filter});
    let spec = SubscriptionSpec::parse(parameters.as_object().unwrap()).unwrap();
    let access = Arc::new(RoleAccess { role: "r".into(), bypasses_rls: false, selectable: vec![true; 3] });
    let plan = plan(&spec, watched.table(), &access).unwrap();
    let literals: Vec<String> = plan.checks().iter().map(|check| check.literal.to_owned()).collect();
    let attachment = Attachment {
        channel: ChannelId(key),
        id: 1,
        event: spec.event,
        predicate: plan.compile(&literals, true),
        access,
        claims: claims.into(),
        select: None,
    };
    watched.attach(SubscriptionKey(key), attachment);
}

/// Whom an inserted row is sent to.
fn found(watched: &Watched, row: [&str; 3]) -> Vec<u64> {
    found_among(watched, row, None).0
}

/// The same for some of them, and how many were looked at.
fn found_among(watched: &Watched, row: [&str; 3], among: Option<&[u64]>) -> (Vec<u64>, u64) {
    let relation = relation(watched.table());
    let meant: Vec<SubscriptionKey> = among.into_iter().flatten().copied().map(SubscriptionKey).collect();
    let takes = |channel: ChannelId, _| meant.contains(&SubscriptionKey(channel.0));
    let among = among.map(|_| Among { keys: &meant, takes: &takes });
    let new: Tuple = row.map(|text| Value::Text(text.to_owned().into())).to_vec();
    let change = Change {
        action: Action::Insert,
        relation: &relation,
        new: Some(&new),
        old: None,
        commit_time: UnixMicros(0),
    };
    let found = watched.match_row(&change, UnixMicros(0), among);
    let mut keys: Vec<u64> = found.keys().map(|key| key.0).collect();
    keys.sort_unstable();
    (keys, found.considered)
}

/// row_security 24
#[test]
fn a_disjunction_of_equalities_is_indexed_and_delivered_once() {
    let mut watched = watched();
    for n in 0..1000 {
        attach(&mut watched, n, &format!("or=(id.eq.{n},body.eq.b{n},data->>k.in.(k{n},l{n}))"));
    }
    attach(&mut watched, 5000, "or=(id.eq.1,id.eq.1,and(id.eq.1,body.eq.b1))");
    attach(&mut watched, 5001, "or=(id.eq.2,body.gt.zz)");
    assert_eq!(
        watched.residual.iter().map(|key| key.0).collect::<Vec<_>>(),
        [5001],
        "the others are indexed"
    );
    assert_eq!(watched.index.len(), 3);
    assert_eq!(found(&watched, ["1", "b1", r#"{"k": "l1"}"#]), [1, 5000], "by three branches, once");
    assert_eq!(found(&watched, ["1", "b2", r#"{"k": "k3"}"#]), [1, 2, 3, 5000]);
    assert_eq!(found(&watched, ["2", "zzz", "{}"]), [2, 5001]);
    assert_eq!(found(&watched, ["-1", "x", "{}"]), [0; 0]);
    for n in (0..1000).chain([5000, 5001]) {
        watched.detach(SubscriptionKey(n));
    }
    assert!(watched.index.is_empty() && watched.residual.is_empty());
}

/// What a row costs does not grow with those that wait for other values.
#[test]
fn only_those_that_a_row_may_concern_are_looked_at() {
    let mut watched = watched();
    for n in 0..1000 {
        attach(&mut watched, n, &format!("or=(id.eq.{n},and(body.eq.b{n},id.gt.5000))"));
    }
    let under = |(operand, index): (&Operand, &OperandIndex)| {
        let text = if operand.column == 0 { &b"7"[..] } else { b"b8" };
        index.keys.get(text).map_or(0, Vec::len)
    };
    assert_eq!(watched.index.iter().map(under).sum::<usize>() + watched.residual.len(), 2);
    assert_eq!(found(&watched, ["7", "b8", "{}"]), [7]);
}

/// What a row costs for a few who have come back does not grow with those who are there.
#[test]
fn a_match_among_a_few_looks_at_no_others() {
    for row_security in [false, true] {
        let mut watched = watched_with(row_security);
        for n in 0..3_000 {
            let filter = ["body=gt.a", "id=eq.7", "id=gt.0"][n as usize % 3];
            attach_as(&mut watched, n, filter, &format!("{{\"sub\":\"{n}\"}}"));
        }
        let all = found_among(&watched, ["7", "b", "{}"], None);
        assert_eq!((all.0.len(), all.1), (3_000, 3_000));
        let few = [2, 4, 600, 9_999];
        assert_eq!(found_among(&watched, ["7", "b", "{}"], Some(&few)), (vec![2, 4, 600], 3));
        assert_eq!(found_among(&watched, ["8", "b", "{}"], Some(&few)), (vec![2, 600], 3));
        assert_eq!(found_among(&watched, ["8", "A", "{}"], Some(&few)), (vec![2], 3));
    }
}

/// Nor does it grow with them, where a row leads to fewer.
#[test]
fn a_match_among_many_looks_at_those_that_the_row_leads_to() {
    let mut watched = watched();
    for n in 0..1_000 {
        attach(&mut watched, n, &format!("id=eq.{n}"));
    }
    attach(&mut watched, 5_000, "body=gt.a");
    let many: Vec<u64> = (1..1_000).chain([5_000]).collect();
    assert_eq!(found_among(&watched, ["7", "b", "{}"], Some(&many)), (vec![7, 5_000], 2));
    assert_eq!(found_among(&watched, ["0", "b", "{}"], Some(&many)), (vec![5_000], 2));
}

/// Whose role may not read the key is told so; of them, too, only those who are meant are looked at.
#[test]
fn refusals_among_a_few_look_at_no_others() {
    let mut watched = watched();
    let mut table = (**watched.table()).clone();
    table.primary_key.clear();
    watched = Watched::new(Arc::new(table), &relation(watched.table()), None);
    for n in 0..1_000 {
        attach(&mut watched, n, "body=gt.a");
    }
    assert_eq!(found_among(&watched, ["1", "b", "{}"], None).1, 1_000);
    assert_eq!(found_among(&watched, ["1", "b", "{}"], Some(&[3, 4])).1, 2);
}
