//! Tenants: their settings, limits and counters, and which one a host name means.

mod registry;
mod tenant;
mod users;

pub use registry::Registry;
pub use tenant::{DatabaseSettings, Limits, Tenant};
pub use users::{UserSlot, Users};
