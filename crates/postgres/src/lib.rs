//! All that talks to a tenant's database: connections, catalog, replication, subscriptions to row changes.

mod catalog;
mod config;
mod error;
mod pool;
mod questions;
mod replication;
mod sqlstate;
mod subscribe;
mod tenant;
mod validate;
mod visibility;
mod worker;

pub use config::DatabaseConfig;
pub use error::ConnectError;
pub use tenant::{ChangeSink, Notice, Stats, SubscribeRequest, TenantDatabase};
