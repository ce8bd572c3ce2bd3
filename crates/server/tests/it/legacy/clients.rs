//! Clients of the first generation, unmodified, against the real binary.
//!
//! `scripts/test` installs them: npm packages in `clients/legacy/js`, Python environments in
//! `clients/legacy/python-0.0.4/.venv` and `clients/legacy/python-1.0/.venv`.

use anyhow::{Context as _, Result};
use realtime_testkit::{Server, TestDb, until};
use serde_json::{Value, json};

use super::{SECRET, logged, now, server, streaming, token};
use crate::clients::{self, Client as Program};

/// Topics of the four kinds.
pub const TOPICS: [&str; 4] =
    ["realtime:*", "realtime:public", "realtime:public:users", "realtime:public:users:id=eq.99"];

/// The old README's command line for the server, as far as it is the same for all databases.
const README: [(&str, &str); 3] =
    [("JWT_SECRET", "SOMETHING_SUPER_SECRET"), ("SECURE_CHANNELS", "false"), ("SLOT_NAME", "readme")];

/// A program that shows what a user of an old client sees.
pub struct Client(Program);

impl Client {
    fn node(arguments: &[&str]) -> Result<Self> {
        let mut command = clients::node_in("legacy/js")?;
        command.args(arguments);
        Program::start(command).map(Self)
    }

    /// `realtime-js-0.9` or `realtime-js-1.7`, joined.
    pub async fn javascript(
        server: &Server,
        library: &str,
        topics: &[&str],
        events: &Value,
        params: &Value,
    ) -> Result<Self> {
        let url = format!("ws://localhost:{}/socket", server.port());
        let (topics_text, events, params) =
            (json!(topics).to_string(), events.to_string(), params.to_string());
        let mut client = Self::node(&["watch.cjs", library, &url, &topics_text, &events, &params])?;
        let mut joined = Vec::new();
        for _ in topics {
            joined.push(client.next("joined").await?);
        }
        joined.sort_by_key(Value::to_string);
        let mut topics = topics.to_vec();
        topics.sort_unstable();
        assert_eq!(joined, topics);
        Ok(client)
    }

    /// `python-0.0.4` or `python-1.0`, joined, on a server that exposes its metrics; with further arguments.
    async fn python(
        server: &Server,
        version: &str,
        topics: &[&str],
        events: &Value,
        further: &[&str],
    ) -> Result<Self> {
        let url = format!("ws://localhost:{}/socket/websocket", server.port());
        let mut command = clients::python_in("legacy", &format!("legacy/{version}"))?;
        command.args(["watch.py", &url, &json!(topics).to_string(), &events.to_string()]).args(further);
        let client = Program::start(command).map(Self)?;
        let line = format!("realtime_active_websocket_topic_total {}\n", topics.len());
        until("it has joined", || async {
            Ok(server.http("GET", "/metrics", &[], b"").await?.body.contains(&line))
        })
        .await?;
        Ok(client)
    }

    async fn next(&mut self, key: &str) -> Result<Value> {
        self.0.next(key).await
    }

    /// The changes that are seen up to that of the row -1 on `realtime:*`, as `topic bound type id`, sorted.
    pub async fn changes(&mut self) -> Result<Vec<String>> {
        let mut changes = Vec::new();
        loop {
            let change = self.next("change").await?;
            let row = if change["type"] == "DELETE" { &change["old_record"] } else { &change["record"] };
            let id = row["id"].as_i64().or_else(|| row["id"].as_str()?.parse().ok()).context("id")?;
            if id == -1 && change["topic"] == "realtime:*" {
                changes.sort();
                return Ok(changes);
            }
            if id != -1 {
                let text = |key: &str| change[key].as_str().unwrap_or_default().to_owned();
                changes.push(format!("{} {} {} {id}", text("topic"), text("bound"), text("type")));
            }
        }
    }
}

pub async fn users() -> Result<TestDb> {
    let db = TestDb::new().await?;
    db.sql(
        "create table users (id bigint primary key, name text, active boolean);
         alter publication supabase_realtime add table users",
    )
    .await?;
    Ok(db)
}

/// One of each, of row 99 and of another; then the row that ends the listening.
pub async fn write(db: &TestDb) -> Result<()> {
    for statement in [
        "insert into users values (99, 'a', true)",
        "insert into users values (1, 'b', true)",
        "update users set name = 'c' where id = 99",
        "delete from users where id = 1",
        "delete from users where id = 99",
        "insert into users values (-1, 'end', false)",
    ] {
        db.sql(statement).await?;
    }
    // The next who writes begins anew.
    db.sql("delete from users").await
}

/// What [`write`] shows on topics to listeners that are bound to the types.
pub fn everything(topics: &[&str]) -> Vec<String> {
    let mut lines = Vec::new();
    for topic in topics {
        let filtered = topic.ends_with("eq.99");
        for (event, id) in [("INSERT", 99), ("INSERT", 1), ("UPDATE", 99), ("DELETE", 1), ("DELETE", 99)] {
            if !filtered || id == 99 {
                lines.push(format!("{topic} {event} {event} {id}"));
            }
        }
    }
    lines.sort();
    lines
}

/// What [`write`] shows on topics to listeners that are bound to `*`.
fn stars(topics: &[&str]) -> Vec<String> {
    let mut lines = everything(topics);
    for line in &mut lines {
        let (topic, rest) = line.split_once(' ').unwrap();
        let (_, rest) = rest.split_once(' ').unwrap();
        *line = format!("{topic} * {rest}");
    }
    lines.sort();
    lines
}

/// legacy 47
#[tokio::test]
async fn javascript() -> Result<()> {
    let db = users().await?;
    let types = json!(["INSERT", "UPDATE", "DELETE"]);
    let star = json!(["*"]);
    let without = streaming(&db, &[("LEGACY_STAR_EVENTS", "false")]).await?;
    let secured = [("SECURE_CHANNELS", "true"), ("JWT_SECRET", SECRET), ("LEGACY_PROFILE", "v0.10")];
    let with = streaming(&db, &secured).await?;
    let either = streaming(&db, &[]).await?;
    let token = token(&json!({"exp": now() + 1000}));
    for (library, param) in [("realtime-js-0.9", "token"), ("realtime-js-1.7", "apikey")] {
        let (none, some) = (json!({}), json!({param: token}));
        let mut typed = Client::javascript(&without, library, &TOPICS, &types, &none).await?;
        let mut starred = Client::javascript(&with, library, &TOPICS, &star, &some).await?;
        let mut by_itself = Client::javascript(&either, library, &TOPICS, &star, &none).await?;
        let events = json!({"realtime:*": ["*", "INSERT"]});
        let mut deaf = Client::javascript(&without, library, &["realtime:*"], &events, &none).await?;
        write(&db).await?;
        assert_eq!(typed.changes().await?, everything(&TOPICS), "{library}");
        assert_eq!(starred.changes().await?, stars(&TOPICS), "{library}");
        assert_eq!(by_itself.changes().await?, stars(&TOPICS), "{library}");
        let heard = deaf.changes().await?;
        // The old library hears nothing of `*` unless the server says it.
        let heard_stars = heard.iter().filter(|line| line.contains(" * ")).count();
        assert_eq!(heard_stars, if library == "realtime-js-0.9" { 0 } else { 5 }, "{heard:?}");
    }
    Ok(())
}

/// legacy 48
#[tokio::test]
async fn python() -> Result<()> {
    let db = users().await?;
    let types = json!(["INSERT", "UPDATE", "DELETE"]);
    let env = [("EXPOSE_METRICS", "true")];
    for version in ["python-0.0.4", "python-1.0"] {
        let typed_server = streaming(&db, &env).await?;
        let star_server = if version == "python-0.0.4" {
            streaming(&db, &[env[0], ("LEGACY_PROFILE", "v0.10")]).await?
        } else {
            streaming(&db, &env).await?
        };
        let mut typed = Client::python(&typed_server, version, &TOPICS, &types, &[]).await?;
        let mut starred = Client::python(&star_server, version, &TOPICS, &json!(["*"]), &[]).await?;
        write(&db).await?;
        assert_eq!(typed.changes().await?, everything(&TOPICS), "{version}");
        assert_eq!(starred.changes().await?, stars(&TOPICS), "{version}");
    }
    Ok(())
}

/// legacy 48: a client that says nothing but its heartbeats stays.
#[tokio::test]
async fn python_stays_connected() -> Result<()> {
    let db = users().await?;
    // The client's heartbeats come every five seconds: they are scaled down with the limit, which is a minute.
    let server = streaming(&db, &[("EXPOSE_METRICS", "true"), ("SOCKET_TIMEOUT", "6000")]).await?;
    let (topic, update) = ("realtime:public:users", json!(["UPDATE"]));
    let mut client = Client::python(&server, "python-0.0.4", &[topic], &update, &["1"]).await?;
    db.sql("insert into users values (1, 'a', true)").await?;
    // One a second: the last of these comes when a client that said nothing would be gone.
    let heard = async || -> Result<u64> {
        let metrics = server.http("GET", "/metrics", &[], b"").await?.body;
        let reads = "phoenix_channel_handled_in_duration_milliseconds_count";
        let line = metrics.lines().find(|line| line.starts_with(reads));
        let count = line.and_then(|line| line.rsplit(' ').next());
        Ok(count.with_context(|| metrics.clone())?.parse::<f64>()? as u64)
    };
    let joined = heard().await?;
    until("it has sent its heartbeats", async || Ok(heard().await? >= joined + 8)).await?;
    db.sql("update users set name = 'b'").await?;
    assert_eq!(client.next("change").await?["record"]["name"], "b");
    Ok(())
}

/// legacy 49
#[tokio::test]
async fn supabase_js() -> Result<()> {
    let db = users().await?;
    let server = streaming(&db, &[("SECURE_CHANNELS", "true"), ("JWT_SECRET", SECRET)]).await?;
    let url = format!("http://localhost:{}", server.port());
    let token = token(&json!({"role": "anon", "exp": now() + 1000}));
    let mut table = Client::node(&["supabase.cjs", &url, &token, "users", "UPDATE", "DELETE", "INSERT"])?;
    let mut row = Client::node(&["supabase.cjs", &url, &token, "users:id=eq.2", "*"])?;
    let mut all = Client::node(&["supabase.cjs", &url, &token, "*", "*"])?;
    for client in [&mut table, &mut row, &mut all] {
        client.next("joined").await?;
    }
    db.sql("insert into users values (1, 'a', true), (2, 'b', false); update users set active = false")
        .await?;
    let mut update = table.next("change").await?;
    while update["type"] != "UPDATE" {
        update = table.next("change").await?;
    }
    assert_eq!(
        update,
        json!({"bound": "UPDATE", "type": "UPDATE", "schema": "public", "table": "users", "errors": null,
            "record": {"id": 1, "name": "a", "active": false}, "old_record": {}})
    );
    assert_eq!(row.next("change").await?["record"], json!({"id": 2, "name": "b", "active": false}));
    assert_eq!(all.next("change").await?["record"], json!({"id": 1, "name": "a", "active": true}));
    db.sql("delete from users where id = 1").await?;
    let mut delete = table.next("change").await?;
    while delete["type"] != "DELETE" {
        delete = table.next("change").await?;
    }
    assert_eq!(delete["old_record"], json!({"id": 1, "name": null, "active": null}));
    // Each of the three gets each kind.
    db.sql("delete from users").await?;
    for statement in
        ["insert into users values (2, 'each', true)", "update users set active = false", "delete from users"]
    {
        db.sql(statement).await?;
    }
    for client in [&mut table, &mut row, &mut all] {
        let mut change = client.next("change").await?;
        while change["record"]["name"] != "each" {
            change = client.next("change").await?;
        }
        assert_eq!(change["type"], "INSERT");
        for kind in ["UPDATE", "DELETE"] {
            assert_eq!(client.next("change").await?["type"], kind);
        }
    }
    Ok(())
}

/// The environment of the old README's `docker run`, and the four subscriptions of its JavaScript example.
#[tokio::test]
async fn the_readme_of_the_old_server() -> Result<()> {
    let db = users().await?;
    let server = server(&db, &README).await?;
    logged(&server, "reading the log").await?;
    let topics = ["realtime:public:users:id.eq.99", "realtime:public:users", "realtime:public", "realtime:*"];
    let events = json!({topics[0]: ["*"], topics[1]: ["INSERT"], topics[2]: ["UPDATE"], topics[3]: ["*"]});
    let none = json!({});
    let mut client = Client::javascript(&server, "realtime-js-0.9", &topics, &events, &none).await?;
    write(&db).await?;
    let mut expected: Vec<String> = stars(&[topics[0], topics[3]]);
    let typed = everything(&topics[1..3]);
    let wanted = |line: &&String| {
        line.starts_with("realtime:public:users INSERT") || line.starts_with("realtime:public UPDATE")
    };
    expected.extend(typed.iter().filter(wanted).cloned());
    expected.sort();
    assert_eq!(client.changes().await?, expected);
    server.stop().await?;
    super::drop_slot(&db, "readme").await
}
