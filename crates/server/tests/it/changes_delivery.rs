//! Who gets an event, and that the stream goes on (postgres_changes 8.3, 8.6, 8.9).

use anyhow::Result;
use realtime_testkit::{PATIENCE, Version};
use serde_json::{Value, json};
use tokio::time;

use crate::server;

const TOPIC: &str = "realtime:any";

/// postgres_changes 54: every channel and every socket gets each event once
#[tokio::test]
async fn once_for_every_channel() -> Result<()> {
    let (server, db) = server().await?;
    let every = json!([{"event": "INSERT", "schema": "public", "table": "test"}]);
    let mut first = server.socket(Version::V2, "anon").await?;
    let ids = first.watch("realtime:one", every.clone()).await?;
    assert_eq!(first.watch("realtime:two", every.clone()).await?, ids);
    let mut second = server.socket(Version::V1, "anon").await?;
    second.watch("realtime:one", every).await?;
    for n in 1..=5 {
        db.sql("insert into public.test default values").await?;
        for topic in ["realtime:one", "realtime:two"] {
            let payload = first.event(topic, "postgres_changes").await?;
            assert_eq!((&payload["ids"], &payload["data"]["record"]["id"]), (&json!(ids), &json!(n)));
        }
        assert_eq!(second.event("realtime:one", "postgres_changes").await?["data"]["record"]["id"], n);
    }
    assert!(first.settle().await?.is_empty() && second.settle().await?.is_empty());
    Ok(())
}

/// postgres_changes 63: what is no longer published is no longer delivered, whoever subscribed to it
#[tokio::test]
async fn only_what_is_published() -> Result<()> {
    let (server, db) = server().await?;
    db.sql(
        "create table public.notes (id int primary key); grant select on public.notes to anon;
         alter publication supabase_realtime add table public.notes",
    )
    .await?;
    let mut socket = server.socket(Version::V2, "anon").await?;
    socket.watch(TOPIC, json!([{"schema": "public", "table": "test"}, {"schema": "public"}])).await?;
    db.sql("alter publication supabase_realtime drop table public.test").await?;
    db.sql("insert into public.test default values; insert into public.notes values (1)").await?;
    let payload = socket.event(TOPIC, "postgres_changes").await?;
    assert_eq!(payload["data"]["table"], "notes");
    Ok(())
}

/// postgres_changes 101: many subscriptions of a role that may do no more than read
#[tokio::test]
async fn a_role_that_may_only_read() -> Result<()> {
    let (server, db) = server().await?;
    db.sql(
        "create role only_reads nologin; grant usage on schema public to only_reads;
         revoke execute on all functions in schema public from public;
         create table public.guarded (id int primary key, v text);
         alter table public.guarded enable row level security;
         create policy every on public.guarded to only_reads using (true);
         grant select on public.guarded to only_reads; alter publication supabase_realtime add table public.guarded",
    )
    .await?;
    let mut socket = server.socket(Version::V2, "only_reads").await?;
    // Each with conditions of its own; the last are the database's to evaluate.
    let subscriptions: Vec<Value> = (0..12)
        .map(|n| json!({"schema": "public", "table": "guarded", "filter": format!("id=eq.1,v=neq.{n},v=match.\"^[a-z]{{1,{}}}$\"", n + 9)}))
        .collect();
    let mut ids = socket.watch(TOPIC, json!(subscriptions)).await?;
    db.sql("insert into public.guarded values (2, 'other'), (1, 'mine')").await?;
    let payload = socket.event(TOPIC, "postgres_changes").await?;
    let mut served: Vec<u64> = serde_json::from_value(payload["ids"].clone())?;
    ids.sort_unstable();
    served.sort_unstable();
    assert_eq!((served.len(), &served), (12, &ids));
    assert_eq!(payload["data"]["record"], json!({"id": 1, "v": "mine"}));
    assert!(socket.settle().await?.is_empty());
    Ok(())
}

/// postgres_changes 125: the walsender is answered when it asks, and told how far we are while nothing is published
#[tokio::test]
async fn the_walsender_is_answered() -> Result<()> {
    let (server, db) = server().await?;
    // It asks after half of this, and ends the connection after all of it.
    db.sql(&format!("alter database {} set wal_sender_timeout = '1s'", db.name())).await?;
    let mut socket = server.socket(Version::V2, "anon").await?;
    socket.watch(TOPIC, json!([{"schema": "public"}])).await?;
    db.sql("create table public.unpublished (id int); insert into public.unpublished values (1)").await?;
    let position: String = db.client().query_one("select pg_current_wal_lsn()::text", &[]).await?.get(0);
    let answered = async {
        let sql = "select exists (
            select from pg_stat_replication r join pg_replication_slots s on s.active_pid = r.pid
            where s.database = current_database() and s.confirmed_flush_lsn >= $1::text::pg_lsn
                and r.reply_time - r.backend_start > interval '2 seconds')";
        while !db.client().query_one(sql, &[&position]).await?.try_get::<_, bool>(0)? {
            time::sleep(time::Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    };
    time::timeout(PATIENCE, answered).await??;
    db.sql("insert into public.test default values").await?;
    assert_eq!(socket.event(TOPIC, "postgres_changes").await?["data"]["record"]["id"], 1);
    assert!(socket.settle().await?.is_empty(), "no gap was told");
    Ok(())
}
