//! A client that keeps a map of a live result, as applications do.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use realtime_testkit::{Frame, PATIENCE, Server, Socket, TestDb, Version};
use serde_json::{Value, json};
use tokio::time::{self, Duration};

/// The topic that all tests join.
pub const TOPIC: &str = "realtime:rows";

/// Rows by key.
pub type Map = BTreeMap<String, Value>;

/// What one live binding has brought.
#[derive(Debug, Default, Clone)]
pub struct Rows {
    /// Its id.
    pub id: u64,
    /// The columns that tell rows apart.
    key: Vec<String>,
    /// What an application would show.
    pub map: Map,
    /// Types and keys of the messages, in their order.
    pub told: Vec<String>,
    /// Whether all first rows have come, and how many the server says.
    pub complete: Option<u64>,
    /// The last time that it has got: where it would go on.
    pub since: Option<String>,
    /// Whether it has come back and said where it was.
    pub returned: bool,
    /// Whether it was told that its rows begin anew.
    pub is_anew: bool,
}

impl Rows {
    fn key_of(&self, record: &Value) -> String {
        let values: Vec<String> = self.key.iter().map(|key| record[key].to_string()).collect();
        values.join("/")
    }

    fn take(&mut self, data: &Value) -> Result<()> {
        let kind = data["type"].as_str().context("type")?;
        if data["commit_timestamp"].as_str().is_none() || !data["errors"].is_null() {
            bail!("not as clients require it: {data}");
        }
        let record = if kind == "DELETE" { &data["old_record"] } else { &data["record"] };
        self.since = data["commit_timestamp"].as_str().map(str::to_owned);
        let key = self.key_of(record);
        self.told.push(format!("{kind} {key}"));
        match kind {
            "DELETE" => drop(self.map.remove(&key)),
            "INSERT" => drop(self.map.insert(key, record.clone())),
            "UPDATE" => {
                if self.key_of(&data["old_record"]) != key {
                    bail!("the old record is not the key: {data}");
                }
                self.map.insert(key, record.clone());
            }
            other => bail!("{other}"),
        }
        Ok(())
    }
}

/// A socket with one channel, whose bindings may be live.
pub struct LiveClient {
    pub socket: Socket,
    pub rows: Vec<Rows>,
    /// Messages of `system`, in their order.
    pub systems: Vec<Value>,
    /// Changes of bindings that are not live.
    pub plain: Vec<Value>,
    /// Anything else.
    pub others: Vec<Frame>,
}

impl LiveClient {
    /// Joins with bindings; `keys`: for each the columns that tell rows apart, or none for a plain one.
    pub async fn join(
        mut socket: Socket,
        bindings: Value,
        keys: &[&[&str]],
        token: Option<&str>,
    ) -> Result<Self> {
        let mut payload = json!({"config": {"postgres_changes": bindings}});
        if let Some(token) = token {
            payload["access_token"] = json!(token);
        }
        let (reply, _) = socket.join(TOPIC, payload).await?;
        if reply["status"] != "ok" {
            bail!("join failed: {reply}");
        }
        let entries = reply["response"]["postgres_changes"].as_array().context("postgres_changes")?;
        let rows = entries.iter().zip(keys).map(|(entry, key)| Rows {
            id: entry["id"].as_u64().unwrap_or_default(),
            key: key.iter().map(|name| (*name).to_owned()).collect(),
            ..Rows::default()
        });
        let rows = rows.collect();
        Ok(Self { socket, rows, systems: Vec::new(), plain: Vec::new(), others: Vec::new() })
    }

    /// Comes back with bindings that another client had: it keeps its rows, and says for each where it was.
    pub async fn back(
        socket: Socket,
        mut bindings: Value,
        before: Vec<Rows>,
        token: Option<&str>,
    ) -> Result<Self> {
        for (binding, rows) in bindings.as_array_mut().context("bindings")?.iter_mut().zip(&before) {
            binding["since"] = json!(rows.since);
        }
        let keys: Vec<Vec<&str>> =
            before.iter().map(|rows| rows.key.iter().map(String::as_str).collect()).collect();
        let keys: Vec<&[&str]> = keys.iter().map(Vec::as_slice).collect();
        let mut client = Self::join(socket, bindings, &keys, token).await?;
        // Who has no place has to forget its rows by itself.
        for (rows, before) in client.rows.iter_mut().zip(before).filter(|(_, before)| before.since.is_some())
        {
            (rows.map, rows.since, rows.returned) = (before.map, before.since, true);
        }
        Ok(client)
    }

    /// Joins with one live binding, and waits for its first rows.
    pub async fn one(server: &Server, role: &str, binding: Value, key: &[&str]) -> Result<Self> {
        let socket = server.socket(Version::V2, role).await?;
        let mut client = Self::join(socket, json!([binding]), &[key], None).await?;
        client.complete().await?;
        Ok(client)
    }

    /// Waits for the first rows of all live bindings.
    pub async fn complete(&mut self) -> Result<()> {
        while self.rows.iter().any(|rows| !rows.key.is_empty() && rows.complete.is_none()) {
            self.step().await?;
        }
        Ok(())
    }

    /// Takes the next frame.
    pub async fn step(&mut self) -> Result<()> {
        let frame =
            self.socket.frame().await.with_context(|| format!("{:?} {:?}", self.systems, self.rows))?;
        match &*frame.event {
            "postgres_changes" => {
                let ids: Vec<u64> = serde_json::from_value(frame.payload["ids"].clone())?;
                for rows in self.rows.iter_mut().filter(|rows| ids.contains(&rows.id)) {
                    if rows.key.is_empty() {
                        let time = frame.payload["data"]["commit_timestamp"].as_str();
                        rows.since = time.map(str::to_owned);
                        self.plain.push(frame.payload["data"].clone());
                    } else {
                        rows.take(&frame.payload["data"])?;
                    }
                }
            }
            "system" => {
                if frame.payload["message"] == "Live rows are complete" {
                    let ids: Vec<u64> = serde_json::from_value(frame.payload["bindings"].clone())?;
                    for rows in self.rows.iter_mut().filter(|rows| ids.contains(&rows.id)) {
                        rows.complete = frame.payload["rows"].as_u64();
                    }
                }
                if frame.payload["message"] == "Live rows begin anew" {
                    let ids: Vec<u64> = serde_json::from_value(frame.payload["bindings"].clone())?;
                    for rows in self.rows.iter_mut().filter(|rows| ids.contains(&rows.id)) {
                        rows.map.clear();
                        rows.is_anew = true;
                    }
                }
                self.systems.push(frame.payload);
            }
            _ => self.others.push(frame),
        }
        Ok(())
    }

    /// Waits until the only live binding has these rows.
    pub async fn has(&mut self, expected: &Map) -> Result<()> {
        let limit = time::Instant::now() + PATIENCE;
        while self.rows[0].map != *expected {
            match time::timeout_at(limit, self.step()).await {
                Ok(step) => step?,
                Err(_) => {
                    bail!("it has {:#?}, expected {expected:#?}; told {:?}", self.rows[0].map, self.systems)
                }
            }
        }
        Ok(())
    }

    /// Waits for the `system` message that has this text.
    pub async fn told(&mut self, text: &str) -> Result<Value> {
        loop {
            let fits = |system: &&Value| system.to_string().contains(text);
            if let Some(system) = self.systems.iter().find(fits) {
                return Ok(system.clone());
            }
            self.step().await?;
        }
    }

    /// What was told since the last time; waits for what comes within a short while.
    pub async fn news(&mut self) -> Result<Vec<String>> {
        while let Ok(step) = time::timeout(Duration::from_millis(700), self.step()).await {
            step?;
        }
        Ok(std::mem::take(&mut self.rows[0].told))
    }

    /// Whether it was told of a gap, or of anything that is wrong.
    pub fn was_warned(&self) -> bool {
        self.systems.iter().any(|system| system["status"] != "ok")
    }
}

/// What `select` shows: rows of JSON by key.
pub async fn select(db: &TestDb, query: &str, key: &[&str]) -> Result<Map> {
    let rows = db.client().query(&format!("select to_jsonb(q)::text from ({query}) q"), &[]).await?;
    let mut map = Map::new();
    for row in rows {
        let record: Value = serde_json::from_str(row.get(0))?;
        let values: Vec<String> = key.iter().map(|key| record[key].to_string()).collect();
        map.insert(values.join("/"), record);
    }
    Ok(map)
}

/// A live binding of the table `tasks`, with more keys.
pub fn live(more: Value) -> Value {
    let mut binding = json!({"event": "*", "schema": "public", "table": "tasks", "live": true});
    binding.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    binding
}

/// A table with some rows that everybody may read.
pub async fn tasks(db: &TestDb) -> Result<()> {
    db.sql(
        "create table public.tasks (id int primary key, title text, done bool not null default false, room int);
         grant select on public.tasks to anon, authenticated;
         alter publication supabase_realtime add table public.tasks;
         insert into public.tasks select n, 'task ' || n, n % 2 = 0, n % 3 from generate_series(1, 6) n",
    )
    .await
}
