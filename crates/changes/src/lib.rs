//! Postgres Changes: what clients subscribe to, which row changes match, and what they are sent
//! (spec `postgres_changes`).
//!
//! Pure: no I/O, no clock. [`SubscriptionSpec`] is what a client asked; [`plan`] binds it to a [`Table`] as a
//! role sees it; the database checks the literals of the plan; [`Engine`] holds the result and turns a row
//! change into [`Delivery`]s. Conditions that are not evaluated here come back as [`Question`]s for the
//! database.

mod catalog;
mod cell;
mod elixir;
mod engine;
mod filter;
mod ids;
mod like;
mod literal;
mod params;
mod pattern;
mod payload;
mod plan;
pub mod policy;
mod predicate;
mod refusal;
mod time;
mod tree;
mod truth;
mod value;

pub use catalog::{Column, Comparison, Operators, RoleAccess, Table};
pub use cell::Cell;
pub use engine::{
    Action, Asked, Attachment, Candidates, Change, ChannelId, Delivery, Engine, Matches, Party, PartyId,
    Recipient, SubscriptionKey, UnknownTable,
};
pub use filter::{Filter, FilterError, Operator};
pub use ids::assign_ids;
pub use params::{EventFilter, NamePattern, ParamsError, SubscriptionSpec, legacy_params};
pub use plan::{Form, LiteralCheck, Plan, plan};
pub use predicate::{Ask, Predicate, Question};
pub use refusal::SubscribeRefusal;
pub use tree::Tree;
pub use truth::Truth;
