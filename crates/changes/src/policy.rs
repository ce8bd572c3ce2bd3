//! Row-level security, compiled: who sees a row, decided here (spec `row_security` 2).
//!
//! A policy becomes a [`Tree`](crate::Tree) over the columns of the row and over *terms*: what a party's claims say, or
//! sets that are its own. Terms are asked of the database once for a party; rows are then judged without it, and found
//! through an index. What is not certain to mean here what it means in PostgreSQL is left to the database, with a
//! reason for whoever wrote the policy.
//!
//! # How a worker uses it
//!
//! **Compile**, when a table is first watched by a role, and again when the catalog changes (a policy, a function, a
//! membership of roles, the table's columns, a type or a collation):
//!
//! 1. Read the policies that decide: for SELECT or ALL, with a condition, for a role that the party's role has the
//!    privileges of, in the order of their names, the last one first
//!    (so PostgreSQL evaluates them, and some raise). Print conditions by `pg_get_expr` in a session with an empty search path, without temporary
//!    tables, and with `standard_conforming_strings` on. If the role bypasses row-level security, nothing is compiled.
//! 2. Call [`compile`]. While [`Compiled::wanted`] is not empty, load what it names into the [`Catalog`] (a name that
//!    does not exist is entered with an empty list) and call it again. One catalog serves all tables. When DDL was
//!    seen, begin with an empty one.
//! 3. Make a [`Sight`] of it. Parties of one role share it. Tell [`Compiled::asked`] on the dashboard.
//!
//! **Ask for a party** when its first subscription comes and when its claims change: run each [`Term::sql`] as the
//! role with the claims, all in one round trip, each in a subtransaction that is undone. Columns come as texts. The
//! answers make [`Compiled::values`]; enter them by [`Sight::insert`]. The answers must not
//! be older than the first row that is judged by them: ask after the party was made known, and let rows wait for it.
//! The session's output settings must be those of the replication session.
//!
//! **Watch** the tables in [`Term::reads`] and [`Call::reads`] (a `Reads::tables` holds OIDs). When a row of one of
//! them changes in the stream, before any later row is judged: ask the terms that read it anew, for all parties that
//! have it or for those that the change concerns, and call [`Sight::update`]; call [`Sight::forget_call`] for calls
//! that read it. Until the new answers are there no row is judged by the old ones. Where [`Reads::can_be_kept`] is
//! false, or a table is not in a publication that is read, do so at the beginning of every batch of rows.
//!
//! **Match a row**: [`Sight::look`] with the columns of the image, in the order of [`Relation::fields`], and the
//! clock. [`Seen::shown`] see it. While [`Seen::needs`] is not empty, ask each call for its values and parties: `select
//! (`[`Call::sql`]`)` over one row that is called as the table and has the call's columns, cast to their types, from
//! [`CallKey::values`]; give the answers to [`Sight::answer`], and look again. Then [`Seen::open`] are those whom the
//! database has to be asked about the row itself, as for policies that are not compiled. Nobody else sees it.
//!
//! The old image is judged in the same way. A column that a change does not carry (an unchanged TOASTed value) is
//! [`Cell::Missing`](crate::Cell::Missing): whoever it decides for is asked about.
//!
//! With filters: a subscription whose filter has no equality is reached through its party, from [`Sight::look`]; one
//! that has is reached through the filter's index, and judged by [`Sight::judge`] for its party alone. The shorter of
//! the two lists is walked.
//!
//! # What is never done
//!
//! Guess. A value that was not asked is open; so is a text that could mean something else (an upper-case `I` under
//! `lower`, a uuid that is not written as PostgreSQL writes it). Open never shows a row. When a term or a call failed
//! for a party, PostgreSQL may refuse its whole query (a privilege is missing): the party is shown nothing without
//! being asked about, until it is entered anew. And a part that is true shows no row while one before it is open,
//! because that one may raise.

mod atom;
mod catalog;
mod compile;
mod compiled;
mod explain;
mod names;
mod operand;
mod parse;
mod read;
mod scan;
mod sight;
mod types;
mod values;
mod why;

pub use catalog::{Catalog, Collation, Field, Function, NamedType, Relation, Volatility, Wanted};
pub use compile::{compile, compile_distrusting};
pub use compiled::{Answer, Asked, Bound, Call, Compiled, NoValue, Policy, Term};
pub use explain::{Explained, Reason, explain};
pub use names::{CallId, TermId};
pub use scan::{Mention, Mentions, Named, Reads, mentions};
pub use sight::{CallKey, Need, PartyName, Seen, Sight};
pub use values::Values;
pub use why::Why;
