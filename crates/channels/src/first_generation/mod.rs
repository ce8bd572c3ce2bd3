//! The first generation: channels that are joined without `config`, on a server that supports them.

mod channel;
mod engine;
mod hook;
mod members;
mod post;
mod settings;
mod sink;
mod webhooks;

pub(crate) use channel::{End, FirstChannel, no_sub_topic, token};
pub use engine::Legacy;
pub use members::{Counters, Place};
pub use settings::{LegacyEngine, LegacySettings, WebhookSettings};
