//! Filters on row changes (postgres_changes 1.6, cases 67 to 80).

use anyhow::Result;
use realtime_testkit::{Server, Socket, TestDb, Version};
use serde_json::{Value, json};

use crate::server;

const TOPIC: &str = "realtime:any";

async fn watching(server: &Server, table: &str, filter: &str) -> Result<Socket> {
    let mut socket = server.socket(Version::V2, "anon").await?;
    let subscription = json!({"event": "*", "schema": "public", "table": table, "filter": filter});
    socket.watch(TOPIC, json!([subscription])).await?;
    Ok(socket)
}

/// What a socket got by the time `witness`, who gets everything, has seen the mark.
async fn got(socket: &mut Socket, witness: &mut Socket, db: &TestDb, table: &str) -> Result<Vec<Value>> {
    // Changes go out in commit order: what precedes the mark was handed over before it.
    db.sql(&format!("alter table public.{table} alter id set default 0; insert into public.{table} (id) values (-999); delete from public.{table} where id = -999")).await?;
    witness
        .expect(|frame| {
            frame.payload["data"]["type"] == "DELETE" && frame.payload["data"]["old_record"]["id"] == -999
        })
        .await?;
    let frames = socket.settle().await?;
    Ok(frames
        .into_iter()
        .map(|frame| frame.payload["data"].clone())
        .filter(|data| data["record"]["id"] != -999 && data["old_record"]["id"] != -999)
        .collect())
}

fn kinds(changes: &[Value]) -> Vec<&str> {
    changes.iter().filter_map(|change| change["type"].as_str()).collect()
}

/// protocol 87, postgres_changes 67: every operator delivers insert, update and delete of a matching row
#[tokio::test]
async fn every_operator_delivers_what_matches() -> Result<()> {
    let (server, db) = server().await?;
    db.sql("alter table public.test replica identity full").await?;
    let cases = [
        ("eq.hello", "'hello'"),
        ("neq.other", "'hello'"),
        ("lt.m", "'a'"),
        ("lte.m", "'m'"),
        ("gt.a", "'z'"),
        ("gte.z", "'z'"),
        ("in.(hello,world)", "'hello'"),
        ("like.hel%", "'hello'"),
        ("ilike.HEL%", "'hello'"),
        ("ilike.É%", "'École'"),
        ("is.null", "null"),
        ("match.^hel", "'hello'"),
        ("imatch.^HEL", "'hello'"),
        ("isdistinct.other", "'hello'"),
        ("isdistinct.other", "null"),
        ("not.eq.skip", "'keep'"),
        ("not.in.(a,b)", "'c'"),
        ("not.match.^x", "'hello'"),
        ("not.is.null", "'x'"),
        ("eq.\"a,b\"", "'a,b'"),
        ("eq.O'Brien \"x\"", "'O''Brien \"x\"'"),
    ];
    for (filter, value) in cases {
        let mut socket = watching(&server, "test", &format!("details={filter}")).await?;
        db.sql(&format!("insert into public.test (details) values ({value}); update public.test set details = details; delete from public.test")).await?;
        for kind in ["INSERT", "UPDATE", "DELETE"] {
            let change = socket.event(TOPIC, "postgres_changes").await?;
            assert_eq!(change["data"]["type"], kind, "{filter}");
        }
    }
    Ok(())
}

/// postgres_changes 68 to 72, 74, 79: nothing else is delivered
#[tokio::test]
async fn only_what_matches_is_delivered() -> Result<()> {
    let (server, db) = server().await?;
    let mut witness = watching(&server, "test", "").await?;
    for (filter, expected) in [
        ("details=eq.match,id=gt.0", vec![1]),
        ("details=not.eq.match", vec![2, 3, 4]),
        ("id=eq.3", vec![3]),
        ("id=in.(2,4)", vec![2, 4]),
        ("id=in.()", vec![]),
        ("id=gt.1,id=lte.3", vec![2, 3]),
        ("details=like.%ma%,details=not.like.no%", vec![1]),
        ("details=is.null", vec![5]),
        ("details=not.is.null,id=gte.4", vec![4]),
        ("details=gt.match", vec![2, 3]),
        ("details=imatch.^NO", vec![2, 3]),
        ("id=not.in.(1,2,NULL)", vec![]),
        ("details=isdistinct.null", vec![1, 2, 3, 4, 5]),
    ] {
        let mut socket = watching(&server, "test", filter).await?;
        db.sql(
            "insert into public.test (id, details) values (1, 'match'), (2, 'no-match'), (3, 'nothing'), (4, 'm'), (5, null);
             delete from public.test",
        )
        .await?;
        let changes = got(&mut socket, &mut witness, &db, "test").await?;
        let inserted: Vec<i64> = changes
            .iter()
            .filter(|c| c["type"] == "INSERT")
            .filter_map(|c| c["record"]["id"].as_i64())
            .collect();
        assert_eq!(inserted, expected, "{filter}");
    }
    Ok(())
}

/// postgres_changes 76: the matrix of 1.6
#[tokio::test]
async fn nulls() -> Result<()> {
    let (server, db) = server().await?;
    db.sql(
        "create table public.n (id int primary key, t text, b bool);
         grant select on public.n to anon; alter publication supabase_realtime add table public.n;",
    )
    .await?;
    let mut witness = watching(&server, "n", "").await?;
    // Rows: 1 null, 2 'x', 3 'y'.
    for (filter, expected) in [
        ("t=eq.x", vec![2]),
        ("t=neq.x", vec![3]),
        ("t=not.eq.x", vec![3]),
        ("t=not.in.(x)", vec![3]),
        ("t=is.null", vec![1]),
        ("t=not.is.null", vec![2, 3]),
        ("t=isdistinct.x", vec![1, 3]),
        ("t=not.isdistinct.x", vec![2]),
        ("t=not.in.(y,NULL)", vec![]),
        ("t=in.(y,NULL)", vec![3]),
        ("b=is.unknown", vec![1]),
        ("b=not.is.true", vec![1, 3]),
        ("b=is.false", vec![3]),
    ] {
        let mut socket = watching(&server, "n", filter).await?;
        db.sql("insert into public.n values (1, null, null), (2, 'x', true), (3, 'y', false)").await?;
        let changes = got(&mut socket, &mut witness, &db, "n").await?;
        let ids: Vec<i64> = changes.iter().filter_map(|change| change["record"]["id"].as_i64()).collect();
        assert_eq!(ids, expected, "{filter}");
        db.sql("delete from public.n").await?;
    }
    Ok(())
}

/// postgres_changes 73, 75, 78, 80 and the types of 1.6: native or asked, the answer is PostgreSQL's
#[tokio::test]
async fn types_compare_as_in_postgresql() -> Result<()> {
    let (server, db) = server().await?;
    db.sql(
        "create type public.\"Color\" as enum ('RED', 'GREEN', 'BLUE');
         create domain public.posint as int check (value > 0);
         create table public.k (id int primary key default 1, n numeric, f float8, u uuid, c public.\"Color\", d date, tz timestamptz,
            iv interval, ip inet, j jsonb, a int[], ch char(5), vc varchar, by bytea, p public.posint, b bool, r int4range);
         grant select on public.k to anon; alter publication supabase_realtime add table public.k;",
    )
    .await?;
    let u = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
    let mut witness = watching(&server, "k", "").await?;
    for (filter, value, matches) in [
        ("n=eq.1.5", "n = 1.50", true),
        ("n=gt.5", "n = 'Infinity'", true),
        ("n=lt.10", "n = 9.99", true),
        ("n=lt.10", "n = 10", false),
        ("n=eq.NaN", "n = 'NaN'", true),
        ("f=eq.0", "f = '-0'", true),
        ("f=gte.1e20", "f = 1e21", true),
        ("u=in.(A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11)", &format!("u = '{u}'"), true),
        ("c=eq.RED", "c = 'RED'", true),
        ("c=eq.RED", "c = 'GREEN'", false),
        ("c=gt.RED", "c = 'BLUE'", true),
        ("d=lt.2024-02-01", "d = '2024-01-31'", true),
        ("d=eq.2024-1-31", "d = '2024-01-31'", true),
        ("d=gt.2024-02-01", "d = 'infinity'", true),
        ("tz=eq.2024-01-01 01:00:00+01", "tz = '2024-01-01 00:00:00+00'", true),
        ("tz=gte.2024-01-01", "tz = '2023-12-31 23:59:59+00'", false),
        ("iv=eq.24:00:00", "iv = '1 day'", true),
        ("ip=eq.10.0.0.1", "ip = '10.0.0.1/32'", true),
        ("j=eq.{\"a\":1}", "j = '{\"a\": 1}'", true),
        ("a=eq.\"{1,2}\"", "a = '{1,2}'", true),
        ("a=eq.\"{1,2}\"", "a = '{1,3}'", false),
        ("ch=eq.ab", "ch = 'ab'", true),
        ("ch=eq.a", "ch = 'ab'", false),
        ("vc=eq.ab", "vc = 'ab'", true),
        ("by=eq.\\x0102", "by = '\\x0102'", true),
        ("by=eq.0102", "by = '\\x0102'", true),
        ("p=eq.5", "p = 5", true),
        ("b=eq.true", "b = true", true),
        ("r=eq.\"[1,5)\"", "r = '[1,4]'", true),
    ] {
        let mut socket = watching(&server, "k", filter).await?;
        db.sql(&format!(
            "insert into public.k default values; update public.k set {value}; delete from public.k"
        ))
        .await?;
        let changes = got(&mut socket, &mut witness, &db, "k").await?;
        assert_eq!(kinds(&changes), if matches { vec!["UPDATE"] } else { vec![] }, "{filter} on {value}");
    }
    Ok(())
}

/// postgres_changes 77
#[tokio::test]
async fn filters_on_deletes_see_the_replica_identity() -> Result<()> {
    let (server, db) = server().await?;
    let mut by_details = watching(&server, "test", "details=eq.bbb").await?;
    let mut by_id = watching(&server, "test", "id=eq.2").await?;
    db.sql("insert into public.test (id, details) values (1, 'bbb'), (2, 'ccc'); delete from public.test")
        .await?;
    assert_eq!(by_id.event(TOPIC, "postgres_changes").await?["data"]["type"], "INSERT");
    assert_eq!(by_id.event(TOPIC, "postgres_changes").await?["data"]["old_record"], json!({"id": 2}));
    assert_eq!(by_details.event(TOPIC, "postgres_changes").await?["data"]["type"], "INSERT");
    assert!(by_details.settle().await?.is_empty(), "the key does not tell");

    db.sql("alter table public.test replica identity full; insert into public.test (id, details) values (1, 'bbb'); delete from public.test").await?;
    by_details.event(TOPIC, "postgres_changes").await?;
    let deleted = by_details.event(TOPIC, "postgres_changes").await?;
    assert_eq!(deleted["data"]["old_record"], json!({"id": 1, "details": "bbb", "binary_data": null}));
    Ok(())
}
