//! PostgreSQL's logical replication messages (`pgoutput`), decoded, and their values as JSON.
//!
//! Pure: bytes in, values out; no I/O, no clock, no panic on any input.

mod array;
mod composite;
mod decode;
mod hstore;
pub mod json;
pub mod lsn;
pub mod message;
pub mod oid;
pub mod position;
mod types;

pub use array::{Element, parse_array};
pub use decode::{DecodeError, Decoder};
pub use json::write_json;
pub use lsn::Lsn;
pub use position::Position;
pub use types::{TypeInfo, TypeKind, TypeRegistry};

/// Schemas of what the server keeps in databases for itself: messages of private topics, the keys of tenants. Nobody is
/// told of their rows who asks for everything.
pub const OWN_SCHEMAS: [&str; 2] = ["realtime", "_realtime"];

/// A PostgreSQL object identifier (`oid`), as in `pg_class.oid` or `pg_type.oid`.
pub type Oid = u32;
