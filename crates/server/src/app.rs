//! What the whole server shares.

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use parking_lot::{Mutex, MutexGuard};
use realtime_auth::{Jwks, Keys, Verifier};
use realtime_cluster::Cluster;
use realtime_hub::{Hub, Memory};
use realtime_postgres::{DatabaseConfig, Sharing, TenantDatabase};
use realtime_tenants::{Directory, Registry, Store, StoreError, Tenant, Tenants};
use secrecy::ExposeSecret;
use tokio::{sync::Semaphore, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admin::{Admin, is_of_operator},
    config::{ConfigError, Settings},
    http::longpoll::LongPolls,
    legacy::Legacy,
    limits::Meters,
    metrics::{Gathered, Metrics},
    nodes,
    routes::Routes,
    sharing::NodeSharing,
    sink::DatabaseSink,
    status::Status,
    tenant_runtime::{Clock, TenantRuntime},
    throttle::Throttle,
};

/// Requests without a good token that one address may send at once: as many as a page of mistakes needs.
const STRANGERS: u32 = 100;

/// After this time one more is free: ten a second, for those who ask whether the server lives.
const STRANGER_FORGOTTEN: Duration = Duration::from_millis(100);

/// What the whole server shares: settings, tenants, rooms, sockets.
pub struct App {
    settings: Settings,
    tenants: Tenants,
    admin: Admin,
    hub: Arc<Hub>,
    /// Other nodes, if there can be any.
    cluster: Option<Cluster>,
    /// Made when a tenant is first asked for.
    runtimes: Mutex<HashMap<Box<str>, Arc<TenantRuntime>>>,
    sockets: TaskTracker,
    /// Connections to databases that are ending.
    endings: TaskTracker,
    long_polls: LongPolls,
    legacy: Option<Arc<Legacy>>,
    status: Status,
    started: DateTime,
    stopping: CancellationToken,
    metrics: Metrics,
    /// Metrics of all nodes, while they are gathered.
    gathered: Arc<Gathered>,
    /// Values of the labels `host` and `id` of metrics.
    node_labels: (String, String),
    /// Places of connections.
    places: Arc<Semaphore>,
    /// Requests without a good token, by address.
    strangers: Throttle,
    /// What is held for clients.
    memory: Arc<Memory>,
}

impl App {
    /// A server with the tenants of its settings, or of its metadata database. Connects to nothing yet.
    ///
    /// # Errors
    /// [`StoreError`] for a metadata database that no connection can ever be made to.
    pub fn new(settings: Settings, stopping: CancellationToken) -> Result<Arc<Self>, StoreError> {
        let tenants = match &settings.metadata {
            Some(metadata) => {
                let store = Store::new(metadata.config.clone())?;
                Tenants::Stored(Directory::new(store, metadata.options.clone()))
            }
            None => {
                let registry = Registry::default();
                for tenant in &settings.tenants {
                    registry.put(tenant.clone());
                }
                Tenants::Configured(registry)
            }
        };
        let legacy = settings.legacy.clone().map(Legacy::new);
        let hub = Hub::new(rand::random(), settings.presence_interval);
        let cluster = settings.cluster.clone().map(|config| Cluster::new(config, &hub));
        let status = Status::new(settings.region.as_deref(), cluster.clone());
        let node_labels = (hostname(), status.node().to_owned());
        let places = Arc::new(Semaphore::new(settings.max_connections.min(Semaphore::MAX_PERMITS)));
        let memory = Memory::new(settings.client_memory);
        let app = Arc::new(Self {
            status,
            admin: Admin::new(&settings.admin, &settings.claim_validators),
            settings,
            tenants,
            hub,
            cluster,
            runtimes: Mutex::default(),
            sockets: TaskTracker::new(),
            endings: TaskTracker::new(),
            long_polls: LongPolls::default(),
            legacy,
            started: TimeZone::UTC.to_datetime(Timestamp::now()),
            stopping,
            metrics: Metrics::default(),
            gathered: Arc::default(),
            node_labels,
            places,
            strangers: Throttle::new(STRANGERS, STRANGER_FORGOTTEN),
            memory,
        });
        nodes::answer_others(&app);
        Ok(app)
    }

    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What is gathered of all nodes' metrics.
    pub(crate) fn gathered(&self) -> &Arc<Gathered> {
        &self.gathered
    }

    /// Name of the machine, and the short id of this node that is new at each start: labels of metrics.
    #[must_use]
    pub fn node_labels(&self) -> (&str, &str) {
        (&self.node_labels.0, &self.node_labels.1)
    }

    /// Places of connections: each holds one as long as it is open.
    #[must_use]
    pub fn places(&self) -> &Arc<Semaphore> {
        &self.places
    }

    /// Requests without a good token: they count against the address that they come from, not against the tenant.
    pub(crate) fn strangers(&self) -> &Throttle {
        &self.strangers
    }

    /// What is held for clients, and how much that may be.
    #[must_use]
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Connections that are open, and how many may be.
    #[must_use]
    pub fn connections(&self) -> (usize, usize) {
        let max = self.settings.max_connections.min(Semaphore::MAX_PERMITS);
        (max.saturating_sub(self.places.available_permits()), max)
    }

    /// How the server runs.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Where tenants come from.
    #[must_use]
    pub fn tenants(&self) -> &Tenants {
        &self.tenants
    }

    /// Who may administer tenants, and one change after the other.
    #[must_use]
    pub fn admin(&self) -> &Admin {
        &self.admin
    }

    /// The running state of a tenant, made if need be of the record that is in force: that is looked up under the lock
    /// under which records are followed, so that nothing is made of a tenant that has just gone. `None` if there is none
    /// known, or its keys cannot be used, which is logged.
    pub(crate) fn runtime_of(&self, external_id: &str) -> Option<Arc<TenantRuntime>> {
        let mut runtimes = self.runtimes.lock();
        if let Some(runtime) = runtimes.get(external_id) {
            runtime.touch();
            return Some(Arc::clone(runtime));
        }
        let tenant = &self.tenants.latest(external_id)?;
        let verifier = match self.verifier(tenant) {
            Ok(verifier) => verifier,
            Err(error) => {
                tracing::error!(tenant = &*tenant.external_id, %error, "tenant cannot be served");
                return None;
            }
        };
        let metrics = self.metrics.tenant(&tenant.external_id);
        let stats = Arc::clone(&metrics.database);
        let meters =
            Meters::counted_by(&tenant.limits, metrics).closing_channels(self.settings.limits_close_channels);
        let routes = Arc::new(Routes::new(Arc::new(meters)));
        let name: Arc<str> = (&*tenant.external_id).into();
        let sink = DatabaseSink::new(Arc::clone(&routes), Arc::clone(&self.hub), name);
        let database = TenantDatabase::with_stats(self.prepared(tenant), Arc::new(sink), stats);
        let runtime = TenantRuntime::new(
            Arc::clone(tenant),
            verifier,
            Arc::clone(&self.hub),
            routes,
            Arc::new(database),
            Clock::System,
            self.settings.channel_error_backoff,
            self.settings.no_channel_timeout,
        );
        let runtime = runtime.with_max_subscriptions(self.settings.max_subscriptions);
        let runtime = runtime.with_legacy(self.legacy.clone()).among_others(self.cluster.clone());
        let runtime = Arc::new(runtime);
        if tenant.suspend {
            drop(self.end(runtime.database()));
        }
        runtimes.insert(tenant.external_id.clone(), Arc::clone(&runtime));
        Some(runtime)
    }

    /// With what the server's settings say of all databases: above all the set-up on first use.
    pub(crate) fn prepared(&self, tenant: &Tenant) -> DatabaseConfig {
        let config = database_config(tenant);
        let prepare = self.settings.prepare_databases.then(|| self.settings.janitor.clone());
        let sharing = self.cluster.clone().map(|cluster| -> Arc<dyn Sharing> {
            Arc::new(NodeSharing::new(cluster, (&*tenant.external_id).into(), &config.slot_name))
        });
        let silence_limit = self.settings.replication_watchdog;
        DatabaseConfig { prepare, sharing, silence_limit, resume_delay: self.settings.resume_delay, ..config }
    }

    pub(crate) fn lock_runtimes(&self) -> MutexGuard<'_, HashMap<Box<str>, Arc<TenantRuntime>>> {
        self.runtimes.lock()
    }

    pub(crate) fn endings(&self) -> &TaskTracker {
        &self.endings
    }

    /// What a tenant's tokens are verified with.
    pub(crate) fn verifier(&self, tenant: &Tenant) -> Result<Verifier, ConfigError> {
        verifier(tenant, &self.settings)
    }

    /// Connects to the databases of the tenants known from the start and goes on trying, so that the first client need
    /// not wait and the log tells what is wrong before anybody asks.
    pub fn connect_databases(self: &Arc<Self>) {
        if let (Some(legacy), Some(tenant)) = (&self.legacy, self.settings.tenants.first()) {
            legacy.start(database_config(tenant), self.cluster.clone());
            if legacy.settings().pure && legacy.streams() {
                // The rest is for clients of the second generation, should there be any.
                return;
            }
        }
        for tenant in &self.settings.tenants {
            let app = Arc::clone(self);
            let external_id = tenant.external_id.clone();
            self.sockets.spawn(async move {
                let work = async {
                    let Some(runtime) = app.runtime(&external_id).await else { return };
                    tokio::select! {
                        () = runtime.retired().cancelled() => {}
                        () = crate::startup::connect(&runtime) => {}
                    }
                };
                tokio::select! {
                    () = app.stopping.cancelled() => {}
                    () = work => {}
                }
            });
        }
    }

    /// Begins to push metrics, if they are to be pushed.
    pub fn push_metrics(self: &Arc<Self>) -> Option<JoinHandle<()>> {
        let pusher = self.settings.operations.pusher.clone()?;
        Some(tokio::spawn(crate::metrics::push::run(Arc::clone(self), pusher)))
    }

    /// The running state of a tenant, if it was asked for.
    #[must_use]
    pub fn running(&self, external_id: &str) -> Option<Arc<TenantRuntime>> {
        self.runtimes.lock().get(external_id).map(Arc::clone)
    }

    /// The running state of every tenant that was asked for, by name.
    #[must_use]
    pub fn runtimes(&self) -> Vec<Arc<TenantRuntime>> {
        let mut runtimes: Vec<_> = self.runtimes.lock().values().map(Arc::clone).collect();
        runtimes.sort_by(|a, b| a.tenant().external_id.cmp(&b.tenant().external_id));
        runtimes
    }

    /// Whether a token may read the metrics (http_and_ops 3). A client's may not, where one secret signs both.
    #[must_use]
    pub fn may_read_metrics(&self, token: &str) -> bool {
        let Some(secret) = &self.settings.metrics_secret else { return false };
        if self.settings.operations.metrics_blocklist.contains(token) {
            return false;
        }
        let keys = Keys::new(Some(secret.expose_secret()), None);
        let verifier = Verifier::new(keys, self.settings.claim_validators.clone());
        verifier.verify_any(token, Clock::System.unix_seconds()).is_ok_and(|claims| is_of_operator(&claims))
    }

    /// What serves the first generation, if it is served.
    #[must_use]
    pub fn legacy(&self) -> Option<&Arc<Legacy>> {
        self.legacy.as_ref()
    }

    /// How long a socket's client may be silent.
    #[must_use]
    pub fn idle_limit(&self) -> Duration {
        self.settings.idle_limit
    }

    /// Other nodes, if there can be any.
    #[must_use]
    pub fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    /// Member of the `baggage` header that names a request.
    #[must_use]
    pub fn request_id_baggage_key(&self) -> &str {
        &self.settings.operations.request_id_baggage_key
    }

    /// Whether requests about health are logged.
    #[must_use]
    pub fn logs_healthchecks(&self) -> bool {
        self.settings.operations.log_healthchecks
    }

    /// When the server started, in UTC.
    #[must_use]
    pub fn started(&self) -> DateTime {
        self.started
    }

    /// Where the node is.
    #[must_use]
    pub fn region(&self) -> Option<&str> {
        self.settings.region.as_deref()
    }

    /// Rooms with members, on this node.
    #[must_use]
    pub fn rooms(&self) -> usize {
        self.hub.rooms()
    }

    /// Rooms of a tenant with members, on this node.
    #[must_use]
    pub fn rooms_of(&self, external_id: &str) -> usize {
        self.hub.rooms_of(external_id)
    }

    /// What the pages tell of this node.
    #[must_use]
    pub fn status(&self) -> &Status {
        &self.status
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

fn hostname() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default()
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
    let usual = DatabaseConfig::default();
    DatabaseConfig {
        tenant: tenant.external_id.clone(),
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
        policy_pool_size: database.policy_pool_size.unwrap_or(usual.policy_pool_size),
        queue_target: database.queue_target.unwrap_or(usual.queue_target),
        ..usual
    }
}
