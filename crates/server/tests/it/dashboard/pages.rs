//! What the pages show, and what they do.

use anyhow::{Result, ensure};
use realtime_testkit::{PATIENCE, Server, TestDb, Version};
use serde_json::json;
use tokio::time;

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
    for part in [
        "Region eu-central-1",
        "Tenants in use 1",
        "Sockets 1",
        "Rooms 1",
        "Threads",
        "Tasks",
        "Queued tasks",
        "Peak memory",
        "Available memory",
        "% of one core (",
    ] {
        assert!(home.contains(part), "{part}: {home}");
    }
    let nodes = text(&ann.get("/nodes").await?.body);
    assert!(
        nodes.contains("eu-central-1 serves this page") && nodes.contains("This node serves alone."),
        "{nodes}"
    );
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
        "Presence calls of a channel 5 in 30 s",
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
    assert_eq!(lost["status"], "gap", "{lost:?}");
    let again = socket.event("realtime:any", "system").await?;
    assert_eq!(again["status"], "ok", "{again:?}");
    db.sql("insert into public.test (details) values ('after')").await?;
    assert_eq!(socket.event("realtime:any", "postgres_changes").await?["data"]["record"]["details"], "after");
    let line = server.logged("who=").await?;
    assert!(line.contains("who=\"ann\"") || line.contains("who=ann"), "{line}");

    for (path, says) in
        [("/flags", "There is no metadata database"), ("/sql", "There is no metadata database")]
    {
        assert!(text(&ann.get(path).await?.body).contains(says), "{path}");
    }
    Ok(())
}

/// A page, once it shows what it should.
async fn shows(ann: &mut Operator<'_>, path: &str, fits: impl Fn(&str) -> bool) -> Result<String> {
    let limit = time::Instant::now() + PATIENCE;
    loop {
        let body = ann.get(path).await?.body;
        if fits(&body) {
            return Ok(body);
        }
        ensure!(time::Instant::now() < limit, "{}", text(&body));
        time::sleep(time::Duration::from_millis(200)).await;
    }
}

/// Charts of the last hour; channels, live results, the time of policies and notices of a tenant.
#[tokio::test]
async fn the_activity_of_a_tenant() -> Result<()> {
    let db = TestDb::with_fixture_a().await?;
    db.sql(
        "create table public.slow (id int primary key, t text); grant select on public.slow to authenticated;
         alter table public.slow enable row level security;
         create function public.checked(n int) returns boolean language plpgsql as
           $$ begin execute 'select ' || n; return true; end $$;
         create policy p on public.slow for select to authenticated using (public.checked(id));
         alter publication supabase_realtime add table public.slow;",
    )
    .await?;
    let server = Server::start(BINARY, &db, options()).await?;
    let mut ann = Operator::new(&server);
    let path = "/tenants/realtime-dev/activity";
    let idle = text(&ann.get(path).await?.body);
    assert!(idle.contains("No channel has members.") && idle.contains("Nobody has live rows."), "{idle}");
    assert_eq!(ann.get("/tenants/nobody/activity").await?.status, 404);

    let mut socket = server.socket(Version::V2, "authenticated").await?;
    let slow = json!({"event": "*", "schema": "public", "table": "slow"});
    let live = json!({"event": "*", "schema": "public", "table": "slow", "live": true});
    socket.watch("realtime:loud", json!([slow, live])).await?;
    let mut other = server.socket(Version::V2, "authenticated").await?;
    let (_, joined) = other.join("realtime:loud", json!({})).await?;
    for n in 0..5 {
        let message = json!({"type": "broadcast", "event": "x", "payload": {"n": n}});
        let reference = other.next_ref();
        other.send(json!(joined), json!(reference), "realtime:loud", "broadcast", message).await?;
        socket.event("realtime:loud", "broadcast").await?;
    }
    db.sql("insert into public.slow values (1, 'a')").await?;
    // The plain binding's row is asked about; the live binding reads its own, sooner or later.
    let unasked = "The database was not asked about any row";
    shows(&mut ann, path, |page| !text(page).contains(unasked)).await?;
    // Whoever watches is told of the gap: operators see what clients were told.
    ann.submit("/tenants/realtime-dev", "/tenants/realtime-dev/end-replication", &[]).await?;
    let parts = ["loud 2 0 5", "public.slow authenticated all rows 1 1", "gap ReplicationConnectionDown"];
    let page = shows(&mut ann, path, |page| parts.iter().all(|part| text(page).contains(part))).await?;
    assert!(!text(&page).contains(unasked), "{page}");
    // A sample is taken every fifteen seconds.
    let chart = "aria-label=\"Connections: now 2, at most 2 in the last hour\"";
    shows(&mut ann, "/home", |page| page.contains(chart)).await?;
    let body = shows(&mut ann, path, |page| page.contains("aria-label=\"Events: now ")).await?;
    assert!(!body.contains("aria-label=\"Memory"), "{body}");
    assert!(ann.get("/home").await?.body.contains("aria-label=\"Memory: now "));
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

/// With a metadata database: what is kept of a tenant, its flags, and stopping its database.
#[tokio::test]
async fn a_tenant_of_the_metadata_database() -> Result<()> {
    let db = TestDb::with_fixture_a().await?;
    let stored = options().env("DB_ENC_KEY", "1234567890123456").env("REGION", "eu-west-2");
    let server = Server::start(BINARY, &db, stored).await?;
    server.administered().await?;
    let mut ann = Operator::new(&server);
    let page = "/tenants/realtime-dev";
    let idle = text(&ann.get(page).await?.body);
    for part in [
        "db_password ***",
        "db_host 127.0.0.1",
        "jwt_secret set, encrypted with AES-128-ECB",
        "name realtime-dev",
    ] {
        assert!(idle.contains(part), "{part}: {idle}");
    }
    let mut socket = server.socket(Version::V2, "anon").await?;
    socket.watch("realtime:any", json!([{"schema": "public"}])).await?;
    let used = ann.get(page).await?.body;
    let db_password = db.env().await?.into_iter().find(|(name, _)| name == "DB_PASSWORD").unwrap().1;
    assert!(!used.contains(realtime_testkit::SECRET) && !used.contains(&format!(">{db_password}<")));
    assert!(text(&used).contains("Database connection up Replication up"), "{}", text(&used));
    let ended = ann.submit(page, "/tenants/realtime-dev/end-database", &[]).await?;
    assert_eq!(
        (ended.status, ended.header("location")),
        (303, "/admin/dashboard/tenants/realtime%2Ddev?done=database")
    );
    let lost = socket.event("realtime:any", "system").await?;
    assert_eq!(lost["status"], "gap", "{lost:?}");
    let again = socket.event("realtime:any", "system").await?;
    assert_eq!(again["status"], "ok", "{again:?}");
    assert_eq!(ann.submit(page, "/tenants/nobody/end-database", &[]).await?.status, 404);
    Ok(())
}

/// Flags are made, changed, overridden and deleted; what cannot be is said.
#[tokio::test]
async fn feature_flags() -> Result<()> {
    let db = TestDb::new().await?;
    let server = Server::start(BINARY, &db, options().env("DB_ENC_KEY", "1234567890123456")).await?;
    server.administered().await?;
    let mut ann = Operator::new(&server);
    let flag = async || -> Result<Option<(bool, i32, Option<String>)>> {
        let statement = "select enabled, rollout_percentage, bucket_key from _realtime.feature_flags where name = 'new & <b>'";
        let row = db.client().query_opt(statement, &[]).await?;
        Ok(row.map(|row| (row.get(0), row.get(1), row.get(2))))
    };
    let name = ("name", "new & <b>");
    let create = [("act", "create"), name, ("rollout", "0"), ("bucket_key", "b"), ("enabled", "yes")];
    assert_eq!(ann.submit("/flags", "/flags", &create).await?.status, 303);
    assert_eq!(flag().await?, Some((true, 0, Some("b".to_owned()))));
    let page = ann.get("/flags").await?.body;
    assert!(page.contains("new &amp; &lt;b&gt;") && !page.contains("<b>"), "names are text");
    for (wrong, says) in [
        (&create[..], "There is a feature flag of that name already"),
        (&[("act", "create"), ("name", " "), ("rollout", "5")], "Names have between 1 and 255 characters"),
        (&[("act", "create"), ("name", "x"), ("rollout", "101")], "between 0 and 100"),
        (&[("act", "create"), ("name", "x"), ("rollout", "a")], "between 0 and 100"),
        (&[("act", "toggle"), ("name", "nothing")], "There is no feature flag of that name"),
        (&[("act", "delete"), name], "tick the box"),
        (&[("act", "drop")], "nothing that can be done"),
    ] {
        let answer = ann.submit("/flags", "/flags", wrong).await?;
        assert_eq!(answer.status, 422, "{wrong:?}");
        assert!(answer.body.contains(says), "{wrong:?}: {}", text(&answer.body));
    }
    let tenant = "/tenants/realtime-dev";
    let told = async |ann: &mut Operator<'_>| Ok::<_, anyhow::Error>(text(&ann.get(tenant).await?.body));
    assert!(told(&mut ann).await?.contains("new & <b> off rollout to 0 %"));
    let set = "/tenants/realtime-dev/flags";
    for (value, says) in
        [("on", "on set for the tenant"), ("off", "off set for the tenant"), ("clear", "off rollout to 0 %")]
    {
        let answer = ann.submit(tenant, set, &[("flag", "new & <b>"), ("value", value)]).await?;
        assert_eq!(answer.status, 303, "{value}");
        let page = told(&mut ann).await?;
        assert!(page.contains(&format!("new & <b> {says}")), "{value}: {page}");
    }
    assert_eq!(ann.submit(tenant, set, &[("flag", "x"), ("value", "perhaps")]).await?.status, 400);
    let change = [("act", "change"), name, ("rollout", "100"), ("bucket_key", "")];
    assert_eq!(ann.submit("/flags", "/flags", &change).await?.status, 303);
    assert_eq!(flag().await?, Some((false, 100, None)));
    assert_eq!(ann.submit("/flags", "/flags", &[("act", "toggle"), name]).await?.status, 303);
    assert_eq!(flag().await?, Some((true, 100, None)));
    assert!(told(&mut ann).await?.contains("new & <b> on rollout to 100 %"));
    assert_eq!(
        ann.submit("/flags", "/flags", &[("act", "delete"), name, ("confirm", "yes")]).await?.status,
        303
    );
    assert_eq!(flag().await?, None);
    Ok(())
}

/// Questions to the metadata database.
#[tokio::test]
async fn the_sql_inspector() -> Result<()> {
    let db = TestDb::new().await?;
    let server = Server::start(BINARY, &db, options().env("DB_ENC_KEY", "1234567890123456")).await?;
    server.administered().await?;
    let mut ann = Operator::new(&server);
    let statement = "select external_id, jwt_secret as x, settings from tenants t
        join extensions e on e.tenant_external_id = t.external_id";
    let answer = ann.submit("/sql", "/sql", &[("statement", statement)]).await?;
    let told = text(&answer.body);
    assert!(answer.status == 200 && told.contains("1 row in") && told.contains("realtime-dev ***"), "{told}");
    assert!(told.contains(r#""db_password": "***""#), "{told}");
    let sorted = [("statement", "select x from generate_series(1, 3) x"), ("order", "-0")];
    let answer = ann.submit("/sql", "/sql", &sorted).await?;
    assert!(text(&answer.body).contains("x ↓ 3 2 1") && answer.body.contains("aria-sort=\"descending\""));
    for (wrong, says) in [
        ("select * from _realtime.tenants", "cannot be looked at"),
        ("delete from tenants", "Only one SELECT or WITH"),
        ("select nothing", "column \"nothing\" does not exist"),
        ("select pg_sleep(1)::text", "pg_sleep cannot be called"),
    ] {
        let answer = ann.submit("/sql", "/sql", &[("statement", wrong)]).await?;
        assert_eq!(answer.status, 422, "{wrong}");
        assert!(text(&answer.body).contains(says), "{wrong}: {}", text(&answer.body));
    }
    assert!(!server.log().contains("generate_series"), "statements are not logged");
    Ok(())
}
