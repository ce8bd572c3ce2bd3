//! Against a real PostgreSQL.

mod attacks;
mod filters;
mod support;
mod tables;
mod texts;
mod views;
