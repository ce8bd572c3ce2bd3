//! Changes as they came, kept for a while for those who come back (resume 3).
//!
//! Pure: time is an argument, what is kept is the caller's. A journal has everything after its *floor*, a place in the
//! log. It never says that it has what it has not: see [`Reach`].

mod journal;

pub use journal::{Bounds, DISORDER, Entry, Journal, Past, Reach};
