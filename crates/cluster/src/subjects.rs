//! The subjects of NATS.
//!
//! | subject | who listens | what |
//! | --- | --- | --- |
//! | `PREFIX.nodes` | all nodes of all versions | heartbeats |
//! | `PREFIX.VERSION.t.TENANT` | nodes with sockets of the tenant | envelopes about all of it |
//! | `PREFIX.VERSION.r.TENANT.BUCKET` | nodes with members in the bucket | envelopes about its rooms |
//! | `PREFIX.VERSION.n.NODE` | one node | state of tenants, pings |
//! | `PREFIX.VERSION.q.NODE` | one node | questions of operators: metrics, tenants |
//! | `PREFIX.VERSION.c.TENANT` | nodes that follow | the stream of the tenant's database |
//! | `PREFIX.VERSION.c.TENANT.s` | nodes that follow and know of sorted streams | the line of that stream |
//! | `PREFIX.VERSION.c.TENANT.RELATION` | those of them that want it | the strand of a relation |
//! | `PREFIX.VERSION.o.TENANT` | the node that reads the database | how far the others have come |

use std::fmt::Write as _;

use crate::{
    scope::{Part, Scope},
    wire::WIRE_VERSION,
};

#[derive(Debug)]
pub(crate) struct Subjects {
    prefix: String,
}

impl Subjects {
    pub(crate) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    pub(crate) fn nodes(&self) -> String {
        format!("{}.nodes", self.prefix)
    }

    /// What nodes say about a part of a tenant.
    pub(crate) fn scope(&self, scope: &Scope) -> String {
        let (prefix, tenant) = (&self.prefix, token(&scope.tenant));
        match scope.part {
            Part::Whole => format!("{prefix}.{WIRE_VERSION}.t.{tenant}"),
            Part::Bucket(bucket) => format!("{prefix}.{WIRE_VERSION}.r.{tenant}.{bucket}"),
        }
    }

    pub(crate) fn node(&self, id: u32) -> String {
        format!("{}.{WIRE_VERSION}.n.{id:08x}", self.prefix)
    }

    /// Questions to a node. When it is gone, nobody listens, and NATS says so at once.
    pub(crate) fn questions(&self, id: u32) -> String {
        format!("{}.{WIRE_VERSION}.q.{id:08x}", self.prefix)
    }

    /// What followers of a tenant's stream say to its owner.
    pub(crate) fn owner(&self, tenant: &str) -> String {
        format!("{}.{WIRE_VERSION}.o.{}", self.prefix, token(tenant))
    }

    /// The stream of a tenant's database.
    pub(crate) fn changes(&self, tenant: &str) -> String {
        format!("{}.{WIRE_VERSION}.c.{}", self.prefix, token(tenant))
    }

    /// The line of the sorted stream of a tenant's database.
    pub(crate) fn line(&self, tenant: &str) -> String {
        format!("{}.s", self.changes(tenant))
    }

    /// A strand of it.
    pub(crate) fn strand(&self, tenant: &str, key: u32) -> String {
        format!("{}.{key}", self.changes(tenant))
    }

    /// A subject on which nobody listens. The server's answer to a question there proves that it has read everything that
    /// was sent before.
    pub(crate) fn nobody(&self, id: u32) -> String {
        format!("{}.{WIRE_VERSION}.x.{id:08x}", self.prefix)
    }

    /// The subject of answers.
    pub(crate) fn inbox(&self, id: u32) -> String {
        format!("{}.{WIRE_VERSION}.i.{id:08x}", self.prefix)
    }
}

/// A name as one part of a subject: as it is, or in hexadecimal after `=` if it has other characters.
fn token(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !name.is_empty() && name.chars().all(plain) {
        return name.to_owned();
    }
    name.bytes().fold("=".to_owned(), |mut token, byte| {
        let _ = write!(token, "{byte:02x}");
        token
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leaves_its_part_of_a_subject() {
        assert_eq!(token("realtime-dev_1"), "realtime-dev_1");
        for (name, expected) in
            [("a.b", "=612e62"), ("*", "=2a"), (">", "=3e"), ("", "="), ("=", "=3d"), ("é", "=c3a9")]
        {
            assert_eq!(token(name), expected);
        }
        let subject = |part| Subjects::new("realtime").scope(&Scope { tenant: "a.b".into(), part });
        assert_eq!(subject(Part::Whole), "realtime.2.t.=612e62");
        assert_eq!(subject(Part::Bucket(7)), "realtime.2.r.=612e62.7");
    }
}
