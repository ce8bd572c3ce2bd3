//! The filter grammar (postgres_changes 1.5, row_security 5): conditions with commas between them, and groups of them.

mod condition;
mod group;
mod segment;
#[cfg(test)]
mod tests;

pub use condition::{Filter, FilterError, Operator};
pub(crate) use segment::parse;
