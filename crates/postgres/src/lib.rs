//! All that talks to a tenant's database: connections, schema, catalog, replication, subscriptions to row changes,
//! policies of private topics, replay.

mod attendance;
mod authorize;
mod breaker;
mod broadcast;
mod budget;
mod catalog;
mod claims;
mod config;
mod contact;
mod error;
mod failpoints;
mod foreign;
mod generation;
mod janitor;
mod live;
mod live_settings;
mod log_reader;
mod look;
mod partitions;
mod policy_memory;
mod pool;
mod prepare;
mod private;
mod publication;
mod questions;
mod quote;
mod replay;
mod replication;
mod request;
mod rights;
mod schema;
mod session;
mod sharing;
mod sink;
mod slots;
mod sqlstate;
mod stats;
mod subscribe;
mod tenant;
mod validate;
mod visibility;
mod worker;

pub use attendance::{Attendance, Replication};
pub use authorize::{AuthorizeError, AuthorizeRequest, ReadVerdict, WriteVerdict};
pub use broadcast::{DatabaseBroadcast, MessageColumns, NotBroadcast};
pub use config::{DatabaseConfig, JanitorSettings, RowSecurity};
pub use contact::Health;
pub use error::ConnectError;
pub use generation::{Generation, Generations};
pub use janitor::Maintenance;
pub use live_settings::LiveSettings;
pub use log_reader::{HandOver, LogReader, LogReaderConfig, LogSink};
pub use look::{DatabaseFacts, SchemaFacts, SlotFacts, look, look_at_schema};
pub use policy_memory::PolicyMemory;
pub use realtime_journal::Bounds as JournalBounds;
pub use replay::{MessageBody, ReplayError, ReplayParams, ReplayedMessage};
pub use request::SubscribeRequest;
pub use schema::{Origin, Planned, SchemaError, SchemaReport, set_up as set_up_schema};
pub use sharing::{Following, Owning, Place, Reader, Sharing};
pub use sink::{ChangeSink, Notice, Relief};
pub use stats::{MAX_RELATIONS, OTHER_RELATIONS, PolicyStats, RelationCounters, RelationStats, Stats};
pub use tenant::TenantDatabase;
pub use visibility::compiled::{
    AskedPart, Counted, Decided, PolicyFacts, PolicyReport, ReadTable, RolePolicies, TablePolicies,
};
