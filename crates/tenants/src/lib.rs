//! Tenants: their settings, limits and counters, and which one a host name means.

mod limiter;
mod registry;
mod tenant;
mod users;

pub use limiter::{CallWindow, Limiter, Span, Window};
pub use registry::Registry;
pub use tenant::{CLIENT_PRESENCE_MAX_CALLS, CLIENT_PRESENCE_WINDOW_MS, DatabaseSettings, Limits, Tenant};
pub use users::{UserSlot, Users};
