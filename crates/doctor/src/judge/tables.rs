//! The published tables, and views of them.

use crate::{
    Code, Expected, Facts, Finding, Step, TableFacts,
    quote::{name, names, qualified},
};

/// The role that data are granted to where the server does not know better: visitors without a login get nothing by it.
const USUAL: &str = "authenticated";

/// The publication that the server keeps for tables that policies read.
const OF_POLICIES: &str = "supabase_realtime_policies";

pub(super) fn judge(facts: &Facts, expected: &Expected, findings: &mut Vec<Finding>) {
    for table in &facts.tables {
        let place = Place { table, sql: qualified(&table.schema, &table.name), shown: shown(table) };
        place.identity(expected, findings);
        place.row_filter(expected, findings);
        place.rights(findings);
        place.policies(facts, expected, findings);
    }
    for view in &facts.views {
        let read: Vec<String> =
            view.reads.iter().map(|(schema, table)| format!("{schema}.{table}")).collect();
        let add: Vec<String> = view.reads.iter().map(|(schema, table)| qualified(schema, table)).collect();
        let text = format!("View {} reads {}, which is not published", view.name, read.join(", "));
        let publication = name(&expected.publication);
        let mend = vec![Step::Sql(format!("alter publication {publication} add table {}", add.join(", ")))];
        findings.push(Finding::new(Code::ViewReadsUnpublished, text, mend));
    }
}

fn shown(table: &TableFacts) -> String {
    format!("{}.{}", table.schema, table.name)
}

struct Place<'a> {
    table: &'a TableFacts,
    /// As SQL names it.
    sql: String,
    /// As people name it.
    shown: String,
}

impl Place<'_> {
    fn identity(&self, expected: &Expected, findings: &mut Vec<Finding>) {
        let Self { table, sql, shown } = self;
        let mut push = |code, text: String, mend| findings.push(Finding::new(code, text, mend));
        if !table.has_key {
            let add = match table.has_id {
                true => format!("alter table {sql} add primary key (id)"),
                false => {
                    format!("alter table {sql} add column id bigint generated always as identity primary key")
                }
            };
            push(Code::NoKey, format!("Table {shown} has no primary key"), vec![Step::Sql(add)]);
        }
        if table.identity == "n" {
            let set = match table.has_key {
                true => format!("alter table {sql} replica identity default"),
                false => format!("alter table {sql} replica identity full"),
            };
            let text = format!("Table {shown} has replica identity nothing: its updates and deletes fail");
            push(Code::IdentityNothing, text, vec![Step::Sql(set)]);
        }
        if let Some(listed) = table.listed.as_ref().filter(|_| !table.unlisted.is_empty()) {
            let text = format!(
                "The publication's columns of {shown} leave out {}: its updates and deletes fail",
                table.unlisted.join(", ")
            );
            let all: Vec<&String> = listed.iter().chain(&table.unlisted).collect();
            let columns = format!(" ({})", names(&all));
            push(Code::ColumnListWithoutKey, text, vec![self.publish_again(expected, &columns, true)]);
        }
        if !table.unidentified.is_empty() && table.identity != "n" {
            let text = format!(
                "The publication's condition on {shown} uses {}, which the replica identity lacks: its updates and deletes fail",
                table.unidentified.join(", ")
            );
            let set = format!("alter table {sql} replica identity full");
            push(Code::RowFilterWithoutKey, text, vec![Step::Sql(set)]);
        }
        if table.row_security && table.identity != "f" && table.identity != "n" {
            let text =
                format!("Of deleted rows of {shown} the log has the key alone, so nothing else is judged");
            let mend = vec![Step::Sql(format!("alter table {sql} replica identity full"))];
            push(Code::IdentityWithoutRow, text, mend);
        }
    }

    /// Publishes the table anew, with this list of columns.
    fn publish_again(&self, expected: &Expected, columns: &str, filtered: bool) -> Step {
        let publication = name(&expected.publication);
        let filter = match &self.table.row_filter {
            Some(filter) if filtered => format!(" where ({filter})"),
            _ => String::new(),
        };
        Step::Sql(format!(
            "alter publication {publication} drop table {0}; alter publication {publication} add table {0}{columns}{filter}",
            self.sql
        ))
    }

    fn row_filter(&self, expected: &Expected, findings: &mut Vec<Finding>) {
        let (Some(filter), true) = (&self.table.row_filter, self.table.filter_may_raise) else { return };
        let text = format!("The publication's condition on {} computes and can raise: {filter}", self.shown);
        let columns = self.table.listed.as_ref().map(|listed| format!(" ({})", names(listed)));
        let again = self.publish_again(expected, &columns.unwrap_or_default(), false);
        let mend = vec![again, Step::Do("or write a condition of plain comparisons".to_owned())];
        findings.push(Finding::new(Code::RowFilterMayRaise, text, mend));
    }

    fn rights(&self, findings: &mut Vec<Finding>) {
        let Self { table, sql, shown } = self;
        if table.readers.is_empty() {
            let text = format!("No role of clients may SELECT from {shown}");
            let mut mend = vec![Step::Sql(format!("grant select on {sql} to {USUAL}"))];
            if table.without_usage.iter().any(|role| role == USUAL) {
                mend.push(Step::Sql(format!("grant usage on schema {} to {USUAL}", name(&table.schema))));
            }
            findings.push(Finding::new(Code::NoGrant, text, mend));
        }
        let barred: Vec<&String> =
            table.without_usage.iter().filter(|role| table.readers.contains(*role)).collect();
        if !barred.is_empty() {
            let who: Vec<&str> = barred.iter().map(|role| role.as_str()).collect();
            let text = format!("{} may SELECT from {shown} but has no USAGE on its schema", who.join(", "));
            let grant = format!("grant usage on schema {} to {}", name(&table.schema), names(&barred));
            findings.push(Finding::new(Code::NoUsage, text, vec![Step::Sql(grant)]));
        }
        if !table.row_security && table.readers.iter().any(|role| role == "anon") {
            let text = format!("Every visitor with the anon key receives all rows of {shown}");
            let mend = vec![
                Step::Sql(format!("alter table {sql} enable row level security")),
                Step::Do("and a policy for each role that may see rows".to_owned()),
            ];
            findings.push(Finding::new(Code::RowSecurityOff, text, mend));
        }
    }

    fn policies(&self, facts: &Facts, expected: &Expected, findings: &mut Vec<Finding>) {
        let Self { table, sql, shown } = self;
        if !table.row_security {
            return;
        }
        let served = |role: &&String| table.with_policy.contains(role);
        if !table.readers.is_empty() && !table.readers.iter().any(|role| served(&role)) {
            let role = table.readers.iter().find(|role| *role == USUAL).or(table.readers.first());
            let role = name(role.map_or(USUAL, String::as_str));
            let text = format!("Row-level security is on for {shown} and no policy shows {role} a row");
            let policy = format!("create policy \"{role} reads\" on {sql} for select to {role} using (true)");
            let mend = vec![
                Step::Sql(policy),
                Step::Do(format!(
                    "using (true) shows every row to {role}: put your condition there, as user_id = auth.uid()"
                )),
            ];
            findings.push(Finding::new(Code::NoPolicy, text, mend));
        }
        for asked in &table.asked {
            let text = format!(
                "Policy {} of {shown} is asked of the database for each row: {}",
                asked.name, asked.why
            );
            findings.push(Finding::new(Code::PolicyAsked, text, Vec::new()));
        }
        if !table.reads.is_empty() {
            let text = format!(
                "Policies of {shown} read {}, whose changes do not come with the log",
                table.reads.join(", ")
            );
            let tables: Vec<String> = table.reads.iter().map(|read| quoted_path(read)).collect();
            let exists = facts.own_publications.iter().any(|own| own.name == OF_POLICIES);
            let publish = match exists {
                true => format!("alter publication {OF_POLICIES} add table {}", tables.join(", ")),
                false => format!("create publication {OF_POLICIES} for table {}", tables.join(", ")),
            };
            let mut mend = vec![Step::Sql(publish)];
            if !expected.publishes_read {
                mend.push(Step::Set("POLICY_PUBLICATION=auto".to_owned()));
            }
            findings.push(Finding::new(Code::PolicyReadsUnpublished, text, mend));
        }
    }
}

/// A name of the form `schema.table`, quoted.
fn quoted_path(path: &str) -> String {
    path.split_once('.').map_or_else(|| name(path), |(schema, table)| qualified(schema, table))
}
