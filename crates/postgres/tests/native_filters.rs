//! What the engine evaluates itself is what PostgreSQL says, on random values of every native type.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::sync::Arc;

use anyhow::{Context as _, Result};
use rand::{Rng, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use realtime_changes::{
    Action, Attachment, Change, ChannelId, Column, Comparison, Engine, RoleAccess, SubscriptionSpec, Table,
    plan,
};
use realtime_pgoutput::message::{Relation, RelationColumn, ReplicaIdentity, UnixMicros, Value};
use realtime_testkit::TestDb;
use serde_json::json;

/// A type's name, its OID, and how to make texts of it.
type Sample = (&'static str, u32, fn(&mut StdRng) -> String);

const TYPES: [Sample; 18] = [
    ("bool", 16, |r| ["t", "f", "true", "no"].choose(r).unwrap().to_string()),
    ("int2", 21, |r| small(r).to_string()),
    ("int4", 23, |r| small(r).to_string()),
    ("int8", 20, |r| [small(r), r.random(), i64::MAX, i64::MIN].choose(r).unwrap().to_string()),
    ("oid", 26, |r| [0, 1, 9, 10, 4_294_967_295_u32].choose(r).unwrap().to_string()),
    ("float4", 700, float),
    ("float8", 701, float),
    ("numeric", 1700, numeric),
    ("text", 25, words),
    ("varchar", 1043, words),
    ("name", 19, words),
    ("bpchar", 1042, |r| format!("{}{}", words(r), ["", " ", "   "].choose(r).unwrap())),
    ("uuid", 2950, |r| format!("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a{:02X}", r.random_range(0..4))),
    ("date", 1082, |r| {
        ["2024-01-31", "2024-1-31", "0044-03-15 BC", "infinity", "-infinity", "12024-01-01"]
            .choose(r)
            .unwrap()
            .to_string()
    }),
    ("time", 1083, |r| ["03:04", "03:04:00", "03:04:00.5", "24:00"].choose(r).unwrap().to_string()),
    ("timestamp", 1114, |r| {
        ["2024-01-02 03:04", "2024-01-02T03:04:00", "infinity", "2024-01-02 03:04:00.000001"]
            .choose(r)
            .unwrap()
            .to_string()
    }),
    ("timestamptz", 1184, |r| {
        ["2024-01-02 03:04+00", "2024-01-02 05:04+02", "-infinity", "2024-01-02 03:04:00.1Z"]
            .choose(r)
            .unwrap()
            .to_string()
    }),
    ("bytea", 17, |r| ["\\x", "\\x00", "\\x0001", "\\xff", "\\xFF", "\\x0A"].choose(r).unwrap().to_string()),
];

fn small(r: &mut StdRng) -> i64 {
    r.random_range(-12..12)
}

fn float(r: &mut StdRng) -> String {
    [
        "0",
        "-0",
        "0.1",
        "1e-7",
        "1e20",
        "100000000000000000000",
        "-3",
        "10",
        "9",
        "NaN",
        "Infinity",
        "-Infinity",
        "3.4e38",
    ]
    .choose(r)
    .unwrap()
    .to_string()
}

fn numeric(r: &mut StdRng) -> String {
    let fixed =
        ["NaN", "0.0", "-0", "1.50", "1.5", "15", "00012.10", "123456789012345678901234567890.1", "1e3"];
    if r.random_bool(0.5) {
        return fixed.choose(r).unwrap().to_string();
    }
    format!("{}.{}", small(r), r.random_range(0..30))
}

fn words(r: &mut StdRng) -> String {
    ["", "a", "A", "ab", "aB", "a%", "a_", "%b", "é", "É", "Ab c", "\\", "\"q\"", "NULL", "100%"]
        .choose(r)
        .unwrap()
        .to_string()
}

const OPERATORS: [(&str, &str); 9] = [
    ("eq", "v = l"),
    ("neq", "v <> l"),
    ("lt", "v < l"),
    ("lte", "v <= l"),
    ("gt", "v > l"),
    ("gte", "v >= l"),
    ("isdistinct", "v is distinct from l"),
    ("like", "v like l"),
    ("ilike", "v ilike l"),
];

fn table(type_name: &str, oid: u32) -> Table {
    let column = |name: &str, type_oid, type_name: &str| Column {
        name: name.into(),
        type_oid,
        base_oid: type_oid,
        type_name: type_name.into(),
        sql_type: type_name.into(),
        cast_type: format!("pg_catalog.{type_name}").into(),
        comparison: Comparison::built_in(type_name),
        in_log: true,
    };
    Table {
        oid: 1,
        schema: "public".into(),
        name: "t".into(),
        columns: vec![column("id", 23, "int4"), column("v", oid, type_name)],
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
        schema: "public".into(),
        name: "t".into(),
        replica_identity: ReplicaIdentity::Default,
        columns: columns.collect(),
    }
}

/// Whether the engine lets a row pass; `None` if it asks the database.
fn passes(table: &Arc<Table>, filter: &str, canonical: &str, row: Option<&str>) -> Option<bool> {
    let parameters = json!({"schema": "public", "table": "t", "filter": filter});
    let spec = SubscriptionSpec::parse(parameters.as_object().unwrap()).unwrap();
    let access = Arc::new(RoleAccess { role: "r".into(), bypasses_rls: false, selectable: vec![true, true] });
    let predicate = plan(&spec, table, &access).unwrap().compile(&[canonical.to_owned()], true);
    let relation = relation(table);
    let mut engine = Engine::default();
    engine.put_table(Arc::clone(table), &relation);
    let attachment = Attachment {
        channel: ChannelId(1),
        id: 1,
        event: spec.event,
        predicate,
        access,
        claims: "{}".into(),
        select: None,
    };
    engine.attach(1, attachment).unwrap();
    let text = |text: &str| Value::Text(text.to_owned().into());
    let new = vec![text("1"), row.map_or(Value::Null, text)];
    let change = Change {
        action: Action::Insert,
        relation: &relation,
        new: Some(&new),
        old: None,
        commit_time: UnixMicros(0),
    };
    let found = engine.match_row(&change, UnixMicros(0));
    if found.asked.is_empty() { Some(found.keys().next().is_some()) } else { None }
}

/// postgres_changes 1.6
#[tokio::test]
async fn native_evaluation_is_postgresqls() -> Result<()> {
    let seed =
        std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| rand::rng().random());
    eprintln!("SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let db = TestDb::new().await?;
    db.sql("set timezone = 'UTC'; set datestyle = 'ISO'").await?;
    let (mut native, mut asked) = (0, 0);
    for (type_name, oid, make) in TYPES {
        let table = Arc::new(table(type_name, oid));
        let pairs: Vec<(Option<String>, String)> = (0..150)
            .map(|_| (random.random_bool(0.95).then(|| make(&mut random)), make(&mut random)))
            .collect();
        let values: Vec<Option<&str>> = pairs.iter().map(|(value, _)| value.as_deref()).collect();
        let literals: Vec<&str> = pairs.iter().map(|(_, literal)| literal.as_str()).collect();
        for (operator, expression) in OPERATORS {
            let texts = matches!(type_name, "text" | "name" | "bpchar");
            if operator.ends_with("like") && !texts {
                continue;
            }
            // What ends in the escape character is refused by the server when it gets that far.
            let safe = if operator.ends_with("like") { "and right(l::text, 1) <> '\\'" } else { "" };
            let sql = format!(
                "select n, case when v is not null then format('%s', v) end, l::text,
                    case when true {safe} then {expression} end
                 from (select n, v::pg_catalog.{type_name} as v, l::pg_catalog.{type_name} as l
                       from unnest($1::text[], $2::text[]) with ordinality as pairs (v, l, n)) typed
                 order by n"
            );
            let rows = db.client().query(&sql, &[&values, &literals]).await.with_context(|| sql.clone())?;
            for (row, literal) in rows.iter().zip(&literals) {
                let (value, canonical, expected): (Option<String>, String, Option<bool>) =
                    (row.get(1), row.get(2), row.get(3));
                if operator.ends_with("like") && canonical.ends_with('\\') {
                    continue;
                }
                let quoted = literal.replace('\\', "\\\\").replace('"', "\\\"");
                for (negate, wanted) in [("", Some(true)), ("not.", Some(false))] {
                    let filter = format!("v={negate}{operator}.\"{quoted}\"");
                    match passes(&table, &filter, &canonical, value.as_deref()) {
                        Some(passed) => {
                            native += 1;
                            assert_eq!(
                                passed,
                                expected == wanted,
                                "{type_name}: {value:?} {filter} ({canonical})"
                            );
                        }
                        None => asked += 1,
                    }
                }
            }
        }
    }
    assert!(native > 10 * asked / 3, "most is native: {native} of {}", native + asked);
    Ok(())
}

/// A regular expression that PostgreSQL takes.
fn expression(r: &mut StdRng, depth: u32) -> String {
    let branch = |r: &mut StdRng| {
        let mut branch = String::new();
        for _ in 0..r.random_range(1..4) {
            let atom = match r.random_range(0..12) {
                0..5 => ["a", "b", "é", "Z", "1", " "].choose(r).unwrap().to_string(),
                5 => ".".to_owned(),
                6 => ["[ab]", "[^a]", "[a-c1]", "[^ .]", "[A-Z_]"].choose(r).unwrap().to_string(),
                7 => ["\\.", "\\*", "\\\\", "\\["].choose(r).unwrap().to_string(),
                8 => {
                    branch.push_str(["^", "$"].choose(r).unwrap());
                    continue;
                }
                9 => ["\\d", "\\w", "[[:alpha:]]", "(?=a)"].choose(r).unwrap().to_string(),
                _ if depth == 0 => "a".to_owned(),
                10 => format!("({})", expression(r, depth - 1)),
                _ => format!("(?:{})", expression(r, depth - 1)),
            };
            let looks = atom.starts_with("(?=");
            branch.push_str(&atom);
            if !looks && r.random_bool(0.4) {
                branch.push_str(
                    ["*", "+", "?", "{2}", "{1,2}", "{0,}", "*?", "+?", "{1,2}?"].choose(r).unwrap(),
                );
            }
        }
        branch
    };
    let branches: Vec<String> = (0..r.random_range(1..3)).map(|_| branch(r)).collect();
    branches.join("|")
}

fn text(r: &mut StdRng) -> String {
    let letters = ["a", "b", "c", "é", "Z", "1", " ", ".", "*", "\\", "[", "\n", "_"];
    (0..r.random_range(0..7)).map(|_| *letters.choose(r).unwrap()).collect()
}

/// What regular expressions match here is what they match in PostgreSQL.
#[tokio::test]
async fn native_regular_expressions_are_postgresqls() -> Result<()> {
    let seed =
        std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| rand::rng().random());
    eprintln!("SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let db = TestDb::new().await?;
    let pairs: Vec<(String, String)> =
        (0..1500).map(|_| (text(&mut random), expression(&mut random, 2))).collect();
    let texts: Vec<&str> = pairs.iter().map(|(text, _)| text.as_str()).collect();
    let patterns: Vec<&str> = pairs.iter().map(|(_, pattern)| pattern.as_str()).collect();
    let sql =
        "select v ~ l from unnest($1::text[], $2::text[]) with ordinality as pairs (v, l, n) order by n";
    let rows = db.client().query(sql, &[&texts, &patterns]).await?;
    let table = Arc::new(table("text", 25));
    let (mut native, mut asked) = (0, 0);
    for (row, (text, pattern)) in rows.iter().zip(&pairs) {
        let expected: bool = row.get(0);
        let quoted = pattern.replace('\\', "\\\\").replace('"', "\\\"");
        for (negate, wanted) in [("", true), ("not.", false)] {
            let filter = format!("v={negate}match.\"{quoted}\"");
            match passes(&table, &filter, pattern, Some(text)) {
                Some(passed) => {
                    native += 1;
                    assert_eq!(passed, expected == wanted, "{text:?} {filter}");
                }
                None => asked += 1,
            }
        }
    }
    assert!(native > asked, "most is native: {native} of {}", native + asked);
    Ok(())
}
