//! Streams across restarts of a server with a permanent slot (resume case 7).

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use realtime_testkit::{PATIENCE, Server, ServerOptions, TestDb, free_port, token};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

use super::{Curl, insert};
use crate::{BINARY, browser::scenario};

const TABLE: &str = "create table docs (id int primary key, body text);
    create table other (id int primary key, body text);
    grant select on docs, other to anon;
    alter publication supabase_realtime add table docs, other;";

/// A database, the settings of servers that follow one another, and the name of their slot.
async fn set_up() -> Result<(TestDb, impl Fn() -> ServerOptions, String)> {
    let db = TestDb::new().await?;
    db.sql(TABLE).await?;
    let suffix = db.name().trim_start_matches("test_")[..8].to_owned();
    let slot = format!("supabase_realtime_replication_slot_{suffix}");
    let port = free_port()?.to_string();
    let options = move || {
        ServerOptions::default()
            .env("PORT", &port)
            .env("SLOT_DURABLE", "true")
            .env("SLOT_NAME_SUFFIX", &suffix)
            .env("RESUME_DELAY_MS", "500")
    };
    Ok((db, options, slot))
}

async fn drop_slot(db: &TestDb, slot: &str) -> Result<()> {
    loop {
        if db.sql(&format!("select pg_drop_replication_slot('{slot}')")).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(tokio::time::Duration::from_millis(50)).await;
    }
}

/// resume case 7: `curl` with `Last-Event-ID`, after restarts and crashes, with and without changes of its own
#[tokio::test]
async fn curl_goes_on_after_restarts() -> Result<()> {
    let (db, options, slot) = set_up().await?;
    let path = format!("/sse/changes?table=docs&apikey={}", token("anon"));
    let mut server = Server::start(BINARY, &db, options()).await?;
    let mut curl = Curl::open(&server, &path, &[]).await?;
    curl.expect("subscribed").await?;
    let mut next = 1;
    for round in 0..6 {
        // Sometimes it is others' changes that have passed last, sometimes its own, sometimes none.
        if round % 3 > 0 {
            db.sql(&format!("insert into docs values ({next}, '')")).await?;
            assert_eq!(curl.rows(1).await?, [insert(next)]);
            next += 1;
        }
        if round % 2 == 0 {
            db.sql(&format!("insert into other values ({round}, '')")).await?;
        }
        let id = curl.kill().await?;
        db.sql(&format!("insert into docs values ({next}, 'before')")).await?;
        match round % 2 {
            0 => server.stop().await?,
            _ => server.kill().await?,
        }
        db.sql(&format!("insert into docs values ({}, 'while away')", next + 1)).await?;
        server = Server::start(BINARY, &db, options()).await?;
        curl = Curl::open(&server, &path, &[&format!("Last-Event-ID: {id}")]).await?;
        ensure!(curl.status == 200, "{:?}", curl.head);
        db.sql(&format!("insert into docs values ({}, 'after')", next + 2)).await?;
        // A gap would be an error here.
        let rows = curl.rows(3).await.with_context(|| format!("round {round} after {id}"))?;
        assert_eq!(rows, [insert(next), insert(next + 1), insert(next + 2)], "round {round}");
        next += 3;
    }
    server.stop().await?;
    drop_slot(&db, &slot).await
}

/// resume case 7: a browser resumes without a line of code
#[tokio::test(flavor = "multi_thread")]
async fn an_event_source_goes_on_after_restarts() -> Result<()> {
    let (db, options, slot) = set_up().await?;
    let mut server = Some(Server::start(BINARY, &db, options()).await?);
    let port = server.as_ref().context("server")?.port();
    let url = format!("http://localhost:{port}/realtime/v1/sse/changes?table=docs&apikey={}", token("anon"));
    scenario("sse.mjs", &[&url], async |asked| {
        if let Some(range) = asked["insert"].as_array() {
            for id in range[0].as_i64().context("from")?..=range[1].as_i64().context("to")? {
                db.sql(&format!("insert into docs values ({id}, '')")).await?;
            }
        } else if asked["start"] == true {
            server = Some(Server::start(BINARY, &db, options()).await?);
        } else if asked["kill"] == true {
            server.take().context("no server")?.kill().await?;
        } else {
            server.take().context("no server")?.stop().await?;
        }
        Ok(())
    })
    .await?;
    server.take().context("no server")?.stop().await?;
    drop_slot(&db, &slot).await
}

/// `docs/sse.md`: the consumer that loses nothing, as it is printed there, stopped and started again
#[tokio::test]
async fn the_consumer_of_the_documentation_goes_on() -> Result<()> {
    let page = include_str!("../../../../../docs/sse.md");
    let (_, rest) = page.split_once("```python\n").context("no program")?;
    let program = rest.split("```").next().context("no end")?;
    let (db, options, slot) = set_up().await?;
    let server = Server::start(BINARY, &db, options()).await?;
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("consume.py"), program)?;
    let url = format!("http://localhost:{}/sse/changes?table=docs", server.port());
    let start = || {
        Command::new("python3")
            .arg("consume.py")
            .current_dir(folder.path())
            .env("URL", &url)
            .env("TOKEN", token("anon"))
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
    };
    let place = folder.path().join("place");
    let mut next = 1;
    for _ in 0..3 {
        let mut consumer = start()?;
        let mut lines = BufReader::new(consumer.stdout.take().context("stdout")?).lines();
        // The first time it has no place yet: it has one when the stream has begun.
        let begun = async {
            while !place.exists() {
                tokio::time::sleep(tokio::time::Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, begun).await.context("never begun")?;
        db.sql(&format!("insert into docs values ({next}, 'while it runs')")).await?;
        // What came while it was stopped comes first.
        let first = if next == 1 { 1 } else { next - 1 };
        for id in first..=next {
            let line = loop {
                let line =
                    tokio::time::timeout(PATIENCE, lines.next_line()).await.context("nothing came")??;
                let line = line.context("the consumer ended")?;
                // It may have been stopped between handling the last one and keeping its place.
                if !line.starts_with(&format!("INSERT {{\"id\": {},", id - 1)) {
                    break line;
                }
            };
            ensure!(line.starts_with(&format!("INSERT {{\"id\": {id},")), "{id}: {line}");
        }
        // The place is written when the change is handled.
        let handled = std::fs::read_to_string(&place)?;
        ensure!(handled.contains(':'), "{handled}");
        consumer.kill().await?;
        db.sql(&format!("insert into docs values ({}, 'while it is stopped')", next + 1)).await?;
        next += 2;
    }
    // A server that is killed ends its answer in the middle.
    let mut consumer = start()?;
    let mut lines = BufReader::new(consumer.stdout.take().context("stdout")?).lines();
    tokio::time::timeout(PATIENCE, lines.next_line()).await.context("nothing came")??.context("it ended")?;
    server.kill().await?;
    let told = tokio::time::timeout(PATIENCE, async {
        // It tells that it cannot connect, and tries again.
        while let Some(line) = lines.next_line().await? {
            if line.contains("refused") {
                return anyhow::Ok(true);
            }
        }
        Ok(false)
    });
    ensure!(told.await??, "the consumer ended");
    drop_slot(&db, &slot).await
}
