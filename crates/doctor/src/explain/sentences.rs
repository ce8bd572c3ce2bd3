//! The steps, in plain sentences.

use super::{Explained, Explanation, FilterSeen, Holds, Outcome, PolicySeen, Published, RowSeen, Seen};
use crate::{
    Step,
    quote::{name, qualified},
};

/// What is told of each step. The first step that says no decides; those that cannot be told then are left out.
#[must_use]
pub fn explain(seen: &Seen) -> Explanation {
    let steps: [fn(&Seen) -> Vec<Explained>; 9] =
        [token, log, role, published, granted, filters, row, policies, sent];
    let mut told: Vec<Explained> = Vec::new();
    for step in steps {
        told.extend(step(seen));
        if told.iter().any(|step| step.outcome == Outcome::No && ends(step.step)) {
            break;
        }
    }
    let refused = told.iter().find(|step| step.outcome == Outcome::No);
    let open = told.iter().find(|step| step.outcome == Outcome::Open);
    let (sent, answer) = match (refused, open) {
        (Some(step), _) => (Outcome::No, format!("You get nothing: {}.", small(&step.text))),
        (None, Some(step)) => (Outcome::Open, format!("It depends: {}.", small(&step.text))),
        (None, None) => (
            Outcome::Yes,
            "Nothing stands in the way: changes of such rows are sent to this token.".to_owned(),
        ),
    };
    Explanation { sent, answer, steps: told }
}

/// Whether later steps mean nothing after this one has failed.
fn ends(step: &str) -> bool {
    matches!(step, "token" | "role" | "published")
}

fn step(step: &'static str, outcome: Outcome, text: impl Into<String>, mend: Vec<Step>) -> Explained {
    Explained { step, outcome, text: text.into(), mend }
}

/// A sentence within another one.
fn small(text: &str) -> String {
    let mut letters = text.trim_end_matches('.').chars();
    let first = letters.next();
    first.into_iter().flat_map(char::to_lowercase).chain(letters).collect()
}

fn token(seen: &Seen) -> Vec<Explained> {
    let token = &seen.token;
    if let Some(why) = &token.refused {
        let mend = vec![Step::Do(
            "sign in again, or make a token with: realtime token --role authenticated".to_owned(),
        )];
        return vec![step("token", Outcome::No, format!("The token is refused: {why}"), mend)];
    }
    let who = match &token.subject {
        Some(subject) => format!("The token is of role {} and user {subject}", token.role),
        None => format!("The token is of role {} and names no user", token.role),
    };
    let until =
        token.seconds_left.map(|left| format!(", and is valid for {left} s more")).unwrap_or_default();
    vec![step("token", Outcome::Yes, format!("{who}{until}"), Vec::new())]
}

fn log(seen: &Seen) -> Vec<Explained> {
    match &seen.wal_level {
        Some(level) if level != "logical" => {
            let text = format!("The server cannot read changes: wal_level is {level}, not logical");
            let mend = vec![
                Step::Sql("alter system set wal_level = logical".to_owned()),
                Step::Do("restart PostgreSQL: the setting counts from then on".to_owned()),
            ];
            vec![step("log", Outcome::No, text, mend)]
        }
        _ => Vec::new(),
    }
}

fn role(seen: &Seen) -> Vec<Explained> {
    let role = &seen.token.role;
    if !seen.role_exists {
        let text = format!("The database has no role {role}");
        let mend = vec![Step::Sql(format!("create role {} nologin", name(role)))];
        return vec![step("role", Outcome::No, text, mend)];
    }
    if !seen.role_is_served && seen.secured {
        let text = format!("The server may not take on role {role}, so it cannot evaluate policies for it");
        let mend =
            seen.server_role.iter().map(|own| Step::Sql(format!("grant {} to {}", name(role), name(own))));
        return vec![step("role", Outcome::No, text, mend.collect())];
    }
    Vec::new()
}

fn published(seen: &Seen) -> Vec<Explained> {
    let Seen { schema, table, publication, .. } = seen;
    let for_operators = seen.server_role.is_some();
    let (outcome, text, mend) = match seen.published {
        Published::Yes => (Outcome::Yes, format!("Table {schema}.{table} is published"), Vec::new()),
        Published::View => (
            Outcome::Note,
            format!("{schema}.{table} is a view: its rows are told as live rows, not as changes"),
            Vec::new(),
        ),
        Published::No => {
            let known =
                if for_operators { "is not published" } else { "is not published, or does not exist" };
            let add =
                format!("alter publication {} add table {}", name(publication), qualified(schema, table));
            (Outcome::No, format!("Table {schema}.{table} {known}"), vec![Step::Sql(add)])
        }
        Published::NoTable => (
            Outcome::No,
            format!("There is no table {schema}.{table}; case counts"),
            vec![Step::Do("compare the names in the binding with those in the database".to_owned())],
        ),
        Published::WithoutEvent => {
            let set = format!(
                "alter publication {} set (publish = 'insert, update, delete, truncate')",
                name(publication)
            );
            let events = if seen.event == "*" { "all changes" } else { seen.event.as_str() };
            let text = format!("The publication leaves out {events} of {schema}.{table}");
            (Outcome::No, text, vec![Step::Sql(set)])
        }
    };
    vec![step("published", outcome, text, mend)]
}

fn granted(seen: &Seen) -> Vec<Explained> {
    let Seen { schema, table, grant, .. } = seen;
    let role = &seen.token.role;
    let place = qualified(schema, table);
    let mut told = Vec::new();
    if !grant.usage {
        let text = format!("Role {role} has no USAGE on schema {schema}: it is told Error 401: Unauthorized");
        let mend = vec![Step::Sql(format!("grant usage on schema {} to {}", name(schema), name(role)))];
        told.push(step("granted", Outcome::No, text, mend));
    } else if grant.columns.is_empty() {
        let text =
            format!("Role {role} may not SELECT from {schema}.{table}: it is told Error 401: Unauthorized");
        let mend = vec![Step::Sql(format!("grant select on {place} to {}", name(role)))];
        told.push(step("granted", Outcome::No, text, mend));
    } else if grant.hidden.is_empty() {
        told.push(step("granted", Outcome::Yes, format!("Role {role} may read all columns"), Vec::new()));
    } else {
        let text = format!(
            "Role {role} may read {}, and nothing of {}",
            grant.columns.join(", "),
            grant.hidden.join(", ")
        );
        told.push(step("granted", Outcome::Yes, text, Vec::new()));
    }
    if grant.key.is_empty() && seen.published == Published::Yes {
        let text =
            format!("Table {schema}.{table} has no primary key: clients are told Error 400: Bad Request");
        let mend = vec![Step::Sql(format!("alter table {place} add primary key (id)"))];
        told.push(step("key", Outcome::No, text, mend));
    }
    told
}

fn filters(seen: &Seen) -> Vec<Explained> {
    match &seen.filters {
        Err(why) => vec![step("filter", Outcome::No, format!("The filter is refused: {why}"), Vec::new())],
        Ok(filters) => filters.iter().map(|filter| one_filter(seen, filter)).collect(),
    }
}

fn one_filter(seen: &Seen, filter: &FilterSeen) -> Explained {
    let text = &filter.text;
    let deleted = match (seen.event.as_str(), filter.of_deleted) {
        ("*" | "DELETE", false) => "; of deleted rows it cannot be judged, so they come in any case",
        _ => "",
    };
    match &filter.holds {
        Holds::Yes => {
            step("filter", Outcome::Yes, format!("{text} is true for the row{deleted}"), Vec::new())
        }
        Holds::No | Holds::Null => {
            let mend = vec![Step::Do(
                "it is compared with the new row of an update: change the filter or the row".to_owned(),
            )];
            step("filter", Outcome::No, format!("{text} is false for the row"), mend)
        }
        Holds::Raises(why) => {
            step("filter", Outcome::No, format!("{text} cannot be compared with the row: {why}"), Vec::new())
        }
        Holds::Open if seen.row == RowSeen::NotAsked => step(
            "filter",
            Outcome::Note,
            format!("Only rows for which {text} is true are sent{deleted}"),
            Vec::new(),
        ),
        Holds::Open => {
            step("filter", Outcome::Open, format!("{text} could not be judged for the row"), Vec::new())
        }
    }
}

fn row(seen: &Seen) -> Vec<Explained> {
    let role = &seen.token.role;
    let (outcome, text) = match &seen.row {
        RowSeen::NotAsked | RowSeen::Hidden => return Vec::new(),
        RowSeen::Seen => (Outcome::Yes, "The row is there, and this token may see it".to_owned()),
        RowSeen::NoneSeen => {
            (Outcome::No, "This token sees no such row: there is none, or policies hide it".to_owned())
        }
        RowSeen::Missing => (Outcome::No, "There is no such row in this database".to_owned()),
        RowSeen::Unreadable(why) => {
            (Outcome::Open, format!("The row could not be read as role {role}: {why}"))
        }
    };
    vec![step("row", outcome, text, Vec::new())]
}

fn policies(seen: &Seen) -> Vec<Explained> {
    let Seen { schema, table, .. } = seen;
    let role = &seen.token.role;
    if seen.published == Published::View {
        return Vec::new();
    }
    if seen.bypasses {
        let text = format!("Row-level security is on, but not for role {role}");
        return vec![step("policies", Outcome::Yes, text, Vec::new())];
    }
    if !seen.secured {
        let text = "Row-level security is off: every row is sent".to_owned();
        return vec![step("policies", Outcome::Yes, text, Vec::new())];
    }
    if !seen.policies.iter().any(|policy| policy.permissive) {
        let text =
            format!("Row-level security is on for {schema}.{table}, and no policy shows role {role} a row");
        let (policy, role) = (name(&format!("{role} reads")), name(role));
        let create = format!(
            "create policy {policy} on {} for select to {role} using (true)",
            qualified(schema, table)
        );
        let mend = vec![
            Step::Sql(create),
            Step::Do(format!("using (true) shows every row to {role}: put your condition there")),
        ];
        return vec![step("policies", Outcome::No, text, mend)];
    }
    let mut told: Vec<Explained> = seen.policies.iter().map(one_policy).collect();
    told.extend(together(seen));
    told
}

fn one_policy(policy: &PolicySeen) -> Explained {
    let kind = if policy.permissive { "" } else { "restrictive " };
    let using = policy.using.as_ref().map(|using| format!(" ({using})")).unwrap_or_default();
    let says = match &policy.holds {
        Holds::Yes => "is true for the row".to_owned(),
        Holds::No => "is false for the row".to_owned(),
        Holds::Null => "is null for the row, which counts as false".to_owned(),
        Holds::Raises(why) => format!("raises an error for the row: {why}"),
        Holds::Open => "decides".to_owned(),
    };
    let by = match &policy.asked {
        None => "; it is compiled".to_owned(),
        Some(why) => format!("; the database is asked: {why}"),
    };
    let text = format!("The {kind}policy {}{using} {says}{by}", policy.name);
    step("policy", Outcome::Note, text, Vec::new())
}

/// What the policies say together: one that shows the row, all that demand something, and none that raises.
fn together(seen: &Seen) -> Option<Explained> {
    let policies = &seen.policies;
    let raises = policies.iter().find(|policy| matches!(policy.holds, Holds::Raises(_)));
    let is_open = policies.iter().any(|policy| policy.holds == Holds::Open);
    let shown = policies.iter().any(|policy| policy.permissive && policy.holds == Holds::Yes);
    let barred =
        policies.iter().find(|policy| !policy.permissive && matches!(policy.holds, Holds::No | Holds::Null));
    let told = |outcome, text: String, mend| Some(step("policies", outcome, text, mend));
    let claims = || {
        vec![Step::Do(
            "compare what the policy reads with the claims of the token (sub, role and so on)".to_owned(),
        )]
    };
    match (&seen.row, raises, barred) {
        (RowSeen::NotAsked, ..) => {
            let text =
                "Rows are sent for which the policies are true; name one with --key to have them judged";
            told(Outcome::Note, text.to_owned(), Vec::new())
        }
        (RowSeen::Seen, None, None) => told(Outcome::Yes, "The policies show the row".to_owned(), Vec::new()),
        (_, Some(policy), _) => {
            let text =
                format!("Policy {} raises an error, so the row is withheld (RlsPolicyError)", policy.name);
            told(Outcome::No, text, vec![Step::Do("correct the policy: the error is above".to_owned())])
        }
        (_, _, Some(policy)) => {
            told(Outcome::No, format!("The restrictive policy {} hides the row", policy.name), claims())
        }
        _ if is_open => None,
        _ if shown => told(Outcome::Yes, "The policies show the row".to_owned(), Vec::new()),
        _ => told(Outcome::No, "No policy shows the row to this token".to_owned(), claims()),
    }
}

fn sent(seen: &Seen) -> Vec<Explained> {
    if seen.published == Published::View {
        return Vec::new();
    }
    let Seen { schema, table, .. } = seen;
    let events = match seen.event.as_str() {
        "*" => "an insert, update or delete",
        "INSERT" => "an insert",
        "UPDATE" => "an update",
        _ => "a delete",
    };
    let when = format!(
        "When {events} of {schema}.{table} commits, it is sent to every channel with this binding and token, \
         whatever its topic; what was committed before the channel joined is not"
    );
    let mut told = vec![step("sent", Outcome::Note, when, Vec::new())];
    if matches!(seen.event.as_str(), "*" | "DELETE") && !seen.identity.is_empty() {
        let text = format!("Of a deleted row only {} is told", seen.identity.join(", "));
        let full = format!("alter table {} replica identity full", qualified(schema, table));
        let mend = if seen.server_role.is_some() { vec![Step::Sql(full)] } else { Vec::new() };
        told.push(step("deleted", Outcome::Note, text, mend));
    }
    told
}
