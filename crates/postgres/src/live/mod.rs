//! Reading the results of live bindings (live 3): where a result comes from, and its rows as they are now.
//!
//! [`look`] asks the catalog about a table or a view and writes the query; [`read`] runs it under the role and the claims
//! of a party. Whatever the query runs of an application, it runs as that role: the role is taken on before the query is
//! so much as parsed. All names in it that are ours bear their schema.
//!
//! Values are the texts that the log has for them: sessions have the same settings as the walsender's. So a row that was
//! read and the same row from the log give the same digest.

mod closure;
mod columns;
mod functions;
mod key;
mod look;
mod meaning;
mod node;
mod print;
mod reached;
mod read;
mod refusal;
mod source;
mod sql;

pub(crate) use look::{Bounds, PolicyTables, is_view, look};
pub(crate) use print::prints;
pub(crate) use read::{Limits, ReadAt, ReadError, Receive, read};
pub(crate) use refusal::LiveRefusal;
pub(crate) use source::{Key, Kind, Source};

#[cfg(test)]
mod tests;
