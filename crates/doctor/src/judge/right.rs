//! What is right, in few words.

use crate::{Code, Expected, Facts, Finding};

/// Short statements about what was looked at and is right.
#[must_use]
pub fn right(facts: &Facts, expected: &Expected, findings: &[Finding]) -> Vec<String> {
    let is_fine = |codes: &[Code]| !findings.iter().any(|finding| codes.contains(&finding.code));
    let server = &facts.server;
    let mut right = Vec::new();
    let mut tell = |codes: &[Code], text: String| {
        if is_fine(codes) {
            right.push(text);
        }
    };
    tell(&[Code::OldServer], format!("PostgreSQL {}", server.version));
    tell(&[Code::WalLevel], "wal_level logical".to_owned());
    tell(&[Code::NoFreeSlot], format!("{} of {} slots used", server.slots.0, server.slots.1));
    tell(&[Code::NoFreeSender], format!("{} of {} walsenders used", server.senders.0, server.senders.1));
    tell(
        &[Code::ConnectionsShort],
        format!("{} of {} connections used", server.connections.0, server.connections.1),
    );
    tell(
        &[Code::Superuser, Code::NoReplication, Code::NoMember, Code::ReplicationRefused],
        format!("role {}", facts.role.name),
    );
    tell(
        &[Code::PublicationMissing, Code::PublicationEmpty],
        format!("publication {} with {} tables", expected.publication, facts.tables.len()),
    );
    tell(&[Code::SetUpIncomplete], "schema realtime".to_owned());
    tell(&[Code::ClocksApart], "clocks".to_owned());
    right
}
