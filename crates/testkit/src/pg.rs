//! A PostgreSQL cluster per test process, and a database per test.

use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use realtime_localpg::{Cluster, ClusterOptions};
use tokio::{
    sync::OnceCell,
    time::{self, Duration, Instant},
};
use tokio_postgres::Client;

use crate::PATIENCE;

/// Pause between attempts to reach a cluster that recovers.
const LOOK: Duration = Duration::from_millis(20);

/// How long a cluster may take to notice that one of its processes was killed.
const NOTICED: Duration = Duration::from_millis(300);

/// Connections that the clusters of tests accept.
pub const MAX_CONNECTIONS: usize = 500;

/// A running cluster and where its data are.
struct Running {
    cluster: Cluster,
    /// Removed with the cluster.
    dir: tempfile::TempDir,
}

static CLUSTER: OnceCell<Running> = OnceCell::const_new();

/// The cluster of this process, started when first asked for. It ends with the process.
///
/// `REALTIME_PG_BIN` names the folder of the server programs, to test with another version.
///
/// # Errors
/// When it cannot be started.
pub async fn cluster() -> Result<&'static Cluster> {
    Ok(&CLUSTER.get_or_try_init(|| start(None)).await?.cluster)
}

async fn start(tls: Option<(String, String)>) -> Result<Running> {
    let dir = tempfile::Builder::new().prefix("realtime-test-").tempdir()?;
    // The server runs as another user if we are root: it must be allowed to pass through.
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
    let options = ClusterOptions {
        bin_dir: std::env::var_os("REALTIME_PG_BIN").map(Into::into),
        data_dir: dir.path().join("pg"),
        install: true,
        durable: false,
        // The cluster of a process is never dropped.
        ephemeral: true,
        // A session that sets `synchronous_commit` to `on` waits, once its commit is in the log, for a standby that
        // never comes: the log has the commit, no snapshot sees it. `pg_cancel_backend` ends the wait.
        settings: [
            // Room for the tests of many processors at once.
            &*format!("max_connections={MAX_CONNECTIONS}"),
            "max_wal_senders=200",
            "max_replication_slots=200",
            "synchronous_commit=local",
            "synchronous_standby_names=nobody",
        ]
        .map(str::to_owned)
        .to_vec(),
        tls,
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(options, &|_| {}).await?;
    // Roles belong to the cluster, not to a database.
    let client = cluster.connect("postgres").await?;
    client
        .batch_execute(
            "create role anon nologin; create role authenticated nologin;
             create role service_role nologin bypassrls;",
        )
        .await?;
    Ok(Running { cluster, dir })
}

/// A database of its own for one test.
pub struct TestDb {
    name: String,
    client: Client,
    /// The cluster, if it is nobody else's.
    own: Option<Box<Running>>,
}

impl TestDb {
    /// A database with an empty publication `supabase_realtime`.
    ///
    /// # Errors
    /// When PostgreSQL does not run or refuses.
    pub async fn new() -> Result<Self> {
        Self::of(cluster().await?).await
    }

    /// The same on a cluster of its own, where nobody else writes.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub async fn alone() -> Result<Self> {
        Self::on(start(None).await?).await
    }

    /// The same on a cluster that accepts encrypted connections beside plain ones, with a certificate and its key in
    /// PEM form.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub async fn with_tls(certificate: String, key: String) -> Result<Self> {
        Self::on(start(Some((certificate, key))).await?).await
    }

    async fn on(running: Running) -> Result<Self> {
        let own = Box::new(running);
        let db = Self::of(&own.cluster).await?;
        Ok(Self { own: Some(own), ..db })
    }

    async fn of(cluster: &Cluster) -> Result<Self> {
        let name = format!("test_{:016x}", rand::random::<u64>());
        let admin = cluster.connect("postgres").await?;
        admin.batch_execute(&format!("create database {name}")).await?;
        let client = cluster.connect(&name).await?;
        client
            .batch_execute(
                "create publication supabase_realtime;
                 grant usage on schema public to anon, authenticated, service_role;",
            )
            .await?;
        Ok(Self { name, client, own: None })
    }

    /// With table `test` of postgres_changes 8, fixture A: all granted to `anon` and `authenticated`, published.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub async fn with_fixture_a() -> Result<Self> {
        let db = Self::new().await?;
        db.make_fixture_a().await?;
        Ok(db)
    }

    /// Makes table `test` of fixture A.
    ///
    /// # Errors
    /// What the server says.
    pub async fn make_fixture_a(&self) -> Result<()> {
        self.sql(
            "create table public.test (id serial primary key, details text, binary_data bytea);
             grant all on public.test to anon, authenticated;
             grant all on sequence public.test_id_seq to anon, authenticated;
             alter publication supabase_realtime add table public.test;",
        )
        .await
    }

    async fn cluster(&self) -> Result<&Cluster> {
        match &self.own {
            Some(own) => Ok(&own.cluster),
            None => cluster().await,
        }
    }

    /// The log of a cluster of its own.
    ///
    /// # Errors
    /// When it cannot be read, or the cluster is shared.
    pub fn log(&self) -> Result<String> {
        let own = self.own.as_ref().context("other tests write to the log of this cluster, too")?;
        let bytes = std::fs::read(own.dir.path().join("pg/postgresql.log"))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Has a cluster of its own crash and recover: one of its processes is killed.
    ///
    /// # Errors
    /// When the cluster is shared, or does not come back.
    pub async fn crash(&mut self) -> Result<()> {
        let own = self.own.as_ref().context("other tests use this cluster, too")?;
        let pid: i32 = self.client.query_one("select pg_backend_pid()", &[]).await?.try_get(0)?;
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
        // Until the first process has noticed it answers as before.
        while !self.client.is_closed() {
            time::sleep(LOOK).await;
        }
        time::sleep(NOTICED).await;
        let limit = Instant::now() + PATIENCE;
        self.client = loop {
            match own.cluster.connect(&self.name).await {
                // One that is ending still answers.
                Ok(client) if client.batch_execute("select").await.is_ok() => break client,
                Err(error) if Instant::now() > limit => return Err(error.into()),
                _ => time::sleep(LOOK).await,
            }
        };
        Ok(())
    }

    /// Name of the database.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A connection as superuser.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Runs statements as superuser.
    ///
    /// # Errors
    /// What the server says.
    pub async fn sql(&self, statements: &str) -> Result<()> {
        self.client.batch_execute(statements).await.with_context(|| statements.to_owned())
    }

    /// A second connection as superuser.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn connect(&self) -> Result<Client> {
        Ok(self.cluster().await?.connect(&self.name).await?)
    }

    /// Connection URL of the superuser.
    ///
    /// # Errors
    /// When PostgreSQL does not run.
    pub async fn url(&self) -> Result<String> {
        Ok(self.cluster().await?.url(&self.name))
    }

    /// The variables that point a server to this database.
    ///
    /// # Errors
    /// When PostgreSQL does not run.
    pub async fn env(&self) -> Result<Vec<(String, String)>> {
        let cluster = self.cluster().await?;
        let pairs = [
            ("DB_HOST", cluster.host().to_owned()),
            ("DB_PORT", cluster.port().to_string()),
            ("DB_NAME", self.name.clone()),
            ("DB_USER", cluster.user().to_owned()),
            ("DB_PASSWORD", cluster.password().to_owned()),
        ];
        Ok(pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }
}
