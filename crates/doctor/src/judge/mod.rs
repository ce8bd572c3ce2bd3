//! What facts mean.

mod nats;
mod publication;
mod reach;
mod right;
mod role;
mod server;
mod slots;
mod tables;

pub use nats::{nats_forbidden, nats_unreachable};
pub use reach::{Place, unreachable};
pub use right::right;

use crate::{Expected, Facts, Finding};

/// Everything that is wrong with a database, the worst first.
#[must_use]
pub fn judge(facts: &Facts, expected: &Expected) -> Vec<Finding> {
    let mut findings = Vec::new();
    server::judge(facts, expected, &mut findings);
    slots::judge(facts, expected, &mut findings);
    role::judge(facts, expected, &mut findings);
    publication::judge(facts, expected, &mut findings);
    tables::judge(facts, expected, &mut findings);
    findings.sort_by_key(|finding| finding.severity);
    findings
}

#[cfg(test)]
mod tests;
