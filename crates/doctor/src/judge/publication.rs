//! The publications.

use crate::{
    Code, Expected, Facts, Finding, Step,
    quote::{name, qualified},
};

/// Tables that a suggestion names at most.
const SUGGESTED: usize = 10;

pub(super) fn judge(facts: &Facts, expected: &Expected, findings: &mut Vec<Finding>) {
    let publication = name(&expected.publication);
    let suggested: Vec<String> =
        facts.candidates.iter().take(SUGGESTED).map(|(schema, table)| qualified(schema, table)).collect();
    let tables = suggested.join(", ");
    match &facts.publication {
        None => {
            let text = format!("There is no publication {}", expected.publication);
            let create = match tables.is_empty() {
                true => format!("create publication {publication}"),
                false => format!("create publication {publication} for table {tables}"),
            };
            findings.push(Finding::new(Code::PublicationMissing, text, vec![Step::Sql(create)]));
        }
        Some(found) => {
            if facts.tables.is_empty() {
                let text = format!("Publication {} has no table", expected.publication);
                let add = match tables.is_empty() {
                    true => Step::Do(format!("alter publication {publication} add table YOUR_TABLE")),
                    false => Step::Sql(format!("alter publication {publication} add table {tables}")),
                };
                findings.push(Finding::new(Code::PublicationEmpty, text, vec![add]));
            }
            if !found.left_out.is_empty() {
                let text =
                    format!("Publication {} leaves out {}", expected.publication, found.left_out.join(", "));
                let set = format!(
                    "alter publication {publication} set (publish = 'insert, update, delete, truncate')"
                );
                findings.push(Finding::new(Code::PublicationActions, text, vec![Step::Sql(set)]));
            }
        }
    }
    for own in facts.own_publications.iter().filter(|own| !own.ours) {
        let text = format!(
            "Publication {} belongs to {}, so role {} cannot keep it right",
            own.name, own.owner, facts.role.name
        );
        let alter = format!("alter publication {} owner to {}", name(&own.name), name(&facts.role.name));
        findings.push(Finding::new(Code::PublicationOwner, text, vec![Step::Sql(alter)]));
    }
}
