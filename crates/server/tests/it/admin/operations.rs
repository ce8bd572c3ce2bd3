//! Reload, shutdown, health.

use super::*;

async fn operate(admin: &Admin, operation: &str) -> Result<()> {
    let answer = admin.request("POST", &format!("/api/tenants/t/{operation}"), None).await?;
    assert_eq!((answer.status, &*answer.body), (204, ""));
    Ok(())
}

/// http_and_ops 25, 26, 29
#[tokio::test]
async fn reload_and_shutdown() -> Result<()> {
    let (admin, db) = (Admin::start().await?, TestDb::with_fixture_a().await?);
    admin.make("t", &db).await?;
    operate(&admin, "shutdown").await?;
    let mut socket = admin.socket("t", TENANT_SECRET).await?;
    socket.watch("realtime:w", json!([{"event": "*", "schema": "public", "table": "test"}])).await?;
    let before = connections(&db).await?;

    operate(&admin, "shutdown").await?;
    let health = admin.health("t").await?;
    assert_eq!(
        (&health["healthy"], &health["db_connected"], &health["connected_cluster"]),
        (&json!(false), &json!(false), &json!(1)),
        "{health}"
    );
    until("connections end", || async {
        Ok(connections(&db).await?.iter().all(|pid| !before.contains(pid)))
    })
    .await?;
    // Sockets stay, and who watches is served again by and by.
    let told = socket.event("realtime:w", "system").await?;
    assert_eq!(told["message"], "The connection to the database was ended: changes may have been missed");
    assert_eq!(socket.event("realtime:w", "system").await?["status"], "ok");
    db.sql("insert into public.test (details) values ('x')").await?;
    socket.event("realtime:w", "postgres_changes").await?;
    let health = admin.health("t").await?;
    assert_eq!((&health["healthy"], &health["db_connected"]), (&json!(true), &json!(true)), "{health}");

    let before = connections(&db).await?;
    operate(&admin, "reload").await?;
    let told = socket.event("realtime:w", "system").await?;
    assert_eq!(told["message"], "Server requested disconnect");
    assert_eq!(socket.close_code().await?, 1012);
    until("connections end", || async {
        Ok(connections(&db).await?.iter().all(|pid| !before.contains(pid)))
    })
    .await?;
    // The next use connects.
    let mut socket = admin.socket("t", TENANT_SECRET).await?;
    socket.watch("realtime:w", json!([{"event": "*", "schema": "public", "table": "test"}])).await?;

    for operation in ["reload", "shutdown"] {
        let unknown = admin.request("POST", &format!("/api/tenants/nobody/{operation}"), None).await?;
        assert_eq!((unknown.status, &*unknown.body), (404, r#"{"message":"not found"}"#));
    }
    Ok(())
}

/// http_and_ops 28, 30, 31
#[tokio::test]
async fn health() -> Result<()> {
    let admin = Admin::start_with(ServerOptions::default().env("REGION", "us-east-1")).await?;
    let db = TestDb::new().await?;
    let unknown = admin.get("/api/tenants/t/health").await?;
    assert_eq!((unknown.status, &*unknown.body), (404, r#"{"message":"not found"}"#));
    admin.make("t", &db).await?;
    let mut health = admin.health("t").await?;
    let node = health["node"].take();
    assert!(node.as_str().is_some_and(|node| node.starts_with("realtime@")), "{node}");
    let idle = json!({
        "healthy": true, "db_connected": false, "replication_connected": false, "connected_cluster": 0,
        "region": "us-east-1", "node": null,
    });
    assert_eq!(health, idle, "nobody is there, and the database is set up");

    let mut socket = admin.socket("t", TENANT_SECRET).await?;
    let ready = json!({"config": {"broadcast": {"replication_ready": true}}});
    assert_eq!(socket.join("realtime:a", ready).await?.0["status"], "ok");
    socket.event("realtime:a", "system").await?;
    let health = admin.health("t").await?;
    assert_eq!(
        (
            &health["healthy"],
            &health["db_connected"],
            &health["replication_connected"],
            &health["connected_cluster"]
        ),
        (&json!(true), &json!(true), &json!(true), &json!(1)),
        "{health}"
    );
    Ok(())
}

/// http_and_ops 31: a database that was not set up yet is not waited for
#[tokio::test]
async fn health_sets_databases_up() -> Result<()> {
    let (admin, db) = (Admin::start().await?, TestDb::new().await?);
    admin.make("t", &db).await?;
    db.sql("drop schema realtime cascade").await?;
    admin.change("t", json!({"migrations_ran": 0})).await?;
    let health = admin.health("t").await?;
    assert_eq!((&health["healthy"], &health["db_connected"]), (&json!(false), &json!(false)));
    until("set up in the background", || async { Ok(admin.health("t").await?["healthy"] == true) }).await?;
    let exists = db.client().query_one("select to_regclass('realtime.messages') is not null", &[]).await?;
    assert!(exists.get::<_, bool>(0));
    let ran = admin.metadata.client().query_one("select migrations_ran from _realtime.tenants", &[]).await?;
    assert!(ran.get::<_, i32>(0) > 0);

    // Of another database it is not known that it was set up.
    let next = TestDb::new().await?;
    admin.change("t", json!({"extensions": [extension(&next).await?]})).await?;
    assert_eq!(admin.health("t").await?["healthy"], false);
    until("set up in the background", || async { Ok(admin.health("t").await?["healthy"] == true) }).await?;
    let exists = next.client().query_one("select to_regclass('realtime.messages') is not null", &[]).await?;
    assert!(exists.get::<_, bool>(0));
    Ok(())
}

/// Two servers share a metadata database: what is done at one reaches those who are connected to the other.
/// http_and_ops 20, 25, 26
#[tokio::test]
async fn other_servers_follow() -> Result<()> {
    let (admin, db) = (Admin::start().await?, TestDb::with_fixture_a().await?);
    admin.make("t", &db).await?;
    let other = admin.another().await?;
    let join = || async {
        let mut socket = other.socket("t", TENANT_SECRET).await?;
        socket.watch("realtime:w", json!([{"event": "*", "schema": "public", "table": "test"}])).await?;
        Ok::<_, anyhow::Error>(socket)
    };
    let mut socket = join().await?;
    operate(&admin, "shutdown").await?;
    let told = socket.event("realtime:w", "system").await?;
    assert_eq!(told["message"], "The connection to the database was ended: changes may have been missed");
    assert_eq!(socket.event("realtime:w", "system").await?["status"], "ok");
    operate(&admin, "reload").await?;
    assert_eq!(socket.close_code().await?, 1012);

    let mut socket = join().await?;
    admin.change("t", json!({"max_channels_per_client": 7, "jwt_secret": "another-secret"})).await?;
    assert_eq!(socket.close_code().await?, 1012);
    assert!(other.socket("t", TENANT_SECRET).await.is_err());
    let mut socket = other.socket("t", "another-secret").await?;
    socket.join("realtime:a", json!({"config": {}})).await?;
    admin.request("DELETE", "/api/tenants/t", None).await?;
    assert_eq!(socket.close_code().await?, 1012);
    let refused = other.socket("t", "another-secret").await.err().context("connected")?;
    assert!(refused.to_string().contains("404"), "{refused}");
    until("nobody is left", || async { Ok(connections(&db).await?.is_empty()) }).await?;
    Ok(())
}
