//! Against a real PostgreSQL.

mod support;
mod tables;
