//! What the pages show, and what they do.

use anyhow::Result;
use realtime_testkit::{Server, TestDb, Version};
use serde_json::json;

use super::{Operator, options, text};
use crate::BINARY;

/// Without a metadata database: the tenant of the configuration, its database, and both stop buttons.
#[tokio::test]
async fn the_tenant_of_the_configuration() -> Result<()> {
    let db = TestDb::with_fixture_a().await?;
    let server = Server::start(BINARY, &db, options().env("REGION", "eu-central-1")).await?;
    let mut socket = server.socket(Version::V2, "anon").await?;
    socket.watch("realtime:any", json!([{"schema": "public"}])).await?;
    let mut ann = Operator::new(&server);

    let home = text(&ann.get("/home").await?.body);
    for part in ["Region eu-central-1", "Tenants in use 1", "Sockets 1", "Rooms 1", "Threads", "Tasks"] {
        assert!(home.contains(part), "{part}: {home}");
    }
    let nodes = text(&ann.get("/nodes").await?.body);
    assert!(nodes.contains("eu-central-1 yes"), "{nodes}");
    let list = text(&ann.get("/tenants?search=REALTIME").await?.body);
    assert!(list.contains("1 of 1") && list.contains("realtime-dev – served no 1 1"), "{list}");
    assert!(text(&ann.get("/tenants?search=zzz").await?.body).contains("0 of 1"));
    let found = ann.get("/tenants?external_id=realtime-dev").await?;
    assert_eq!((found.status, found.header("location")), (303, "/admin/dashboard/tenants/realtime%2Ddev"));
    for unknown in ["/tenants?external_id=nobody", "/tenants/nobody", "/tenants/nobody/schema"] {
        let answer = ann.get(unknown).await?;
        assert!(answer.status == 404 && answer.body.contains("Tenant not found"), "{unknown}");
    }

    let answer = ann.get("/tenants/realtime-dev").await?;
    assert!(!answer.body.contains(realtime_testkit::SECRET));
    let tenant = text(&answer.body);
    for part in [
        "Database connection up",
        "Replication up",
        "Sockets 1",
        "jwt_secret set",
        "wal_level logical",
        "Published 1 tables",
        "pgoutput read yes",
        "PostgreSQL version PostgreSQL",
        "Addresses of db_host 127.0.0.1",
        "There is no metadata database",
    ] {
        assert!(tenant.contains(part), "{part}: {tenant}");
    }
    let followed = ann.get("/tenants/realtime-dev?refresh=5").await?.body;
    assert!(followed.contains("http-equiv=\"refresh\" content=\"5\"") && followed.contains("Not looked at"));

    // Whoever watches is told of the gap, and served again.
    let page = "/tenants/realtime-dev";
    let ended = ann.submit(page, "/tenants/realtime-dev/end-replication", &[]).await?;
    assert_eq!(
        (ended.status, ended.header("location")),
        (303, "/admin/dashboard/tenants/realtime%2Ddev?done=replication")
    );
    let lost = socket.event("realtime:any", "system").await?;
    assert_eq!(lost["status"], "error", "{lost:?}");
    let again = socket.event("realtime:any", "system").await?;
    assert_eq!(again["status"], "ok", "{again:?}");
    db.sql("insert into public.test (details) values ('after')").await?;
    assert_eq!(socket.event("realtime:any", "postgres_changes").await?["data"]["record"]["details"], "after");
    assert!(server.log().contains("who=\"ann\"") || server.log().contains("who=ann"), "{}", server.log());

    for (path, says) in
        [("/flags", "There is no metadata database"), ("/sql", "There is no metadata database")]
    {
        assert!(text(&ann.get(path).await?.body).contains(says), "{path}");
    }
    Ok(())
}

/// What the set-up would do is shown, and done when it is confirmed.
#[tokio::test]
async fn the_schema_of_a_tenant() -> Result<()> {
    let db = TestDb::new().await?;
    let server = Server::start(BINARY, &db, options().env("PREPARE_DATABASES", "false")).await?;
    let mut ann = Operator::new(&server);
    let path = "/tenants/realtime-dev/schema";
    let page = text(&ann.get(path).await?.body);
    assert!(page.contains("Create table realtime.messages") && page.contains("keeps no record"), "{page}");
    let exists = "select count(*) from pg_class where relname = 'messages' and relkind = 'p'";
    let unconfirmed = ann.submit(path, path, &[]).await?;
    assert!(text(&unconfirmed.body).contains("Nothing was changed"));
    assert_eq!(db.client().query_one(exists, &[]).await?.get::<_, i64>(0), 0);
    let applied = text(&ann.submit(path, path, &[("confirm", "yes")]).await?.body);
    assert!(applied.contains("Done:") && applied.contains("Nothing is missing."), "{applied}");
    assert_eq!(db.client().query_one(exists, &[]).await?.get::<_, i64>(0), 1);
    db.sql(
        "create table realtime.schema_migrations (version bigint primary key, inserted_at timestamp(0));
         insert into realtime.schema_migrations values (20211116024918, '2024-01-02 03:04:05')",
    )
    .await?;
    let recorded = text(&ann.get(path).await?.body);
    assert!(recorded.contains("Supabase Realtime, which keeps it up to date"), "{recorded}");
    assert!(recorded.contains("20211116024918 2024-01-02T03:04:05"), "{recorded}");
    Ok(())
}
