//! The web pages of the server: their files, which are part of the binary, and what the status page tells. Pure.

pub mod files;
mod site;
pub mod status;

pub use site::{About, CONTENT_SECURITY_POLICY, Site};
