//! The role that `docker/init/role.psql` makes has all the rights that the server needs (tenant_database 9).

use std::{path::Path, process::Stdio};

use anyhow::{Result, ensure};
use realtime_testkit::{Server, ServerOptions, TestDb, Version, sign, unix_now};
use serde_json::json;
use tokio::process::Command;

use crate::BINARY;

/// Row changes under row-level security, private channels, broadcasts from the database: with that role alone.
#[tokio::test]
async fn the_role_of_the_docs_is_enough() -> Result<()> {
    let db = TestDb::new().await?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docker/init/role.psql");
    for _ in 0..2 {
        let output = Command::new("psql")
            .args(["--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--set", "password=it's secret"])
            .arg("--file")
            .arg(&script)
            .arg(db.url().await?)
            .stdin(Stdio::null())
            .output()
            .await?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    db.sql(
        "create table public.notes (id int primary key, owner uuid, body text);
         alter table public.notes enable row level security;
         create policy own on public.notes to authenticated
            using (owner = (current_setting('request.jwt.claims', true)::jsonb ->> 'sub')::uuid);
         grant select on public.notes to authenticated;
         alter publication supabase_realtime add table public.notes;",
    )
    .await?;
    let rights = db
        .client()
        .query_one("select rolsuper or rolbypassrls or rolcreaterole or rolcreatedb from pg_roles where rolname = 'realtime'", &[])
        .await?;
    assert!(!rights.get::<_, bool>(0));

    let options = ServerOptions::default().env("DB_USER", "realtime").env("DB_PASSWORD", "it's secret");
    let server = Server::start(BINARY, &db, options).await?;
    let me = "6f1d1f4e-7f0c-4a55-9d3e-0a6d1a0b7c11";
    let token = sign(&json!({"role": "authenticated", "sub": me, "exp": unix_now() + 3600}));
    let mut socket = realtime_testkit::Socket::connect(server.port(), Version::V2, &token).await?;
    socket.watch("realtime:notes", json!([{"schema": "public", "table": "notes"}])).await?;
    db.sql(&format!(
        "insert into public.notes values (1, gen_random_uuid(), 'another''s'), (2, '{me}', 'mine')"
    ))
    .await?;
    let change = socket.event("realtime:notes", "postgres_changes").await?;
    assert_eq!(change["data"]["record"]["body"], "mine");

    // The first one to ask finds the table that the server has made; no policy lets anybody in.
    let private = json!({"config": {"private": true}});
    let (reply, _) = socket.join("realtime:room", private.clone()).await?;
    let reason = reply["response"]["reason"].as_str().unwrap_or_default();
    assert!(reason.starts_with("Unauthorized"), "{reply}: {}", server.log());
    db.sql(
        "create policy room on realtime.messages for select to authenticated
            using (realtime.topic() = 'room' and extension = 'broadcast')",
    )
    .await?;
    let config = json!({"config": {"private": true, "broadcast": {"replication_ready": true}}});
    let (reply, _) = socket.join("realtime:room", config).await?;
    assert_eq!(reply["status"], "ok", "{reply}: {}", server.log());
    let ready = socket.event("realtime:room", "system").await?;
    assert_eq!(ready["status"], "ok", "{ready}");
    db.sql("select realtime.send('{\"n\": 1}', 'e', 'room')").await?;
    let message = socket.event("realtime:room", "broadcast").await?;
    assert_eq!(message["payload"]["n"], 1, "{message}");
    server.stop().await
}
