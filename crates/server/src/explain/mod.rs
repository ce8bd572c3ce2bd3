//! "Why do I get nothing?": the way of a row to a token, for `realtime explain` and the Inspector.

mod asked;
mod command;
mod limits;
mod told;

pub use asked::{Asked, MAX_KEY};
pub use command::run;
pub use limits::Explaining;
pub use told::{of_refused, of_token};
