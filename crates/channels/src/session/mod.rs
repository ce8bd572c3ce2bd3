//! The protocol of one socket: a state machine without I/O (protocol 2 to 8).
//!
//! Frames come in, and go out through the socket's outbox. Slow steps go out as effects and come back as completions.
//! Nothing here waits. Messages on a topic that is being joined wait in order until the join is decided. Other topics
//! and heartbeats go on.

mod admission;
mod channel;
mod join;
mod joins;
mod policies;
mod presence;
mod ready;
mod replay;
mod rows;
#[expect(clippy::module_inception, reason = "the session itself, above its parts")]
mod session;
mod stop;
#[cfg(test)]
mod tests;
mod tokens;
mod topics;
mod waiting;

pub use session::Session;
