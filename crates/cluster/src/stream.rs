//! One node reads something in order and the others follow it: the stream of a tenant's database.
//!
//! The owner of a stream is decided elsewhere, by a lock that only one node can hold. This module carries the stream to the
//! others. Events are opaque bytes. They come in groups (transactions): a follower begins between two groups.
//!
//! Invariants
//! 1. Messages of a stream are numbered without gaps; a follower that misses one ends, and says so.
//! 2. A stream is a number drawn when it begins: late messages of an owner that was overtaken belong to another stream and
//!    are ignored.
//! 3. The owner knows how far each follower has come, and lets the source forget only what all have taken. A follower that
//!    has not been heard for the time that a node may be silent is dropped. Signs of life name all followers: a follower
//!    that is not named ends, and says so.
//! 4. The owner goes on only while no follower is too far behind, or it has waited long enough for it (`own`).
//! 5. A follower that does not want events about a thing learns where they stand in the stream and how many they are. What it
//!    wants changes at a place in the stream, of which it is told (`sorted`).

mod follow;
mod messages;
mod own;
mod sorted;
mod state;
mod wish;

pub(crate) use follow::follow;
pub use follow::{Carried, FollowError, Followed};
pub(crate) use own::own;
pub use own::{Owned, Part};
