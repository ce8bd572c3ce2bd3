//! The codes of findings: what each means.

use std::fmt::Write as _;

use crate::Severity;

/// Defines [`Code`]: each code with how severe it is and what it means.
macro_rules! codes {
    ($($name:ident: $severity:ident, $meaning:expr;)+) => {
        /// Code of a finding.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = $meaning] $name,)+
        }

        impl Code {
            /// All codes, in alphabetical order.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The name that reports show.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }

            /// How severe it is.
            #[must_use]
            pub const fn severity(self) -> Severity {
                match self {
                    $(Self::$name => Severity::$severity,)+
                }
            }

            /// What it means.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => $meaning,)+
                }
            }
        }
    };
}

#[rustfmt::skip]
codes! {
    CertificatesUnreachable: Error, "The keys of Cloudflare Access, which verify the tokens of the dashboard's users, cannot be fetched";
    CertificatesUnusable: Error, "What is at the address of the keys of Cloudflare Access is no key set, or has no key that the server can use. Nobody can log in to the dashboard";
    ClocksApart: Warning, "The clocks of this machine and of the database differ. Tokens expire too early or too late, and partitions of messages are made for the wrong day";
    ColumnListWithoutKey: Error, "The publication's list of columns leaves out columns of the replica identity. PostgreSQL then refuses every update and delete of the table, by whomever";
    ConnectionsShort: Warning, "The database has too few free connections for the server's pools. Joins that need the database fail with `DatabaseLackOfConnections`";
    DatabaseUnreachable: Error, "The server cannot log in to the database";
    IdentityNothing: Error, "The table has replica identity `nothing`. PostgreSQL then refuses every update and delete of it while it is published";
    IdentityWithoutRow: Note, "Of a deleted row the log has the key alone. Filters on other columns and policies cannot judge it, so its key is sent to all who watch the table (or to nobody, with `DELETE_UNJUDGED=drop`)";
    IdleSlotTimeout: Warning, "`idle_replication_slot_timeout` invalidates the permanent slot when the server is away for longer";
    KeySetEmpty: Error, "The JSON Web Key Set has no key that the server can use, so no token is verified by it";
    NatsForbidden: Error, "The node is connected to NATS but may not listen or publish on its subjects, so nodes do not hear each other";
    NatsUnreachable: Error, "The node cannot connect to NATS, so it does not find other nodes";
    NoFreeSender: Error, "All walsenders are in use (`max_wal_senders`), so the server cannot read the log";
    NoFreeSlot: Error, "All replication slots are in use (`max_replication_slots`), so the server cannot read the log";
    NoGrant: Warning, "Neither `anon` nor `authenticated` may SELECT from a published table. Clients are told `Error 401: Unauthorized` in place of its rows";
    NoKey: Error, "A published table has no primary key. Clients are told `Error 400: Bad Request, no primary key`, and PostgreSQL refuses updates and deletes of it";
    NoMember: Error, "The server's role may not take on a role that tokens name, so it cannot evaluate policies for it: rows under row-level security and private topics fail with `RlsPolicyError`";
    NoPolicy: Warning, "Row-level security is on and no policy lets a client's role read a row. Nothing is sent, and nobody is told";
    NoReplication: Error, "The server's role lacks the attribute REPLICATION, so it cannot read the log";
    NoTenant: Error, "There is no tenant, so every client is refused";
    NoUsage: Warning, "A role may SELECT from a published table but has no USAGE on its schema. It is told `Error 401: Unauthorized` in place of rows";
    OldServer: Error, "PostgreSQL is older than version 14";
    PasswordWellKnown: Warning, "The password of the database is the default, which everybody knows";
    PolicyAsked: Note, "A policy is not compiled: the database is asked about each row that it decides about, which costs time";
    PolicyReadsUnpublished: Note, "A policy reads a table whose changes do not come with the log. The server cannot know when its answers are out of date, so it asks the database about each row";
    PoolerInBetween: Error, "A connection pooler answers in place of PostgreSQL. Logical replication does not pass through it";
    PublicationActions: Warning, "The publication leaves out inserts, updates or deletes, so clients never hear of them";
    PublicationEmpty: Warning, "The publication has no table, so no row change reaches anybody";
    PublicationMissing: Error, "There is no publication of that name. Clients that watch rows are refused: `Please check Realtime is enabled`";
    PublicationOwner: Warning, "One of the server's own publications belongs to a role that the server's role is no member of, so the server cannot keep it right";
    ReplicationRefused: Error, "PostgreSQL refuses a replication connection of the server's role, as `pg_hba.conf` or a proxy may do";
    RoleMissing: Warning, "There is no role `anon` or `authenticated`. Tokens that name it are refused";
    RowFilterMayRaise: Warning, "A row filter of the publication computes: it can raise an error, and then the log cannot be decoded any further, for all tables";
    RowFilterWithoutKey: Error, "A row filter of the publication uses columns that are not of the replica identity. PostgreSQL then refuses every update and delete of the table, by whomever";
    RowSecurityOff: Note, "Row-level security is off, so everybody with a token of that role, and so every visitor with the `anon` key, receives all rows of the table";
    SecretMissing: Error, "No secret is set, and the server uses a well-known one: everybody can sign tokens";
    SecretShort: Warning, "A secret that signs tokens is shorter than 32 bytes, so it can be guessed from one token";
    SecretWellKnown: Error, "A secret is one of those that examples use: everybody can sign tokens";
    SecretsEqual: Warning, "Two secrets are the same, so who has one has the other";
    SetUpIncomplete: Warning, "The schema `realtime` is not as the server needs it for private topics and messages from the database";
    SettingUnknown: Warning, "A variable has the name of no setting, but almost: it has no effect";
    SettingWrong: Error, "A setting cannot be used. The server does not start (exit code 64)";
    SlotInactive: Warning, "A replication slot of this database is read by nobody and keeps the log on the disk";
    SlotKeptTooShort: Note, "PostgreSQL gives the permanent slot up earlier than `MAX_REPLICATION_LAG_MB` says";
    SlotLagging: Warning, "The server's slot is far behind: the log grows on the disk, and what is read is late";
    SlotLost: Error, "PostgreSQL has removed log that the server's slot still needed. The slot cannot be read any more";
    SlotStuck: Warning, "A slot is held by a connection that has not answered for a minute";
    SlotUnbounded: Warning, "A permanent slot keeps the log while the server is away, and nothing bounds that: the disk of the database can fill up";
    Standby: Note, "The database is a standby: the server reads it, but can neither set it up nor store messages";
    Superuser: Warning, "The server's role is a superuser. Code of applications, in policies and domains, runs in its sessions and could use that";
    TenantUnusable: Error, "The record of a tenant in the metadata database cannot be used, as when it was encrypted with another key. Its clients are refused";
    ViewReadsUnpublished: Note, "A view that clients may read has rows of a table whose changes do not come with the log. Live rows of the view are refused";
    WalLevel: Error, "`wal_level` is not `logical`, so there are no row changes and no messages from the database";
}

/// The table of the codes, for the documentation.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from("| code | severity | meaning |\n| --- | --- | --- |\n");
    for code in Code::ALL {
        let _ = writeln!(text, "| `{}` | {} | {} |", code.as_str(), code.severity().as_str(), code.meaning());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meanings_are_sentences_without_a_full_stop() {
        for code in Code::ALL {
            assert!(!code.meaning().ends_with('.') && !code.meaning().contains('|'), "{}", code.as_str());
        }
        assert!(markdown().lines().count() == Code::ALL.len() + 2);
    }
}
