//! The metadata database, on a real PostgreSQL.

mod crud;
mod directory;
mod flags;
mod schema;
mod secrets;
mod support;
