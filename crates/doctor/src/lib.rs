//! What is wrong with settings and databases, why a client gets nothing, and what mends it.
//!
//! Pure: others look ([`Facts`], [`explain::Seen`]); this crate judges what they saw and says it in plain sentences.

mod code;
pub mod explain;
mod facts;
mod finding;
mod judge;
mod quote;
mod report;
mod severity;

pub use code::{Code, markdown};
pub use facts::{
    AskedPolicy, Expected, Facts, OwnPublication, PublicationFacts, RoleFacts, ServerFacts, SlotFacts,
    TableFacts, ViewFacts,
};
pub use finding::{Finding, Step};
pub use judge::{Place, judge, nats_forbidden, nats_unreachable, right, unreachable};
pub use report::{Part, Report};
pub use severity::Severity;
