//! Webhooks of the second generation: row changes that are posted to an endpoint over HTTP.
//!
//! Pure: no I/O, no clock. [`parse`] reads what an operator has set, [`Lanes`] says which change may be posted next,
//! [`sign`] signs a request. The reading of the log and the posting are elsewhere.

mod lanes;
mod signature;
mod webhook;

pub use lanes::{Lanes, Ticket};
pub use signature::{key, sign};
pub use webhook::{MAX_WEBHOOKS, Webhook, WebhooksError, parse, parse_one, slot_suffix, to_json};
