//! Policies that are compiled: reading them from the catalog, and asking what they want to know of a party
//! (row_security 2.2). What they then say of a row is decided in crate `changes`.

mod ask;
mod explain;
mod load;
mod names;
mod print;
mod question;

pub(crate) use ask::{Asking, Given, InTime, ask_beside, ask_briefly, ask_each};
pub use explain::{
    AskedPart, Counted, Decided, PolicyFacts, PolicyReport, ReadTable, RolePolicies, TablePolicies,
};
pub(crate) use explain::{Watching, explain, explain_one};
pub(crate) use load::{Loaded, Written, load, written};
pub(crate) use names::{Names, names};
pub(crate) use print::{kept_tables, print};
pub(crate) use question::{NUMBER, call, call_of_each, call_of_many, literal};
