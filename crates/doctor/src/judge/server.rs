//! The server as a whole.

use crate::{Code, Expected, Facts, Finding, Severity, Step};

/// Clocks that differ by less do not matter.
const CLOCK_TOLERANCE_MS: i64 = 2_000;

/// The first version that the server supports.
const OLDEST: i32 = 140_000;

/// What settings of PostgreSQL that need a restart are followed by.
fn restart() -> Step {
    Step::Do("restart PostgreSQL: the setting counts from then on".to_owned())
}

pub(super) fn judge(facts: &Facts, expected: &Expected, findings: &mut Vec<Finding>) {
    let server = &facts.server;
    if server.version_number < OLDEST {
        let text = format!("PostgreSQL {} is older than 14", server.version);
        findings.push(Finding::new(Code::OldServer, text, vec![Step::Do("upgrade PostgreSQL".to_owned())]));
    }
    if server.standby {
        let text = "The database is a standby: it is read, but cannot be set up from here";
        let mend = vec![Step::Do("point DB_HOST to the primary".to_owned())];
        findings.push(Finding::new(Code::Standby, text, mend));
    }
    if server.wal_level != "logical" {
        let text = format!(
            "wal_level is {}, not logical: there are no row changes and no messages from the database",
            server.wal_level
        );
        let mend = vec![Step::Sql("alter system set wal_level = logical".to_owned()), restart()];
        findings.push(Finding::new(Code::WalLevel, text, mend));
    }
    connections(facts, expected, findings);
    let apart = server.clock_ahead_ms;
    if apart.abs() > CLOCK_TOLERANCE_MS {
        let which = if apart > 0 { "ahead of" } else { "behind" };
        let text =
            format!("The database's clock is {} s {which} this machine's", (apart.abs() + 500) / 1_000);
        let mend =
            vec![Step::Do("synchronise both clocks with NTP, as with chrony or timedatectl".to_owned())];
        findings.push(Finding::new(Code::ClocksApart, text, mend));
    }
    if let Some(why) = &server.replication_refused {
        let text = format!("PostgreSQL refuses a replication connection of role {}: {why}", facts.role.name);
        let mend = vec![
            Step::Do(format!(
                "let role {} connect to database {} in pg_hba.conf, without a proxy in between",
                facts.role.name, facts.role.database
            )),
            Step::Sql("select pg_reload_conf()".to_owned()),
        ];
        findings.push(Finding::new(Code::ReplicationRefused, text, mend));
    }
}

/// The smallest of what the server, the role and the database leave free.
fn connections(facts: &Facts, expected: &Expected, findings: &mut Vec<Finding>) {
    let (used, all, reserved) = facts.server.connections;
    let reserved = if facts.role.superuser { 0 } else { reserved };
    let role = crate::quote::name(&facts.role.name);
    let database = crate::quote::name(&facts.role.database);
    let wanted = expected.connections;
    let bounded = |(used, limit): (i64, i64)| if limit < 0 { i64::MAX } else { limit - used };
    let more = |by: i64| by.max(0) + wanted;
    let choices = [
        (
            all - reserved - used,
            "max_connections",
            vec![
                Step::Sql(format!("alter system set max_connections = {}", more(used + reserved).max(all))),
                restart(),
            ],
        ),
        (
            bounded(facts.server.of_role),
            "the connection limit of the role",
            vec![Step::Sql(format!("alter role {role} connection limit {}", more(facts.server.of_role.0)))],
        ),
        (
            bounded(facts.server.of_database),
            "the connection limit of the database",
            vec![Step::Sql(format!(
                "alter database {database} connection limit {}",
                more(facts.server.of_database.0)
            ))],
        ),
    ];
    let Some((free, what, mend)) = choices.into_iter().min_by_key(|(free, ..)| *free) else { return };
    if free < wanted {
        let free = free.max(0);
        let text = format!("{free} connections are free within {what}, and the server wants up to {wanted}");
        let severity = if free < 2 { Severity::Error } else { Severity::Warning };
        findings.push(Finding::new(Code::ConnectionsShort, text, mend).of(severity));
    }
}
