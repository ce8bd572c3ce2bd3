//! The first generation: the binary with its environment, seen through its sockets.

mod channels;
mod clients;
mod cluster;
mod connect;
mod rls;
mod slot;
mod stream;
mod webhooks;

use anyhow::{Result, bail};
use realtime_testkit::{PATIENCE, Server, ServerOptions, Socket, TestDb, Version};
use serde_json::{Value, json};
use tokio::time;

use crate::BINARY;

/// Secret of the tokens of these tests.
const SECRET: &str = "of-the-first-generation";

/// A server with the environment of the first generation, and more, on a database.
async fn server(db: &TestDb, more: &[(&str, &str)]) -> Result<Server> {
    let mut options = ServerOptions::default().env("API_JWT_SECRET", "").env("SECURE_CHANNELS", "false");
    for (name, value) in more {
        options = options.env(name, value);
    }
    Server::start(BINARY, db, options).await
}

/// A server with the environment of the first generation, and more, which reads the log of a database.
async fn streaming(db: &TestDb, more: &[(&str, &str)]) -> Result<Server> {
    let server = server(db, more).await?;
    logged(&server, "reading the log").await?;
    Ok(server)
}

/// Waits until the server has logged a text.
async fn logged(server: &Server, text: &str) -> Result<()> {
    logged_times(server, text, 1).await
}

/// Waits until the server has logged a text this often.
async fn logged_times(server: &Server, text: &str, times: usize) -> Result<()> {
    let limit = time::Instant::now() + PATIENCE;
    while server.log().matches(text).count() < times {
        if time::Instant::now() > limit {
            bail!("{text:?} was not logged: {}", server.log());
        }
        time::sleep(time::Duration::from_millis(10)).await;
    }
    Ok(())
}

/// A database with the table `users`, published.
async fn users() -> Result<TestDb> {
    with_users(TestDb::new().await?).await
}

async fn with_users(db: TestDb) -> Result<TestDb> {
    db.sql(
        "create table public.users (id bigint primary key, name text);
         alter publication supabase_realtime add table public.users;",
    )
    .await?;
    Ok(db)
}

/// A socket without any parameter.
async fn socket(server: &Server) -> Result<Socket> {
    match connect(server, "", &[]).await? {
        Ok(socket) => Ok(socket),
        Err(refused) => bail!("refused: {refused:?}"),
    }
}

async fn connect(
    server: &Server,
    query: &str,
    headers: &[(&'static str, &str)],
) -> Result<Result<Socket, realtime_testkit::Refused>> {
    let url = format!("ws://127.0.0.1:{}/socket/websocket{query}", server.port());
    Socket::try_connect(&url, headers, Version::V1).await
}

/// A socket that has joined topics.
async fn joined(server: &Server, topics: &[&str]) -> Result<Socket> {
    let mut socket = socket(server).await?;
    for topic in topics {
        join(&mut socket, topic).await?;
    }
    Ok(socket)
}

async fn join(socket: &mut Socket, topic: &str) -> Result<()> {
    let (reply, _) = socket.join(topic, json!({})).await?;
    if reply != json!({"status": "ok", "response": {}}) {
        bail!("joining {topic}: {reply}");
    }
    Ok(())
}

/// Drops a permanent slot once nobody reads it any more.
async fn drop_slot(db: &TestDb, name: &str) -> Result<()> {
    let sql = "select pg_drop_replication_slot(slot_name) from pg_replication_slots
        where slot_name = $1 and not active";
    let limit = time::Instant::now() + PATIENCE;
    while db.client().query(sql, &[&name]).await?.is_empty() {
        if time::Instant::now() > limit {
            bail!("slot {name} is still read");
        }
        time::sleep(time::Duration::from_millis(10)).await;
    }
    Ok(())
}

fn token(claims: &Value) -> String {
    realtime_auth::sign_hs256(SECRET, &claims.to_string())
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// Everything that came to a socket, as `topic event`, up to the change of row `last` on `realtime:*`.
async fn heard(socket: &mut Socket, last: &str) -> Result<Vec<String>> {
    let mut heard = Vec::new();
    loop {
        let frame = socket.frame().await?;
        let (topic, event) = (&frame.topic, &frame.event);
        let is_last = topic == "realtime:*" && frame.payload["record"]["id"] == last && event != "*";
        if is_last {
            return Ok(heard);
        }
        heard.push(format!("{topic} {event}"));
    }
}
