//! What operators see and do: the status page, metrics, logs, and the questions that nodes ask one another for them.

pub mod activity;
pub mod answer;
pub mod ask;
pub mod figures;
pub mod history;
pub mod logging;
pub mod metrics;
mod process;
pub mod status;
pub mod tenants;
