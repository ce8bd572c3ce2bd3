//! The first generation of Realtime (servers 0.x and 1.0), as far as it needs no I/O: topics and who joined them,
//! payloads of row changes, what is broadcast at all, and which webhooks a transaction concerns.
//!
//! Its topics are plain strings: a change is published to the strings of its schema, of its table and of each of its
//! columns' values, and whoever joined the same string gets it. Nothing here ever formats such a string per row: it looks
//! up what was joined ([`TopicIndex`]).

mod config_file;
mod event;
mod index;
mod payload;
mod plan;
mod profile;
mod restrictions;
mod stream;
mod time;
mod type_names;
mod webhook;

pub use config_file::{ConfigFile, ConfigFileError};
pub use event::Event;
pub use index::{Members, TopicIndex};
pub use plan::Plan;
pub use profile::{Profile, StarEvents};
pub use restrictions::Restrictions;
pub use stream::{Change, Stream};
pub use type_names::builtin_type_name;
pub use webhook::{Webhook, parse_headers};
