//! `realtime send` and `realtime tenants`: a running server, asked over HTTP.

mod ask;
mod send;
mod tenants;

pub use send::send;
pub use tenants::tenants;
