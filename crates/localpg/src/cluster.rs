//! Creates, starts and stops the cluster.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitStatus,
};

use rand::Rng as _;
use tokio::{
    process::Command,
    sync::Mutex,
    time::{self, Duration, Instant},
};
use tokio_postgres::{Client, NoTls};

use crate::{
    error::Error, find, install, owner::Owner, port::free_port, progress::Progress, supervised::Supervised,
};

/// How long the server may take to accept connections.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How long it may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// How often it is asked whether it is ready.
const POLL: Duration = Duration::from_millis(50);

/// The superuser of the cluster.
const USER: &str = "postgres";

/// Names of the certificate and the key in the data directory.
const CERTIFICATE: &str = "server.crt";
const KEY: &str = "server.key";

/// Lines of the server's log in an error.
const LOG_LINES: usize = 5;

/// How often another free port is chosen when another program was quicker to take it.
const PORT_ATTEMPTS: u32 = 3;

/// What PostgreSQL's log says in that case.
const PORT_TAKEN: &str = "Address already in use";

/// How to run a cluster.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Folder of the server programs; searched for if not given.
    pub bin_dir: Option<PathBuf>,
    /// Data directory; created if it does not exist.
    pub data_dir: PathBuf,
    /// Port; a free one if not given.
    pub port: Option<u16>,
    /// Whether the server programs may be installed.
    pub install: bool,
    /// Whether data survive a crash of the machine. Tests are faster without.
    pub durable: bool,
    /// Whether the data are removed when the server stops, however this process ended.
    pub ephemeral: bool,
    /// Further settings, as `name=value`.
    pub settings: Vec<String>,
    /// A certificate and its key, in PEM form: the server then accepts encrypted connections beside plain ones.
    pub tls: Option<(String, String)>,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            bin_dir: None,
            data_dir: PathBuf::new(),
            port: None,
            install: false,
            durable: true,
            ephemeral: false,
            settings: Vec::new(),
            tls: None,
        }
    }
}

/// A running cluster. Dropping it stops the server, [`stop`](Self::stop) also waits for that.
#[derive(Debug)]
pub struct Cluster {
    port: u16,
    password: String,
    data: PathBuf,
    log: PathBuf,
    /// The command that starts it.
    bin: PathBuf,
    owner: Owner,
    options: ClusterOptions,
    server: Mutex<Supervised>,
}

impl Cluster {
    /// Starts a server on a data directory, which is created if it does not exist.
    ///
    /// # Errors
    /// [`Error`], with a text for people.
    pub async fn start(options: ClusterOptions, progress: &(dyn Fn(Progress) + Sync)) -> Result<Self, Error> {
        let bin = match find::bin_dir(options.bin_dir.as_deref())? {
            Some(bin) => bin,
            None if options.install => {
                install::install(progress).await?;
                find::bin_dir(None)?.ok_or(Error::NotFound { hint: install::HINT })?
            }
            None => return Err(Error::NotFound { hint: install::HINT }),
        };
        let owner = Owner::choose()?;
        let mut attempt = 1;
        loop {
            match Self::start_once(&bin, owner, &options, progress).await {
                Err(Error::NotReady(log))
                    if options.port.is_none() && attempt < PORT_ATTEMPTS && log.contains(PORT_TAKEN) =>
                {
                    attempt += 1;
                }
                started => return started,
            }
        }
    }

    async fn start_once(
        bin: &Path,
        owner: Owner,
        options: &ClusterOptions,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Self, Error> {
        let data = options.data_dir.join("data");
        let password = prepare(&options.data_dir, &data, owner, bin, progress).await?;
        refuse_running(&data)?;
        if let Some((certificate, key)) = &options.tls {
            for (name, text) in [(CERTIFICATE, certificate), (KEY, key)] {
                let path = data.join(name);
                owner.write_private(&path, text).map_err(|error| Error::DataDir { path, error })?;
            }
        }
        progress(Progress::Starting);
        let failed =
            |error: std::io::Error| Error::Program { program: "postgres", detail: error.to_string() };
        let port = options.port.map_or_else(free_port, Ok).map_err(failed)?;
        let log = options.data_dir.join("postgresql.log");
        let server = Mutex::new(spawn(bin, &data, &log, port, owner, options)?);
        let (bin, options) = (bin.to_owned(), options.clone());
        let cluster = Self { port, password, data, log, bin, owner, options, server };
        cluster.wait_until_ready().await?;
        Ok(cluster)
    }

    /// Returns when the server has ended by itself: with its code, or 128 and the signal that ended it. Cancel safe.
    ///
    /// # Errors
    /// What the operating system says.
    pub async fn ended(&self) -> io::Result<ExitStatus> {
        self.server.lock().await.wait().await
    }

    /// Starts the server that has ended again, on its port.
    ///
    /// # Errors
    /// [`Error`], with a text for people.
    pub async fn start_again(&self) -> Result<(), Error> {
        let server = spawn(&self.bin, &self.data, &self.log, self.port, self.owner, &self.options)?;
        *self.server.lock().await = server;
        self.wait_until_ready().await
    }

    /// The last lines of the server's log, in one.
    #[must_use]
    pub fn last_words(&self) -> String {
        last_lines(&self.log)
    }

    /// Where its data are.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Address it listens on.
    #[must_use]
    pub fn host(&self) -> &'static str {
        "127.0.0.1"
    }

    /// Port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its first process, as long as it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        fs::read_to_string(self.data.join("postmaster.pid")).ok()?.lines().next()?.trim().parse().ok()
    }

    /// Its superuser.
    #[must_use]
    pub fn user(&self) -> &'static str {
        USER
    }

    /// The superuser's password.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }

    /// Connection URL of a database, password included.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgresql://{USER}:{}@{}:{}/{database}", self.password, self.host(), self.port)
    }

    /// Connects as the superuser.
    ///
    /// # Errors
    /// What the server says.
    pub async fn connect(&self, database: &str) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(&self.url(database), NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Stops the server and waits for its end.
    ///
    /// # Errors
    /// When it does not end in time; it is killed then.
    pub async fn stop(self) -> Result<(), Error> {
        self.server
            .into_inner()
            .stop(STOP_LIMIT)
            .await
            .map_err(|_| Error::Program { program: "postgres", detail: "it did not stop in time".to_owned() })
    }

    async fn wait_until_ready(&self) -> Result<(), Error> {
        let limit = Instant::now() + START_LIMIT;
        loop {
            if self.connect("postgres").await.is_ok() {
                return Ok(());
            }
            if self.server.lock().await.has_ended() || Instant::now() > limit {
                return Err(Error::NotReady(self.last_words()));
            }
            time::sleep(POLL).await;
        }
    }
}

/// Makes the cluster where there is none; gives the superuser's password.
async fn prepare(
    dir: &Path,
    data: &Path,
    owner: Owner,
    bin: &Path,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<String, Error> {
    let unusable = |path: &Path, error| Error::DataDir { path: path.to_owned(), error };
    let password_file = dir.join("superuser-password");
    if data.join("PG_VERSION").exists() {
        let password = fs::read_to_string(&password_file).map_err(|error| unusable(&password_file, error))?;
        return Ok(password.trim().to_owned());
    }
    progress(Progress::Initializing(data.to_owned()));
    owner.make_dir(dir).map_err(|error| unusable(dir, error))?;
    // What an interrupted attempt left behind would make initdb refuse.
    if data.exists() {
        fs::remove_dir_all(data).map_err(|error| unusable(data, error))?;
    }
    let password: String =
        rand::rng().sample_iter(rand::distr::Alphanumeric).take(24).map(char::from).collect();
    fs::write(&password_file, &password).map_err(|error| unusable(&password_file, error))?;
    owner.give(&password_file).map_err(|error| unusable(&password_file, error))?;
    let mut initdb = Command::new(bin.join("initdb"));
    initdb.arg("--pgdata").arg(data).arg("--pwfile").arg(&password_file).args([
        "--username",
        USER,
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C.UTF-8",
        "--no-instructions",
    ]);
    owner.run_as(&mut initdb);
    let failed = |detail: String| Error::Program { program: "initdb", detail };
    let output = initdb.output().await.map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(password)
}

/// An error if a live server holds the data directory; what a dead one left behind does not matter.
fn refuse_running(data: &Path) -> Result<(), Error> {
    let Ok(text) = fs::read_to_string(data.join("postmaster.pid")) else { return Ok(()) };
    let Some(pid) = text.lines().next().and_then(|line| line.trim().parse::<i32>().ok()) else {
        return Ok(());
    };
    let is_postgres =
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == "postgres");
    if is_postgres {
        return Err(Error::AlreadyRunning { pid, path: data.to_owned() });
    }
    Ok(())
}

fn spawn(
    bin: &Path,
    data: &Path,
    log: &Path,
    port: u16,
    owner: Owner,
    options: &ClusterOptions,
) -> Result<Supervised, Error> {
    let remove = options.ephemeral.then_some(data);
    let mut command = Supervised::command(&bin.join("postgres"), log, remove);
    command.arg("-D").arg(data);
    let mut settings = vec![
        format!("port={port}"),
        "listen_addresses=127.0.0.1".to_owned(),
        "unix_socket_directories=".to_owned(),
        "wal_level=logical".to_owned(),
        "max_wal_senders=50".to_owned(),
        "max_replication_slots=50".to_owned(),
    ];
    if !options.durable {
        // Commits stay synchronous: the walsender sends what is flushed, and else that is seldom.
        settings.extend(["fsync=off", "full_page_writes=off"].map(str::to_owned));
    }
    if options.tls.is_some() {
        settings.push("ssl=on".to_owned());
        settings.extend([format!("ssl_cert_file={CERTIFICATE}"), format!("ssl_key_file={KEY}")]);
    }
    settings.extend(options.settings.iter().cloned());
    for setting in settings {
        command.arg("-c").arg(setting);
    }
    owner.run_as(&mut command);
    let failed = |error: std::io::Error| Error::Program { program: "postgres", detail: error.to_string() };
    Supervised::start(command).map_err(failed)
}

fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(LOG_LINES).collect();
    if lines.is_empty() {
        return format!("no answer within {} seconds", START_LIMIT.as_secs());
    }
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}
