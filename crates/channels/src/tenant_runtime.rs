//! What the sockets of one tenant share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::{Mutex, RwLock};
use realtime_auth::{AuthError, Verifier};
use realtime_cluster::{
    Cluster, Interest, TenantSide,
    rates::{Elsewhere, METERS, Rates},
};
use realtime_hub::{HistoryBounds, Hub, RoomKey};
use realtime_postgres::DatabaseConfig;
use realtime_tenants::{Limits, MAX_HISTORY_MESSAGES, Tenant, Users};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    counters::TenantCounters,
    database::Database,
    limits::{Meter, Meters},
    routes::Routes,
    sockets::Sockets,
    token::Token,
    webhooks::Webhooks,
};

/// Wall-clock time, which token expiry is about.
#[derive(Debug)]
pub enum Clock {
    /// The machine's clock.
    System,
    /// A clock that stands still until a test moves it; Unix seconds.
    Manual(AtomicU64),
}

impl Clock {
    /// Seconds since 1970-01-01 00:00:00 UTC.
    #[must_use]
    pub fn unix_seconds(&self) -> u64 {
        match self {
            Self::System => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            Self::Manual(now) => now.load(Ordering::Relaxed),
        }
    }
}

/// What the sockets of one tenant share, for as long as the tenant is known.
///
/// The node can replace the tenant's settings, its verifier and the handle of its database while sockets use them. So
/// nobody keeps one of the three: each use gets it anew. Work on the old handle becomes void when the handle ends
/// ([`ask`](Self::ask)).
pub struct TenantRuntime {
    tenant: RwLock<Arc<Tenant>>,
    verifier: RwLock<Arc<Verifier>>,
    /// The tenant's `external_id`.
    name: Arc<str>,
    started: Instant,
    users: Arc<Users>,
    meters: Arc<Meters>,
    /// The meters as the hub sees them.
    hub_meter: Arc<dyn realtime_hub::Meter>,
    sockets: Arc<Sockets>,
    hub: Arc<Hub>,
    routes: Arc<Routes>,
    database: RwLock<Arc<Database>>,
    clock: Clock,
    channel_error_backoff: Duration,
    no_channel_timeout: Duration,
    max_subscriptions: usize,
    /// The other nodes, if there can be any.
    cluster: Option<Cluster>,
    /// What the other nodes need to know about the tenant.
    side: Arc<dyn TenantSide>,
    retired: CancellationToken,
    webhooks: Arc<Webhooks>,
    /// When somebody last asked for the tenant.
    used: Mutex<Instant>,
    /// Whether its database was set up at least once.
    set_up: AtomicBool,
    /// Whether an administrator's request sets it up now.
    setting_up: AtomicBool,
}

/// The numbers of a tenant that other nodes need.
#[derive(Debug)]
struct Side {
    meter: Arc<dyn realtime_hub::Meter>,
    meters: Arc<Meters>,
    users: Arc<Users>,
    hub: Arc<Hub>,
    /// The tenant's `external_id`.
    tenant: Arc<str>,
}

impl TenantSide for Side {
    fn meter(&self) -> &Arc<dyn realtime_hub::Meter> {
        &self.meter
    }

    fn users(&self) -> u32 {
        self.users.count()
    }

    fn take_most_users(&self) -> u32 {
        self.users.take_most()
    }

    fn set_users_elsewhere(&self, users: u32) {
        self.users.set_elsewhere(users);
    }

    fn rates(&self) -> (Rates, [u32; METERS]) {
        self.meters.rates()
    }

    fn set_rates_elsewhere(&self, elsewhere: &[Elsewhere; METERS]) {
        self.meters.set_elsewhere(elsewhere);
    }

    fn kept_for(&self) -> Duration {
        let bounds = self.hub.history_bounds(&self.tenant);
        bounds.map_or(Duration::ZERO, |bounds| Duration::from_millis(bounds.age_ms))
    }
}

/// The bounds of a tenant's history, if it wants one: both the time and the number have to be set.
fn history(limits: &Limits) -> Option<HistoryBounds> {
    let Limits { broadcast_history_seconds: seconds, broadcast_history_messages: messages, .. } = *limits;
    (seconds > 0 && messages > 0).then(|| HistoryBounds {
        age_ms: u64::from(seconds) * 1000,
        messages: messages.min(MAX_HISTORY_MESSAGES) as usize,
        bytes: (limits.broadcast_history_mb as usize).saturating_mul(1 << 20),
    })
}

impl TenantRuntime {
    /// Makes a runtime of its parts.
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "called once; a builder would say the same in more words")]
    pub fn new(
        tenant: Arc<Tenant>,
        verifier: Verifier,
        hub: Arc<Hub>,
        routes: Arc<Routes>,
        database: Arc<Database>,
        clock: Clock,
        channel_error_backoff: Duration,
        no_channel_timeout: Duration,
    ) -> Self {
        let meters = Arc::clone(routes.meters());
        let hub_meter: Arc<dyn realtime_hub::Meter> = Arc::<Meters>::clone(&meters);
        let users: Arc<Users> = Arc::default();
        let side = Arc::new(Side {
            meter: Arc::clone(&hub_meter),
            meters: Arc::clone(&meters),
            users: Arc::clone(&users),
            hub: Arc::clone(&hub),
            tenant: (&*tenant.external_id).into(),
        });
        hub.set_history(&side.tenant, history(&tenant.limits));
        Self {
            name: (&*tenant.external_id).into(),
            webhooks: Arc::new(Webhooks::new((&*tenant.external_id).into())),
            started: Instant::now(),
            sockets: Arc::new(Sockets::new(Arc::clone(meters.counters()))),
            meters,
            hub_meter,
            tenant: RwLock::new(tenant),
            verifier: RwLock::new(Arc::new(verifier)),
            users,
            hub,
            routes,
            database: RwLock::new(database),
            clock,
            channel_error_backoff,
            no_channel_timeout,
            max_subscriptions: 100,
            retired: CancellationToken::new(),
            used: Mutex::new(Instant::now()),
            set_up: AtomicBool::new(false),
            setting_up: AtomicBool::new(false),
            cluster: None,
            side,
        }
    }

    /// Sets how many subscriptions to row changes a channel may have. The default is 100.
    #[must_use]
    pub fn with_max_subscriptions(self, max_subscriptions: usize) -> Self {
        Self { max_subscriptions, ..self }
    }

    /// Sets the cluster of other nodes, if there can be any.
    #[must_use]
    pub fn among_others(self, cluster: Option<Cluster>) -> Self {
        Self { cluster, ..self }
    }

    /// Keeps messages from other nodes coming while the returned value lives. `None` if the node is alone, or if the
    /// tenant is gone: a new tenant may have its name.
    #[must_use]
    pub fn interest(&self) -> Option<Interest> {
        let cluster = self.cluster.as_ref().filter(|_| !self.retired.is_cancelled())?;
        Some(cluster.interest(&self.name, &self.side))
    }

    /// Keeps what is said in a room coming from other nodes while the returned value lives. `None` as for
    /// [`interest`](Self::interest), which the caller has as well.
    #[must_use]
    pub fn room_interest(&self, topic: &str) -> Option<Interest> {
        let cluster = self.cluster.as_ref().filter(|_| !self.retired.is_cancelled())?;
        Some(cluster.room_interest(&self.name, topic, &self.side))
    }

    /// Returns when messages from other nodes arrive, or when there is no connection to them.
    pub async fn hear_others(&self) {
        if let Some(interest) = self.interest() {
            interest.ready().await;
        }
    }

    /// Returns when what is said in a room on other nodes arrives, or when there is no connection to them.
    pub async fn hear_room(&self, topic: &str) {
        // The tenant's users and the room: neither waits for the other.
        let (others, room) = (self.interest(), self.room_interest(topic));
        for interest in [others, room].into_iter().flatten() {
            interest.ready().await;
        }
    }

    /// The bounds of the tenant's history of broadcasts, if one is kept.
    #[must_use]
    pub fn history(&self) -> Option<HistoryBounds> {
        self.hub.history_bounds(&self.name)
    }

    /// Asks other nodes what they have kept of a room, unless they have told it. Returns since when nothing is missing in
    /// what they told.
    pub async fn ask_history(&self, room: &RoomKey) -> Option<u64> {
        let cluster = self.cluster.as_ref().filter(|_| !self.retired.is_cancelled())?;
        cluster.ask_history(room).await
    }

    /// Verifies a token as servers of the first generation did (legacy 1.2).
    ///
    /// # Errors
    /// Why the token is refused.
    pub fn verify_first_generation(&self, token: &str) -> Result<Token, AuthError> {
        let verifier = Arc::clone(&self.verifier.read());
        let claims = verifier.verify_first_generation(token, self.clock.unix_seconds())?;
        Ok(Token::new(token, &claims))
    }

    /// Verifies the token of a joined channel again. A channel ends when its token expires;
    /// [`SKEW`](realtime_auth::SKEW) is only for tokens that come in.
    ///
    /// # Errors
    /// Why the token is refused.
    pub fn verify_again(&self, token: &Token) -> Result<Token, AuthError> {
        self.verify(&token.text).and_then(|token| self.in_time(token))
    }

    /// Verifies the token of a joined channel of the first generation again, as [`verify_again`](Self::verify_again)
    /// does.
    ///
    /// # Errors
    /// Why the token is refused.
    pub fn verify_first_generation_again(&self, token: &Token) -> Result<Token, AuthError> {
        self.verify_first_generation(&token.text).and_then(|token| self.in_time(token))
    }

    fn in_time(&self, token: Token) -> Result<Token, AuthError> {
        let exp = u64::try_from(token.exp).unwrap_or(0);
        match self.clock.unix_seconds().checked_sub(exp) {
            Some(ago) => Err(AuthError::Expired(ago)),
            None => Ok(token),
        }
    }

    /// The tenant's current settings.
    #[must_use]
    pub fn tenant(&self) -> Arc<Tenant> {
        Arc::clone(&self.tenant.read())
    }

    /// Changes the settings; new joins see them. A limiter whose limit changes begins anew.
    pub fn set_tenant(&self, tenant: Arc<Tenant>) {
        self.meters.set_limits(&tenant.limits);
        // A tenant that is gone may have come back under its name: the history is the other one's then.
        if !self.retired.is_cancelled() {
            self.hub.set_history(&self.name, history(&tenant.limits));
        }
        *self.tenant.write() = tenant;
    }

    /// Forgets what was said in the tenant's channels.
    pub fn forget_history(&self) {
        self.hub.set_history(&self.name, None);
    }

    /// Changes the keys that tokens are verified with.
    pub fn set_verifier(&self, verifier: Verifier) {
        *self.verifier.write() = Arc::new(verifier);
    }

    /// Verifies a token with the tenant's keys.
    ///
    /// # Errors
    /// Why the token is refused.
    pub fn verify(&self, token: &str) -> Result<Token, AuthError> {
        let verifier = Arc::clone(&self.verifier.read());
        let claims = verifier.verify(token, self.clock.unix_seconds())?;
        Ok(Token::new(token, &claims))
    }

    /// The tenant's users.
    #[must_use]
    pub fn users(&self) -> &Arc<Users> {
        &self.users
    }

    /// The tenant's limits per second, and what was counted.
    #[must_use]
    pub fn meters(&self) -> &Arc<Meters> {
        &self.meters
    }

    /// The tenant's counters.
    #[must_use]
    pub fn counters(&self) -> &Arc<TenantCounters> {
        self.meters.counters()
    }

    /// The meters as the hub sees them.
    #[must_use]
    pub fn hub_meter(&self) -> &Arc<dyn realtime_hub::Meter> {
        &self.hub_meter
    }

    /// Whether the average of presence events is above the limit. It is compared live, not on ticks (protocol 9.3).
    #[must_use]
    pub fn too_many_presence_events(&self) -> bool {
        let presence = self.meters.presence();
        presence.average() > f64::from(presence.limit())
    }

    /// The tenant's `external_id`.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Time since somebody first asked for the tenant. Windows of limits use this clock.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// The tenant's sockets.
    #[must_use]
    pub fn sockets(&self) -> &Arc<Sockets> {
        &self.sockets
    }

    /// The meter of row changes, times the subscriptions that match each (protocol 9.2, 9.4). While it is triggered,
    /// row changes are not delivered.
    #[must_use]
    pub fn db_events(&self) -> &Meter {
        self.meters.db_events()
    }

    /// The node's rooms.
    #[must_use]
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Where row changes go.
    #[must_use]
    pub fn routes(&self) -> &Arc<Routes> {
        &self.routes
    }

    /// The current handle of the tenant's database.
    #[must_use]
    pub fn database(&self) -> Arc<Database> {
        Arc::clone(&self.database.read())
    }

    /// Replaces the handle of the tenant's database with one for `config`. Returns the old handle, which has to be
    /// shut down.
    pub fn replace_database(&self, config: DatabaseConfig, come_back: bool) -> Arc<Database> {
        let mut database = self.database.write();
        let successor = Arc::new(database.succeed(config, come_back));
        std::mem::replace(&mut *database, successor)
    }

    /// Notes that somebody asks for the tenant.
    pub fn touch(&self) {
        *self.used.lock() = Instant::now();
    }

    /// Whether for this long nobody has asked for the tenant and it had no socket.
    pub fn is_unused(&self, kept: Duration, now: Instant) -> bool {
        let asked = *self.used.lock();
        let vacant = self.sockets.vacant_for(now).is_some_and(|vacant| vacant >= kept);
        vacant && now.saturating_duration_since(asked) >= kept
    }

    /// Marks the tenant as gone, so that background work for it stops.
    pub fn retire(&self) {
        self.retired.cancel();
        self.hub.set_history(&self.name, None);
    }

    /// The tenant's webhooks.
    #[must_use]
    pub fn webhooks(&self) -> &Arc<Webhooks> {
        &self.webhooks
    }

    /// Notes that the tenant's database was set up.
    pub fn set_up(&self) {
        self.set_up.store(true, Ordering::Release);
    }

    /// Notes that the tenant may have another database, which may not be set up.
    pub fn forget_set_up(&self) {
        self.set_up.store(false, Ordering::Release);
    }

    /// Whether the tenant's database is known to be set up.
    #[must_use]
    pub fn is_set_up(&self) -> bool {
        self.set_up.load(Ordering::Acquire)
    }

    /// Whether an administrator's request sets the database up now.
    pub fn setting_up(&self) -> &AtomicBool {
        &self.setting_up
    }

    /// Cancelled when the tenant is gone.
    #[must_use]
    pub fn retired(&self) -> &CancellationToken {
        &self.retired
    }

    /// Asks the database something. If that fails because the handle was replaced meanwhile, the new one is asked.
    ///
    /// # Errors
    /// Those of the question.
    pub async fn ask<T, E, F>(&self, question: impl Fn(Arc<Database>) -> F) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
    {
        loop {
            let database = self.database();
            let answer = question(Arc::clone(&database)).await;
            if answer.is_err() && !Arc::ptr_eq(&database, &self.database()) {
                continue;
            }
            return answer;
        }
    }

    /// The wall clock.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Pause before a refused join is answered.
    #[must_use]
    pub fn channel_error_backoff(&self) -> Duration {
        self.channel_error_backoff
    }

    /// How many subscriptions to row changes a channel may have.
    #[must_use]
    pub fn max_subscriptions(&self) -> usize {
        self.max_subscriptions
    }

    /// How long a socket that joined may be without a channel (protocol 9.5).
    #[must_use]
    pub fn no_channel_timeout(&self) -> Duration {
        self.no_channel_timeout
    }
}
