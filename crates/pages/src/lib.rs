//! The web pages of the server: their files and the documentation, which are part of the binary, and what the status page
//! tells. Pure.

pub mod docs;
mod escape;
pub mod files;
mod site;
pub mod status;

pub use site::{About, CONTENT_SECURITY_POLICY, DOCS_SECURITY_POLICY, Page, Site};
