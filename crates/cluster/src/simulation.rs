//! Many nodes on a simulated network, with what goes wrong there: the promises of docs/delivery.md about nodes hold (11, 21,
//! 23 to 25, 28, 30). One thread, tokio's paused clock, and one seed is one run.
//!
//! The nodes are what the server uses: [`Cluster`](crate::Cluster) and the rooms of `realtime_hub`. Only the client of NATS
//! is another one ([`link::simulated`](crate::link::simulated)).
//!
//! - `plan`: how large a run is.
//! - `world`: nodes, members and the network, and what they do.
//! - `faults`: what goes wrong.
//! - `party`: a member, and what it has heard.
//! - `streams`: owners and followers of a database's stream.
//! - `verdict`: whether the promises were kept.
//!
//! `REALTIME_TEST_SEED` repeats a run, `REALTIME_TEST_SEEDS` says how many follow each other, and with
//! `REALTIME_TEST_NODES` and `REALTIME_TEST_TENANTS` all of them are of that size.

mod faults;
mod party;
mod plan;
mod streams;
mod tests;
mod verdict;
mod world;
