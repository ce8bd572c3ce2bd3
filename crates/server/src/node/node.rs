//! The node itself.

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use parking_lot::{Mutex, MutexGuard};
use realtime_auth::Verifier;
use realtime_channels::{
    counters::Counters,
    first_generation::Legacy,
    limits::Meters,
    routes::Routes,
    sharing::NodeSharing,
    sink::DatabaseSink,
    tenant_runtime::{Clock, TenantRuntime},
};
use realtime_cluster::Cluster;
use realtime_hub::{Hub, Memory, RoomFigures};
use realtime_postgres::{DatabaseConfig, JournalBounds, Sharing, TenantDatabase};
use realtime_tenants::{Directory, Registry, Store, StoreError, Tenant, Tenants};
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    admin::Admin,
    databases::{database_config, verifier},
};
use crate::{
    config::{ConfigError, Settings},
    turns::Turns,
};

/// The identity of a node.
#[derive(Debug)]
pub struct Identity {
    /// Short id, new with each start.
    pub id: String,
    /// Name of the machine.
    pub host: String,
    /// When it started, in UTC.
    pub started: DateTime,
    since: Instant,
}

impl Identity {
    fn new(cluster: Option<&Cluster>) -> Self {
        Self {
            id: short_id(cluster.map_or_else(rand::random, Cluster::id)),
            host: nix::unistd::gethostname()
                .ok()
                .and_then(|name| name.into_string().ok())
                .unwrap_or_default(),
            started: TimeZone::UTC.to_datetime(Timestamp::now()),
            since: Instant::now(),
        }
    }

    /// Time since the start.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.since.elapsed()
    }
}

/// The short form in which a node's id is shown.
#[must_use]
pub fn short_id(id: u32) -> String {
    format!("{id:08x}")
}

/// A node: its settings, its tenants and their runtimes.
pub struct Node {
    settings: Settings,
    identity: Identity,
    tenants: Tenants,
    admin: Admin,
    hub: Arc<Hub>,
    /// The other nodes, if there can be any.
    cluster: Option<Cluster>,
    /// The runtimes of tenants, each made on first use.
    runtimes: Mutex<HashMap<Box<str>, Arc<TenantRuntime>>>,
    sockets: TaskTracker,
    /// Connections to databases that are ending.
    endings: TaskTracker,
    /// The first generation, if it is served.
    legacy: Option<Arc<Legacy>>,
    stopping: CancellationToken,
    counters: Counters,
    /// Places for connections.
    places: Arc<Semaphore>,
    /// Memory that is held for clients.
    memory: Arc<Memory>,
    /// Turns of large messages.
    turns: Turns,
}

impl Node {
    /// A node with the tenants of its settings, or of its metadata database. It connects to nothing yet.
    ///
    /// # Errors
    /// [`StoreError`] if connections to the metadata database can never work.
    pub fn new(settings: Settings, stopping: CancellationToken) -> Result<Arc<Self>, StoreError> {
        let hub = Hub::new(rand::random(), settings.presence_interval);
        let memory = Memory::new(settings.client_memory);
        hub.spare(&memory);
        let cluster = settings.cluster.clone().map(|config| Cluster::new(config, &hub));
        Ok(Arc::new(Self {
            tenants: tenants(&settings)?,
            identity: Identity::new(cluster.as_ref()),
            admin: Admin::new(&settings.admin, &settings.claim_validators),
            hub,
            cluster,
            runtimes: Mutex::default(),
            sockets: TaskTracker::new(),
            endings: TaskTracker::new(),
            legacy: settings.legacy.clone().map(Legacy::new),
            stopping,
            counters: Counters::default(),
            places: Arc::new(Semaphore::new(settings.max_connections.min(Semaphore::MAX_PERMITS))),
            memory,
            turns: Turns::new(),
            settings,
        }))
    }

    /// The node's identity.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The node's counters.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Places for connections. An open connection holds one.
    #[must_use]
    pub fn places(&self) -> &Arc<Semaphore> {
        &self.places
    }

    /// Memory that is held for clients, and its limit.
    #[must_use]
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Turns of large messages.
    #[must_use]
    pub fn turns(&self) -> &Turns {
        &self.turns
    }

    /// Number of open connections, and how many there may be.
    #[must_use]
    pub fn connections(&self) -> (usize, usize) {
        let max = self.settings.max_connections.min(Semaphore::MAX_PERMITS);
        (max.saturating_sub(self.places.available_permits()), max)
    }

    /// The node's settings.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The node's rooms.
    #[must_use]
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Where the node gets tenants from.
    #[must_use]
    pub fn tenants(&self) -> &Tenants {
        &self.tenants
    }

    /// Who may administer tenants.
    #[must_use]
    pub fn admin(&self) -> &Admin {
        &self.admin
    }

    /// The runtime of a tenant, made if necessary from the record in force. The record is looked up under the lock
    /// under which records are followed, so that no runtime is made for a tenant that has just gone. `None` if the
    /// tenant is unknown, or if its keys cannot be used, which is logged.
    pub fn runtime_of(&self, external_id: &str) -> Option<Arc<TenantRuntime>> {
        let mut runtimes = self.runtimes.lock();
        if let Some(runtime) = runtimes.get(external_id) {
            runtime.touch();
            return Some(Arc::clone(runtime));
        }
        let tenant = &self.tenants.latest(external_id)?;
        let verifier = match self.verifier(tenant) {
            Ok(verifier) => verifier,
            Err(error) => {
                tracing::error!(tenant = &*tenant.external_id, %error, "tenant cannot be served: its jwt_secret or jwt_jwks cannot be used; correct its record");
                return None;
            }
        };
        let counters = self.counters.tenant(&tenant.external_id);
        let stats = Arc::clone(&counters.database);
        let meters = Meters::counted_by(&tenant.limits, counters)
            .closing_channels(self.settings.limits_close_channels);
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
        let runtime = runtime.among_others(self.cluster.clone());
        let runtime = Arc::new(runtime);
        if tenant.suspend {
            drop(self.end(runtime.database()));
        }
        runtimes.insert(tenant.external_id.clone(), Arc::clone(&runtime));
        self.apply_webhooks(&runtime);
        Some(runtime)
    }

    /// A tenant's database with the server's settings for all databases, such as the set-up on first use.
    pub(super) fn prepared(&self, tenant: &Tenant) -> DatabaseConfig {
        let config = database_config(tenant);
        let prepare = self.settings.prepare_databases.then(|| self.settings.janitor.clone());
        let sharing = self.cluster.clone().map(|cluster| -> Arc<dyn Sharing> {
            Arc::new(NodeSharing::new(cluster, (&*tenant.external_id).into(), &config.slot_name))
        });
        let silence_limit = self.settings.replication_watchdog;
        let policy_memory = Arc::clone(&self.settings.policy_memory);
        let resume_delay = self.settings.resume_delay;
        // Clients of the first generation do not come back with a place.
        let journal = match &self.settings.legacy {
            Some(legacy) if legacy.pure => JournalBounds { bytes: 0, ..self.settings.journal },
            _ => self.settings.journal,
        };
        let live = self.settings.live.clone();
        let row_security = self.settings.row_security;
        let (policy_publication, policy_wait) = (self.settings.policy_publication, self.settings.policy_wait);
        DatabaseConfig {
            prepare,
            sharing,
            silence_limit,
            resume_delay,
            policy_memory,
            live,
            journal,
            row_security,
            policy_publication,
            policy_wait,
            ..config
        }
    }

    pub(super) fn lock_runtimes(&self) -> MutexGuard<'_, HashMap<Box<str>, Arc<TenantRuntime>>> {
        self.runtimes.lock()
    }

    pub(super) fn endings(&self) -> &TaskTracker {
        &self.endings
    }

    /// The keys that verify a tenant's tokens.
    pub(super) fn verifier(&self, tenant: &Tenant) -> Result<Verifier, ConfigError> {
        verifier(tenant, &self.settings)
    }

    /// The runtime of a tenant, if it was made.
    #[must_use]
    pub fn running(&self, external_id: &str) -> Option<Arc<TenantRuntime>> {
        self.runtimes.lock().get(external_id).map(Arc::clone)
    }

    /// All runtimes, by the name of the tenant.
    #[must_use]
    pub fn runtimes(&self) -> Vec<Arc<TenantRuntime>> {
        let mut runtimes: Vec<_> = self.runtimes.lock().values().map(Arc::clone).collect();
        runtimes.sort_by(|a, b| a.tenant().external_id.cmp(&b.tenant().external_id));
        runtimes
    }

    /// The first generation, if it is served.
    #[must_use]
    pub fn legacy(&self) -> Option<&Arc<Legacy>> {
        self.legacy.as_ref()
    }

    /// The other nodes, if there can be any.
    #[must_use]
    pub fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    /// Region of the node.
    #[must_use]
    pub fn region(&self) -> Option<&str> {
        self.settings.region.as_deref()
    }

    /// The rooms of a tenant with most members and most messages, in no order.
    #[must_use]
    pub fn busiest_rooms(&self, external_id: &str, most: usize) -> Vec<RoomFigures> {
        self.hub.busiest(external_id, most)
    }

    /// Number of rooms with members on this node.
    #[must_use]
    pub fn rooms(&self) -> usize {
        self.hub.rooms()
    }

    /// Number of rooms of a tenant with members on this node.
    #[must_use]
    pub fn rooms_of(&self, external_id: &str) -> usize {
        self.hub.rooms_of(external_id)
    }

    /// Tasks of sockets.
    #[must_use]
    pub fn sockets(&self) -> &TaskTracker {
        &self.sockets
    }

    /// Cancelled when the server stops.
    #[must_use]
    pub fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }
}

/// Where tenants come from by these settings.
fn tenants(settings: &Settings) -> Result<Tenants, StoreError> {
    if let Some(metadata) = &settings.metadata {
        let store = Store::new(metadata.config.clone())?;
        return Ok(Tenants::Stored(Directory::new(store, metadata.options.clone())));
    }
    let registry = Registry::default();
    for tenant in &settings.tenants {
        registry.put(tenant.clone());
    }
    Ok(Tenants::Configured(registry))
}
