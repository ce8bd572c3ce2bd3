//! All that talks to a tenant's database: connections, schema, catalog, replication, subscriptions to row changes,
//! policies of private topics, replay.

mod attendance;
mod authorize;
mod breaker;
mod broadcast;
mod budget;
mod catalog;
mod config;
mod error;
mod generation;
mod janitor;
mod log_reader;
mod look;
mod partitions;
mod policy_pool;
mod pool;
mod prepare;
mod private;
mod publication;
mod questions;
mod replay;
mod replication;
mod schema;
mod sharing;
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
pub use config::DatabaseConfig;
pub use error::ConnectError;
pub use generation::{Generation, Generations};
pub use janitor::{JanitorSettings, Maintenance};
pub use log_reader::{HandOver, LogReader, LogReaderConfig, LogSink};
pub use look::{DatabaseFacts, SchemaFacts, SlotFacts, look, look_at_schema};
pub use replay::{MessageBody, ReplayError, ReplayParams, ReplayedMessage};
pub use schema::{Origin, Planned, SchemaError, SchemaReport, set_up as set_up_schema};
pub use sharing::{Following, Owning, Place, Reader, Sharing};
pub use stats::{PolicyStats, Stats};
pub use tenant::{ChangeSink, Health, Notice, Relief, SubscribeRequest, TenantDatabase};
