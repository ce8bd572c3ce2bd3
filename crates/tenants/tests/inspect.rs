//! The SQL inspector on a real PostgreSQL, and those who try to get around its masks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use anyhow::{Context as _, Result};
use realtime_tenants::{InspectError, MetadataConfig, Order, Store};
use realtime_testkit::TestDb;

/// What nobody may see: of a tenant, and of a setting. Neither has a part that comes up elsewhere.
const SECRETS: [&str; 3] = ["zq7secretvalue", "zq8passwordvalue", "zq9deepvalue"];

async fn store() -> Result<(Store, TestDb)> {
    let db = TestDb::new().await?;
    db.sql(
        r#"create schema _realtime;
        create table _realtime.tenants (id uuid primary key, external_id text, jwt_secret text, jwt_jwks jsonb,
            private_only boolean default false, max_events_per_second integer default 100);
        create table _realtime.extensions (id uuid primary key, type text, settings jsonb, tenant_external_id text);
        create table _realtime.feature_flags (id uuid primary key, name text, bucket_key text);
        insert into _realtime.tenants values
            (gen_random_uuid(), 'one', 'zq7secretvalue', '{"keys": [{"k": "zq9deepvalue"}]}'),
            (gen_random_uuid(), 'two', null, '{"keys": []}');
        insert into _realtime.extensions values (gen_random_uuid(), 'postgres_cdc_rls',
            '{"region": "eu", "db_password": "zq8passwordvalue", "other": [{"Api-Token": "zq9deepvalue"}],
              "private": true, "secret_number": 5}', 'one');
        insert into _realtime.feature_flags values (gen_random_uuid(), 'flag', 'bucket');
        create view _realtime.everything as select * from _realtime.tenants;
        create function _realtime.tell() returns text language sql stable
            as $$ select jwt_secret from _realtime.tenants limit 1 $$;
        create function public.tell() returns text language sql immutable
            as $$ select 'zq7secretvalue' $$;
        create operator public.@@@@ (function = pg_catalog.texteq, leftarg = text, rightarg = text);
        analyze _realtime.tenants"#,
    )
    .await?;
    let env = db.env().await?;
    let value = |name: &str| {
        env.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()).context("variable")
    };
    let config = MetadataConfig {
        host: value("DB_HOST")?,
        port: value("DB_PORT")?.parse()?,
        name: value("DB_NAME")?,
        user: value("DB_USER")?,
        password: value("DB_PASSWORD")?.into(),
        ..MetadataConfig::default()
    };
    Ok((Store::new(config)?, db))
}

/// The rows of an answer, values set apart by bars.
async fn rows(store: &Store, statement: &str) -> Result<Vec<String>> {
    let answer = store.inspect(statement, None).await?;
    let text = |row: &Vec<Option<String>>| {
        row.iter().map(|value| value.as_deref().unwrap_or("NULL")).collect::<Vec<_>>().join("|")
    };
    Ok(answer.rows.iter().map(text).collect())
}

#[tokio::test]
async fn questions_are_answered() -> Result<()> {
    let (store, _db) = store().await?;
    let one = |statement: &'static str| {
        let store = &store;
        async move { rows(store, statement).await.with_context(|| statement.to_owned()) }
    };
    assert_eq!(one("select external_id, jwt_secret from tenants order by 1").await?, ["one|***", "two|NULL"]);
    assert_eq!(one("select private_only, max_events_per_second from tenants limit 1").await?, ["false|100"]);
    assert_eq!(one("select name, bucket_key from feature_flags").await?, ["flag|bucket"]);
    assert_eq!(
        one("select settings from extensions").await?,
        [
            r#"{"other": [{"Api-Token": "***"}], "region": "eu", "private": true, "db_password": "***", "secret_number": "***"}"#
        ]
    );
    assert_eq!(one("select 'x' as my_token, 5 as a_key, now() is null as secret").await?, ["***|5|false"]);
    assert_eq!(one("select 1, 1, 'a;b', null -- end").await?, ["1|1|a;b|NULL"]);
    assert_eq!(
        one("with t as (select * from tenants) select t.external_id, count(e.*), sum(1) over ()
             from t left join extensions e on e.tenant_external_id = t.external_id group by 1 order by 1")
        .await?,
        ["one|1|2", "two|0|2"]
    );
    assert_eq!(one("select count(*) > 100 from pg_class where relname ilike 'pg%'").await?, ["true"]);
    assert!(!one("select table_name, column_name from information_schema.columns").await?.is_empty());
    assert_eq!(one("select array_agg(x order by x desc) from generate_series(1, 3) x").await?, ["{3,2,1}"]);
    assert_eq!(
        one("select xmlelement(name a, random() < 2), pg_total_relation_size('pg_class') > 0").await?,
        ["<a>true</a>|true"]
    );

    let many = store.inspect("select x from generate_series(1, 1001) x", None).await?;
    assert_eq!((many.rows.len(), many.more), (1000, true));
    let order = Some(Order { column: 0, descending: true });
    let sorted = store.inspect("select x from generate_series(1, 1001) x", order).await?;
    assert_eq!(sorted.rows[0], [Some("1001".to_owned())]);
    let long = store.inspect("select repeat('x', 10000)", None).await?;
    assert_eq!(long.rows[0][0].as_ref().map(String::len), Some(4000));
    Ok(())
}

/// What is computed from masked values tells nothing; what would look past them is refused.
#[tokio::test]
async fn masks_cannot_be_got_around() -> Result<()> {
    let (store, db) = store().await?;
    let md5: String = db.client().query_one("select md5('zq7secretvalue')", &[]).await?.get(0);
    for statement in [
        "select jwt_secret as x from tenants",
        "select 'a' || jwt_secret || 'b' from tenants",
        "select row_to_json(t) from tenants t",
        "select t::text from tenants t",
        "select to_jsonb(t) -> 'jwt_secret' as x from tenants t",
        "select * from (select jwt_secret as x from tenants) q",
        "with t(a, b, c, d) as (select * from tenants) select * from t",
        "select jwt_secret as x from tenants union all select 'x'",
        "select (select jwt_secret as x from tenants where external_id = 'one')",
        "select substr(jwt_secret, 3), length(jwt_secret), md5(jwt_secret) as x from tenants",
        "select settings ->> 'db_password' as x, settings #>> '{other,0,Api-Token}' as y from extensions",
        "select jsonb_path_query(settings, '$.**') as x from extensions",
        "select convert_to(jwt_secret, 'utf8') as x from tenants",
        "select * from tenants t, lateral (values (t.jwt_secret)) v(x)",
        "select string_agg(jwt_secret, ',') as x, array_agg(t) as y from tenants t",
        "select x from jsonb_each_text((select to_jsonb(t) from tenants t limit 1)) e(k, x)",
        "select jwt_jwks::text as x from tenants",
        "select distinct on (jwt_secret) jwt_secret as x from tenants",
        "select pg_temp.tenants.jwt_secret as x from pg_temp.tenants",
        r#"select "jwt_secret" as ":relid", t as "x y" from tenants t"#,
    ] {
        let rows = rows(&store, statement).await.with_context(|| statement.to_owned())?;
        assert!(!rows.is_empty(), "{statement}");
        for secret in SECRETS {
            assert!(
                !rows.iter().any(|row| row.contains(secret) || row.contains(&md5)),
                "{statement}: {rows:?}"
            );
        }
    }
    // Conditions compare with the mask as well.
    let oracle = "select count(*) from tenants where jwt_secret like 'zq7%' or md5(jwt_secret) = md5('zq7secretvalue')";
    assert_eq!(rows(&store, oracle).await?, ["0"]);
    Ok(())
}

#[tokio::test]
async fn what_is_not_masked_is_refused() -> Result<()> {
    let (store, db) = store().await?;
    for statement in [
        "select jwt_secret as x from _realtime.tenants",
        "select x.* from _realtime.everything x",
        "select 1 where exists (select from _realtime.tenants where jwt_secret like 'zq7%')",
        "with a as (select 1), b as (select * from _realtime.tenants) select * from a",
        "select (select count(*) from _realtime.extensions)",
        "select most_common_vals::text from pg_stats",
        "select starelid from pg_statistic",
        "select rolpassword from pg_authid",
        "select passwd from pg_shadow",
        "select query from pg_stat_activity",
        "select * from pg_settings",
        "select subconninfo from pg_subscription",
        "select * from pg_user_mappings",
        "select rolconfig::text from pg_roles",
        "select pg_get_triggerdef(1)",
        "select pg_get_functiondef(1)",
        "select pg_get_function_arguments(1)",
        "select pg_get_viewdef(1)",
        "select pg_get_ruledef(1)",
        "select statement from pg_prepared_statement()",
        "select statement from pg_cursor()",
        "select query_to_xml('select jwt_secret from _realtime.tenants', true, true, '')",
        "select table_to_xml('_realtime.tenants'::regclass, true, true, '')",
        "select schema_to_xml('_realtime', true, true, '')",
        "select database_to_xml(true, true, '')",
        "select * from ts_stat('select to_tsvector(jwt_secret) from _realtime.tenants')",
        "select ts_rewrite('a'::tsquery, 'select ''a''::tsquery, ''b''::tsquery')",
        "select _realtime.tell()",
        "select public.tell()",
        "select x from public.tell() x",
        "select 1 order by public.tell()",
        "select pg_temp.realtime_masked('{}')",
        "select 'a' operator(public.@@@@) 'b'",
        "select pg_read_file('/etc/passwd')",
        "select * from pg_ls_dir('.')",
        "select current_setting('primary_conninfo')",
        "select set_config('search_path', '_realtime', true)",
        "select pg_sleep(1)::text",
        "select pg_terminate_backend(1)",
        "select pg_advisory_lock(1)::text",
        "select pg_notify('a', 'b')::text",
        "select lo_create(0)",
        "select nextval('x')",
    ] {
        let error = store.inspect(statement, None).await.expect_err(statement);
        let refused = matches!(&error, InspectError::Refused(_))
            || matches!(&error, InspectError::Sql(text) if text.contains("does not exist"));
        assert!(refused && !matches!(error, InspectError::Store(_)), "{statement}: {error}");
        assert!(SECRETS.iter().all(|secret| !error.to_string().contains(secret)), "{statement}: {error}");
    }
    for statement in [
        "select 1; delete from _realtime.tenants",
        "select 1) q; delete from _realtime.tenants; --",
        "with d as (delete from _realtime.tenants returning *) select count(*) from d",
        "with d as (delete from tenants returning *) select count(*) from d",
        "select * into stolen from tenants",
        "select * from tenants for update",
        "select 1 with check option",
        "select $1::int",
        "select",
        "select 1/0",
        "select from tenants",
        "delete from tenants",
        "select 'x",
        "select 1 /*",
    ] {
        assert!(store.inspect(statement, None).await.is_err(), "{statement}");
    }
    let left: i64 = db.client().query_one("select count(*) from _realtime.tenants", &[]).await?.get(0);
    assert_eq!(left, 2);
    let leftovers = "select count(*) from pg_class where relname in ('realtime_inspected', 'stolen')";
    assert_eq!(db.client().query_one(leftovers, &[]).await?.get::<_, i64>(0), 0);
    let casts = store.inspect("select jwt_secret::int from tenants", None).await.unwrap_err().to_string();
    assert!(casts.contains("***") && !casts.contains("zq7"), "{casts}");
    Ok(())
}

/// Each has a connection of its own: what is left of the database is for the tenants.
#[tokio::test]
async fn few_are_answered_at_once() -> Result<()> {
    let (store, _db) = store().await?;
    let ask = || store.inspect("select 1", None);
    let (first, second, third, fourth) = tokio::join!(ask(), ask(), ask(), ask());
    for answer in [first, second, third] {
        assert_eq!(answer?.rows.len(), 1);
    }
    assert!(matches!(fourth, Err(InspectError::Refused(_))), "{fourth:?}");
    assert_eq!(ask().await?.rows.len(), 1);
    Ok(())
}
