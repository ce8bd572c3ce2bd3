//! What the whole server shares.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use realtime_auth::{Jwks, Keys, Verifier};
use realtime_cluster::Cluster;
use realtime_hub::Hub;
use realtime_postgres::{DatabaseConfig, Sharing, TenantDatabase};
use realtime_tenants::{Registry, Tenant};
use secrecy::ExposeSecret;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::{ConfigError, Settings},
    http::longpoll::LongPolls,
    limits::Meters,
    routes::Routes,
    sharing::NodeSharing,
    sink::DatabaseSink,
    tenant_runtime::{Clock, TenantRuntime},
};

/// What the whole server shares: settings, tenants, rooms, sockets.
pub struct App {
    settings: Settings,
    registry: Registry,
    hub: Arc<Hub>,
    /// Other nodes, if there can be any.
    cluster: Option<Cluster>,
    /// Made when a tenant is first asked for.
    runtimes: Mutex<HashMap<Box<str>, Arc<TenantRuntime>>>,
    databases: Mutex<Vec<TenantDatabase>>,
    sockets: TaskTracker,
    long_polls: LongPolls,
    stopping: CancellationToken,
}

impl App {
    /// A server with the tenants of its settings.
    #[must_use]
    pub fn new(settings: Settings, stopping: CancellationToken) -> Arc<Self> {
        let registry = Registry::default();
        for tenant in &settings.tenants {
            registry.put(tenant.clone());
        }
        let hub = Hub::new(rand::random(), settings.presence_interval);
        let cluster = settings.cluster.clone().map(|config| Cluster::new(config, &hub));
        Arc::new(Self {
            settings,
            registry,
            hub,
            cluster,
            runtimes: Mutex::default(),
            databases: Mutex::default(),
            sockets: TaskTracker::new(),
            long_polls: LongPolls::default(),
            stopping,
        })
    }

    /// The running state of the tenant that a host means (protocol 1.4).
    #[must_use]
    pub fn runtime_for_host(&self, host: &str) -> Option<Arc<TenantRuntime>> {
        self.runtime(&self.registry.resolve(host)?)
    }

    /// The running state of a tenant. `None` if its keys cannot be used, which is logged.
    #[must_use]
    pub fn runtime(&self, tenant: &Arc<Tenant>) -> Option<Arc<TenantRuntime>> {
        let mut runtimes = self.runtimes.lock();
        if let Some(runtime) = runtimes.get(&tenant.external_id) {
            return Some(Arc::clone(runtime));
        }
        let verifier = match verifier(tenant, &self.settings) {
            Ok(verifier) => verifier,
            Err(error) => {
                tracing::error!(tenant = &*tenant.external_id, %error, "tenant cannot be served");
                return None;
            }
        };
        let routes = Arc::new(Routes::new(Arc::new(Meters::new(&tenant.limits))));
        let name: Arc<str> = (&*tenant.external_id).into();
        let sink = DatabaseSink::new(Arc::clone(&routes), Arc::clone(&self.hub), Arc::clone(&name));
        let mut config = database_config(tenant);
        config.silence_limit = self.settings.replication_watchdog;
        config.sharing = self.cluster.clone().map(|cluster| -> Arc<dyn Sharing> {
            Arc::new(NodeSharing::new(cluster, name, &config.slot_name))
        });
        config.prepare = self.settings.prepare_databases.then(|| self.settings.janitor.clone());
        let database = TenantDatabase::new(config, Arc::new(sink));
        self.databases.lock().push(database.clone());
        let runtime = TenantRuntime::new(
            Arc::clone(tenant),
            verifier,
            Arc::clone(&self.hub),
            routes,
            Box::new(database),
            Clock::System,
            self.settings.channel_error_backoff,
            self.settings.no_channel_timeout,
        );
        let runtime = Arc::new(runtime.among_others(self.cluster.clone()));
        runtimes.insert(tenant.external_id.clone(), Arc::clone(&runtime));
        Some(runtime)
    }

    /// Connects to the databases of all tenants known from the start and goes on trying, so that the first
    /// client need not wait and the log tells what is wrong before anybody asks.
    pub fn connect_databases(self: &Arc<Self>) {
        for tenant in &self.settings.tenants {
            let Some(runtime) = self.runtime(&Arc::new(tenant.clone())) else { continue };
            let app = Arc::clone(self);
            self.sockets.spawn(async move {
                let work = crate::startup::connect(&runtime);
                tokio::select! {
                    () = app.stopping.cancelled() => {}
                    () = work => {}
                }
            });
        }
    }

    /// Ends the sockets and the connections to databases; call after [`stopping`](Self::stopping) is cancelled.
    pub async fn shut_down(&self) {
        self.sockets.close();
        let tenants: Vec<_> = self.runtimes.lock().values().map(|r| Arc::clone(r.sockets())).collect();
        for sockets in tenants {
            sockets.shut_down().await;
        }
        self.sockets.wait().await;
        let databases = std::mem::take(&mut *self.databases.lock());
        for database in databases {
            database.shutdown().await;
        }
        if let Some(cluster) = &self.cluster {
            cluster.leave().await;
        }
    }

    /// The running state of every tenant that was asked for, by name.
    #[must_use]
    pub fn runtimes(&self) -> Vec<Arc<TenantRuntime>> {
        let mut runtimes: Vec<_> = self.runtimes.lock().values().map(Arc::clone).collect();
        runtimes.sort_by(|a, b| a.tenant().external_id.cmp(&b.tenant().external_id));
        runtimes
    }

    /// Whether a token may read the metrics (http_and_ops 3).
    #[must_use]
    pub fn may_read_metrics(&self, token: &str) -> bool {
        let Some(secret) = &self.settings.metrics_secret else { return false };
        let keys = Keys::new(Some(secret.expose_secret()), None);
        let verifier = Verifier::new(keys, self.settings.claim_validators.clone());
        verifier.verify_any(token, Clock::System.unix_seconds()).is_ok()
    }

    /// Other nodes, if there can be any.
    #[must_use]
    pub fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    /// Where the node is.
    #[must_use]
    pub fn region(&self) -> Option<&str> {
        self.settings.region.as_deref()
    }

    /// Ends the sockets of a tenant (protocol 12): each joined channel is told, then closed with code 1012.
    pub fn disconnect(&self, external_id: &str) {
        let runtime = self.runtimes.lock().get(external_id).map(Arc::clone);
        if let Some(runtime) = runtime {
            tracing::info!(
                tenant = external_id,
                sockets = runtime.sockets().len(),
                "disconnecting all sockets"
            );
            runtime.sockets().disconnect();
        }
    }

    /// Where the tasks of sockets run.
    #[must_use]
    pub fn sockets(&self) -> &TaskTracker {
        &self.sockets
    }

    /// The sessions of the long-poll transport.
    #[must_use]
    pub fn long_polls(&self) -> &LongPolls {
        &self.long_polls
    }

    /// Cancelled when the server is going down.
    #[must_use]
    pub fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// Pause before a refused connection is answered.
    #[must_use]
    pub fn connect_error_backoff(&self) -> Duration {
        self.settings.connect_error_backoff
    }

    /// Largest value of a request header, in bytes.
    #[must_use]
    pub fn max_header_length(&self) -> usize {
        self.settings.max_header_length
    }
}

fn verifier(tenant: &Tenant, settings: &Settings) -> Result<Verifier, ConfigError> {
    let jwks = tenant.jwt_jwks.as_deref().map(Jwks::parse).transpose();
    let jwks = jwks.map_err(|error| ConfigError::new("jwt_jwks", error))?;
    let secret = tenant.jwt_secret.as_ref().map(|secret| secret.expose_secret());
    Ok(Verifier::new(Keys::new(secret, jwks), settings.claim_validators.clone()))
}

/// Where a tenant's database is, in the words of the crate that talks to it.
pub(crate) fn database_config(tenant: &Tenant) -> DatabaseConfig {
    let database = &tenant.database;
    DatabaseConfig {
        host: database.host.clone(),
        port: database.port,
        route: database.route.clone(),
        user: database.user.clone(),
        password: database.password.expose_secret().into(),
        name: database.name.clone(),
        publication: database.publication.clone(),
        slot_name: database.slot_name.clone(),
        durable_slot: database.durable_slot,
        max_lag_bytes: database.max_lag_bytes,
        idle_stop: database.idle_stop,
        pool_size: database.pool_size,
        ..DatabaseConfig::default()
    }
}
