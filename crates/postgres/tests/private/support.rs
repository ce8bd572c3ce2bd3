//! A database that is set up, and what tests ask of it.

use std::{
    io::Write,
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime},
};

use anyhow::Result;
use parking_lot::Mutex;
use realtime_changes::{ChannelId, Delivery};
use realtime_postgres::{
    AuthorizeRequest, ChangeSink, DatabaseConfig, Notice, ReadVerdict, TenantDatabase, WriteVerdict,
};
use realtime_testkit::{TestDb, cluster};
use serde_json::{Value, json};

/// Row changes are of no interest here.
pub struct NoSink;

impl ChangeSink for NoSink {
    fn deliver(&self, _: Delivery) {}
    fn notice(&self, _: ChannelId, _: Notice) {}
}

/// Where a test's database is.
pub async fn config(db: &TestDb) -> Result<DatabaseConfig> {
    let cluster = cluster().await?;
    Ok(DatabaseConfig {
        host: cluster.host().to_owned(),
        port: cluster.port(),
        user: cluster.user().to_owned(),
        password: cluster.password().into(),
        name: db.name().to_owned(),
        pool_size: 2,
        connect_timeout: realtime_testkit::PATIENCE,
        statement_timeout: realtime_testkit::PATIENCE,
        queue_target: realtime_testkit::PATIENCE,
        ..DatabaseConfig::default()
    })
}

/// A handle.
pub fn open(config: DatabaseConfig) -> TenantDatabase {
    TenantDatabase::new(config, Arc::new(NoSink))
}

/// The time of the set-ups of this process: at midnight two of them would not make the same partitions.
pub fn today() -> SystemTime {
    static TODAY: LazyLock<SystemTime> = LazyLock::new(SystemTime::now);
    *TODAY
}

/// A database that is set up, with `auth.uid()` and `auth.role()` as the field has them.
pub async fn ready() -> Result<(TestDb, TenantDatabase)> {
    ready_with(|config| config).await
}

/// The same, with other settings.
pub async fn ready_with(
    change: impl FnOnce(DatabaseConfig) -> DatabaseConfig,
) -> Result<(TestDb, TenantDatabase)> {
    ready_at(today(), change).await
}

/// The same, set up at some time.
pub async fn ready_at(
    now: SystemTime,
    change: impl FnOnce(DatabaseConfig) -> DatabaseConfig,
) -> Result<(TestDb, TenantDatabase)> {
    let db = TestDb::new().await?;
    db.sql(
        "create schema auth;
         create function auth.uid() returns uuid language sql stable as
            $$ select nullif(current_setting('request.jwt.claim.sub', true), '')::uuid $$;
         create function auth.role() returns text language sql stable as
            $$ select current_setting('request.jwt.claim.role', true) $$;
         grant usage on schema auth to anon, authenticated, service_role;",
    )
    .await?;
    let database = open(change(config(&db).await?));
    let report = database.set_up_schema(now, false).await?;
    assert_eq!(report.failed, Vec::<String>::new());
    Ok((db, database))
}

/// Policies for reading (`select`) or writing (`insert`) the topic `T` by `authenticated`.
pub async fn policy(db: &TestDb, action: &str, extensions: &[&str]) -> Result<()> {
    let clause = if action == "select" { "using" } else { "with check" };
    for extension in extensions {
        db.sql(&format!(
            "create policy {action}_{extension} on realtime.messages for {action} to authenticated
             {clause} (realtime.topic() = 'T' and topic = 'T' and extension = '{extension}')"
        ))
        .await?;
    }
    Ok(())
}

/// What a token of this role asks about topic `T`.
pub fn request(role: &str) -> AuthorizeRequest {
    with_claims(json!({"role": role}))
}

/// What a token with these claims asks about topic `T`.
pub fn with_claims(claims: Value) -> AuthorizeRequest {
    AuthorizeRequest {
        role: claims["role"].as_str().unwrap_or_default().into(),
        claims: claims.to_string().into(),
        topic: "T".into(),
        headers: "{}".into(),
        presence: true,
    }
}

/// A verdict about both extensions.
pub fn may_read(broadcast: bool, presence: bool) -> ReadVerdict {
    ReadVerdict { broadcast, presence: Some(presence) }
}

/// A verdict about both extensions.
pub fn may_write(broadcast: bool, presence: bool) -> WriteVerdict {
    WriteVerdict { broadcast, presence }
}

/// The one value of a query.
pub async fn one<T>(db: &TestDb, sql: &str) -> Result<T>
where
    T: for<'a> tokio_postgres::types::FromSql<'a>,
{
    Ok(db.client().query_one(sql, &[]).await?.try_get(0)?)
}

/// The values of a query's one column.
pub async fn all<T>(db: &TestDb, sql: &str) -> Result<Vec<T>>
where
    T: for<'a> tokio_postgres::types::FromSql<'a>,
{
    let rows = db.client().query(sql, &[]).await?;
    Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
}

/// Waits until a query says true.
pub async fn until(db: &TestDb, sql: &str) -> Result<()> {
    let limit = tokio::time::Instant::now() + realtime_testkit::PATIENCE;
    while !one::<bool>(db, sql).await? {
        anyhow::ensure!(tokio::time::Instant::now() < limit, "never true: {sql}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// What is logged by this thread while the guard lives.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Starts listening.
    pub fn listen() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    /// Number of lines that contain a text.
    pub fn count(&self, text: &str) -> usize {
        String::from_utf8_lossy(&self.0.lock()).lines().filter(|line| line.contains(text)).count()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
