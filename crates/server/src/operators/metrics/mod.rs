//! The metrics (http_and_ops 11): counters are read when somebody asks.

mod collect;
mod exposition;
pub mod families;
mod gather;
mod host;
mod merge;
pub mod push;
#[cfg(test)]
mod tests;

pub use collect::Part;
pub use exposition::CONTENT_TYPE;
pub use gather::Gathered;
