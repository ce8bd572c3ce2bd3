//! The published tables, and views of tables.

use realtime_doctor::{AskedPolicy, TableFacts, ViewFacts};
use tokio_postgres::{Client, Error, Row};

use super::sql;
use crate::{Decided, PolicyReport, TablePolicies};

/// The published tables, with what becomes of their policies.
pub(super) async fn all(
    client: &Client,
    publication: &str,
    report: &PolicyReport,
) -> Result<Vec<TableFacts>, Error> {
    let version = client.query_one("select current_setting('server_version_num')::int4", &[]).await?;
    // Conditions and lists of columns are of version 15.
    let question = match version.try_get::<_, i32>(0)? {
        150_000.. => sql::TABLES.to_owned(),
        _ => sql::TABLES.replace(sql::QUAL, "null::pg_node_tree"),
    };
    let clients = &sql::CLIENTS[..2];
    let rows = client.query(question.as_str(), &[&publication, &clients]).await?;
    rows.iter().map(|row| table(row, report)).collect()
}

fn table(row: &Row, report: &PolicyReport) -> Result<TableFacts, Error> {
    let (schema, name): (String, String) = (row.try_get(1)?, row.try_get(2)?);
    let of_table = report.tables.iter().find(|of| of.schema == schema && of.name == name);
    let (asked, reads) = of_table.map(policies).unwrap_or_default();
    Ok(TableFacts {
        schema,
        name,
        row_security: row.try_get(3)?,
        readers: row.try_get(4)?,
        without_usage: row.try_get(5)?,
        with_policy: row.try_get(6)?,
        identity: row.try_get(7)?,
        has_key: row.try_get(8)?,
        has_id: row.try_get(9)?,
        unlisted: row.try_get(10)?,
        listed: row.try_get(11)?,
        row_filter: row.try_get(12)?,
        filter_may_raise: row.try_get(13)?,
        unidentified: row.try_get(15)?,
        named: row.try_get(14)?,
        asked,
        reads,
    })
}

/// The policies that are not compiled, each once, and the tables that policies read and that the log does not tell of.
fn policies(table: &TablePolicies) -> (Vec<AskedPolicy>, Vec<String>) {
    let (mut asked, mut reads) = (Vec::new(), Vec::new());
    for policy in table.roles.iter().flat_map(|of_roles| &of_roles.policies) {
        if let (false, Some(part)) = (policy.decided == Decided::Compiled, policy.asked.first()) {
            let one = AskedPolicy { name: policy.name.clone(), why: part.why.clone() };
            if !asked.contains(&one) {
                asked.push(one);
            }
        }
        for read in policy.reads.iter().filter(|read| !read.in_stream) {
            if !reads.contains(&read.name) {
                reads.push(read.name.clone());
            }
        }
    }
    (asked, reads)
}

/// Views that clients may read and that read tables which are not published.
pub(super) async fn views(client: &Client, publication: &str) -> Result<Vec<ViewFacts>, Error> {
    let view = |row: &Row| {
        let (schemas, tables): (Vec<String>, Vec<String>) = (row.try_get(1)?, row.try_get(2)?);
        let mut reads: Vec<(String, String)> = schemas.into_iter().zip(tables).collect();
        reads.dedup();
        Ok(ViewFacts { name: row.try_get(0)?, reads })
    };
    client.query(sql::VIEWS, &[&publication]).await?.iter().map(view).collect()
}

/// Tables that clients may read and that are not published.
pub(super) async fn candidates(client: &Client, publication: &str) -> Result<Vec<(String, String)>, Error> {
    let rows = client.query(sql::CANDIDATES, &[&publication]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}
