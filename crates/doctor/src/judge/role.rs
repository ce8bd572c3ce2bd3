//! The role that the server logs in as, and the roles that tokens name.

use crate::{
    Code, Expected, Facts, Finding, Severity, Step,
    quote::{name, names},
};

pub(super) fn judge(facts: &Facts, expected: &Expected, findings: &mut Vec<Finding>) {
    let role = &facts.role;
    let quoted = name(&role.name);
    if role.superuser {
        let text =
            format!("Role {} is a superuser, and code of applications runs in its sessions", role.name);
        let mend = vec![
            Step::Shell(format!(
                "psql --set ON_ERROR_STOP=1 --set password=SECRET --file docker/init/role.psql {}",
                role.database
            )),
            Step::Set("DB_USER=realtime".to_owned()),
        ];
        findings.push(Finding::new(Code::Superuser, text, mend));
    } else if !role.replication {
        let text = format!("Role {} lacks REPLICATION, so it cannot read the log", role.name);
        let mend = vec![
            Step::Sql(format!("alter role {quoted} replication")),
            Step::Do(format!("on Amazon RDS: grant rds_replication to {quoted}")),
        ];
        findings.push(Finding::new(Code::NoReplication, text, mend));
    }
    if !role.missing.is_empty() {
        let text = format!("There is no role {}, which tokens name", role.missing.join(", no role "));
        let mut mend: Vec<Step> = role
            .missing
            .iter()
            .map(|missing| Step::Sql(format!("create role {} nologin", name(missing))))
            .collect();
        if !role.superuser {
            mend.push(Step::Sql(format!("grant {} to {quoted}", names(&role.missing))));
        }
        let all = role.clients.iter().all(|(client, _)| client == "service_role");
        let severity = if all { Severity::Warning } else { Severity::Note };
        findings.push(Finding::new(Code::RoleMissing, text, mend).of(severity));
    }
    let barred: Vec<&str> =
        role.clients.iter().filter(|(_, may)| !may).map(|(client, _)| client.as_str()).collect();
    if !barred.is_empty() && !role.superuser {
        let text = format!(
            "Role {} may not take on {}, so it cannot evaluate policies for it",
            role.name,
            barred.join(", ")
        );
        let severity = if barred == ["service_role"] { Severity::Warning } else { Severity::Error };
        let mend = vec![Step::Sql(format!("grant {} to {quoted}", names(&barred)))];
        findings.push(Finding::new(Code::NoMember, text, mend).of(severity));
    }
    set_up(facts, expected, findings);
}

fn set_up(facts: &Facts, expected: &Expected, findings: &mut Vec<Finding>) {
    let role = &facts.role;
    let Some(first) = facts.set_up.first() else { return };
    let text = match facts.set_up.len() {
        1 => format!("The schema realtime needs one change: {first}"),
        many => format!("The schema realtime needs {many} changes, the first: {first}"),
    };
    let mut mend = Vec::new();
    if !role.create && !role.superuser {
        mend.push(Step::Sql(format!(
            "grant create on database {} to {}",
            name(&role.database),
            name(&role.name)
        )));
    }
    mend.push(Step::Shell("realtime migrate".to_owned()));
    let by_itself = expected.prepares && (role.create || role.superuser);
    let severity = if by_itself { Severity::Note } else { Severity::Warning };
    findings.push(Finding::new(Code::SetUpIncomplete, text, mend).of(severity));
}
