//! Making, showing, changing and removing tenants.

use realtime_tenants::{Ciphers, Ciphertext};
use secrecy::{ExposeSecret as _, SecretString};

use super::*;

fn decrypted(value: &str) -> Result<String> {
    let ciphers = Ciphers::new(Some(&SecretString::from("1234567890123456")), None, false)?;
    Ok(ciphers.decrypt(&Ciphertext::new(value))?.expose_secret().to_owned())
}

/// http_and_ops 7 to 12, 24, 33
#[tokio::test]
async fn made_shown_changed_and_removed() -> Result<()> {
    let (admin, db) = (Admin::start().await?, TestDb::new().await?);
    let missing = admin.get("/api/tenants/t1").await?;
    assert_eq!((missing.status, &*missing.body), (404, r#"{"message":"not found"}"#));
    assert_eq!(admin.get("/api/tenants").await?.body, r#"{"data":[]}"#);
    let host = |host: &'static str| {
        let server = &admin.server;
        async move { server.http("GET", "/api/ping", &[("Host", host)], b"").await }
    };
    assert_eq!(host("t1.a.b.c").await?.status, 401);

    let extension = extension(&db).await?;
    let body = json!({"external_id": "t1", "name": "ignored", "jwt_secret": TENANT_SECRET, "extensions": [extension]});
    let made = admin.post(body.clone()).await?;
    assert_eq!(
        (made.status, made.header("content-type")),
        (201, "application/json; charset=utf-8"),
        "{made:?}"
    );
    let tenant = data(&made)?;
    let id = tenant["id"].as_str().context("id")?;
    assert_eq!(made.header("location"), format!("/api/tenants/{id}"));
    let time = tenant["inserted_at"].as_str().context("inserted_at")?;
    assert!(time.len() == 19 && time.as_bytes()[10] == b'T', "naive, in whole seconds: {time}");
    let settings = &tenant["extensions"][0]["settings"];
    let cipher = |name: &str| decrypted(settings[name].as_str().unwrap_or_default());
    for (name, value) in db.env().await? {
        let name = name.to_ascii_lowercase();
        if name == "db_password" {
            assert!(settings.get(&name).is_none());
        } else {
            assert_ne!(settings[&name], value.as_str());
            assert_eq!(cipher(&name)?, value);
        }
    }
    let expected = json!({
        "id": id, "external_id": "t1", "name": "t1",
        "max_concurrent_users": 200, "max_channels_per_client": 100, "max_events_per_second": 100,
        "max_joins_per_second": 100, "inserted_at": time, "private_only": false,
        "max_client_presence_events_per_window": null, "client_presence_window_ms": null, "presence_enabled": false,
        "extensions": [{
            "type": "postgres_cdc_rls", "inserted_at": time, "updated_at": time,
            "settings": {
                "region": "us-east-1", "ssl_enforced": false, "publication": "supabase_realtime",
                "slot_name": "supabase_realtime_replication_slot", "poll_interval_ms": 100, "poll_max_changes": 100,
                "poll_max_record_bytes": 1_048_576, "db_host": settings["db_host"], "db_port": settings["db_port"],
                "db_name": settings["db_name"], "db_user": settings["db_user"],
            },
        }],
    });
    assert_eq!(tenant, expected);
    let order =
        ["\"id\"", "external_id", "\"name\"", "max_concurrent", "inserted_at", "extensions", "private_only"];
    let places: Vec<_> = order.iter().map(|key| made.body.find(key)).collect();
    assert!(places.is_sorted() && places.iter().all(Option::is_some), "{}", made.body);
    assert_eq!(data(&admin.get("/api/tenants/t1").await?)?, tenant);

    let row = admin
        .metadata
        .client()
        .query_one("select jwt_secret, migrations_ran, broadcast_adapter from _realtime.tenants", &[])
        .await?;
    assert_eq!(decrypted(row.get(0))?, TENANT_SECRET);
    assert!(row.get::<_, i32>(1) > 0);
    assert_eq!(row.get::<_, &str>(2), "gen_rpc");
    let prepared = db.client().query_one("select to_regclass('realtime.messages') is not null", &[]).await?;
    assert!(prepared.get::<_, bool>(0), "set up before the answer");

    let again = admin.post(body).await?;
    assert_eq!((again.status, again.header("location")), (200, made.header("location")));
    let changed = admin
        .post(json!({"external_id": "t1", "max_client_presence_events_per_window": 42, "client_presence_window_ms": "5000"}))
        .await?;
    let shown = data(&changed)?;
    assert_eq!(
        (&shown["max_client_presence_events_per_window"], &shown["client_presence_window_ms"]),
        (&json!(42), &json!(5000))
    );
    assert_eq!(data(&admin.get("/api/tenants/t1").await?)?, shown);

    // New by its path.
    let put = admin
        .put("t0", json!({"jwt_secret": TENANT_SECRET, "extensions": [extension, {"type": "lacks settings"}, {"settings": {}}]}))
        .await?;
    assert_eq!(put.status, 201, "{put:?}");
    let put = data(&put)?;
    assert_eq!(
        (&put["external_id"], &put["name"], &put["extensions"].as_array().map(Vec::len)),
        (&json!("t0"), &json!("t0"), &Some(1))
    );
    let names = |answer: Answer| -> Result<Vec<Value>> {
        let Value::Array(tenants) = data(&answer)? else { anyhow::bail!("no list") };
        Ok(tenants.into_iter().map(|mut tenant| tenant["external_id"].take()).collect())
    };
    assert_eq!(names(admin.get("/api/tenants").await?)?, ["t0", "t1"]);
    assert_eq!(names(admin.get("/api/tenants?limit=1").await?)?, ["t0"]);
    assert_eq!(names(admin.get("/api/tenants?limit=1&after=t0").await?)?, ["t1"]);
    assert_eq!(admin.get("/api/tenants?limit=many").await?.status, 400);

    for name in ["t1", "t1.a.b.c", "T1:4000"] {
        let answer = host(name).await?;
        assert_eq!((answer.status, &*answer.body), (200, r#"{"message":"Success"}"#), "{name}");
    }
    for _ in 0..2 {
        let gone = admin.request("DELETE", "/api/tenants/t1", None).await?;
        assert_eq!((gone.status, &*gone.body), (204, ""));
    }
    assert_eq!(admin.get("/api/tenants/t1").await?.status, 404);
    let answer = host("t1").await?;
    assert_eq!((answer.status, &*answer.body), (401, r#"{"message":"Tenant not found in database"}"#));
    let left = admin.metadata.client().query_one("select count(*) from _realtime.extensions", &[]).await?;
    assert_eq!(left.get::<_, i64>(0), 1);
    Ok(())
}

/// http_and_ops 13, 14, 17
#[tokio::test]
async fn fields_and_settings() -> Result<()> {
    let (admin, db) = (Admin::start().await?, TestDb::new().await?);
    let mut extension = extension(&db).await?;
    extension["type"] = json!("postgres");
    extension["settings"]["subcriber_pool_size"] = json!(3);
    let made = admin.put("t", json!({"jwt_secret": TENANT_SECRET, "extensions": [extension]})).await?;
    assert_eq!(made.status, 201, "{made:?}");
    let settings = |answer: &Answer| Ok::<_, anyhow::Error>(data(answer)?["extensions"][0].take());
    let first = settings(&made)?;
    assert_eq!(
        (&first["type"], &first["settings"]["subcriber_pool_size"]),
        (&json!("postgres_cdc_rls"), &json!(3))
    );
    extension["settings"]["postgres_changes_pool"] = json!(10);
    let second = settings(&admin.put("t", json!({"extensions": [extension]})).await?)?;
    assert_eq!(second["settings"]["subcriber_pool_size"], 10);
    assert!(second["settings"].get("postgres_changes_pool").is_none());

    let shown =
        data(&admin.put("t", json!({"presence_enabled": true, "name": "A name", "unknown": 1})).await?)?;
    assert_eq!((&shown["presence_enabled"], &shown["name"]), (&json!(true), &json!("A name")));
    assert_eq!(data(&admin.get("/api/tenants/t").await?)?, shown);
    let mut socket = admin.socket("t", TENANT_SECRET).await?;
    assert_eq!(socket.join("realtime:a", json!({"config": {}})).await?.0["status"], "ok");
    assert_eq!(socket.event("realtime:a", "presence_state").await?, json!({}), "as the tenant has it");
    // PATCH is the same as PUT.
    let patched = admin
        .request("PATCH", "/api/tenants/t", Some(&json!({"tenant": {"max_events_per_second": 0}})))
        .await?;
    assert_eq!(data(&patched)?["max_events_per_second"], 0);
    let ping = admin.server.http("GET", "/api/ping", &[("Host", "t")], b"").await?;
    assert_eq!((ping.status, ping.header("x-rate-limit")), (429, "0"), "http_and_ops 34");
    admin.change("t", json!({"max_events_per_second": 100})).await?;
    assert_eq!(admin.server.http("GET", "/api/ping", &[("Host", "t")], b"").await?.status, 200);
    Ok(())
}

/// Settings are not checked for sense (http_and_ops 1.3): whatever was stored, the tenant alone has the trouble.
#[tokio::test]
async fn absurd_sizes_of_pools_harm_nobody() -> Result<()> {
    let admin = Admin::start().await?;
    let db = TestDb::new().await?;
    admin.make("sane", &db).await?;
    let absurd = [json!(0), json!(-1), json!(1_000_000_000_000_u64), json!(i64::MAX)];
    let settings = ["db_queue_target", "db_pool", "subcriber_pool_size"];
    for (setting, value) in
        settings.iter().flat_map(|setting| absurd.iter().map(move |value| (*setting, value)))
    {
        let mut extension = extension(&db).await?;
        extension["settings"][setting] = value.clone();
        let tenant = json!({"jwt_secret": TENANT_SECRET, "extensions": [extension]});
        let answer = admin.put("absurd", tenant).await?;
        assert!(matches!(answer.status, 200 | 201), "{setting} {value}: {answer:?}");
        let mut socket = admin.socket("absurd", TENANT_SECRET).await?;
        let changes = json!({"config": {"postgres_changes": [{"schema": "public"}]}});
        let (reply, _) = socket.join("realtime:a", changes).await?;
        if setting != "db_queue_target" && value.as_i64().is_some_and(|size| size > 0) {
            let reason =
                "DatabaseLackOfConnections: Database can't accept more connections, Realtime won't connect";
            assert_eq!(
                reply,
                json!({"status": "error", "response": {"reason": reason}}),
                "{setting} {value}"
            );
        } else {
            assert_eq!(reply["status"], "ok", "{setting} {value}: {reply}");
        }
    }
    let mut socket = admin.socket("sane", TENANT_SECRET).await?;
    assert_eq!(socket.join("realtime:a", json!({"config": {}})).await?.0["status"], "ok");
    Ok(())
}

/// http_and_ops 15, 16, 18
#[tokio::test]
async fn what_is_refused() -> Result<()> {
    let (admin, db) = (Admin::start().await?, TestDb::new().await?);
    let extension = extension(&db).await?;
    let refused = |answer: Answer| -> Result<Value> {
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (422, "application/json; charset=utf-8"),
            "{answer:?}"
        );
        let mut body: Value = serde_json::from_str(&answer.body)?;
        Ok(body["errors"].take())
    };
    let blank = json!({"external_id": ["can't be blank"]});
    assert_eq!(refused(admin.post(json!({"external_id": null})).await?)?, blank);
    assert_eq!(refused(admin.post(json!({"name": "x"})).await?)?, blank);
    let keys = json!({"jwt_secret": ["either jwt_secret or jwt_jwks must be provided"]});
    assert_eq!(refused(admin.put("t", json!({"extensions": [extension]})).await?)?, keys);
    let none = json!({"extensions": ["can't be blank"]});
    assert_eq!(refused(admin.put("t", json!({"jwt_secret": "s"})).await?)?, none);
    assert_eq!(refused(admin.put("t", json!({"jwt_secret": "s", "extensions": []})).await?)?, none);

    let mut bad = extension.clone();
    bad["settings"]["db_port"] = json!(5432);
    bad["settings"].as_object_mut().context("settings")?.remove("db_password");
    let both =
        json!({"extensions": [{}, {"settings": ["db_password can't be blank", "db_port is invalid"]}]});
    let tenant = json!({"jwt_secret": "s", "extensions": [{"type": "other", "settings": {}}, bad]});
    assert_eq!(refused(admin.put("t", tenant).await?)?, both);
    let count = admin.metadata.client().query_one("select count(*) from _realtime.tenants", &[]).await?;
    assert_eq!(count.get::<_, i64>(0), 0, "nothing was written");

    let path = "/api/tenants/t";
    for (headers, body) in [
        (&[("Content-Type", "application/json")][..], "{"),
        (&[("Content-Type", "application/json")], "[]"),
        (&[("Content-Type", "application/json")], r#"{"tenant":1}"#),
        (&[("Content-Type", "application/json")], "{}"),
        (&[("Content-Type", "text/plain")], r#"{"tenant":{}}"#),
        (&[], r#"{"tenant":{}}"#),
    ] {
        let bearer = format!("Bearer {}", sign(&json!({})));
        let headers = [headers, &[("Authorization", &*bearer)]].concat();
        let answer = admin.server.http("PUT", path, &headers, body.as_bytes()).await?;
        assert_eq!((answer.status, &*answer.body), (400, "Bad Request"), "{body}");
    }

    admin.make("t", &db).await?;
    let before = admin.get(path).await?.body;
    let row = "select t::text from _realtime.tenants t";
    let stored: String = admin.metadata.client().query_one(row, &[]).await?.get(0);
    let mut socket = admin.socket("t", TENANT_SECRET).await?;
    socket.join("realtime:a", json!({"config": {}})).await?;
    for fields in [
        json!({"jwt_secret": "other", "max_events_per_second": "many"}),
        json!({"jwt_secret": "other", "external_id": "renamed"}),
        json!({"jwt_secret": null}),
        json!({"jwt_secret": "other", "extensions": [{"type": "postgres_cdc_rls", "settings": {}}]}),
        json!({"jwt_secret": "x".repeat(9000)}),
        json!({"name": "nul \0"}),
    ] {
        refused(admin.put("t", fields).await?)?;
    }
    assert_eq!(admin.get(path).await?.body, before);
    assert_eq!(admin.metadata.client().query_one(row, &[]).await?.get::<_, String>(0), stored);
    assert_eq!(socket.settle().await?, [], "nobody noticed");

    // A database that cannot be reached: the tenant stays.
    let mut away = extension.clone();
    away["settings"]["db_port"] = json!("1");
    let answer = admin.put("away", json!({"jwt_secret": "s", "extensions": [away]})).await?;
    assert_eq!((answer.status, &*answer.body), (401, r#"{"message":"Unauthorized"}"#));
    until("the log says why", || async { Ok(admin.server.log().contains("MigrationsFailedToRun")) }).await?;
    assert_eq!(admin.get("/api/tenants/away").await?.status, 200);
    Ok(())
}
