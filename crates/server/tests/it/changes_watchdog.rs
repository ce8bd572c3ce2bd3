//! A replication connection on which the server is not heard any more.

use anyhow::{Context as _, Result, ensure};
use realtime_testkit::{PATIENCE, Server, ServerOptions, TestDb, Version, until};
use serde_json::json;
use tokio::{
    process::Command,
    time::{self, Duration},
};

use crate::BINARY;

const TOPIC: &str = "realtime:any";

/// How long the server may say nothing.
const WATCHDOG: Duration = Duration::from_secs(10);

/// A walsender that does nothing, for as long as it is held.
struct Stopped(i32);

impl Stopped {
    async fn of(db: &TestDb) -> Result<Self> {
        let sql =
            "select active_pid from pg_replication_slots where database = current_database() and active";
        let pid: i32 = db.client().query_one(sql, &[]).await?.get(0);
        ensure!(
            Command::new("kill").args(["-STOP", &pid.to_string()]).status().await?.success(),
            "kill -STOP"
        );
        Ok(Self(pid))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        std::process::Command::new("kill").args(["-CONT", &self.0.to_string()]).status().ok();
    }
}

/// tenant_database 59: subscribers are told of the gap, and what is committed after that reaches them.
#[tokio::test]
async fn a_hung_walsender_is_left() -> Result<()> {
    let db = TestDb::with_fixture_a().await?;
    // The database lets go of a server that it has not heard of for a fifth of that: a busy machine may hold it up.
    let options = ServerOptions::default().env("REPLICATION_WATCHDOG_MS", &WATCHDOG.as_millis().to_string());
    let server = Server::start(BINARY, &db, options).await?;
    let mut socket = server.socket(Version::V2, "anon").await?;
    socket.watch(TOPIC, json!([{"schema": "public", "table": "test"}])).await?;

    // Silence of the log is no silence of the server: for longer than the watchdog waits they hear of each other.
    let sql = "select active_pid, extract(epoch from reply_time)::float8 from pg_replication_slots
        join pg_stat_replication on pid = active_pid where database = current_database()";
    let given_up = |server: &Server| format!("the session was given up: {}", server.log());
    let heard = async || -> Result<(i32, Option<f64>)> {
        let row = db.client().query_opt(sql, &[]).await?.with_context(|| given_up(&server))?;
        Ok((row.try_get(0)?, row.try_get(1)?))
    };
    let first = std::cell::Cell::new(None);
    until("they have heard of each other for long enough", async || {
        let (pid, at) = heard().await?;
        let (first_pid, since) = first.get().unwrap_or((pid, at));
        first.set(Some((first_pid, since)));
        ensure!(pid == first_pid, "{}", given_up(&server));
        Ok(since.zip(at).is_some_and(|(since, at)| at - since > WATCHDOG.as_secs_f64() + 1.0))
    })
    .await?;
    db.sql("insert into public.test (details) values ('heard')").await?;
    let change = socket.event(TOPIC, "postgres_changes").await?;
    assert_eq!(change["data"]["record"]["details"], "heard");

    let stopped = Stopped::of(&db).await?;
    db.sql("insert into public.test (details) values ('missed')").await?;
    let told = socket.event(TOPIC, "system").await?;
    assert_eq!(told["status"], "gap", "{told}");
    let told = socket.event(TOPIC, "system").await?;
    assert_eq!(told["status"], "ok", "{told}");
    db.sql("insert into public.test (details) values ('after')").await?;
    let change = socket.event(TOPIC, "postgres_changes").await?;
    assert_eq!(change["data"]["record"]["details"], "after");
    server.logged("ReplicationConnectionWatchdogTimeout").await?;

    // The old one goes as soon as it can, and its slot with it.
    drop(stopped);
    let one = async {
        let sql = "select count(*) from pg_replication_slots where database = current_database()";
        while db.client().query_one(sql, &[]).await?.get::<_, i64>(0) != 1 {
            time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    };
    time::timeout(PATIENCE, one).await.context("the old slot stays")?
}
