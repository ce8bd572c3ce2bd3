//! The tenant's database as sessions see it.
//!
//! Sessions use [`TenantDatabase`](realtime_postgres::TenantDatabase) itself. In unit tests of this crate, a script
//! with the same name and methods takes its place, so that the state machine runs without a database.

#[cfg(not(test))]
pub use realtime_postgres::{Attendance, TenantDatabase as Database};
#[cfg(test)]
pub use scripted::{Attendance, Database, Script};

#[cfg(test)]
#[expect(missing_docs, reason = "those of the real one say it")]
mod scripted;
