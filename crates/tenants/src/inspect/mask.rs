//! Temporary views that stand in for the tables, with `***` where secrets are.

use tokio_postgres::{
    Client, Column, Error,
    types::{Kind, Type},
};

/// What stands for a secret.
pub(super) const MASK: &str = "***";

/// Words that make a name that of a secret (http_and_ops 3.1).
const WORDS: [&str; 10] =
    ["password", "passwd", "secret", "token", "jwt", "key", "credential", "private", "salt", "hash"];

/// Columns whose names say so and that have no secrets.
const HARMLESS: [&str; 1] = ["bucket_key"];

/// Masks what a JSON value has under the keys of secrets, however deep. Booleans tell nothing, and `private` is one.
const MASK_JSON: &str = r#"create function pg_temp.realtime_masked(value jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp as $function$
begin
    if jsonb_typeof(value) = 'object' then
        return (select coalesce(jsonb_object_agg(k, case
                    when k ~* 'WORDS' and jsonb_typeof(v) not in ('boolean', 'null') then '"***"'
                    else pg_temp.realtime_masked(v) end), '{}')
                from jsonb_each(value) e(k, v));
    elsif jsonb_typeof(value) = 'array' then
        return (select coalesce(jsonb_agg(pg_temp.realtime_masked(v) order by n), '[]')
                from jsonb_array_elements(value) with ordinality e(v, n));
    end if;
    return value;
end
$function$"#;

/// Tables of the schema that connections are in, with their columns in order: name, whether its values can be told
/// apart at all, and whether it is JSON.
const TABLES: &str = "select n.nspname::text, c.relname::text, array_agg(a.attname::text order by a.attnum),
        array_agg(t.typcategory in ('A', 'C', 'E', 'S', 'U') and t.oid <> 'uuid'::regtype order by a.attnum),
        array_agg(t.typname in ('json', 'jsonb') order by a.attnum)
    from pg_catalog.pg_class c
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        join pg_catalog.pg_type t on t.oid = a.atttypid
    where n.nspname = current_schema() and n.nspname not like 'pg\\_temp\\_%' and c.relkind in ('r', 'p', 'v', 'm', 'f')
        and pg_catalog.has_table_privilege(c.oid, 'SELECT')
    group by 1, 2 order by 2";

/// Whether a name is that of a secret.
pub(super) fn is_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    WORDS.iter().any(|word| name.contains(word)) && !HARMLESS.contains(&&*name)
}

/// Whether a column of an answer is called as a secret is, and has values that could be one.
pub(super) fn is_secret_output(column: &Column) -> bool {
    let kind = column.type_();
    let harmless = [Type::BOOL, Type::UUID, Type::DATE, Type::TIMESTAMP, Type::TIMESTAMPTZ];
    let number = [Type::INT2, Type::INT4, Type::INT8, Type::FLOAT4, Type::FLOAT8, Type::OID].contains(kind);
    is_secret(column.name()) && !number && !harmless.contains(kind) && !matches!(kind.kind(), Kind::Pseudo)
}

/// Makes the views in the session's transaction; returns their ids.
pub(super) async fn make_views(client: &Client) -> Result<Vec<u32>, Error> {
    client.batch_execute(&MASK_JSON.replace("WORDS", &WORDS.join("|"))).await?;
    let mut views = Vec::new();
    for row in client.query(TABLES, &[]).await? {
        let (schema, table): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let names: Vec<String> = row.try_get(2)?;
        let telling: Vec<bool> = row.try_get(3)?;
        let json: Vec<bool> = row.try_get(4)?;
        let columns: Vec<String> = names
            .iter()
            .zip(telling.iter().zip(&json))
            .map(|(name, (telling, json))| masked(name, *telling, *json))
            .collect();
        let view = quoted(&table);
        client
            .batch_execute(&format!(
                "create temporary view {view} as select {} from {}.{view}",
                columns.join(", "),
                quoted(&schema)
            ))
            .await?;
        let name = format!("pg_temp.{view}");
        let id = client.query_one("select $1::text::pg_catalog.regclass::oid", &[&name]).await?;
        views.push(id.try_get(0)?);
    }
    Ok(views)
}

/// A column of a view.
fn masked(name: &str, telling: bool, json: bool) -> String {
    let column = quoted(name);
    if telling && is_secret(name) {
        return format!("case when {column} is not null then '{MASK}' end as {column}");
    }
    if json {
        return format!("pg_temp.realtime_masked({column}::jsonb) as {column}");
    }
    column
}

/// A name as SQL.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_told_by_their_names() {
        for name in ["jwt_secret", "JWT_JWKS", "db_password", "ApiKey", "salted", "private_only"] {
            assert!(is_secret(name), "{name}");
        }
        for name in ["bucket_key", "external_id", "settings", "feature_flags"] {
            assert!(!is_secret(name), "{name}");
        }
        assert_eq!(masked("private_only", false, false), "\"private_only\"");
        assert_eq!(masked("a\"b", true, false), "\"a\"\"b\"");
    }
}
