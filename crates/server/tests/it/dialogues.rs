//! What the official clients in Dart, Swift, Kotlin and C# send, and what their parsers demand of the answers
//! (`clients/dialogues`): these clients cannot run here, so their part is played.

use anyhow::{Result, bail, ensure};
use realtime_testkit::{Server, ServerOptions, TestDb, Version, token};
use serde_json::json;
use tokio::process::Command;

use crate::{
    BINARY,
    clients::{Client, folder},
};

/// Node.js in the folder of the dialogues.
fn node() -> Result<Command> {
    ensure!(folder("js/node_modules/ws").exists(), "run `npm ci` in clients/js, or scripts/test");
    let mut command = Command::new("node");
    command.current_dir(folder("dialogues"));
    Ok(command)
}

async fn replay(client: &str) -> Result<()> {
    let db = TestDb::with_fixture_a().await?;
    let server = Server::start(BINARY, &db, ServerOptions::default()).await?;
    // The dialogues are about a server whose database is in use: nobody waits for a replication slot.
    let mut other = server.socket(Version::V2, "anon").await?;
    other.watch("realtime:other", json!([{"event": "*", "schema": "public", "table": "test"}])).await?;
    let mut command = node()?;
    command.args(["replay.mjs", client, &format!("ws://127.0.0.1:{}", server.port()), &token("anon")]);
    let mut player = Client::start(command)?;
    loop {
        let step = player.next("step").await?;
        if let Some(sql) = step["sql"].as_str() {
            db.sql(sql).await?;
            player.command(json!({})).await?;
        } else if step.get("done").is_some() {
            return Ok(());
        } else {
            bail!("{client}: {step:#}\n{}", server.log());
        }
    }
}

#[tokio::test]
async fn dart() -> Result<()> {
    replay("dart").await
}

#[tokio::test]
async fn swift() -> Result<()> {
    replay("swift").await
}

#[tokio::test]
async fn kotlin() -> Result<()> {
    replay("kotlin").await
}

#[tokio::test]
async fn csharp() -> Result<()> {
    replay("csharp").await
}

#[tokio::test]
async fn the_checkers_find_what_is_wrong() -> Result<()> {
    let tests = node()?.args(["--test", "."]).output().await?;
    ensure!(tests.status.success(), "{}", String::from_utf8_lossy(&tests.stdout));
    Ok(())
}
