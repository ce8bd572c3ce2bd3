//! Databases that cannot be looked at.

use crate::{Code, Finding, Step, quote::name};

/// Where the database should be.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Host.
    pub host: &'a str,
    /// Port.
    pub port: u16,
    /// Role.
    pub user: &'a str,
    /// Database.
    pub database: &'a str,
}

/// Why the database cannot be looked at. `error`: what the connection ended with.
#[must_use]
pub fn unreachable(place: Place<'_>, error: &str) -> Finding {
    let Place { host, port, user, database } = place;
    let new = |code, text: String, mend| Finding::new(code, text, mend);
    // A pooler refuses what it does not pass on: replication, and settings of a session.
    if error.contains("unsupported startup parameter") || error.contains("no such database") {
        let text = format!("A connection pooler answers at {host}:{port}: {error}");
        let mend = vec![Step::Do(
            "point DB_HOST and DB_PORT to PostgreSQL itself: replication does not pass through a pooler"
                .to_owned(),
        )];
        return new(Code::PoolerInBetween, text, mend);
    }
    let text = format!("Role {user} cannot log in to database {database} at {host}:{port}: {error}");
    let is_about = |what: &str| error.contains(what);
    let mend = if is_about("password authentication failed") || is_about("no password") {
        vec![Step::Do(format!("set DB_PASSWORD to the password of {user}")), secret_of(user)]
    } else if is_about("does not exist") && is_about("database") {
        vec![Step::Sql(format!("create database {}", name(database)))]
    } else if is_about("does not exist") && is_about("role") {
        vec![Step::Shell(format!(
            "psql --set ON_ERROR_STOP=1 --set password=SECRET --file docker/init/role.psql {database}"
        ))]
    } else if is_about("is not permitted to log in") {
        vec![Step::Sql(format!("alter role {} login", name(user)))]
    } else if is_about("permission denied for database") {
        vec![Step::Sql(format!("grant connect on database {} to {}", name(database), name(user)))]
    } else if is_about("pg_hba.conf") {
        vec![Step::Do(format!("let {user} connect in pg_hba.conf, or encrypt: DB_SSL=true"))]
    } else {
        vec![Step::Shell(format!("psql -h {host} -p {port} -U {user} -d {database} -c 'select 1'"))]
    };
    new(Code::DatabaseUnreachable, text, mend)
}

fn secret_of(user: &str) -> Step {
    Step::Sql(format!("alter role {} password 'SECRET'", name(user)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_remedy() {
        let place = Place { host: "db", port: 5432, user: "realtime", database: "app" };
        for (error, code, first) in [
            (
                "unsupported startup parameter: options",
                Code::PoolerInBetween,
                "# point DB_HOST and DB_PORT to PostgreSQL itself: replication does not pass through a pooler",
            ),
            (
                "password authentication failed for user \"realtime\"",
                Code::DatabaseUnreachable,
                "# set DB_PASSWORD to the password of realtime",
            ),
            ("database \"app\" does not exist", Code::DatabaseUnreachable, "psql -c 'create database app'"),
            (
                "role \"realtime\" is not permitted to log in",
                Code::DatabaseUnreachable,
                "psql -c 'alter role realtime login'",
            ),
            (
                "connection refused",
                Code::DatabaseUnreachable,
                "psql -h db -p 5432 -U realtime -d app -c 'select 1'",
            ),
        ] {
            let finding = unreachable(place, error);
            assert_eq!((finding.code, finding.mend[0].line().as_str()), (code, first));
        }
    }
}
