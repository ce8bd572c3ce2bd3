//! One node reads something in order and the others follow it: the stream of a tenant's database.
//!
//! Who owns a stream is decided elsewhere, by a lock that only one can hold; here is how it reaches the others. Events are
//! opaque bytes. They come in groups (transactions): whoever follows begins between two of them.
//!
//! Invariants
//! 1. Messages of a stream are numbered without gaps; a follower that misses one ends, and says so.
//! 2. A stream is a number drawn when it begins: what an owner that was overtaken says late is of another stream, and
//!    ignored.
//! 3. The owner knows how far each follower has come, and may let the source forget only what all have taken. Who has not
//!    been heard for the time that a node may be silent is not waited for any more. Signs of life name all that follow:
//!    whoever finds itself left out ends, and says so.
//! 4. The owner goes on only while no follower is more than [`WINDOW`] behind, or it has waited [`PATIENCE`] for it.

mod follow;
mod messages;
mod own;

use tokio::time::Duration;

pub use follow::{FollowError, Followed};
pub use own::{Owned, Place};

/// Bytes that a follower may be behind the owner.
const WINDOW: u64 = 16_000_000;

/// How long the owner waits for a follower that is further behind.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often a follower says how far it has come.
const ACKNOWLEDGE: Duration = Duration::from_millis(200);
