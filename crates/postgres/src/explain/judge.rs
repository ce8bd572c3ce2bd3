//! Conditions of the binding and of policies, for the row.

use deadpool_postgres::Pool;
use realtime_changes::{Filter, RoleAccess, RowView, SubscriptionSpec, Table, Tree, plan};
use realtime_doctor::explain::{FilterSeen, Holds};
use tokio_postgres::types::ToSql;

use super::{request::ExplainRequest, row};
use crate::{
    foreign,
    quote::quoted,
    validate::{self, Refused},
};

/// The conditions of the binding one after the other, evaluated as the server evaluates them for changes.
pub(super) async fn filters(
    pool: &Pool,
    table: &Table,
    access: &RoleAccess,
    request: &ExplainRequest,
    found: &row::Found,
    identity: &[String],
    collation_is_c: bool,
) -> Result<Vec<FilterSeen>, String> {
    let mut all = Vec::new();
    for tree in &request.spec.filters {
        let spec = SubscriptionSpec { filters: vec![tree.clone()], ..request.spec.clone() };
        let plan = plan(&spec, table, access)?;
        let checks = plan.checks();
        let canonical = match validate::canonical(pool, &request.role, &checks).await {
            Ok(canonical) => canonical,
            Err(Refused::Literal(_, error)) => return Err(error),
            Err(Refused::Unavailable(error)) => return Err(error.told()),
        };
        let predicate = plan.compile(&canonical, collation_is_c);
        let holds = match found.values.as_ref().map(|values| RowView::holds(&predicate, values)) {
            Some(Some(true)) => Holds::Yes,
            Some(Some(false)) => Holds::No,
            Some(None) | None => Holds::Open,
        };
        let leaves = tree.leaves();
        let of_deleted = identity.is_empty()
            || leaves.iter().all(|leaf| identity.iter().any(|column| **column == *leaf.column));
        all.push(FilterSeen { text: shown(tree), holds, of_deleted });
    }
    Ok(all)
}

/// A condition as clients write it. Nesting is bounded.
fn shown(tree: &Tree<Filter>) -> String {
    let joined = |word: &str, parts: &[Tree<Filter>]| {
        format!("{word}({})", parts.iter().map(shown).collect::<Vec<_>>().join(","))
    };
    match tree {
        Tree::Leaf(filter) => {
            let not = if filter.negate { "not." } else { "" };
            format!("{}={not}{}.{}", filter.column_text(), filter.operator.as_str(), filter.value)
        }
        Tree::And(parts) => joined("and", parts),
        Tree::Or(parts) => joined("or", parts),
        Tree::Not(inner) => format!("not.{}", shown(inner)),
        // Filters have none of these.
        Tree::Known(_) | Tree::Is(..) => String::new(),
    }
}

/// What a policy says of the row, under the role and the claims of the token. `image`: the row as JSON.
pub(super) async fn policy(
    pool: &Pool,
    table: &Table,
    request: &ExplainRequest,
    using: &str,
    image: &str,
) -> Holds {
    if image.is_empty() {
        return Holds::Open;
    }
    let (schema, name) = (quoted(&table.schema), quoted(&table.name));
    let sql = format!(
        "select case when v.holds is null then 'null' when v.holds then 'true' else 'false' end
         from (select ({using}) as holds
            from pg_catalog.jsonb_populate_record(null::{schema}.{name}, $1::pg_catalog.text::pg_catalog.jsonb)
                as {name}) v"
    );
    let parameters: [&(dyn ToSql + Sync); 1] = [&image];
    let asked =
        foreign::ask_for(pool, Some(&request.role), &request.claims, row::LIMIT, &sql, &parameters).await;
    match asked.map(|rows| rows.first().and_then(|row| row.try_get::<_, String>(0).ok())) {
        Ok(Some(verdict)) if verdict == "true" => Holds::Yes,
        Ok(Some(verdict)) if verdict == "false" => Holds::No,
        Ok(Some(_)) => Holds::Null,
        Ok(None) => Holds::Open,
        Err(error) => Holds::Raises(row::told(&error, request)),
    }
}
