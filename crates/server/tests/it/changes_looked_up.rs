//! What policies read and the log does not carry is looked up in the table, while the version stands there (row_security 2;
//! its cases are numbered as there).

use anyhow::Result;
use realtime_testkit::{Socket, TestDb};
use serde_json::{Value, json};

use crate::changes_images::{event, frames, seen, server, watching};

/// A row does not arrive, and its watcher is told that it was withheld.
async fn is_withheld_and_told(db: &TestDb, socket: &mut Socket) -> Result<()> {
    let frames = frames(db, socket).await?;
    let told: Vec<&Value> =
        frames.iter().map(|frame| &frame.payload["code"]).filter(|code| !code.is_null()).collect();
    assert_eq!(told, ["RlsPolicyError"], "{frames:?}");
    assert!(frames.iter().all(|frame| frame.event != "postgres_changes"), "{frames:?}");
    Ok(())
}

/// row_security 7: a row that has to be looked up is not taken for a child's row with the same key that stands there too
#[tokio::test]
async fn a_childs_row_is_not_looked_up_for_its_parents() -> Result<()> {
    let (server, db) = server(
        "create table kin (id int primary key, owner text, shown text generated always as (owner) stored);
         create table kin_child () inherits (kin);
         alter table kin enable row level security;
         create policy own on kin to authenticated using (shown = me());
         create table clan (id int primary key, owner text);
         create table clan_child () inherits (clan);
         alter table clan enable row level security;
         create policy own on clan to authenticated using (owner = me());
         alter publication supabase_realtime add table kin;",
    )
    .await?;
    let version: i32 =
        db.client().query_one("select current_setting('server_version_num')::int", &[]).await?.get(0);
    let mut tables = vec!["kin"];
    if version >= 150_000 {
        // What the log has of both rows is the same.
        db.sql("alter publication supabase_realtime add table clan (id)").await?;
        tables.push("clan");
    }
    for table in tables {
        let (mut ann, mut bob) =
            (watching(&server, "ann", table).await?, watching(&server, "bob", table).await?);
        for id in 1..=5 {
            db.sql(&format!(
                "begin; insert into {table}_child (id, owner) values ({id}, 'bob');
                 insert into {table} (id, owner) values ({id}, 'ann'); commit"
            ))
            .await?;
        }
        assert_eq!(seen(&db, &mut bob).await?, [], "{table}");
        let came = seen(&db, &mut ann).await?;
        let ids: Vec<&Value> = came.iter().map(|(_, record)| &record["id"]).collect();
        assert_eq!(ids, [1, 2, 3, 4, 5], "{table}");
    }
    Ok(())
}

/// row_security 18, 19: what the log does not carry is looked up while the version stands; else the row is withheld,
/// which is told
#[tokio::test]
async fn what_the_log_lacks_is_looked_up_or_told() -> Result<()> {
    let (server, db) = server(
        "create table large (id int primary key, doc text, n int, owner text generated always as (left(doc, 3)) stored);
         alter table large alter doc set storage external;
         alter table large enable row level security;
         create policy own on large to authenticated using (doc like me() || '%' and owner = me());
         alter publication supabase_realtime add table large;
         insert into large (id, doc, n) values (1, 'ann' || repeat('x', 100000), 0), (2, 'bob' || repeat('x', 100000), 0);",
    )
    .await?;
    let mut ann = watching(&server, "ann", "large").await?;
    let mut bob = watching(&server, "bob", "large").await?;
    db.sql("update large set n = 1").await?;
    for (socket, id) in [(&mut ann, 1), (&mut bob, 2)] {
        let events = seen(&db, socket).await?;
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!((&events[0].1["id"], &events[0].1["n"]), (&json!(id), &json!(1)));
    }
    // The first version is gone before it can be judged.
    db.sql("begin; update large set n = 2 where id = 1; delete from large where id = 1; commit").await?;
    let frames = frames(&db, &mut ann).await?;
    let told: Vec<&str> = frames.iter().filter_map(|frame| frame.payload["code"].as_str()).collect();
    assert_eq!(told, ["RlsPolicyError"], "{frames:?}");
    let types: Vec<&Value> = frames
        .iter()
        .filter(|frame| frame.event == "postgres_changes")
        .map(|frame| &frame.payload["data"]["type"])
        .collect();
    assert_eq!(types, ["DELETE"]);
    Ok(())
}

/// row_security 19: neither what the policy reads nor the key is published
#[tokio::test]
async fn a_row_without_key_and_column_in_the_log_is_withheld() -> Result<()> {
    let (server, db) = server(
        "create table partly (id int primary key, body text, owner text);
         alter table partly enable row level security;
         create policy own on partly to authenticated using (owner = me());",
    )
    .await?;
    let version: i32 =
        db.client().query_one("select current_setting('server_version_num')::int", &[]).await?.get(0);
    if version < 150_000 {
        // Lists of columns came with PostgreSQL 15.
        return Ok(());
    }
    db.sql(
        "alter publication supabase_realtime set (publish = 'insert');
         alter publication supabase_realtime add table partly (body)",
    )
    .await?;
    let mut ann = watching(&server, "ann", "partly").await?;
    db.sql("insert into partly values (1, 'x', 'ann'), (2, 'y', 'bob')").await?;
    is_withheld_and_told(&db, &mut ann).await
}

/// A later version of the same transaction is not taken for an earlier one.
#[tokio::test]
async fn a_later_version_of_a_transaction_fills_in_nothing() -> Result<()> {
    let (server, db) = server(
        "create table flags (id int primary key, secret bool, open bool generated always as (not secret) stored);
         alter table flags enable row level security;
         create policy open on flags to authenticated using (open);
         alter publication supabase_realtime add table flags;",
    )
    .await?;
    let mut ann = watching(&server, "ann", "flags").await?;
    db.sql("begin; insert into flags values (1, true); update flags set secret = false where id = 1; commit")
        .await?;
    let frames = frames(&db, &mut ann).await?;
    let records: Vec<&Value> = frames
        .iter()
        .filter(|frame| frame.event == "postgres_changes")
        .map(|frame| &frame.payload["data"]["record"]["secret"])
        .collect();
    assert_eq!(records, [&json!(false)], "{frames:?}");
    Ok(())
}

/// Columns of the system are what SELECT would show, where that is known; else the row is withheld, and that is told
#[tokio::test]
async fn columns_of_the_system_are_judged_where_they_are_known() -> Result<()> {
    let (server, db) = server("drop policy own on docs;").await?;
    db.sql("create policy own on docs to authenticated using (tableoid = 'docs'::regclass and owner || '' = me())")
        .await?;
    let mut ann = watching(&server, "ann", "docs").await?;
    db.sql("insert into docs values (1, 'ann', 'a'), (2, 'bob', 'b')").await?;
    db.sql(
        "begin; update docs set body = 'c' where id = 1; update docs set body = 'd' where id = 1;\
             delete from docs where id = 1; delete from docs where id = 2; commit",
    )
    .await?;
    let doc = |body: &str| json!({"id": 1, "owner": "ann", "body": body});
    assert_eq!(
        seen(&db, &mut ann).await?,
        [
            event("INSERT", doc("a")),
            event("UPDATE", doc("c")),
            event("UPDATE", doc("d")),
            event("DELETE", json!({"id": 1})),
            event("DELETE", json!({"id": 2})),
        ]
    );
    db.sql(
        "drop policy own on docs;
         create policy own on docs to authenticated using (owner = me() and ctid is not null and xmax::text = '0'
            and xmin::text <> '0' and cmin::text <> 'x' and cmax::text <> 'x')",
    )
    .await?;
    db.sql("insert into docs values (3, 'ann', 'x'), (4, 'bob', 'y')").await?;
    assert_eq!(seen(&db, &mut ann).await?, [event("INSERT", json!({"id": 3, "owner": "ann", "body": "x"}))]);
    db.sql("update docs set body = 'w' where id = 3").await?;
    assert_eq!(seen(&db, &mut ann).await?, [event("UPDATE", json!({"id": 3, "owner": "ann", "body": "w"}))]);
    // Of two versions of a transaction nobody knows which one stands there.
    db.sql("begin; update docs set body = 'y' where id = 3; update docs set body = 'z' where id = 3; commit")
        .await?;
    is_withheld_and_told(&db, &mut ann).await
}
