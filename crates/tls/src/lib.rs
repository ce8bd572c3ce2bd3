//! How databases are reached: with or without TLS, over IPv4 or IPv6; and the certificate of our own listener.
//!
//! One place for the query pools, the replication sessions and the metadata store: a [`Route`] says how, and connects. One
//! library, aws-lc-rs, does all cryptography.

mod causes;
mod certificate;
mod dial;
mod error;
mod ip_version;
mod mode;
mod provider;
mod relay;
mod route;
mod unreachable;
mod verify;

pub use causes::describe;
pub use certificate::Certificate;
pub use dial::Stream;
pub use error::{DialError, TlsError};
pub use ip_version::IpVersion;
pub use mode::{Tls, TlsMode};
pub use relay::{Edit, Relay};
pub use route::{PgStream, Route};
