//! What has to be done to a database. Pure: a survey goes in, steps come out.

use jiff::Timestamp;

use super::survey::{ClientRole, MARK, Messages, Origin, Survey};
use crate::{
    partitions,
    publication::{self, State},
};

/// Version of our functions. It replaces functions that have our mark and a lower version.
pub(super) const FUNCTIONS_VERSION: u32 = 2;

const MESSAGES: &str = include_str!("sql/messages.sql");

const CHECK: &str = "alter table realtime.messages add constraint messages_payload_exclusive
    check (payload is null or binary_payload is null) not valid";

const INDEX: &str =
    "create index messages_inserted_at_topic_index on realtime.messages (inserted_at desc, topic)
    where extension = 'broadcast' and private is true";

/// The functions for users' SQL: signature and definition.
const FUNCTIONS: [(&str, &str); 4] = [
    ("topic()", include_str!("sql/topic.sql")),
    ("send(jsonb, text, text, boolean)", include_str!("sql/send.sql")),
    ("send_binary(bytea, text, text, boolean)", include_str!("sql/send_binary.sql")),
    (
        "broadcast_changes(text, text, text, text, text, record, record, text)",
        include_str!("sql/broadcast_changes.sql"),
    ),
];

/// Columns without which nothing of this works.
const NEEDED: [&str; 6] = ["topic", "extension", "updated_at", "inserted_at", "id", "private"];

/// A change to the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    /// What it does, for operators.
    pub(super) what: String,
    /// Its statements.
    pub(super) sql: String,
    /// Whether it is all for nothing without it.
    pub(super) essential: bool,
}

/// What is to be done, and what operators have to know.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    pub(super) notes: Vec<String>,
}

impl Plan {
    fn step(&mut self, what: impl Into<String>, sql: impl Into<String>, essential: bool) {
        self.steps.push(Step { what: what.into(), sql: sql.into(), essential });
    }

    fn note(&mut self, note: String) {
        self.notes.push(note);
    }
}

/// Plans the set-up. `grant` also gives rights to client roles that have none on a schema that exists.
pub(super) fn plan(survey: &Survey, now: Timestamp, grant: bool) -> Plan {
    let mut plan = Plan::default();
    match survey.origin {
        Origin::Ours => ours(survey, grant, &mut plan),
        Origin::Supabase(migrations) => supabase(survey, migrations, &mut plan),
    }
    let usable = match (&survey.origin, &survey.messages) {
        (Origin::Ours, None) => true,
        (_, Some(messages)) => messages.partitioned && messages.owned,
        (Origin::Supabase(_), None) => false,
    };
    if usable {
        for day in partitions::missing(now, &survey.children) {
            let name = partitions::name(day);
            plan.step(format!("Create partition realtime.{name}"), partitions::create_sql(day), false);
        }
        if survey.publication != State::Right {
            let verb = if survey.publication == State::Wrong { "Replace" } else { "Create" };
            plan.step(format!("{verb} publication {}", publication::NAME), publication::RECREATE, false);
        }
    }
    environment(survey, &mut plan);
    plan
}

/// Plans a schema that is ours, or nobody's yet.
fn ours(survey: &Survey, grant: bool, plan: &mut Plan) {
    if !survey.schema {
        plan.step("Create schema realtime", "create schema realtime", true);
    }
    match &survey.messages {
        None => {
            plan.step("Create table realtime.messages", MESSAGES, true);
            plan.step("Add constraint messages_payload_exclusive", CHECK, true);
            plan.step("Create index messages_inserted_at_topic_index", INDEX, true);
        }
        Some(messages) if messages.partitioned => mend_messages(messages, plan),
        Some(_) => {
            plan.note(
                "realtime.messages exists and is not partitioned: rename it, then run this again".to_owned(),
            );
            return;
        }
    }
    functions(survey, plan);
    let fresh = survey.messages.is_none();
    for role in survey.clients.iter().filter(|role| fresh || (grant && !role.known)) {
        let name = &role.name;
        plan.step(
            format!("Grant {name} the use of schema realtime and of its messages"),
            format!(
                "grant usage on schema realtime to {name};
                 grant select, insert, update on realtime.messages to {name}"
            ),
            false,
        );
    }
    if fresh {
        hand_over(survey, plan);
    }
}

/// Plans what the table of messages lacks.
fn mend_messages(messages: &Messages, plan: &mut Plan) {
    let has = |name: &str| messages.columns.iter().any(|known| known == name);
    for column in NEEDED.iter().filter(|column| !has(column)) {
        plan.note(format!("realtime.messages lacks the column {column}"));
    }
    let added = [("payload", "jsonb"), ("event", "text"), ("binary_payload", "bytea")];
    for (name, kind) in added.into_iter().filter(|(name, _)| !has(name)) {
        let sql = format!("alter table realtime.messages add column {name} {kind}");
        plan.step(format!("Add column {name} to realtime.messages"), sql, true);
    }
    if !messages.has_check {
        plan.step("Add constraint messages_payload_exclusive", CHECK, false);
    }
    if !messages.has_index {
        plan.step("Create index messages_inserted_at_topic_index", INDEX, false);
    }
    if !messages.row_security {
        plan.note(
            "Row-level security is off on realtime.messages: every role with rights on it may read \
             and write every private topic"
                .to_owned(),
        );
    }
}

/// Plans the functions that are missing or older than these.
fn functions(survey: &Survey, plan: &mut Plan) {
    for (signature, definition) in FUNCTIONS {
        let found =
            survey.functions.iter().find(|(known, _)| known == signature).map(|(_, version)| *version);
        let verb = match found {
            None => "Create",
            Some(Some(version)) if version < FUNCTIONS_VERSION => "Replace",
            Some(Some(_)) => continue,
            Some(None) => {
                plan.note(format!("realtime.{signature} was made by somebody else and is left as it is"));
                continue;
            }
        };
        let comment = format!("comment on function realtime.{signature} is '{MARK}{FUNCTIONS_VERSION}'");
        plan.step(
            format!("{verb} function realtime.{signature}"),
            format!("{};\n{comment}", definition.trim_end().trim_end_matches(';')),
            true,
        );
    }
}

/// On a platform that has the roles of the original, they get what they have there (tenant_database 1.1, 1.2).
fn hand_over(survey: &Survey, plan: &mut Plan) {
    let exists = |role: &str| survey.platform.iter().any(|known| known == role) && survey.user != role;
    for role in ["postgres", "dashboard_user"].into_iter().filter(|role| exists(role)) {
        let option = if role == "postgres" { " with grant option" } else { "" };
        plan.step(
            format!("Grant {role} the use of schema realtime and of its messages"),
            format!(
                "grant usage on schema realtime to {role}{option};
                 grant all on realtime.messages to {role}"
            ),
            false,
        );
    }
    if exists("supabase_realtime_admin") {
        let functions: String = FUNCTIONS
            .iter()
            .map(|(signature, _)| {
                format!(";\nalter function realtime.{signature} owner to supabase_realtime_admin")
            })
            .collect();
        plan.step(
            "Make supabase_realtime_admin the owner of the objects in schema realtime",
            format!(
                "grant usage, create on schema realtime to supabase_realtime_admin with grant option;
                 alter table realtime.messages owner to supabase_realtime_admin{functions}"
            ),
            false,
        );
    }
    if exists("supabase_admin") {
        plan.step(
            "Make supabase_admin the owner of schema realtime",
            "alter schema realtime owner to supabase_admin",
            false,
        );
    }
}

/// A schema that the original made: it is used, not changed (tenant_database 7.3).
fn supabase(survey: &Survey, migrations: Option<i64>, plan: &mut Plan) {
    let by = match migrations {
        Some(migrations) => format!("Supabase Realtime with {migrations} migrations"),
        None => "Supabase Realtime".to_owned(),
    };
    let Some(messages) = &survey.messages else {
        plan.note(format!(
            "The schema was made by {by} and has no table realtime.messages: private topics cannot be used"
        ));
        return;
    };
    if !messages.partitioned {
        plan.note(format!(
            "The schema was made by {by}, before realtime.messages was partitioned: private topics cannot be used until \
             a newer one has upgraded it"
        ));
    }
    for (signature, _) in FUNCTIONS {
        if !survey.functions.iter().any(|(known, _)| known == signature) {
            plan.note(format!("The schema was made by {by} and has no function realtime.{signature}"));
        }
    }
}

/// What lies outside of the schema.
fn environment(survey: &Survey, plan: &mut Plan) {
    let user = &survey.user;
    let usual = partitions::CLIENT_ROLES;
    for name in usual.iter().filter(|name| !survey.clients.iter().any(|role| role.name == **name)) {
        plan.note(format!("Role {name} does not exist: tokens of that role cannot use private topics"));
    }
    for ClientRole { name, .. } in survey.clients.iter().filter(|role| !role.can_become) {
        plan.note(format!(
            "Role {user} may not take on role {name}, whose private topics cannot be used: grant {name} to {user}"
        ));
    }
    if survey.messages.as_ref().is_some_and(|messages| !messages.owned) {
        plan.note(format!(
            "Role {user} has not the rights of the owner of realtime.messages: partitions and the publication cannot \
             be kept, private topics cannot be authorized"
        ));
    }
    if survey.wal_level != "logical" {
        plan.note(format!(
            "wal_level is {}, not logical: nothing can be broadcast from the database",
            survey.wal_level
        ));
    }
    if !survey.replication {
        plan.note(format!("Role {user} has no REPLICATION: nothing can be broadcast from the database"));
    }
}

#[cfg(test)]
mod tests;
