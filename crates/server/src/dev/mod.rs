//! `realtime dev`: a private PostgreSQL, a sample table, a token, and one or several nodes of the server.

mod banner;
mod error;
mod fleet;
mod keeper;
mod sample;
mod secret;

use std::{
    path::{Path, PathBuf},
    pin::{Pin, pin},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use banner::Node;
pub use error::DevError;
use fleet::{Bus, Fleet, Plan};
use realtime_localpg::{Cluster, ClusterOptions};
use serde_json::json;

use crate::{
    cli::DevArgs,
    config::{ConfigError, DEFAULT_TENANT, Env, Settings},
    run::Server,
    transport::listener,
};

/// Database of the private cluster that the server watches.
const DATABASE: &str = "postgres";

/// Usual port of the private PostgreSQL. It is below the range of outgoing connections.
const PG_PORT: u16 = 15432;

/// Lifetime of the printed token.
const TOKEN_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

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
    let (port, nodes) = (args.port, args.nodes);
    if nodes > 1 && (port == 0 || port.checked_add(u16::from(nodes - 1)).is_none()) {
        return Err(DevError::Ports { port, nodes });
    }
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
    let setting =
        Setting { args, config, data_dir: &data_dir, cluster: &cluster, secret, metadata_key, started };
    let served = async {
        sample::set_up(&cluster, DATABASE).await?;
        if args.nodes == 1 { setting.serve(stop).await } else { setting.serve_on_nodes(stop).await }
    };
    let outcome = tokio::select! {
        outcome = served => outcome,
        () = keeper::keep(&cluster) => Ok(()),
    };
    banner::progress("Stopping PostgreSQL");
    cluster.stop().await?;
    outcome
}

/// What exists before the first node starts.
struct Setting<'a> {
    args: &'a DevArgs,
    config: Option<&'a Path>,
    data_dir: &'a Path,
    cluster: &'a Cluster,
    secret: String,
    metadata_key: String,
    started: tokio::time::Instant,
}

impl Setting<'_> {
    /// A node within this process.
    async fn serve(&self, stop: impl Future<Output = ()>) -> Result<(), DevError> {
        let port = self.args.port;
        // A cluster in the environment has another database.
        let alone = [("NATS_URL", String::new())];
        let settings = self.settings(&self.env(port, alone))?;
        let server = Server::bind(settings).map_err(|error| DevError::Listen { port, error })?;
        self.ready(&[Node { name: "", port: server.port().unwrap_or(port), pid: None }], None);
        server.run(stop).await;
        Ok(())
    }

    /// Serves on several nodes, in processes of their own.
    async fn serve_on_nodes(&self, stop: impl Future<Output = ()>) -> Result<(), DevError> {
        let mut stop = pin!(stop);
        let mut bus = Bus::open(self.data_dir.join("nats"), self.args.nats_url()).await?;
        let plans: Vec<Plan> = (0..u16::from(self.args.nodes))
            .map(|place| {
                let (name, port) = (format!("node{}", place + 1), self.args.port + place);
                let own = [("NODE_NAME", name.clone()), ("LOG_FORMAT", "text".to_owned())];
                let env = self.env(port, own.into_iter().chain(bus.env()));
                Plan { name, port, env }
            })
            .collect();
        let outcome = self.serve_over(&mut bus, &plans, stop.as_mut()).await;
        bus.close().await;
        outcome
    }

    async fn serve_over(
        &self,
        bus: &mut Bus,
        plans: &[Plan],
        mut stop: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), DevError> {
        for plan in plans {
            // Each node would report a wrong setting, too, but in the middle of the other lines.
            let Settings { listen, port, .. } = self.settings(&plan.env)?;
            listener::bind(listen, port).map_err(|error| DevError::Listen { port, error })?;
        }
        let mut fleet = Fleet::new(plans, self.config)?;
        let begun = tokio::select! {
            begun = fleet.begin() => begun.map(|()| true),
            () = stop.as_mut() => Ok(false),
        };
        if let Ok(true) = begun {
            let nodes = plans.iter().zip(fleet.pids());
            let nodes = nodes.map(|(plan, pid)| Node { name: &plan.name, port: plan.port, pid });
            self.ready(&nodes.collect::<Vec<_>>(), Some(bus.shown()));
            fleet.run(bus, stop).await;
        }
        fleet.stop().await;
        begun.map(|_| ())
    }

    /// The settings of a node. Those of the environment override them, except for the database.
    fn env(
        &self,
        port: u16,
        further: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Vec<(&'static str, String)> {
        let cluster = self.cluster;
        let own = [
            ("API_JWT_SECRET", self.secret.clone()),
            ("DB_HOST", cluster.host().to_owned()),
            ("DB_PORT", cluster.port().to_string()),
            ("DB_NAME", DATABASE.to_owned()),
            ("DB_USER", cluster.user().to_owned()),
            ("DB_PASSWORD", cluster.password().to_owned()),
            ("METADATA_DATABASE", "true".to_owned()),
            ("DB_ENC_KEY", String::new()),
            ("DB_ENC_KEY_GCM", self.metadata_key.clone()),
            ("DB_AFTER_CONNECT_QUERY", String::new()),
            ("DB_SSL_MODE", "disable".to_owned()),
            ("DB_IP_VERSION", "ipv4".to_owned()),
            ("PORT", port.to_string()),
            ("SEED_SELF_HOST", "true".to_owned()),
            ("SELF_HOST_TENANT_NAME", DEFAULT_TENANT.to_owned()),
        ];
        let defaults = [
            // A person who tries things out should not wait for the answer to a mistake (spec README, decision 10).
            ("CONNECT_ERROR_BACKOFF_MS", "0"),
            ("CHANNEL_ERROR_BACKOFF_MS", "0"),
            // The log level of this process: only what a person must know.
            ("LOG_LEVEL", "warn"),
        ];
        let unset = |(name, _): &(&str, &str)| std::env::var_os(name).is_none();
        let defaults = defaults.into_iter().filter(unset).map(|(name, value)| (name, value.to_owned()));
        own.into_iter().chain(further).chain(defaults).collect()
    }

    /// A node's settings, read like any other.
    fn settings(&self, own: &[(&'static str, String)]) -> Result<Settings, ConfigError> {
        let lookup = |name: &str| {
            let own = own.iter().find(|(own, _)| *own == name).map(|(_, value)| value.clone());
            own.or_else(|| std::env::var(name).ok())
        };
        Settings::from_env(&Env::read(&lookup, self.config)?)
    }

    fn ready(&self, nodes: &[Node<'_>], nats: Option<(String, Option<i32>)>) {
        banner::ready(&banner::Ready {
            nodes,
            nats,
            tenant: DEFAULT_TENANT,
            token: &token(&self.secret),
            secret: &self.secret,
            database: &self.cluster.url(DATABASE),
            database_pid: self.cluster.pid(),
            table: sample::TABLE,
            took: self.started.elapsed(),
        });
    }
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

/// `$XDG_DATA_HOME/realtime-dev`, else `~/.local/share/realtime-dev`. For root: a folder that PostgreSQL's operating
/// system user can reach.
fn default_data_dir() -> PathBuf {
    if nix::unistd::Uid::effective().is_root() {
        return PathBuf::from("/var/lib/realtime-dev");
    }
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/share"));
    let base = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).or_else(home);
    base.unwrap_or_else(std::env::temp_dir).join("realtime-dev")
}
