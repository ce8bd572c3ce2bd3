//! Row changes as clients see them (postgres_changes 2, cases 46 to 66, 81 to 96, 103).

use anyhow::Result;
use realtime_testkit::{Server, ServerOptions, Socket, TestDb, Version};
use serde_json::{Value, json};

use crate::{BINARY, server};

const TOPIC: &str = "realtime:any";

/// Columns of fixture A.
fn columns_a() -> Value {
    json!([{"name": "id", "type": "int4"}, {"name": "details", "type": "text"}, {"name": "binary_data", "type": "bytea"}])
}

async fn watching(server: &Server, version: Version, subscription: Value) -> Result<(Socket, u64)> {
    let mut socket = server.socket(version, "anon").await?;
    let ids = socket.watch(TOPIC, json!([subscription])).await?;
    Ok((socket, ids[0]))
}

/// The next change's `data` without its time, which is checked for its form.
async fn data(socket: &mut Socket) -> Result<Value> {
    let mut data = socket.event(TOPIC, "postgres_changes").await?["data"].clone();
    let time = data["commit_timestamp"].as_str().unwrap_or_default().to_owned();
    assert!(time.len() == 24 && time.ends_with('Z') && time.as_bytes()[19] == b'.', "{time}");
    data.as_object_mut().map(|data| data.remove("commit_timestamp"));
    Ok(data)
}

/// postgres_changes 46 to 52: whole payloads, in both serializers
#[tokio::test]
async fn insert_update_delete() -> Result<()> {
    let (server, db) = server().await?;
    let every = json!({"event": "*", "schema": "public", "table": "test"});
    let (mut v1, v1_id) = watching(&server, Version::V1, every.clone()).await?;
    let (mut v2, v2_id) = watching(&server, Version::V2, every).await?;
    assert_eq!(v1_id, v2_id);
    db.sql("insert into public.test (details, binary_data) values ('test', '\\x0102030405')").await?;
    db.sql("update public.test set details = 'new'").await?;
    db.sql("delete from public.test").await?;
    for socket in [&mut v1, &mut v2] {
        let frame = socket.frame().await?;
        assert_eq!((frame.event.as_str(), frame.topic.as_str()), ("postgres_changes", TOPIC));
        assert_eq!((frame.join_ref, frame.msg_ref), (Value::Null, Value::Null));
        let mut payload = frame.payload;
        payload["data"].as_object_mut().map(|data| data.remove("commit_timestamp"));
        let record = json!({"id": 1, "details": "test", "binary_data": "0102030405"});
        assert_eq!(
            payload,
            json!({"ids": [v1_id], "data": {
                "type": "INSERT", "schema": "public", "table": "test", "columns": columns_a(), "record": record, "errors": null,
            }})
        );
        assert_eq!(
            data(socket).await?,
            json!({"type": "UPDATE", "schema": "public", "table": "test", "columns": columns_a(), "errors": null,
                "record": {"id": 1, "details": "new", "binary_data": "0102030405"}, "old_record": {"id": 1}})
        );
        assert_eq!(
            data(socket).await?,
            json!({"type": "DELETE", "schema": "public", "table": "test", "columns": columns_a(), "errors": null,
                "old_record": {"id": 1}})
        );
    }
    Ok(())
}

/// postgres_changes 48, 49, 51; protocol 84, 85
#[tokio::test]
async fn events_reach_who_asked_for_them() -> Result<()> {
    let (server, db) = server().await?;
    let mut socket = server.socket(Version::V2, "anon").await?;
    let on = |event: &str| json!({"event": event, "schema": "public", "table": "test"});
    let ids = socket.watch(TOPIC, json!([on("INSERT"), on("DELETE")])).await?;
    db.sql("insert into public.test default values; update public.test set details = 'x'; delete from public.test").await?;
    for (id, kind) in [(ids[0], "INSERT"), (ids[1], "DELETE")] {
        let payload = socket.event(TOPIC, "postgres_changes").await?;
        assert_eq!((&payload["ids"], &payload["data"]["type"]), (&json!([id]), &json!(kind)));
    }
    let (mut updates, _) = watching(&server, Version::V2, on("UPDATE")).await?;
    db.sql("insert into public.test default values; update public.test set details = 'x'; delete from public.test").await?;
    assert_eq!(data(&mut updates).await?["type"], "UPDATE");
    Ok(())
}

/// Several matching subscriptions of one channel share a frame; equal ones repeat their id (1.1, 2.1).
#[tokio::test]
async fn one_frame_for_all_subscriptions_of_a_channel() -> Result<()> {
    let (server, db) = server().await?;
    let mut socket = server.socket(Version::V2, "anon").await?;
    let table = json!({"schema": "public", "table": "test"});
    let ids = socket.watch(TOPIC, json!([table, {"schema": "public"}, table])).await?;
    db.sql("insert into public.test default values").await?;
    assert_eq!(socket.event(TOPIC, "postgres_changes").await?["ids"], json!(ids));
    assert!(socket.settle().await?.is_empty());
    Ok(())
}

/// postgres_changes 53; protocol 89; recording 13
#[tokio::test]
async fn joins_without_config_watch_what_their_topic_says() -> Result<()> {
    let (server, db) = server().await?;
    for version in Version::BOTH {
        let mut socket = server.socket(version, "anon").await?;
        let topics = [
            "realtime:*",
            "realtime:public",
            "realtime:public:test",
            "realtime:public:test:id=eq.1",
            "realtime:public:test:id=eq.2",
        ];
        for topic in topics {
            let (reply, _) = socket.join(topic, json!({})).await?;
            let echo = &reply["response"]["postgres_changes"];
            assert_eq!(echo.as_array().map(Vec::len), Some(1), "{reply}");
            assert!(echo[0]["id"].as_u64().is_some_and(|id| id > 0));
            assert_eq!(socket.event(topic, "system").await?["status"], "ok");
        }
        db.sql("insert into public.test (details) values ('legacy')").await?;
        for topic in &topics[..4] {
            let payload = socket.event(topic, "INSERT").await?;
            assert_eq!(
                (&payload["type"], &payload["record"]["details"]),
                (&json!("INSERT"), &json!("legacy"))
            );
            assert!(payload.get("ids").is_none());
        }
        let more = socket.settle().await?;
        assert!(more.is_empty(), "{more:?}");
        db.sql("truncate public.test restart identity").await?;
        // It was read from the log: nobody who comes later is told of it.
        assert_eq!(socket.event(topics[0], "system").await?["code"], "Truncated");
    }
    let mut socket = server.socket(Version::V2, "anon").await?;
    let (reply, _) = socket.join("realtime:room1", json!({})).await?;
    assert_eq!(reply["status"], "ok");
    let system = socket.event("realtime:room1", "system").await?;
    assert!(system["message"].as_str().unwrap_or_default().contains("schema: room1"), "{system}");
    Ok(())
}

/// postgres_changes 58, 59, 60
#[tokio::test]
async fn old_records_follow_the_replica_identity() -> Result<()> {
    let (server, db) = server().await?;
    db.sql(
        "create table public.notes (id int primary key, body text);
         create table public.pair (pk1 int, pk2 char(1), v text, primary key (pk1, pk2));
         create table public.indexed (id int primary key, code text not null);
         create unique index by_code on public.indexed (code);
         alter table public.indexed replica identity using index by_code;
         grant select on public.notes, public.pair, public.indexed to anon;
         alter publication supabase_realtime add table public.notes, public.pair, public.indexed;",
    )
    .await?;
    let (mut socket, _) =
        watching(&server, Version::V2, json!({"event": "UPDATE", "schema": "public"})).await?;
    db.sql("insert into public.notes values (1, 'take out trash'); update public.notes set id = 2").await?;
    let change = data(&mut socket).await?;
    assert_eq!(change["record"], json!({"id": 2, "body": "take out trash"}));
    assert_eq!(change["old_record"], json!({"id": 1}));

    db.sql("insert into public.pair values (1, 'a', 'x'); update public.pair set v = 'y'").await?;
    let change = data(&mut socket).await?;
    assert_eq!(change["old_record"], json!({"pk1": 1, "pk2": "a"}));
    assert_eq!(change["columns"][1], json!({"name": "pk2", "type": "bpchar"}));

    db.sql("alter table public.pair replica identity full; update public.pair set v = 'z'").await?;
    assert_eq!(data(&mut socket).await?["old_record"], json!({"pk1": 1, "pk2": "a", "v": "y"}));

    db.sql("insert into public.indexed values (1, 'a'); update public.indexed set id = 2").await?;
    assert_eq!(data(&mut socket).await?["old_record"], json!({"code": "a"}));
    Ok(())
}

/// postgres_changes 30, 61, 62
#[tokio::test]
async fn names_are_verbatim() -> Result<()> {
    let (server, db) = server().await?;
    for (schema, table) in [
        ("public", "my table"),
        ("public", "my,table"),
        ("public", "my.table"),
        ("public", "my\ttable"),
        ("public", "my\"table"),
        ("public", "my\\table"),
        ("public", "Select"),
        ("public", "😀"),
        ("my schema", "t"),
        ("test \"schema", "t"),
    ] {
        let quote = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let (s, t) = (quote(schema), quote(table));
        db.sql(&format!(
            "create schema if not exists {s}; grant usage on schema {s} to anon;
             create table {s}.{t} (id serial primary key, \"Na me\" text); grant select on {s}.{t} to anon;
             alter publication supabase_realtime add table {s}.{t};"
        ))
        .await?;
        let (mut socket, _) =
            watching(&server, Version::V2, json!({"schema": schema, "table": table})).await?;
        db.sql(&format!("insert into {s}.{t} (\"Na me\") values ('x')")).await?;
        let change = data(&mut socket).await?;
        assert_eq!((&change["schema"], &change["table"]), (&json!(schema), &json!(table)));
        assert_eq!(change["record"], json!({"id": 1, "Na me": "x"}));
    }
    Ok(())
}

/// postgres_changes 64, 65, 66
#[tokio::test]
async fn transactions_come_whole_and_in_order() -> Result<()> {
    let db = TestDb::with_fixture_a().await?;
    // As many rows as come here in one count of five seconds are too many by default.
    let options = ServerOptions::default().env("TENANT_MAX_EVENTS_PER_SECOND", "1000000");
    let server = Server::start(BINARY, &db, options).await?;
    let (mut socket, _) = watching(&server, Version::V2, json!({"schema": "public"})).await?;
    db.sql(
        "begin; insert into public.test (details) values ('a'); update public.test set details = details;
         savepoint s; insert into public.test (details) values ('lost'); rollback to s;
         delete from public.test; commit; truncate public.test;
         begin; insert into public.test (details) values ('gone'); rollback;
         insert into public.test (details) values ('last')",
    )
    .await?;
    let mut times = Vec::new();
    for kind in ["INSERT", "UPDATE", "DELETE"] {
        let payload = socket.event(TOPIC, "postgres_changes").await?;
        assert_eq!(payload["data"]["type"], kind);
        times.push(payload["data"]["commit_timestamp"].clone());
    }
    assert!(times[0] == times[1] && times[1] == times[2], "{times:?}");
    assert_eq!(data(&mut socket).await?["record"]["details"], "last");

    let rows = 1000;
    db.sql(&format!("insert into public.test (details) select n::text from generate_series(1, {rows}) n"))
        .await?;
    for n in 1..=rows {
        assert_eq!(data(&mut socket).await?["record"]["details"], json!(n.to_string()));
    }
    Ok(())
}

/// postgres_changes 81, 82, 83, 85, 86, 87; protocol 86
#[tokio::test]
async fn selected_columns() -> Result<()> {
    let (server, db) = server().await?;
    db.sql("alter table public.test replica identity full").await?;
    let table = |select: Value| json!({"schema": "public", "table": "test", "select": select});
    let mut socket = server.socket(Version::V2, "anon").await?;
    let ids = socket.watch(TOPIC, json!([table(json!(["details"])), {"schema": "public", "table": "test"}, table(json!(["details", "id"]))])).await?;
    db.sql("insert into public.test (details, binary_data) values ('a', '\\x01')").await?;
    let trimmed = socket.event(TOPIC, "postgres_changes").await?;
    let whole = socket.event(TOPIC, "postgres_changes").await?;
    assert_eq!((&trimmed["ids"], &whole["ids"]), (&json!([ids[0], ids[2]]), &json!([ids[1]])));
    assert_eq!(trimmed["data"]["record"], json!({"id": 1, "details": "a"}));
    assert_eq!(
        trimmed["data"]["columns"],
        json!([{"name": "id", "type": "int4"}, {"name": "details", "type": "text"}])
    );
    assert_eq!(whole["data"]["record"], json!({"id": 1, "details": "a", "binary_data": "01"}));

    let (mut socket, _) = watching(
        &server,
        Version::V2,
        json!({"schema": "public", "table": "test", "select": ["details"], "filter": "binary_data=eq.01"}),
    )
    .await?;
    db.sql("update public.test set details = 'b'; insert into public.test (details) values ('no'); delete from public.test").await?;
    let update = data(&mut socket).await?;
    assert_eq!(
        (&update["record"], &update["old_record"]),
        (&json!({"id": 1, "details": "b"}), &json!({"id": 1, "details": "a"}))
    );
    assert_eq!(data(&mut socket).await?["old_record"], json!({"id": 1, "details": "b"}));
    assert!(socket.settle().await?.is_empty());
    Ok(())
}

/// postgres_changes 91, 92, 93, 94 and decision 6
#[tokio::test]
async fn privileges_shape_what_is_sent() -> Result<()> {
    let (server, db) = server().await?;
    db.sql(
        "create table public.notes (id int primary key, body text);
         create table public.keyless (v text);
         alter table public.keyless replica identity full;
         grant select (id) on public.notes to anon; grant select on public.notes to authenticated;
         grant select on public.keyless to anon;
         alter publication supabase_realtime add table public.notes, public.keyless;",
    )
    .await?;
    let notes = json!({"schema": "public", "table": "notes"});
    let (mut anon, _) = watching(&server, Version::V2, notes.clone()).await?;
    let mut authenticated = server.socket(Version::V2, "authenticated").await?;
    authenticated.watch(TOPIC, json!([notes.clone()])).await?;
    db.sql("insert into public.notes values (1, 'hello')").await?;
    let change = data(&mut anon).await?;
    assert_eq!(
        (&change["record"], &change["columns"]),
        (&json!({"id": 1}), &json!([{"name": "id", "type": "int4"}]))
    );
    assert_eq!(data(&mut authenticated).await?["record"], json!({"id": 1, "body": "hello"}));

    let unauthorized = |kind: &str| {
        let mut data = json!({"type": kind, "schema": "public", "table": "notes", "columns": [], "record": {},
            "errors": ["Error 401: Unauthorized"]});
        if kind == "UPDATE" {
            data["old_record"] = json!({});
        }
        data
    };
    db.sql("revoke select on public.notes from anon; revoke select (id) on public.notes from anon").await?;
    db.sql("insert into public.notes values (2, 'x'); update public.notes set body = 'y' where id = 2; delete from public.notes where id = 2").await?;
    // The time is checked and taken out.
    assert_eq!(data(&mut anon).await?, unauthorized("INSERT"));
    assert_eq!(data(&mut anon).await?, unauthorized("UPDATE"));
    for kind in ["INSERT", "UPDATE", "DELETE"] {
        assert_eq!(data(&mut authenticated).await?["type"], kind);
    }
    assert!(anon.settle().await?.is_empty(), "a role without any privilege gets no deletes");

    let (mut keyless, _) =
        watching(&server, Version::V2, json!({"schema": "public", "table": "keyless", "filter": "v=eq.no"}))
            .await?;
    db.sql("insert into public.keyless values ('a')").await?;
    assert_eq!(
        data(&mut keyless).await?,
        json!({"type": "INSERT", "schema": "public", "table": "keyless", "columns": [], "record": {},
            "errors": ["Error 400: Bad Request, no primary key"]})
    );
    db.sql("insert into public.keyless values ('no'); delete from public.keyless").await?;
    keyless.event(TOPIC, "postgres_changes").await?;
    let deleted = data(&mut keyless).await?;
    assert_eq!((&deleted["type"], &deleted["old_record"]), (&json!("DELETE"), &json!({"v": "no"})));
    Ok(())
}

/// postgres_changes 95, 96, 103
#[tokio::test]
async fn large_rows_and_unchanged_values() -> Result<()> {
    let (server, db) = server().await?;
    db.sql(
        "create table public.notes (id int primary key, body text, s62 text, s63 text, n numeric, nothing text);
         alter table public.notes alter body set storage external;
         grant select on public.notes to anon;
         alter publication supabase_realtime add table public.notes;",
    )
    .await?;
    let (mut socket, _) =
        watching(&server, Version::V2, json!({"schema": "public", "table": "notes"})).await?;
    db.sql("insert into public.notes values (1, repeat('x', 5 * 1024 * 1024), repeat('a', 62), repeat('b', 63), 1.5, null)").await?;
    let change = data(&mut socket).await?;
    assert_eq!(change["errors"], json!(["Error 413: Payload Too Large"]));
    assert_eq!(change["record"], json!({"id": 1, "s62": "a".repeat(62), "n": 1.5}));
    assert_eq!(change["columns"].as_array().map(Vec::len), Some(6));

    db.sql("update public.notes set body = repeat('y', 9000)").await?;
    data(&mut socket).await?;
    db.sql("update public.notes set n = 2").await?;
    let change = data(&mut socket).await?;
    assert!(change["record"].get("body").is_none(), "an unchanged TOASTed value is not in the log");
    assert_eq!(change["record"]["n"], 2);
    db.sql("alter table public.notes replica identity full; update public.notes set n = 3").await?;
    assert_eq!(data(&mut socket).await?["record"]["body"].as_str().map(str::len), Some(9000));
    Ok(())
}

/// Recording 09: every common type, as the original sends it but for decision 4 (char(n), bit(n)).
#[tokio::test]
async fn values_of_every_type() -> Result<()> {
    let (server, db) = server().await?;
    db.sql(
        "create type public.mood as enum ('sad', 'ok', 'happy');
         create type public.pair as (n int, t text);
         create domain public.posint as int;
         create table public.all_types (id bigint generated always as identity primary key, i2 int2, i8 int8, num numeric,
            f4 float4, f8 float8, t text, vc varchar(20), ch char(4), b bool, j json, jb jsonb, u uuid, tstz timestamptz,
            ts timestamp, d date, tm time, tmtz timetz, iv interval, by bytea, ia int[], ta text[], ba bool[], na numeric[],
            ja jsonb[], e public.mood, ea public.mood[], ip inet, pt point, rng int4range, bt bit(4), oidc oid,
            p public.pair, pi public.posint);
         grant select on public.all_types to anon;
         alter publication supabase_realtime add table public.all_types;
         alter database \"DATABASE\" set timezone = 'Asia/Kolkata'; alter database \"DATABASE\" set datestyle = 'German';"
            .replace("DATABASE", db.name())
            .as_str(),
    )
    .await?;
    let (mut socket, _) =
        watching(&server, Version::V2, json!({"schema": "public", "table": "all_types"})).await?;
    db.sql(
        r#"insert into public.all_types (i2,i8,num,f4,f8,t,vc,ch,b,j,jb,u,tstz,ts,d,tm,tmtz,iv,by,ia,ta,ba,na,ja,e,ea,ip,pt,rng,bt,oidc,p,pi)
        values (-32768, 9223372036854775807, 123456789012345678901234567890.123456789, 1.5, 0.1, E'text é ☃ "quoted" \\ back\n',
        'varchar', 'ch', true, '{"b": 1,  "a":[1,2.50,null]}', '{"b": 1,  "a":[1,2.50,null]}', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11',
        '2026-01-02 03:04:05.678901+02', '2026-01-02 03:04:05.5', '2026-01-02', '03:04:05.6', '03:04:05+02', '1 day 02:03:04',
        '\xdeadbeef00', '{1,2,NULL}', '{a,"b c",NULL,"d,e"}', '{t,f}', '{1.5,2}', '{"{\"a\": 1}"}', 'happy', '{sad,ok}', '10.0.0.1',
        '(1,2)', '[1,5)', '1010', 12345, '(1,"a b")', 5)"#,
    )
    .await?;
    let payload = socket.event(TOPIC, "postgres_changes").await?;
    let mut record = payload["data"]["record"].clone();
    // More digits than a float has: compared by what reading them as one gives.
    assert!(
        record["num"].as_f64().is_some_and(|num| (num - 1.234_567_890_123_456_8e29).abs() < 1e15),
        "{record}"
    );
    record.as_object_mut().map(|record| record.remove("num"));
    assert_eq!(
        record,
        json!({"id": 1, "i2": -32768, "i8": 9_223_372_036_854_775_807_i64, "f4": 1.5, "f8": 0.1,
            "t": "text é ☃ \"quoted\" \\ back\n", "vc": "varchar", "ch": "ch  ", "b": true, "j": {"a": [1, 2.50, null], "b": 1},
            "jb": {"a": [1, 2.50, null], "b": 1}, "u": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "tstz": "2026-01-02T01:04:05.678901+00:00", "ts": "2026-01-02T03:04:05.5", "d": "2026-01-02", "tm": "03:04:05.6",
            "tmtz": "03:04:05+02", "iv": "1 day 02:03:04", "by": "deadbeef00", "ia": [1, 2, null], "ta": ["a", "b c", null, "d,e"],
            "ba": [true, false], "na": [1.5, 2], "ja": [{"a": 1}], "e": "happy", "ea": ["sad", "ok"], "ip": "10.0.0.1",
            "pt": "(1,2)", "rng": "[1,5)", "bt": "1010", "oidc": "12345", "p": {"n": 1, "t": "a b"}, "pi": 5})
    );
    let types: Vec<_> = payload["data"]["columns"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|c| c["type"].as_str())
        .collect();
    assert_eq!(
        types[..9],
        ["int8", "int2", "int8", "numeric", "float4", "float8", "text", "varchar", "bpchar"]
    );
    assert_eq!(types[types.len() - 2..], ["pair", "posint"]);

    db.sql(
        "insert into public.all_types (f4, f8, num, i8, ts, tstz, d, t, ia, ta, jb, b)
         values ('NaN', 'Infinity', 'NaN', 9007199254740993, 'infinity', '-infinity', '0044-03-15 BC', '', '{}', '{{a,b},{c,d}}', '\"str\"', false)",
    )
    .await?;
    let record = data(&mut socket).await?["record"].clone();
    for (column, value) in [
        ("f4", Value::Null),
        ("f8", Value::Null),
        ("num", Value::Null),
        ("i8", json!(9_007_199_254_740_993_i64)),
        ("ts", json!("infinity")),
        ("tstz", json!("-infinity")),
        ("d", json!("0044-03-15 BC")),
        ("t", json!("")),
        ("ia", json!([])),
        ("ta", json!([["a", "b"], ["c", "d"]])),
        ("jb", json!("str")),
        ("b", json!(false)),
        ("e", Value::Null),
    ] {
        assert_eq!(record[column], value, "{column}");
    }
    Ok(())
}
