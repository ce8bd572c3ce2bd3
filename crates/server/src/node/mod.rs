//! A node: its tenants, their runtimes, and their life.

mod admin;
mod connect;
mod databases;
mod idle;
mod life;
mod metadata;
#[expect(clippy::module_inception, reason = "the node itself, above which its life stands")]
mod node;
mod resolve;
pub mod set_up;
mod stop;
mod webhooks;

pub use admin::{Admin, Right, is_of_operator};
pub use databases::{database_config, verifier};
pub use life::{DATABASE_LIMIT, Ending, RELOAD_LIMIT, SideEffects};
pub use node::{Identity, Node, short_id};

pub use self::{idle::watch as forget_idle, metadata::begin};
