//! Where a tenant's database is.

use std::{sync::Arc, time::Duration};

use realtime_tls::Route;
use secrecy::SecretString;

use crate::{JournalBounds, LiveSettings, PolicyMemory, Sharing};

/// Settings that make the text form of values the same everywhere (postgres_changes 7.1).
pub(crate) const SESSION_OPTIONS: &str = "-c DateStyle=ISO -c IntervalStyle=postgres -c TimeZone=UTC \
     -c extra_float_digits=1 -c bytea_output=hex -c client_encoding=UTF8";

/// When the janitor runs. Partitions are made in any case: without them nothing can be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JanitorSettings {
    /// Whether old messages are deleted (`RUN_JANITOR`).
    pub delete: bool,
    /// Added to the first pause (`JANITOR_RUN_AFTER_IN_MS`).
    pub run_after: Duration,
    /// Pause between runs (`JANITOR_SCHEDULE_TIMER_IN_MS`).
    pub every: Duration,
    /// Whether up to 59 minutes are added, so that nodes do not come at once (`JANITOR_SCHEDULE_RANDOMIZE`).
    pub randomize: bool,
}

impl Default for JanitorSettings {
    fn default() -> Self {
        Self {
            delete: true,
            run_after: Duration::from_secs(600),
            every: Duration::from_secs(4 * 3600),
            randomize: true,
        }
    }
}

/// What is done about rows under row-level security beside what the policies say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowSecurity {
    /// One in so many verdicts of compiled policies is also asked of the database (`POLICY_CHECK_EVERY`). 0: none.
    pub check_every: u64,
    /// The key of a deleted row that cannot be judged is sent to nobody for whom row-level security decides
    /// (`DELETE_UNJUDGED=drop`). Otherwise it is sent to everybody whose filter matches.
    pub drop_unjudged_deletes: bool,
}

impl Default for RowSecurity {
    fn default() -> Self {
        Self { check_every: 1_000, drop_unjudged_deletes: false }
    }
}

/// Where a tenant's database is and what it is called there.
#[derive(Debug, Clone)]
pub struct DatabaseConfig {
    /// Whose database it is, for logs.
    pub tenant: Box<str>,
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Whether encrypted, what its server has to prove, over which addresses.
    pub route: Route,
    /// Role to log in as; needs REPLICATION.
    pub user: String,
    /// Its password.
    pub password: SecretString,
    /// Database name.
    pub name: String,
    /// Publication whose tables are watched.
    pub publication: String,
    /// Name of the permanent replication slot, or base of the temporary one's, at most 49 bytes: a random part is
    /// appended. Lower-case letters, digits and underscores.
    pub slot_name: String,
    /// The slot is permanent: the log is read from the start of the server on, and a connection that was lost goes on
    /// where it ended. The server must be told to drop it when it is not wanted any more: it keeps the log from being
    /// removed.
    pub durable_slot: bool,
    /// A slot that keeps more than this many bytes of the log is given up, and the subscribers are told of the gap.
    /// 0: never.
    pub max_lag_bytes: u64,
    /// Connections for queries, beside the one for replication.
    pub pool_size: usize,
    /// Further connections, for the policies of private topics, replay and partitions (`db_pool`).
    pub policy_pool_size: usize,
    /// Half of the time that a question to policies waits for a connection (`db_queue_target`).
    pub queue_target: Duration,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long making a slot may take beyond connecting: it waits for the transactions that are running.
    pub slot_timeout: Duration,
    /// How long a query may take.
    pub statement_timeout: Duration,
    /// A permanent slot that is there is read this long after the start: clients that were subscribed come back before
    /// what was committed meanwhile is past.
    pub resume_delay: Duration,
    /// The replication connection ends when nobody has been subscribed for this long.
    pub idle_stop: Duration,
    /// The replication connection is given up, and made anew, when nothing has been heard from the server for this
    /// long: it speaks at least ten times as often. At least 5 ms. 0: never.
    pub silence_limit: Duration,
    /// The server is older than version 14: it is not asked for what it does not know.
    pub old_server: bool,
    /// What the answers that policies are asked for may take, over all databases that share it.
    pub policy_memory: Arc<PolicyMemory>,
    /// What live results may take.
    pub live: LiveSettings,
    /// What is kept of the log for those who come back (`CHANGES_JOURNAL_MB`, `CHANGES_JOURNAL_SECONDS`).
    pub journal: JournalBounds,
    /// What is done about rows under row-level security.
    pub row_security: RowSecurity,
    /// How long others' rows wait for parties that are asked what their policies compare rows with.
    pub policy_wait: Duration,
    /// Tables that policies read and that are not published are published for the server alone, where its role may.
    pub policy_publication: bool,
    /// Name of an advisory lock that a reader without `sharing` holds while it reads, whatever its slot is: of several
    /// readers one reads, and the others wait for it.
    pub exclusive: Option<String>,
    /// The other nodes: one of them reads the database for all.
    pub sharing: Option<Arc<dyn Sharing>>,
    /// On its first use the database is set up for private topics, and its partitions are looked after from then
    /// on; `None`: neither.
    pub prepare: Option<JanitorSettings>,
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        Self {
            tenant: Box::default(),
            host: "127.0.0.1".to_owned(),
            port: 5432,
            route: Route::default(),
            user: "postgres".to_owned(),
            password: SecretString::default(),
            name: "postgres".to_owned(),
            publication: "supabase_realtime".to_owned(),
            slot_name: "supabase_realtime_replication_slot".to_owned(),
            durable_slot: false,
            max_lag_bytes: 10_000_000_000,
            pool_size: 5,
            policy_pool_size: 2,
            queue_target: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            slot_timeout: Duration::from_secs(20),
            statement_timeout: Duration::from_secs(10),
            resume_delay: Duration::from_secs(5),
            idle_stop: Duration::from_secs(600),
            silence_limit: Duration::from_secs(300),
            old_server: false,
            policy_memory: Arc::default(),
            live: LiveSettings::default(),
            journal: JournalBounds { bytes: 64 << 20, age: Duration::from_secs(120) },
            row_security: RowSecurity::default(),
            policy_wait: Duration::from_millis(200),
            policy_publication: true,
            exclusive: None,
            sharing: None,
            prepare: None,
        }
    }
}

impl DatabaseConfig {
    /// What lines of background tasks are told apart by.
    pub(crate) fn span(&self) -> tracing::Span {
        tracing::error_span!("database", tenant = &*self.tenant)
    }
}
