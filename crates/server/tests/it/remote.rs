//! `realtime send` and `realtime tenants`, against a running server.

use anyhow::Result;
use realtime_testkit::{SECRET, Server, ServerOptions, TestDb, Version};
use serde_json::json;
use tokio::process::Command;

use crate::BINARY;

/// What a command ended with, and printed.
async fn run(server: &Server, arguments: &[&str]) -> Result<(Option<i32>, String, String)> {
    let output = Command::new(BINARY)
        .args(arguments)
        .env_clear()
        .env("API_JWT_SECRET", SECRET)
        .env("REALTIME_URL", format!("http://127.0.0.1:{}", server.port()))
        .output()
        .await?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((output.status.code(), text(output.stdout), text(output.stderr)))
}

#[tokio::test]
async fn a_message_reaches_the_topic() -> Result<()> {
    let db = TestDb::new().await?;
    let server = Server::start(BINARY, &db, ServerOptions::default()).await?;
    let mut socket = server.socket(Version::V2, "anon").await?;
    socket.join("realtime:a/b", json!({"config": {}})).await?;
    let (code, _, errors) = run(&server, &["send", "a/b", "greet", r#"{"text":"hello"}"#]).await?;
    assert_eq!(code, Some(0), "{errors}");
    let heard = socket.event("realtime:a/b", "broadcast").await?;
    assert_eq!((&heard["event"], &heard["payload"]), (&json!("greet"), &json!({"text": "hello"})));
    let (code, _, errors) = run(&server, &["send", "a", "greet", "{"]).await?;
    assert!(code == Some(1) && errors.starts_with("The payload must be JSON"), "{errors}");
    let (code, _, errors) = run(&server, &["send", "a", "greet", "{}", "--token", "x"]).await?;
    assert!(code == Some(1) && errors.contains("The server refuses (401)"), "{errors}");
    Ok(())
}

#[tokio::test]
async fn tenants_are_listed_shown_and_changed() -> Result<()> {
    let db = TestDb::new().await?;
    let options = ServerOptions::default().env("DB_ENC_KEY", "1234567890123456");
    let server = Server::start(BINARY, &db, options).await?;
    server.administered().await?;
    let (code, listed, errors) = run(&server, &["tenants", "list"]).await?;
    assert_eq!((code, &*listed), (Some(0), "realtime-dev\n"), "{errors}");
    let set = ["tenants", "set", "realtime-dev", "max_joins_per_second=7", "name=The shop"];
    let (code, _, errors) = run(&server, &set).await?;
    assert_eq!(code, Some(0), "{errors}");
    let (_, shown, _) = run(&server, &["tenants", "show", "realtime-dev"]).await?;
    assert!(shown.contains("\"max_joins_per_second\": 7") && shown.contains("The shop"), "{shown}");
    // A slip must not make a tenant.
    let (code, _, errors) = run(&server, &["tenants", "set", "realtime-dve", "suspend=true"]).await?;
    assert!(code == Some(1) && errors.contains("404"), "{errors}");
    Ok(())
}
