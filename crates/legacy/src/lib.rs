//! The parts of Realtime's first generation (servers 0.x and 1.0) that need no I/O: topics and their members, payloads of
//! row changes, what is broadcast at all, and which webhooks a transaction concerns.
//!
//! Its topics are plain strings: a change is published to the strings of its schema, of its table and of each of its
//! columns' values, and everybody who joined the same string gets it. Nothing here formats such a string per row: it looks
//! up what was joined ([`TopicIndex`]).

mod config_file;
mod describe;
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
