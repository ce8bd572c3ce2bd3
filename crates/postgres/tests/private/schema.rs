//! Setting databases up (tenant_database 1, 7.3, 9).

use anyhow::Result;
use futures_util::future::join_all;
use realtime_postgres::{DatabaseConfig, Origin, SchemaError, SchemaReport, TenantDatabase};
use realtime_testkit::TestDb;

use crate::support::{all, config, may_read, may_write, one, open, policy, ready, request, today};

async fn set_up(database: &TenantDatabase) -> Result<SchemaReport, SchemaError> {
    database.set_up_schema(today(), false).await
}

/// A database of a role that is no superuser, and a handle that logs in as that role.
async fn owned(attributes: &str) -> Result<(TestDb, TenantDatabase, String)> {
    let db = TestDb::new().await?;
    let role = format!("app_{}", db.name());
    db.sql(&format!("create role {role} login password 'secret' {attributes}")).await?;
    let config = DatabaseConfig { user: role.clone(), password: "secret".into(), ..config(&db).await? };
    Ok((db, open(config), role))
}

#[tokio::test]
async fn a_plain_database_gets_what_is_documented() -> Result<()> {
    let db = TestDb::new().await?;
    let database = open(config(&db).await?);
    let report = set_up(&database).await?;
    assert_eq!((report.origin, &report.failed, &report.notes), (Origin::Ours, &vec![], &vec![]));
    assert_eq!(report.changed.first().map(String::as_str), Some("Create schema realtime"));
    assert_eq!(report.changed.len(), 17, "{:#?}", report.changed);

    let columns: Vec<String> = all(
        &db,
        "select attname || ' ' || format_type(atttypid, atttypmod) || case when attnotnull then ' not null' else '' end
         from pg_attribute where attrelid = 'realtime.messages'::regclass and attnum > 0 order by attnum",
    )
    .await?;
    assert_eq!(
        columns,
        [
            "topic text not null",
            "extension text not null",
            "payload jsonb",
            "event text",
            "private boolean",
            "updated_at timestamp without time zone not null",
            "inserted_at timestamp without time zone not null",
            "id uuid not null",
            "binary_payload bytea",
        ]
    );
    let functions: Vec<String> = all(
        &db,
        "select proname || '(' || pg_get_function_arguments(oid) || ') ' || pg_get_function_result(oid) || ' '
            || provolatile::text || ' ' || (select lanname from pg_language where oid = prolang)
         from pg_proc where pronamespace = 'realtime'::regnamespace order by 1",
    )
    .await?;
    assert_eq!(
        functions,
        [
            "broadcast_changes(topic_name text, event_name text, operation text, table_name text, table_schema text, \
             new record, old record, level text DEFAULT 'ROW'::text) void v plpgsql",
            "send(payload jsonb, event text, topic text, private boolean DEFAULT true) void v plpgsql",
            "send_binary(payload bytea, event text, topic text, private boolean DEFAULT true) void v plpgsql",
            "topic() text s sql",
        ]
    );
    let indexes: Vec<String> = all(
        &db,
        "select pg_get_indexdef(indexrelid) from pg_index where indrelid = 'realtime.messages'::regclass order by 1",
    )
    .await?;
    assert_eq!(
        indexes,
        [
            "CREATE INDEX messages_inserted_at_topic_index ON ONLY realtime.messages USING btree (inserted_at DESC, \
             topic) WHERE ((extension = 'broadcast'::text) AND (private IS TRUE))",
            "CREATE UNIQUE INDEX messages_pkey ON ONLY realtime.messages USING btree (id, inserted_at)",
        ]
    );
    let rights: Vec<String> = all(
        &db,
        "select r || ':' || array_to_string(array(select p from unnest(array['SELECT','INSERT','UPDATE','DELETE',
            'TRUNCATE']) p where has_table_privilege(r, 'realtime.messages', p)), ',')
         from unnest(array['anon','authenticated','service_role']) r",
    )
    .await?;
    assert_eq!(
        rights,
        [
            "anon:SELECT,INSERT,UPDATE",
            "authenticated:SELECT,INSERT,UPDATE",
            "service_role:SELECT,INSERT,UPDATE"
        ]
    );
    let secured = "select relrowsecurity and not relforcerowsecurity from pg_class where oid = 'realtime.messages'::regclass";
    assert!(one::<bool>(&db, secured).await?);
    // A second time there is nothing to do.
    let again = database.set_up_schema(today(), true).await?;
    assert_eq!(again.changed, Vec::<String>::new());
    Ok(())
}

/// tenant_database 70
#[tokio::test]
async fn many_nodes_at_once() -> Result<()> {
    let db = TestDb::new().await?;
    let config = config(&db).await?;
    let nodes: Vec<_> = (0..11).map(|_| open(config.clone())).collect();
    let reports = join_all(nodes.iter().map(set_up)).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    let mut changed: Vec<_> =
        reports.into_iter().map(|report| (report.changed.len(), report.failed)).collect();
    changed.sort();
    assert_eq!(changed.pop(), Some((17, Vec::new())));
    assert!(changed.iter().all(|(changed, failed)| *changed == 0 && failed.is_empty()), "{changed:?}");
    Ok(())
}

/// Everything works with a role that owns its database, may replicate, and is a member of the client roles.
#[tokio::test]
async fn an_owner_without_superuser() -> Result<()> {
    let (db, database, role) = owned("replication").await?;
    db.sql(&format!(
        "alter database {} owner to {role}; grant anon, authenticated, service_role to {role}",
        db.name()
    ))
    .await?;
    let report = set_up(&database).await?;
    assert_eq!((&report.failed, &report.notes), (&vec![], &vec![]));
    assert_eq!(report.changed.len(), 17, "{:#?}", report.changed);
    assert_eq!(set_up(&database).await?.changed, Vec::<String>::new());
    let owners: Vec<String> = all(
        &db,
        "select distinct pg_get_userbyid(relowner)::text from pg_class where relnamespace = 'realtime'::regnamespace",
    )
    .await?;
    assert_eq!(owners, [role]);
    policy(&db, "select", &["broadcast"]).await?;
    assert_eq!(database.authorize_read(&request("authenticated")).await?, may_read(true, false));
    assert_eq!(database.authorize_write(&request("authenticated")).await?, may_write(false, false));
    assert_eq!(database.authorize_read(&request("service_role")).await?, may_read(true, true));
    Ok(())
}

/// What a lesser role cannot do is told, with what would help.
#[tokio::test]
async fn an_owner_with_few_rights() -> Result<()> {
    let (db, database, role) = owned("noreplication").await?;
    db.sql(&format!("alter database {} owner to {role}; grant anon to {role}", db.name())).await?;
    let report = set_up(&database).await?;
    assert_eq!(
        report.notes,
        [
            format!(
                "Role {role} may not take on role authenticated, whose private topics cannot be used: grant \
                 authenticated to {role}"
            ),
            format!(
                "Role {role} may not take on role service_role, whose private topics cannot be used: grant \
                 service_role to {role}"
            ),
            format!("Role {role} has no REPLICATION: nothing can be broadcast from the database"),
        ]
    );
    assert_eq!(database.authorize_read(&request("anon")).await?, may_read(false, false));
    let error = database.authorize_read(&request("authenticated")).await.unwrap_err();
    assert!(error.to_string().contains("permission denied to set role"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_role_without_rights_changes_nothing() -> Result<()> {
    let (db, database, _role) = owned("").await?;
    let error = set_up(&database).await.unwrap_err();
    let expected = format!(
        "MigrationsFailedToRun: Create schema realtime: db error: ERROR: permission denied for database {}",
        db.name()
    );
    assert_eq!(error.to_string(), expected);
    assert!(one::<bool>(&db, "select to_regnamespace('realtime') is null").await?);
    // On a schema of others it can do nothing either, and says so.
    set_up(&open(config(&db).await?)).await?;
    let today = "select inhrelid::regclass::text from pg_inherits where inhparent = 'realtime.messages'::regclass limit 1";
    let partition: String = one(&db, today).await?;
    db.sql(&format!("drop table {partition}; drop publication supabase_realtime_messages_publication"))
        .await?;
    let report = set_up(&database).await?;
    assert_eq!(report.changed, Vec::<String>::new());
    assert!(report.notes.iter().any(|note| note.contains("has not the rights of the owner")), "{report:?}");
    Ok(())
}

/// An older version of ours is brought up to date and keeps its rows, policies and triggers.
#[tokio::test]
async fn an_upgrade() -> Result<()> {
    let (db, database) = ready().await?;
    policy(&db, "select", &["broadcast"]).await?;
    db.sql(
        "select realtime.send('{\"n\": 1}', 'e', 'T');
         alter table realtime.messages drop column binary_payload;
         drop function realtime.send_binary;
         create or replace function realtime.topic() returns text language sql as $$ select 'old' $$;
         comment on function realtime.topic() is 'Made by Realtime, version 0';
         create or replace function realtime.send(payload jsonb, event text, topic text, private boolean default true)
            returns void language sql as $$ select null $$;
         comment on function realtime.send(jsonb, text, text, boolean) is null;",
    )
    .await?;
    let report = set_up(&database).await?;
    assert_eq!(
        report.changed,
        [
            "Add column binary_payload to realtime.messages",
            "Add constraint messages_payload_exclusive",
            "Replace function realtime.topic()",
            "Create function realtime.send_binary(bytea, text, text, boolean)",
        ]
    );
    assert_eq!(
        report.notes,
        ["realtime.send(jsonb, text, text, boolean) was made by somebody else and is left as it is"]
    );
    assert_eq!(
        one::<i64>(&db, "select count(*) from realtime.messages where payload ->> 'n' = '1'").await?,
        1
    );
    assert_eq!(database.authorize_read(&request("authenticated")).await?, may_read(true, false));
    assert_eq!(set_up(&database).await?.changed, Vec::<String>::new());
    Ok(())
}

/// tenant_database 51
#[tokio::test]
async fn the_publication_is_kept_or_replaced() -> Result<()> {
    let (db, database) = ready().await?;
    const NAME: &str = "supabase_realtime_messages_publication";
    const OID: &str =
        "select oid from pg_publication where pubname = 'supabase_realtime_messages_publication'";
    let first: u32 = one(&db, OID).await?;
    set_up(&database).await?;
    assert_eq!(one::<u32>(&db, OID).await?, first);
    db.sql("create table public.other (id int); create table realtime.messages_of_mine (id int)").await?;
    for (change, kept) in [
        (format!("alter publication {NAME} add table realtime.messages_of_mine"), true),
        (format!("alter publication {NAME} add table public.other"), false),
        (format!("alter publication {NAME} set table public.other"), false),
        (format!("alter publication {NAME} drop table realtime.messages"), false),
        (format!("drop publication {NAME}; create publication {NAME} for all tables"), false),
    ] {
        db.sql(&change).await?;
        let before: u32 = one(&db, OID).await?;
        let report = set_up(&database).await?;
        assert_eq!(one::<u32>(&db, OID).await? == before, kept, "{change}");
        assert_eq!(report.changed.len(), usize::from(!kept), "{change}: {report:?}");
    }
    let foreign = "select count(*) from pg_publication_tables
        where pubname = 'supabase_realtime_messages_publication' and tablename !~ '^messages_\\d{4}_\\d\\d_\\d\\d$'";
    assert_eq!(one::<i64>(&db, foreign).await?, 0);
    Ok(())
}

/// Rights that an operator took away stay away; asked by hand, new roles get theirs.
#[tokio::test]
async fn rights_are_not_given_again() -> Result<()> {
    let (db, database) = ready().await?;
    db.sql("revoke all on realtime.messages from anon; revoke usage on schema realtime from anon").await?;
    let has = "select has_table_privilege('anon', 'realtime.messages', 'select')";
    set_up(&database).await?;
    assert!(!one::<bool>(&db, has).await?);
    let report = database.set_up_schema(today(), true).await?;
    assert_eq!(report.changed, ["Grant anon the use of schema realtime and of its messages"]);
    assert!(one::<bool>(&db, has).await?);
    Ok(())
}

/// Partitions have no policies, so no client may reach them directly.
#[tokio::test]
async fn partitions_are_closed_to_clients() -> Result<()> {
    let db = TestDb::new().await?;
    db.sql("alter default privileges grant all on tables to public, anon, authenticated").await?;
    set_up(&open(config(&db).await?)).await?;
    let open = "select count(*) from pg_inherits i, unnest(array['anon','authenticated','service_role']) r
        where i.inhparent = 'realtime.messages'::regclass
            and has_table_privilege(r, i.inhrelid, 'select, insert, update, delete')";
    assert_eq!(one::<i64>(&db, open).await?, 0);
    Ok(())
}

/// A table of the same name that is not ours to change.
#[tokio::test]
async fn a_table_that_is_not_partitioned() -> Result<()> {
    let db = TestDb::new().await?;
    db.sql("create schema realtime; create table realtime.messages (id int)").await?;
    let report = set_up(&open(config(&db).await?)).await?;
    assert_eq!(report.changed, Vec::<String>::new());
    assert_eq!(
        report.notes,
        ["realtime.messages exists and is not partitioned: rename it, then run this again"]
    );
    Ok(())
}

/// Rows get times of UTC, whatever the time zone of the session: they fall into the right partition.
#[tokio::test]
async fn times_are_of_utc() -> Result<()> {
    let (db, _database) = ready().await?;
    db.sql("set timezone = 'Pacific/Kiritimati'; select realtime.send('{}', 'e', 'T')").await?;
    let right = "select abs(extract(epoch from inserted_at - (now() at time zone 'utc'))) < 3600 from realtime.messages";
    assert!(one::<bool>(&db, right).await?);
    Ok(())
}
