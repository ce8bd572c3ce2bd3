//! Databases that the reference has set up: taken over, used, handed back (tenant_database 7.3).
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod catalogue;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Result;
use realtime_changes::{ChannelId, Delivery};
use realtime_postgres::{
    AuthorizeRequest, ChangeSink, DatabaseConfig, MessageBody, Notice, Origin, ReadVerdict, ReplayParams,
    SchemaReport, TenantDatabase, WriteVerdict,
};
use realtime_testkit::{PATIENCE, TestDb, cluster};
use serde_json::json;
use tokio::sync::OnceCell;

const DAY: Duration = Duration::from_secs(86_400);

struct NoSink;

impl ChangeSink for NoSink {
    fn deliver(&self, _: Delivery) {}
    fn notice(&self, _: ChannelId, _: Notice) {}
}

/// A database with the platform's roles, and a handle that logs in as `supabase_admin`.
async fn platform() -> Result<(TestDb, TenantDatabase)> {
    static ROLES: OnceCell<()> = OnceCell::const_new();
    let db = TestDb::new().await?;
    let make = async || db.sql(include_str!("roles.sql")).await;
    ROLES.get_or_try_init(make).await?;
    let cluster = cluster().await?;
    let config = DatabaseConfig {
        host: cluster.host().to_owned(),
        port: cluster.port(),
        user: "supabase_admin".to_owned(),
        password: "secret".into(),
        name: db.name().to_owned(),
        connect_timeout: PATIENCE,
        statement_timeout: PATIENCE,
        queue_target: PATIENCE,
        ..DatabaseConfig::default()
    };
    Ok((db, TenantDatabase::new(config, Arc::new(NoSink))))
}

/// The same, set up by the reference and then changed.
async fn original(change: &str) -> Result<(TestDb, TenantDatabase)> {
    let (db, database) = platform().await?;
    db.sql(include_str!("original.sql")).await?;
    db.sql(change).await?;
    Ok((db, database))
}

fn request(role: &str, topic: &str) -> AuthorizeRequest {
    AuthorizeRequest {
        role: role.into(),
        claims: json!({"role": role}).to_string().into(),
        topic: topic.into(),
        headers: "{}".into(),
        presence: true,
    }
}

async fn set_up(database: &TenantDatabase) -> Result<SchemaReport> {
    Ok(database.set_up_schema(SystemTime::now(), true).await?)
}

/// Uses all that private topics use.
async fn use_it(db: &TestDb, database: &TenantDatabase) -> Result<()> {
    let allowed = request("authenticated", "room-1");
    let both = ReadVerdict { broadcast: true, presence: Some(true) };
    assert_eq!(database.authorize_read(&allowed).await?, both);
    let both = WriteVerdict { broadcast: true, presence: true };
    assert_eq!(database.authorize_write(&allowed).await?, both);
    let read_only = request("authenticated", "room-2");
    assert!(database.authorize_read(&read_only).await?.broadcast);
    assert!(!database.authorize_write(&read_only).await?.broadcast);
    assert!(!database.authorize_read(&request("anon", "room-1")).await?.may_join());
    assert!(database.authorize_write(&request("service_role", "anything")).await?.broadcast);
    db.sql(
        "begin; set local role authenticated; select realtime.send('{\"id\": \"x\"}', 'e', 'room-1');
         select realtime.send('{}', 'e', 'room-2'); commit",
    )
    .await?;
    let params = ReplayParams::parse(&json!({"since": 0})).unwrap()?;
    let messages = database.replay("room-1", params).await?;
    let bodies: Vec<_> = messages.into_iter().map(|message| message.body).collect();
    assert_eq!(bodies, [MessageBody::Json(r#"{"id": "x"}"#.into())]);
    database.maintain(SystemTime::now() - DAY * 6, false).await?;
    let done = database.maintain(SystemTime::now(), true).await?;
    assert_eq!(done.problems, Vec::<String>::new());
    assert!(!done.dropped.is_empty());
    Ok(())
}

fn is_partition_or_publication(line: &str) -> bool {
    let mut words = line.split([' ', '(']);
    let (kind, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let days = "realtime.messages_2";
    match kind {
        "relation" | "column" | "constraint" | "type" => name.trim_end_matches("[]").starts_with(days),
        "index" => line.contains(&format!(" ON {days}")),
        "publication" => name == "supabase_realtime_messages_publication",
        "trigger" => name.starts_with(days),
        _ => false,
    }
}

/// Takes a database over, uses it, and compares its catalogue with that of before.
async fn take_over(change: &str, migrations: i64, notes: &[&str]) -> Result<()> {
    let (db, database) = original(change).await?;
    let before = catalogue::of(&db).await?;
    let report = set_up(&database).await?;
    assert_eq!(report.origin, Origin::Supabase(Some(migrations)));
    assert_eq!((&report.failed, report.changed.len()), (&vec![], 6), "{:?}", report.changed);
    assert_eq!(report.notes, notes);
    use_it(&db, &database).await?;
    assert_eq!(set_up(&database).await?.changed, Vec::<String>::new());
    let after = catalogue::of(&db).await?;
    let differences = catalogue::difference(&before, &after);
    assert!(differences.len() > 5);
    let changed: Vec<_> = differences.iter().filter(|line| !is_partition_or_publication(line)).collect();
    assert_eq!(changed, Vec::<&String>::new());

    // The original that comes back finds partitions as it makes them, and a publication that it keeps.
    for line in differences.iter().filter(|line| line.starts_with("relation ") && line.contains(" r ")) {
        assert!(line.contains(" r supabase_realtime_admin "), "{line}");
        for role in ["anon", "authenticated", "service_role"] {
            assert!(!line.contains(role), "{line}");
        }
    }
    let kept = "select count(*) > 0 and bool_and(schemaname = 'realtime' and tablename ~ '^messages(_|$)')
        from pg_publication_tables where pubname = 'supabase_realtime_messages_publication'";
    assert!(db.client().query_one(kept, &[]).await?.get::<_, bool>(0));

    // Without these nothing is left of us.
    let rows = db
        .client()
        .query("select inhrelid::regclass::text from pg_inherits where inhparent = 'realtime.messages'::regclass", &[])
        .await?;
    let partitions: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    db.sql(&format!(
        "drop publication supabase_realtime_messages_publication; drop table {}",
        partitions.join(", ")
    ))
    .await?;
    assert_eq!(catalogue::difference(&before, &catalogue::of(&db).await?), Vec::<String>::new());
    database.shutdown().await;
    Ok(())
}

/// tenant_database 71
#[tokio::test]
async fn a_current_database() -> Result<()> {
    take_over("", 81, &[]).await
}

/// Of an older one nothing is brought up to date: that is the work of the one that made it.
#[tokio::test]
async fn an_older_database() -> Result<()> {
    let change = "drop function realtime.send_binary;
        alter table realtime.messages drop constraint messages_payload_exclusive, drop column binary_payload;
        delete from realtime.schema_migrations where version >= 20260514120000";
    let note = "The schema was made by Supabase Realtime with 69 migrations and has no function \
                realtime.send_binary(bytea, text, text, boolean)";
    take_over(change, 69, &[note]).await
}

#[tokio::test]
async fn a_newer_database() -> Result<()> {
    let change = "alter table realtime.messages add column added text[];
        create function realtime.added() returns int language sql as 'select 1';
        insert into realtime.schema_migrations values (20270101000000)";
    take_over(change, 82, &[]).await
}

/// From before the table was partitioned: nothing can be done, and nothing is.
#[tokio::test]
async fn a_database_of_long_ago() -> Result<()> {
    let change = "drop table realtime.messages;
        create table realtime.messages (id uuid primary key, topic text, extension text, inserted_at timestamp);
        delete from realtime.schema_migrations where version >= 20241030150047";
    let (db, database) = original(change).await?;
    let before = catalogue::of(&db).await?;
    let report = set_up(&database).await?;
    assert_eq!((report.changed.len(), report.failed.len(), report.notes.len()), (0, 0, 1), "{report:?}");
    assert!(report.notes[0].contains("before realtime.messages was partitioned"), "{report:?}");
    assert_eq!(catalogue::difference(&before, &catalogue::of(&db).await?), Vec::<String>::new());
    Ok(())
}

/// What the comparison would find: it is no use if it finds nothing.
#[tokio::test]
async fn the_comparison_sees_changes() -> Result<()> {
    let (db, _database) = original("").await?;
    for change in [
        "insert into realtime.schema_migrations values (1)",
        "alter table realtime.messages add column x int",
        "grant delete on realtime.messages to anon",
        "alter function realtime.topic() volatile",
        "alter function realtime.topic() owner to postgres",
        "alter schema realtime owner to postgres",
        "create policy p on realtime.messages using (true)",
        "drop trigger audit on realtime.messages",
        "comment on table realtime.messages is 'x'",
        "alter publication supabase_realtime drop table public.notes",
        "alter table realtime.messages disable row level security",
    ] {
        let before = catalogue::of(&db).await?;
        db.sql(change).await?;
        let found = catalogue::difference(&before, &catalogue::of(&db).await?);
        assert!(found.iter().any(|line| !is_partition_or_publication(line)), "{change}");
    }
    Ok(())
}

/// A fresh database of a platform gets the owners that the platform knows.
///
/// tenant_database 41
#[tokio::test]
async fn a_fresh_database_of_the_platform() -> Result<()> {
    let (db, database) = platform().await?;
    let report = set_up(&database).await?;
    assert_eq!((&report.failed, &report.notes), (&vec![], &vec![]));
    let rows = db
        .client()
        .query(
            "select distinct kind || ' ' || pg_get_userbyid(owner) from (
                select 'schema', nspowner from pg_namespace where nspname = 'realtime'
                union all select 'relation', relowner from pg_class where relnamespace = 'realtime'::regnamespace
                union all select 'function', proowner from pg_proc where pronamespace = 'realtime'::regnamespace
             ) o (kind, owner) order by 1",
            &[],
        )
        .await?;
    let owners: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(
        owners,
        ["function supabase_realtime_admin", "relation supabase_realtime_admin", "schema supabase_admin"]
    );
    assert_eq!(set_up(&database).await?.changed, Vec::<String>::new());
    assert!(database.authorize_read(&request("service_role", "x")).await?.broadcast);
    Ok(())
}
