//! Shapes of tables and publications: partitions, row filters, column lists, generated columns, tables without key,
//! names, alterations (postgres_changes 2.4 to 2.8, 7.5; docs/differences.md).

use anyhow::Result;
use realtime_testkit::{Server, ServerOptions, Socket, TestDb, Version};
use serde_json::{Value, json};

use crate::{BINARY, server};

const TOPIC: &str = "realtime:any";

async fn watching(server: &Server, role: &str, subscription: Value) -> Result<Socket> {
    let mut socket = server.socket(Version::V2, role).await?;
    socket.watch(TOPIC, json!([subscription])).await?;
    Ok(socket)
}

async fn next(socket: &mut Socket) -> Result<Value> {
    Ok(socket.event(TOPIC, "postgres_changes").await?["data"].clone())
}

/// Whether no further change has come. A channel may be told at any time that it is subscribed, to more than before.
async fn is_quiet(socket: &mut Socket) -> Result<bool> {
    Ok(socket.settle().await?.iter().all(|frame| frame.event != "postgres_changes"))
}

/// Type, table, record and old record of the next change.
async fn brief(socket: &mut Socket) -> Result<(String, String, Value, Value)> {
    let data = next(socket).await?;
    let text = |name: &str| data[name].as_str().unwrap_or_default().to_owned();
    Ok((text("type"), text("table"), data["record"].clone(), data["old_record"].clone()))
}

fn change(kind: &str, table: &str, record: Value, old_record: Value) -> (String, String, Value, Value) {
    (kind.to_owned(), table.to_owned(), record, old_record)
}

async fn version(db: &TestDb) -> Result<i32> {
    Ok(db.client().query_one("select current_setting('server_version_num')::int / 10000", &[]).await?.get(0))
}

/// Two partitions, the second with its columns in another order and the remains of one that was dropped.
const PARTITIONS: &str = "
    create table public.part (id int, v text, n int, primary key (id)) partition by range (id);
    create table public.part_low partition of public.part for values from (0) to (100);
    create table public.part_high (gone int, n int, id int not null, v text);
    alter table public.part_high drop column gone;
    alter table public.part attach partition public.part_high for values from (100) to (200);
    grant select on public.part, public.part_low, public.part_high to anon, authenticated;
    alter publication supabase_realtime add table public.part;";

/// postgres_changes 2.8: partitions under their own names; a row that moves leaves one and enters the other
#[tokio::test]
async fn partitions_by_leaf() -> Result<()> {
    let (server, db) = server().await?;
    db.sql(PARTITIONS).await?;
    let mut root = server.socket(Version::V2, "anon").await?;
    root.join(TOPIC, json!({"config": {"postgres_changes": [{"schema": "public", "table": "part"}]}}))
        .await?;
    let system = root.event(TOPIC, "system").await?;
    assert!(
        system["message"].as_str().unwrap_or_default().contains("Please check Realtime is enabled"),
        "{system}"
    );

    let mut low = watching(&server, "anon", json!({"schema": "public", "table": "part_low"})).await?;
    let mut all = watching(&server, "anon", json!({"schema": "public"})).await?;
    db.sql("insert into public.part values (1, 'a', 5); update public.part set id = 150; update public.part set v = 'b'; delete from public.part").await?;
    let expected = [
        change("INSERT", "part_low", json!({"id": 1, "v": "a", "n": 5}), Value::Null),
        change("DELETE", "part_low", Value::Null, json!({"id": 1})),
        change("INSERT", "part_high", json!({"id": 150, "v": "a", "n": 5}), Value::Null),
        change("UPDATE", "part_high", json!({"id": 150, "v": "b", "n": 5}), json!({"id": 150})),
        change("DELETE", "part_high", Value::Null, json!({"id": 150})),
    ];
    for expected in &expected {
        assert_eq!(brief(&mut all).await?, *expected);
    }
    for expected in &expected[..2] {
        assert_eq!(brief(&mut low).await?, *expected);
    }
    assert!(is_quiet(&mut low).await?);
    Ok(())
}

/// postgres_changes 7.5: partitions under the root's name, with the root's policies and privileges
#[tokio::test]
async fn partitions_by_root() -> Result<()> {
    let (server, db) = server().await?;
    db.sql(PARTITIONS).await?;
    db.sql(
        "alter publication supabase_realtime set (publish_via_partition_root = true);
         alter table public.part enable row level security;
         create policy few on public.part to authenticated using (n > 3);
         create policy never on public.part to anon using (false);",
    )
    .await?;
    let mut root = watching(&server, "authenticated", json!({"schema": "public", "table": "part"})).await?;
    let mut hidden = watching(&server, "anon", json!({"schema": "public", "table": "part"})).await?;
    db.sql("insert into public.part values (1, 'a', 5), (2, 'b', 3)").await?;
    let mut expected = vec![change("INSERT", "part", json!({"id": 1, "v": "a", "n": 5}), Value::Null)];
    assert_eq!(brief(&mut root).await?, expected[0]);
    db.sql("update public.part set id = 150 where id = 1").await?;
    expected.push(change("DELETE", "part", Value::Null, json!({"id": 1})));
    expected.push(change("INSERT", "part", json!({"id": 150, "v": "a", "n": 5}), Value::Null));
    for expected in &expected[1..] {
        assert_eq!(brief(&mut root).await?, *expected);
    }
    db.sql("update public.part set v = 'c' where id = 150").await?;
    assert_eq!(
        brief(&mut root).await?,
        change("UPDATE", "part", json!({"id": 150, "v": "c", "n": 5}), json!({"id": 150}))
    );
    assert_eq!(brief(&mut hidden).await?, change("DELETE", "part", Value::Null, json!({"id": 1})));
    assert!(is_quiet(&mut hidden).await?, "deletes are all that is seen without a policy");
    Ok(())
}

/// postgres_changes 7.5: a row that enters the publication's filter is inserted, one that leaves it is deleted
#[tokio::test]
async fn row_filters_and_column_lists() -> Result<()> {
    let (server, db) = server().await?;
    if version(&db).await? < 15 {
        return Ok(());
    }
    db.sql(
        "create table public.chosen (id int primary key, n int, kept text, shown text);
         alter table public.chosen replica identity full;
         create table public.listed (id int primary key, kept text, shown text);
         grant select on public.chosen, public.listed to anon;
         alter publication supabase_realtime add table public.chosen where (n > 10), public.listed (shown, id);",
    )
    .await?;
    let mut chosen =
        watching(&server, "anon", json!({"schema": "public", "table": "chosen", "select": ["n"]})).await?;
    db.sql(
        "insert into public.chosen (id, n) values (1, 5); update public.chosen set n = 15; update public.chosen set n = 20;
         update public.chosen set n = 7; delete from public.chosen; insert into public.chosen (id, n) values (2, 99)",
    )
    .await?;
    for expected in [
        change("INSERT", "chosen", json!({"id": 1, "n": 15}), Value::Null),
        change("UPDATE", "chosen", json!({"id": 1, "n": 20}), json!({"id": 1, "n": 15})),
        change("DELETE", "chosen", Value::Null, json!({"id": 1, "n": 20})),
        change("INSERT", "chosen", json!({"id": 2, "n": 99}), Value::Null),
    ] {
        assert_eq!(brief(&mut chosen).await?, expected);
    }

    let mut listed = watching(&server, "anon", json!({"schema": "public", "table": "listed"})).await?;
    let unmet = json!({"schema": "public", "table": "listed", "filter": "kept=eq.k"});
    let refused = watching(&server, "anon", unmet).await.err().map(|error| error.to_string());
    assert!(refused.is_some_and(|text| text.contains("column kept of the filter is not in the log")));
    db.sql("insert into public.listed values (1, 'k', 's'); update public.listed set id = 2; delete from public.listed").await?;
    for expected in [
        change("INSERT", "listed", json!({"id": 1, "shown": "s"}), Value::Null),
        change("UPDATE", "listed", json!({"id": 2, "shown": "s"}), json!({"id": 1})),
        change("DELETE", "listed", Value::Null, json!({"id": 2})),
    ] {
        assert_eq!(brief(&mut listed).await?, expected);
    }
    Ok(())
}

/// postgres_changes 127: stored generated columns where the publication has them, which PostgreSQL 18 allows
#[tokio::test]
async fn generated_columns() -> Result<()> {
    let (server, db) = server().await?;
    let version = version(&db).await?;
    let virtual_column = if version < 18 { "" } else { ", half int generated always as (n / 2) virtual" };
    db.sql(&format!(
        "create table public.made (id int primary key, n int, twice int generated always as (n * 2) stored{virtual_column});
         grant select on public.made to anon; alter publication supabase_realtime add table public.made;"
    ))
    .await?;
    let mut all = watching(&server, "anon", json!({"schema": "public", "table": "made"})).await?;
    let twice = json!({"schema": "public", "table": "made", "filter": "twice=eq.8"});
    let refused = watching(&server, "anon", twice.clone()).await.err().map(|error| error.to_string());
    assert!(refused.is_some_and(|text| text.contains("column twice of the filter is not in the log")));
    db.sql("insert into public.made (id, n) values (1, 4)").await?;
    let data = next(&mut all).await?;
    assert_eq!(data["record"], json!({"id": 1, "n": 4}));
    assert_eq!(data["columns"][2], json!({"name": "twice", "type": "int4"}));
    if version >= 18 {
        db.sql("alter publication supabase_realtime set (publish_generated_columns = stored)").await?;
        let mut filtered = watching(&server, "anon", twice).await?;
        db.sql(
            "insert into public.made (id, n) values (2, 4), (3, 5); update public.made set n = 4 where id = 3",
        )
        .await?;
        assert_eq!(next(&mut all).await?["record"], json!({"id": 2, "n": 4, "twice": 8}));
        assert_eq!(next(&mut filtered).await?["record"]["id"], 2);
        assert_eq!(next(&mut filtered).await?["record"], json!({"id": 3, "n": 4, "twice": 8}));
    }
    Ok(())
}

/// postgres_changes 92, 99: without a primary key only deletes are told, and under row-level security not of what
#[tokio::test]
async fn tables_without_key() -> Result<()> {
    let (server, db) = server().await?;
    db.sql(
        "create table public.keyless (a int, b text);
         alter table public.keyless replica identity full;
         create table public.indexed (code text not null, v text);
         create unique index by_code on public.indexed (code);
         alter table public.indexed replica identity using index by_code;
         create table public.guarded (a int, b text);
         alter table public.guarded replica identity full;
         alter table public.guarded enable row level security;
         create policy every on public.guarded using (true);
         grant select on public.keyless, public.indexed, public.guarded to anon;
         alter publication supabase_realtime add table public.keyless, public.indexed, public.guarded;",
    )
    .await?;
    let mut socket = watching(&server, "anon", json!({"schema": "public"})).await?;
    for (table, insert, old) in [
        ("keyless", "(1, null)", json!({"a": 1, "b": null})),
        ("indexed", "('c', 'v')", json!({"code": "c"})),
        ("guarded", "(1, 'x')", json!({"a": 1, "b": "x"})),
    ] {
        let column = if table == "indexed" { "v" } else { "b" };
        db.sql(&format!(
            "insert into public.{table} values {insert}; update public.{table} set {column} = {column};
             delete from public.{table}"
        ))
        .await?;
        for kind in ["INSERT", "UPDATE"] {
            let data = next(&mut socket).await?;
            assert_eq!((&data["type"], &data["record"]), (&json!(kind), &json!({})));
            assert_eq!(data["errors"], json!(["Error 400: Bad Request, no primary key"]));
        }
        assert_eq!(brief(&mut socket).await?, change("DELETE", table, Value::Null, old));
    }
    Ok(())
}

/// postgres_changes 62: names that SQL reserves, that are as long as may be, that mean something to filters
#[tokio::test]
async fn names_of_every_kind() -> Result<()> {
    let (server, db) = server().await?;
    let long = "é".repeat(31) + "x";
    let names = [
        "select",
        "user",
        "Table",
        long.as_str(),
        "a\"b\\c",
        "__proto__",
        "id.eq.1",
        "sp ace",
        "$1",
        "😀",
        "%s_",
        "*not",
    ];
    let quote = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    for name in names {
        let quoted = quote(name);
        db.sql(&format!(
            "create table public.{quoted} ({quoted} int primary key, \"{0}{0}\" text, {1} text);
             alter table public.{quoted} enable row level security;
             create policy every on public.{quoted} using ({quoted} > 0);
             grant select on public.{quoted} to anon; alter publication supabase_realtime add table public.{quoted};",
            "other",
            quote("order"),
        ))
        .await?;
        let mut socket = watching(
            &server,
            "anon",
            json!({"schema": "public", "table": name, "filter": format!("{name}=eq.7,order=like.o%"), "select": ["order"]}),
        )
        .await?;
        db.sql(&format!("insert into public.{quoted} values (6, 'x', 'o'), (7, 'x', 'order')")).await?;
        assert_eq!(
            brief(&mut socket).await?,
            change("INSERT", name, json!({name: 7, "order": "order"}), Value::Null)
        );
    }
    Ok(())
}

/// postgres_changes 104: a table is altered in every way within the transaction that changes its rows
#[tokio::test]
async fn alterations_between_rows() -> Result<()> {
    let (server, db) = server().await?;
    db.sql(
        "create table public.fluid (id int primary key, a int, b int[], c text);
         grant select on public.fluid to anon; alter publication supabase_realtime add table public.fluid;",
    )
    .await?;
    let mut socket = watching(&server, "anon", json!({"schema": "public", "table": "fluid"})).await?;
    let statements = [
        "insert into public.fluid values (1, 1, '{1,2}', 'x')",
        "alter table public.fluid add column d jsonb default '{\"k\": 1}'",
        "insert into public.fluid values (2, 2, null, 'y')",
        "alter table public.fluid rename column c to \"C\"",
        "insert into public.fluid values (3, 3, '{3}', 'z')",
        "alter table public.fluid drop column a",
        "insert into public.fluid values (4, '{4}', 'w')",
        "alter table public.fluid alter column b type text using b::text",
        "insert into public.fluid values (5, '{5}', 'v')",
    ];
    for statement in statements {
        db.sql(statement).await?;
    }
    let kept = |record: &Value, name: &str| record.get(name).cloned().unwrap_or_default();
    let mut ids = Vec::new();
    for _ in 0..5 {
        let record = next(&mut socket).await?["record"].clone();
        // Whatever the catalog said when a row was handled: what is in the record is as it was written.
        match record["id"].as_i64() {
            Some(1) => assert!([json!([1, 2]), Value::Null].contains(&kept(&record, "b")), "{record}"),
            Some(3) => assert!(["z"].contains(&record["C"].as_str().unwrap_or("z")), "{record}"),
            Some(5) => assert_eq!(record, json!({"id": 5, "b": "{5}", "C": "v", "d": {"k": 1}})),
            _ => {}
        }
        ids.push(record["id"].clone());
    }
    assert_eq!(ids, [1, 2, 3, 4, 5]);

    // The same at once: only what the table still has is shown, with the values that the rows had.
    db.sql(
        "drop table public.fluid; create table public.fluid (id int primary key, a int, b int[], c text); \
            grant select on public.fluid to anon; alter publication supabase_realtime add table public.fluid",
    )
    .await?;
    let mut socket = watching(&server, "anon", json!({"schema": "public", "table": "fluid"})).await?;
    db.sql(&format!("begin; {}; commit", statements.join("; "))).await?;
    for expected in [
        json!({"id": 1, "b": [1, 2]}),
        json!({"id": 2, "b": null, "d": {"k": 1}}),
        json!({"id": 3, "b": [3], "C": "z", "d": {"k": 1}}),
        json!({"id": 4, "b": [4], "C": "w", "d": {"k": 1}}),
        json!({"id": 5, "b": "{5}", "C": "v", "d": {"k": 1}}),
    ] {
        let data = next(&mut socket).await?;
        assert_eq!(data["record"], expected, "{data}");
    }
    Ok(())
}

/// postgres_changes 103: TOASTed values of any type, and a TOASTed key under row-level security
#[tokio::test]
async fn unchanged_values() -> Result<()> {
    let (server, db) = server().await?;
    db.sql(
        "create table public.heavy (key text primary key, j jsonb, a text[], b bytea, n int);
         alter table public.heavy alter key set storage external, alter j set storage external, alter a set storage external,
            alter b set storage external;
         alter table public.heavy enable row level security;
         create policy every on public.heavy to anon using (true);
         grant select on public.heavy to anon; alter publication supabase_realtime add table public.heavy;",
    )
    .await?;
    let table = |filter: &str| json!({"schema": "public", "table": "heavy", "filter": filter});
    // As long as an index allows, and longer than what a row keeps in place.
    let key = "k".repeat(2600);
    let mut plain = watching(&server, "anon", table("")).await?;
    let mut by_key = watching(&server, "anon", table(&format!("key=eq.{key}"))).await?;
    db.sql(&format!(
        "insert into public.heavy values ('{key}', to_jsonb(repeat('j', 9000)), array[repeat('a', 9000)],
            convert_to(repeat('b', 9000), 'UTF8'), 1)"
    ))
    .await?;
    let inserted = next(&mut plain).await?["record"].clone();
    assert_eq!(next(&mut by_key).await?["record"], inserted);
    assert_eq!(inserted["a"][0].as_str().map(str::len), Some(9000));

    db.sql("update public.heavy set n = 2").await?;
    for socket in [&mut plain, &mut by_key] {
        assert_eq!(
            brief(socket).await?,
            change("UPDATE", "heavy", json!({"key": key, "n": 2}), json!({"key": key}))
        );
    }
    let mut by_value = watching(&server, "anon", table(&format!("a=eq.{{{}}}", "a".repeat(9000)))).await?;
    db.sql("alter table public.heavy replica identity full; update public.heavy set n = 3").await?;
    let mut expected = inserted.clone();
    for socket in [&mut plain, &mut by_key, &mut by_value] {
        expected["n"] = json!(2);
        let old = expected.clone();
        expected["n"] = json!(3);
        assert_eq!(brief(socket).await?, change("UPDATE", "heavy", expected.clone(), old));
    }
    Ok(())
}

/// postgres_changes 1.4, 2.8: publications of all tables and of schemas; actions that a publication leaves out; tables
/// that are not logged
#[tokio::test]
async fn publications_of_every_kind() -> Result<()> {
    let (server, db) = server().await?;
    db.sql(
        "drop publication supabase_realtime; create publication supabase_realtime for all tables;
         create schema realtime; grant usage on schema realtime to anon;
         create table realtime.subscription (id int primary key);
         create unlogged table public.unlogged (id int primary key);
         grant select on realtime.subscription, public.unlogged to anon;",
    )
    .await?;
    let mut every = watching(&server, "anon", json!({"schema": "*"})).await?;
    let mut named = watching(&server, "anon", json!({"schema": "realtime", "table": "subscription"})).await?;
    db.sql(
        "insert into realtime.subscription values (1); insert into public.unlogged values (1);
         create table public.later (id int primary key); grant select on public.later to anon; insert into public.later values (1);
         insert into public.test (details) values ('last')",
    )
    .await?;
    assert_eq!(brief(&mut every).await?, change("INSERT", "later", json!({"id": 1}), Value::Null));
    assert_eq!(brief(&mut every).await?.2["details"], "last");
    assert_eq!(brief(&mut named).await?, change("INSERT", "subscription", json!({"id": 1}), Value::Null));

    db.sql(
        "alter publication supabase_realtime set (publish = 'update');
         insert into public.later values (2); update public.later set id = 3 where id = 2; delete from public.later",
    )
    .await?;
    assert_eq!(brief(&mut every).await?, change("UPDATE", "later", json!({"id": 3}), json!({"id": 2})));
    assert!(is_quiet(&mut every).await?);

    if version(&db).await? < 15 {
        return Ok(());
    }
    let (server, db) = crate::server().await?;
    db.sql("create schema extra; grant usage on schema extra to anon").await?;
    let mut socket = watching(&server, "anon", json!({"schema": "*"})).await?;
    db.sql(
        "alter publication supabase_realtime add tables in schema extra; create table extra.thing (id int primary key);
         grant select on extra.thing to anon; insert into extra.thing values (1)",
    )
    .await?;
    assert_eq!(brief(&mut socket).await?, change("INSERT", "thing", json!({"id": 1}), Value::Null));
    Ok(())
}

/// A composite type that is altered is known anew with the next description of a table that has it. Labels of enums
/// need not be known.
#[tokio::test]
async fn altered_types() -> Result<()> {
    let (server, db) = server().await?;
    db.sql(
        "create type public.pair as (n int, t text); create type public.mood as enum ('a');
         create table public.typed (id int primary key, p public.pair, ps public.pair[], m public.mood);
         grant select on public.typed to anon; alter publication supabase_realtime add table public.typed;",
    )
    .await?;
    let mut socket = watching(&server, "anon", json!({"schema": "public", "table": "typed"})).await?;
    db.sql(r#"insert into public.typed values (1, '(1,a)', '{"(1,a)"}', 'a')"#).await?;
    let pair = json!({"n": 1, "t": "a"});
    assert_eq!(next(&mut socket).await?["record"], json!({"id": 1, "p": pair, "ps": [pair], "m": "a"}));
    db.sql("alter type public.mood add value 'b'").await?;
    db.sql(
        r#"alter type public.pair drop attribute n, add attribute x int; alter type public.pair rename attribute t to "T";
         grant select on public.typed to authenticated; insert into public.typed values (2, '(a,2)', '{"(a,3)"}', 'b')"#,
    )
    .await?;
    let record = next(&mut socket).await?["record"].clone();
    assert_eq!(record, json!({"id": 2, "p": {"T": "a", "x": 2}, "ps": [{"T": "a", "x": 3}], "m": "b"}));
    Ok(())
}

/// Any name that PostgreSQL takes, capital letters before all: in the list that the log is asked for it would be another.
#[tokio::test]
async fn publications_of_any_name() -> Result<()> {
    for name in ["MyPublication", r#"odd "name", it's"#] {
        let db = TestDb::with_fixture_a().await?;
        let quoted = name.replace('"', "\"\"");
        db.sql(&format!(r#"alter publication supabase_realtime rename to "{quoted}""#)).await?;
        let options = ServerOptions::default().env("DB_PUBLICATION", name);
        let server = Server::start(BINARY, &db, options).await?;
        db.sql(&format!(
            r#"create table public.thing (id int primary key); grant select on public.thing to anon;
             alter publication "{quoted}" add table public.thing"#
        ))
        .await?;
        let mut socket = watching(&server, "anon", json!({"schema": "public", "table": "thing"})).await?;
        db.sql("insert into public.thing values (1)").await?;
        let expected = change("INSERT", "thing", json!({"id": 1}), Value::Null);
        assert_eq!(brief(&mut socket).await?, expected, "{name}");
    }
    Ok(())
}
