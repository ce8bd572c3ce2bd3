//! What a change of a tenant does to those who are connected.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;

const DISCONNECTED: &str = "Server requested disconnect";

/// A tenant with a client that has joined a channel.
struct Served {
    admin: Admin,
    db: TestDb,
    socket: Socket,
}

impl Served {
    async fn start() -> Result<Self> {
        let admin = Admin::start().await?;
        let db = TestDb::with_fixture_a().await?;
        admin.make("t", &db).await?;
        let socket = Self::join(&admin, TENANT_SECRET).await?;
        Ok(Self { admin, db, socket })
    }

    async fn join(admin: &Admin, secret: &str) -> Result<Socket> {
        let mut socket = admin.socket("t", secret).await?;
        let (reply, _) = socket.join("realtime:a", json!({"config": {}})).await?;
        anyhow::ensure!(reply["status"] == "ok", "{reply}");
        Ok(socket)
    }

    /// The client is told and its socket closed; connects again with a secret.
    async fn disconnected(&mut self, secret: &str) -> Result<()> {
        let told = self.socket.event("realtime:a", "system").await?;
        assert_eq!(told, json!({"extension": "system", "status": "ok", "message": DISCONNECTED}));
        assert_eq!(self.socket.close_code().await?, 1012);
        self.socket = Self::join(&self.admin, secret).await?;
        Ok(())
    }

    /// The connections of the pools are all there still: those that come and go by themselves do not count.
    async fn stayed(&self, before: &[i32]) -> Result<()> {
        let now = connections(&self.db).await?;
        assert!(before.iter().any(|pid| now.contains(pid)), "{before:?} {now:?}");
        Ok(())
    }

    /// None of these connections is there any more.
    async fn ended(&self, before: &[i32]) -> Result<()> {
        until("connections end", || async {
            Ok(connections(&self.db).await?.iter().all(|pid| !before.contains(pid)))
        })
        .await
    }
}

/// http_and_ops 19, 20, 21, 44; protocol 6, 91, 92, 93
#[tokio::test]
async fn changes_reach_those_who_are_connected() -> Result<()> {
    let mut served = Served::start().await?;
    let before = connections(&served.db).await?;
    assert!(!before.is_empty());

    // Nobody notices.
    served
        .admin
        .change("t", json!({"name": "other", "max_channels_per_client": 50, "jwt_secret": TENANT_SECRET}))
        .await?;
    let same = extension(&served.db).await?;
    served.admin.change("t", json!({"extensions": [same]})).await?;
    assert_eq!(served.socket.settle().await?, []);
    served.stayed(&before).await?;

    // Another secret: old tokens are worth nothing.
    served.admin.change("t", json!({"jwt_secret": "another-secret"})).await?;
    let old = served.admin.socket("t", TENANT_SECRET).await.err().context("connected")?;
    assert!(old.to_string().contains("401"), "{old}");
    served.disconnected("another-secret").await?;
    served.ended(&before).await?;
    served.admin.server.logged("reason=jwt_secret or jwt_jwks of the tenant has changed").await?;

    // A key set beside it.
    let before = connections(&served.db).await?;
    served.admin.change("t", json!({"jwt_jwks": {"keys": []}})).await?;
    served.disconnected("another-secret").await?;
    served.ended(&before).await?;

    // Private channels alone: the connections to the database stay.
    let before = connections(&served.db).await?;
    served.admin.change("t", json!({"private_only": true})).await?;
    served.socket.event("realtime:a", "system").await?;
    assert_eq!(served.socket.close_code().await?, 1012);
    let mut socket = served.admin.socket("t", "another-secret").await?;
    let (refused, _) = socket.join("realtime:a", json!({"config": {}})).await?;
    assert_eq!(refused["response"]["reason"], "PrivateOnly: This project only allows private channels");
    served.admin.server.logged("reason=private_only of the tenant has changed").await?;
    served.stayed(&before).await?;
    served.admin.change("t", json!({"private_only": false})).await?;
    assert_eq!(socket.close_code().await?, 1012, "a socket without channels too");

    // Suspended: refused, and no connection to the database left; broadcasts over HTTP too.
    served.socket = Served::join(&served.admin, "another-secret").await?;
    served.admin.change("t", json!({"suspend": true})).await?;
    served.socket.event("realtime:a", "system").await?;
    assert_eq!(served.socket.close_code().await?, 1012);
    let line = served.admin.server.logged("reason=the tenant was suspended").await?;
    assert!(line.contains("sockets=") && line.contains("tenant=t"), "{line}");
    let refused = served.admin.socket("t", "another-secret").await.err().context("connected")?;
    assert!(refused.to_string().contains("Realtime was disabled for this tenant"), "{refused}");
    let bearer = format!("Bearer {}", tenant_token("another-secret"));
    let headers = [("Host", "t"), ("Authorization", &*bearer), ("Content-Type", "application/json")];
    let broadcast = br#"{"messages":[{"topic":"a","event":"e","payload":{}}]}"#;
    let answer = served.admin.server.http("POST", "/api/broadcast", &headers, broadcast).await?;
    assert_eq!((answer.status, &*answer.body), (403, r#"{"message":"Tenant is suspended"}"#));
    until("connections end", || async { Ok(connections(&served.db).await?.is_empty()) }).await?;
    served.admin.change("t", json!({"suspend": false})).await?;
    served.socket = Served::join(&served.admin, "another-secret").await?;
    let answer = served.admin.server.http("POST", "/api/broadcast", &headers, broadcast).await?;
    assert_eq!(answer.status, 202);
    assert_eq!(served.socket.event("realtime:a", "broadcast").await?["event"], "e");
    Ok(())
}

/// The tenant moves to another database under its clients: who watches is told of the gap, then served from there, and
/// what the policies of the last database let in is judged by those of the next. http_and_ops 22
#[tokio::test]
async fn another_database() -> Result<()> {
    let mut served = Served::start().await?;
    let next = TestDb::with_fixture_a().await?;
    let policies = "create policy read on realtime.messages for select to anon using (true)";
    served.db.sql(policies).await?;
    let private = json!({"config": {"private": true}});
    let (joined, _) = served.socket.join("realtime:private", private).await?;
    assert_eq!(joined["status"], "ok", "{joined}");
    served.socket.watch("realtime:w", json!([{"event": "*", "schema": "public", "table": "test"}])).await?;
    let before = connections(&served.db).await?;

    served.admin.change("t", json!({"extensions": [extension(&next).await?]})).await?;
    let told = served.socket.event("realtime:w", "system").await?;
    assert_eq!((&told["extension"], &told["status"]), (&json!("postgres_changes"), &json!("gap")), "{told}");
    served.ended(&before).await?;
    let told = served.socket.event("realtime:private", "system").await?;
    assert_eq!(told["status"], "error", "no policy lets anybody in there: {told}");
    served.socket.event("realtime:private", "phx_close").await?;
    let told = served.socket.event("realtime:w", "system").await?;
    assert_eq!((&told["status"], &told["message"]), (&json!("ok"), &json!("Subscribed to PostgreSQL")));
    served.db.sql("insert into public.test (details) values ('old')").await?;
    next.sql("insert into public.test (details) values ('new')").await?;
    let change = served.socket.event("realtime:w", "postgres_changes").await?;
    assert_eq!(change["data"]["record"]["details"], "new");
    assert_eq!(connections(&served.db).await?, [0_i32; 0], "nobody comes back to the old one");
    Ok(())
}

/// http_and_ops 23; protocol 38
#[tokio::test]
async fn a_tenant_is_removed() -> Result<()> {
    let db = TestDb::with_fixture_a().await?;
    // Names of slots are the cluster's.
    let suffix = db.name().trim_start_matches("test_")[..8].to_owned();
    let options = ServerOptions::default().env("SLOT_DURABLE", "true").env("SLOT_NAME_SUFFIX", &suffix);
    let admin = Admin::start_with(options).await?;
    admin.make("t", &db).await?;
    db.sql(
        "select pg_create_logical_replication_slot('supabase_realtime_messages_replication_slot_', 'pgoutput');
         select pg_create_logical_replication_slot('of_somebody_else_' || current_database(), 'pgoutput')",
    )
    .await?;
    let mut socket = admin.socket("t", TENANT_SECRET).await?;
    socket.watch("realtime:w", json!([{"event": "*", "schema": "public", "table": "test"}])).await?;
    let slots = || async {
        let sql =
            "select slot_name::text from pg_replication_slots where database = current_database() order by 1";
        let rows = db.client().query(sql, &[]).await?;
        Ok::<_, anyhow::Error>(rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>())
    };
    // Those two, the one that is read, and the one that stays behind it.
    until("all slots are made", || async { Ok(slots().await?.len() == 4) }).await?;

    let gone = admin.request("DELETE", "/api/tenants/t", None).await?;
    assert_eq!((gone.status, &*gone.body), (204, ""));
    socket.event("realtime:w", "system").await?;
    assert_eq!(socket.close_code().await?, 1012);
    let refused = admin.socket("t", TENANT_SECRET).await.err().context("connected")?;
    assert!(refused.to_string().contains("404"), "{refused}");
    until("its slots are dropped", || async { Ok(slots().await?.len() == 1) }).await?;
    assert!(slots().await?[0].starts_with("of_somebody_else_"));
    // The one that has dropped them is the last to go.
    until("connections end", || async { Ok(connections(&db).await?.is_empty()) }).await?;
    db.sql(&format!("select pg_drop_replication_slot('{}')", slots().await?[0])).await?;

    // A tenant of the same name knows nothing of the old one.
    admin.make("t", &db).await?;
    let mut socket = admin.socket("t", TENANT_SECRET).await?;
    socket.watch("realtime:w", json!([{"event": "*", "schema": "public", "table": "test"}])).await?;
    db.sql("insert into public.test (details) values ('x')").await?;
    socket.event("realtime:w", "postgres_changes").await?;
    admin.request("DELETE", "/api/tenants/t", None).await?;
    until("its slots are dropped", || async { Ok(slots().await?.is_empty()) }).await?;
    Ok(())
}

/// Clients come all the time with the old secret while it is changed, again and again: none of those let in stays.
#[tokio::test]
async fn no_socket_outlives_its_keys() -> Result<()> {
    let admin = Arc::new(Admin::start().await?);
    let db = TestDb::new().await?;
    admin.make("t", &db).await?;
    let mut secret = TENANT_SECRET.to_owned();
    for round in 0..8 {
        let next = format!("secret-{round}");
        let (over, came) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let comers: Vec<_> = (0..4)
            .map(|_| {
                let (admin, secret) = (Arc::clone(&admin), secret.clone());
                let (over, came) = (Arc::clone(&over), Arc::clone(&came));
                tokio::spawn(async move {
                    let mut sockets = Vec::new();
                    while !over.load(Ordering::Relaxed) && sockets.len() < 200 {
                        sockets.extend(admin.socket("t", &secret).await.ok());
                        came.store(sockets.len(), Ordering::Relaxed);
                    }
                    sockets
                })
            })
            .collect();
        until("somebody came", || async { Ok(came.load(Ordering::Relaxed) > 0) }).await?;
        admin.change("t", json!({"jwt_secret": next})).await?;
        over.store(true, Ordering::Relaxed);
        for comer in comers {
            for mut socket in comer.await? {
                assert_eq!(socket.close_code().await?, 1012);
            }
        }
        secret = next;
    }
    Served::join(&admin, &secret).await?;
    Ok(())
}
