//! `realtime dev`: a private PostgreSQL, a sample table, a token, and the server on top.

mod banner;
mod sample;
mod secret;

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use realtime_localpg::{Cluster, ClusterOptions};
use serde_json::json;

use crate::{
    cli::DevArgs,
    config::{ConfigError, DEFAULT_TENANT, Env, Settings},
    startup::Server,
};

/// Database of the private cluster that is watched.
const DATABASE: &str = "postgres";

/// Port of the private PostgreSQL if nobody else has it: below those that connections are given by chance.
const PG_PORT: u16 = 15432;

/// Lifetime of the printed token: long enough to play with.
const TOKEN_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

/// Why `realtime dev` could not start.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// The data directory cannot be used.
    #[error("Cannot use {path}: {error}")]
    DataDir {
        /// The directory or a file in it.
        path: PathBuf,
        /// What the operating system says.
        error: io::Error,
    },
    /// PostgreSQL does not run.
    #[error(transparent)]
    Postgres(#[from] realtime_localpg::Error),
    /// The sample table could not be made.
    #[error("Cannot set up the sample database: {0}")]
    Sample(#[from] tokio_postgres::Error),
    /// A setting in the environment cannot be used.
    #[error("Wrong setting: {0}")]
    Config(#[from] ConfigError),
    /// The port cannot be taken.
    #[error("Cannot listen on port {port}: {error}")]
    Listen {
        /// The port.
        port: u16,
        /// What the operating system says.
        error: io::Error,
    },
}

/// Runs until `stop` is done, then stops the private PostgreSQL too.
///
/// # Errors
/// [`DevError`] when something could not be started.
pub async fn run(
    args: &DevArgs,
    config: Option<&Path>,
    stop: impl Future<Output = ()>,
) -> Result<(), DevError> {
    let started = tokio::time::Instant::now();
    let data_dir = args.data_dir.clone().unwrap_or_else(default_data_dir);
    let secret = secret::load_or_make(&data_dir, secret::JWT)?;
    let metadata_key = secret::load_or_make(&data_dir, secret::METADATA_KEY)?;
    let options = ClusterOptions {
        bin_dir: args.pg_bin.clone(),
        data_dir: data_dir.join("postgres"),
        port: args.pg_port.or_else(usual_port),
        install: true,
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(options, &|progress| banner::progress(&progress.to_string())).await?;
    let ready = async {
        sample::set_up(&cluster, DATABASE).await?;
        let server = bind(args, config, &cluster, &secret, &metadata_key)?;
        banner::ready(&banner::Ready {
            port: args.port,
            tenant: DEFAULT_TENANT,
            token: &token(&secret),
            secret: &secret,
            database: &cluster.url(DATABASE),
            table: sample::TABLE,
            took: started.elapsed(),
        });
        Ok::<_, DevError>(server)
    };
    let outcome = match ready.await {
        Ok(server) => {
            server.run(stop).await;
            Ok(())
        }
        Err(error) => Err(error),
    };
    banner::progress("Stopping PostgreSQL");
    cluster.stop().await?;
    outcome
}

/// A server on the private database. What the environment sets otherwise stands, but for the database.
fn bind(
    args: &DevArgs,
    config: Option<&Path>,
    cluster: &Cluster,
    secret: &str,
    metadata_key: &str,
) -> Result<Server, DevError> {
    let own = [
        ("API_JWT_SECRET", secret.to_owned()),
        ("DB_HOST", cluster.host().to_owned()),
        ("DB_PORT", cluster.port().to_string()),
        ("DB_NAME", DATABASE.to_owned()),
        ("DB_USER", cluster.user().to_owned()),
        ("DB_PASSWORD", cluster.password().to_owned()),
        ("METADATA_DATABASE", "true".to_owned()),
        ("DB_ENC_KEY", String::new()),
        ("DB_ENC_KEY_GCM", metadata_key.to_owned()),
        ("DB_AFTER_CONNECT_QUERY", String::new()),
        ("DB_SSL_MODE", "disable".to_owned()),
        ("DB_IP_VERSION", "ipv4".to_owned()),
        ("PORT", args.port.to_string()),
        ("SEED_SELF_HOST", "true".to_owned()),
        ("SELF_HOST_TENANT_NAME", DEFAULT_TENANT.to_owned()),
    ];
    // Somebody who is trying things out should not wait for answers to mistakes (spec README, decision 10).
    let defaults = [("CONNECT_ERROR_BACKOFF_MS", "0"), ("CHANNEL_ERROR_BACKOFF_MS", "0")];
    let lookup = |name: &str| {
        let own = own.iter().find(|(own, _)| *own == name).map(|(_, value)| value.clone());
        let default =
            || defaults.iter().find(|(default, _)| *default == name).map(|(_, value)| (*value).to_owned());
        own.or_else(|| std::env::var(name).ok()).or_else(default)
    };
    let env = Env::read(&lookup, config)?;
    let settings = Settings::from_env(&env)?;
    Server::bind(settings).map_err(|error| DevError::Listen { port: args.port, error })
}

/// The usual port, unless it is taken.
fn usual_port() -> Option<u16> {
    std::net::TcpListener::bind(("127.0.0.1", PG_PORT)).is_ok().then_some(PG_PORT)
}

/// A token for the role `anon`.
fn token(secret: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let claims = json!({"role": "anon", "iat": now.as_secs(), "exp": (now + TOKEN_LIFE).as_secs()});
    realtime_auth::sign_hs256(secret, &claims.to_string())
}

/// `$XDG_DATA_HOME/realtime-dev`, else `~/.local/share/realtime-dev`; for root a place that the operating
/// system user of PostgreSQL can reach.
fn default_data_dir() -> PathBuf {
    if nix::unistd::Uid::effective().is_root() {
        return PathBuf::from("/var/lib/realtime-dev");
    }
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/share"));
    let base = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).or_else(home);
    base.unwrap_or_else(std::env::temp_dir).join("realtime-dev")
}
