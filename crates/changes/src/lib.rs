//! Postgres Changes: what clients subscribe to, which row changes match, and what they are sent
//! (spec `postgres_changes`).
//!
//! Pure: no I/O, no clock. [`SubscriptionSpec`] is what a client asked; [`plan`] binds it to a [`Table`] as a
//! role sees it; the database checks the literals of the plan; [`Engine`] holds the result. A row change enters it
//! once, by [`Engine::match_row`]; the [`Match`] has [`Question`]s for the database where conditions are not evaluated
//! here, and renders [`Delivery`]s. [`policy`] decides who sees a row.

mod catalog;
mod cell;
mod change;
mod elements;
mod elixir;
mod engine;
mod filter;
mod filter_index;
mod ids;
mod jsonb;
mod like;
mod literal;
mod params;
mod path;
mod pattern;
mod payload;
mod plan;
pub mod policy;
mod predicate;
mod question;
mod quotes;
mod refusal;
mod row;
mod row_view;
mod since;
mod time;
mod tree;
mod truth;
mod value;

pub use catalog::{Column, Comparison, Operators, RoleAccess, Table};
pub use cell::Cell;
pub use change::{Action, Change};
pub use engine::{
    Among, Answered, Asked, Attachment, CallNeed, ChannelId, Concern, Delivery, Engine, Guarded, Lack, Match,
    Party, PartyId, Recipient, Sample, SubscriptionKey, UnknownTable, Verdict,
};
pub use filter::{Filter, FilterError, Operator};
pub use filter_index::FilterIndex;
pub use ids::assign_ids;
pub use params::{
    EventFilter, LiveError, LiveSpec, NamePattern, OrderBy, ParamsError, SinceError, SubscriptionSpec,
    legacy_params,
};
pub use path::{JsonPath, PathTooLong, Step as JsonStep};
pub use plan::{LiteralCheck, Plan, Sought, plan};
pub use predicate::Predicate;
pub use question::{Ask, Compare, Form, Part, Question};
pub use refusal::SubscribeRefusal;
pub use row_view::RowView;
pub use since::{Place, Since};
pub use tree::Tree;
pub use truth::Truth;
