//! How databases are reached: with or without TLS, over IPv4 or IPv6; and the certificate of our own listener.
//!
//! One place for the query pools, the replication sessions and the metadata store: a [`Route`] says how, and connects.
//! All cryptography is of one library, aws-lc-rs.

mod causes;
mod certificate;
mod dial;
mod mode;
mod relay;
mod route;
mod verify;

pub use causes::describe;
pub use certificate::Certificate;
pub use dial::{DialError, Stream};
pub use mode::{Tls, TlsError, TlsMode};
pub use relay::{Edit, Relay};
pub use route::{IpVersion, PgStream, Route};
