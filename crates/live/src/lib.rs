//! Live rows: what a client has of a result, and what it has to be told (spec `live`).
//!
//! Pure: no I/O, no clock. A [`Keeper`] knows for each row of a result under which key it was sent, and a digest of what
//! was sent; never the row. It takes "this is now the row under this key" and "these are now all rows", and says what a
//! client with a map by key has to be told.
//!
//! Invariants:
//!
//! - What a keeper holds is what its clients hold: every answer that says "tell" has to be told.
//! - What a client has that comes back is known or not known; it is never guessed ([`Keeper::of_client`]).
//! - A reading that ends has told all that is not so any more; one that is given up leaves the keeper as its clients are.

mod digest;
mod holders;
mod keeper;
mod key;
mod trail;

pub use digest::{Digest, Digester, Secret};
pub use holders::Holders;
pub use keeper::{Keeper, Seen};
pub use key::{key, values};
pub use trail::halfway;
