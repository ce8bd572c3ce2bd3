//! A database, and results that are read from it.

use std::time::Duration;

use anyhow::Result;
use deadpool_postgres::Pool;
use realtime_changes::{Party, SubscriptionSpec};
use realtime_pgoutput::message::{Tuple, Value};
use realtime_testkit::{PATIENCE, TestDb, cluster};
use serde_json::{Value as Json, json};

use super::super::{Bounds, Limits, LiveRefusal, PolicyTables, ReadAt, ReadError, Source, look, read};
use crate::{DatabaseConfig, pool, visibility::Passed};

pub(super) const BOUNDS: Bounds =
    Bounds { max_rows: 10_000, by_clock: false, policies: PolicyTables::Published };

pub(super) const LIMITS: Limits = Limits { time: Duration::from_secs(20), rows: 10_000 };

pub(super) struct Live {
    pub(super) db: TestDb,
    pub(super) config: DatabaseConfig,
    pub(super) pool: Pool,
}

impl Live {
    pub(super) async fn new() -> Result<Self> {
        let db = TestDb::new().await?;
        let cluster = cluster().await?;
        Self::with(db, cluster.user(), cluster.password()).await
    }

    /// The server logs in as somebody.
    pub(super) async fn with(db: TestDb, user: &str, password: &str) -> Result<Self> {
        let cluster = cluster().await?;
        let config = DatabaseConfig {
            host: cluster.host().to_owned(),
            port: cluster.port(),
            user: user.to_owned(),
            password: password.into(),
            name: db.name().to_owned(),
            connect_timeout: PATIENCE,
            statement_timeout: PATIENCE,
            ..DatabaseConfig::default()
        };
        let pool = pool::make(&config)?;
        Ok(Self { db, config, pool })
    }

    pub(super) async fn look_as(
        &self,
        role: &str,
        parameters: Json,
        bounds: Bounds,
    ) -> Result<Source, LiveRefusal> {
        let spec = spec(parameters);
        look(&self.pool, "supabase_realtime", &spec, role, bounds).await
    }

    pub(super) async fn look(&self, parameters: Json) -> Result<Source> {
        Ok(self.look_as("anon", parameters, BOUNDS).await?)
    }

    /// The text of a refusal.
    pub(super) async fn refused(&self, parameters: Json) -> String {
        match self.look_as("anon", parameters, BOUNDS).await {
            Ok(_) => "not refused".to_owned(),
            Err(refusal) => refusal.to_string(),
        }
    }

    pub(super) async fn read_as(
        &self,
        source: &Source,
        party: &Party,
        limits: Limits,
    ) -> Result<(ReadAt, Vec<Tuple>), ReadError> {
        self.read_behind(source, party, &Passed::default(), limits).await
    }

    pub(super) async fn read_behind(
        &self,
        source: &Source,
        party: &Party,
        passed: &Passed,
        limits: Limits,
    ) -> Result<(ReadAt, Vec<Tuple>), ReadError> {
        let mut rows = Vec::new();
        let mut take = |row| rows.push(row);
        let read = read(&self.pool, source, party, passed, limits, &mut take).await?;
        Ok((read, rows))
    }

    pub(super) async fn read(&self, source: &Source) -> Result<Vec<Tuple>> {
        Ok(self.read_as(source, &anon(), LIMITS).await?.1)
    }

    /// The texts of the columns that are read, for each row; `~` for nothing.
    pub(super) async fn texts(&self, parameters: Json) -> Result<Vec<String>> {
        let source = self.look(parameters).await?;
        Ok(self.read(&source).await?.iter().map(texts).collect())
    }
}

pub(super) fn anon() -> Party {
    Party { role: "anon".into(), claims: r#"{"role":"anon"}"#.into() }
}

pub(super) fn spec(mut parameters: Json) -> SubscriptionSpec {
    parameters["live"] = json!(true);
    if parameters.get("schema").is_none() {
        parameters["schema"] = json!("public");
    }
    SubscriptionSpec::parse(parameters.as_object().unwrap()).unwrap()
}

pub(super) fn texts(row: &Tuple) -> String {
    let text = |value: &Value| match value {
        Value::Text(text) | Value::Binary(text) => Some(String::from_utf8_lossy(text).into_owned()),
        Value::Null => Some("~".to_owned()),
        Value::Unchanged => None,
    };
    row.iter().filter_map(text).collect::<Vec<_>>().join("|")
}
