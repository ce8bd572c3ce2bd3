//! All sockets of a tenant are ended. The server runs inside the test, which plays the operator.

use std::sync::Arc;

use anyhow::Result;
use realtime_server::{
    config::{Env, Settings},
    node::Node,
    run::Server,
};
use realtime_tenants::{Tenant, Tenants};
use realtime_testkit::{Refused, SECRET, Socket, TestDb, Version, token};
use serde_json::{Value, json};
use tokio::{sync::oneshot, task::JoinHandle};

struct Inside {
    node: Arc<Node>,
    port: u16,
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
}

impl Inside {
    async fn start(db: &TestDb) -> Result<Self> {
        let mut variables = db.env().await?;
        for (name, value) in [("PORT", "0"), ("API_JWT_SECRET", SECRET), ("CONNECT_ERROR_BACKOFF_MS", "0")] {
            variables.push((name.to_owned(), value.to_owned()));
        }
        let lookup = |name: &str| variables.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
        let server = Server::bind(Settings::from_env(&Env::new(&lookup))?)?;
        let (node, port) = (Arc::clone(server.node()), server.port()?);
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(server.run(async {
            let _ = stopped.await;
        }));
        Ok(Self { node, port, stop, running })
    }

    async fn socket(&self, version: Version) -> Result<Socket> {
        Socket::connect(self.port, version, &token("anon")).await
    }

    fn change(&self, change: impl FnOnce(&mut Tenant)) {
        let Tenants::Configured(registry) = self.node.tenants() else { panic!("of the configuration") };
        let mut tenant = (*registry.get("realtime-dev").unwrap()).clone();
        change(&mut tenant);
        registry.put(tenant);
        drop(self.node.follow("realtime-dev"));
    }

    async fn stop(self) -> Result<()> {
        let _ = self.stop.send(());
        Ok(self.running.await?)
    }
}

/// protocol 6, 91, 93, http_and_ops 44
#[tokio::test]
async fn each_channel_is_told_before_the_socket_closes() -> Result<()> {
    let db = TestDb::new().await?;
    let server = Inside::start(&db).await?;
    for version in Version::BOTH {
        let mut socket = server.socket(version).await?;
        for n in 0..10 {
            let (reply, _) = socket.join(&format!("realtime:{n}"), json!({"config": {}})).await?;
            assert_eq!(reply["status"], "ok");
        }
        let mut idle = server.socket(version).await?;
        idle.settle().await?;
        server.node.disconnect(&server.node.runtime("realtime-dev").await.unwrap(), "the test wants it");
        let mut topics = Vec::new();
        for _ in 0..10 {
            let frame = socket.frame().await?;
            assert_eq!(
                (&*frame.event, &frame.join_ref, &frame.msg_ref),
                ("system", &Value::Null, &Value::Null)
            );
            let message = "Server requested disconnect";
            assert_eq!(frame.payload, json!({"extension": "system", "status": "ok", "message": message}));
            topics.push(frame.topic);
        }
        topics.sort();
        topics.dedup();
        assert_eq!(topics.len(), 10);
        assert_eq!(socket.close_code().await?, 1012);
        assert_eq!(idle.close_code().await?, 1012);
    }
    server.change(|tenant| tenant.suspend = true);
    let url = format!("ws://localhost:{}/socket/websocket?apikey={}", server.port, token("anon"));
    let refused = Socket::try_connect(&url, &[], Version::V1).await?.err();
    let Some(Refused { status, body, .. }) = refused else { panic!("connected") };
    assert_eq!((status, &*body), (403, r#"{"error":"Realtime was disabled for this tenant"}"#));
    let bearer = format!("Bearer {}", token("anon"));
    for (path, body) in [
        ("/api/broadcast", r#"{"messages":[{"topic":"0","event":"e","payload":{}}]}"#),
        ("/api/broadcast/0/events/e", "{}"),
    ] {
        let headers = [("Authorization", &*bearer), ("Content-Type", "application/json")];
        let answer = realtime_testkit::http(server.port, "POST", path, &headers, body.as_bytes()).await?;
        assert_eq!((answer.status, &*answer.body), (403, r#"{"message":"Tenant is suspended"}"#));
    }
    server.stop().await
}

/// protocol 35, 36, 92: limits change under open sockets.
#[tokio::test]
async fn other_changes_disturb_nobody() -> Result<()> {
    let db = TestDb::new().await?;
    let server = Inside::start(&db).await?;
    server.change(|tenant| {
        tenant.limits.max_concurrent_users = 1;
        tenant.limits.max_channels_per_client = 2;
    });
    let mut first = server.socket(Version::V2).await?;
    let mut second = server.socket(Version::V2).await?;
    for topic in ["realtime:a", "realtime:b"] {
        assert_eq!(first.join(topic, json!({"config": {}})).await?.0["status"], "ok");
    }
    // Refused joins are answered after their back-off, which other messages do not wait for.
    let too_many = json!({"reason": "ChannelRateLimitReached: Too many channels"});
    assert_eq!(first.join("realtime:c", json!({"config": {}})).await?.0["response"], too_many);
    let too_many = json!({"reason": "ConnectionRateLimitReached: Too many connected users"});
    assert_eq!(second.join("realtime:a", json!({"config": {}})).await?.0["response"], too_many);
    server.change(|tenant| {
        tenant.limits.max_concurrent_users = 2;
        tenant.limits.max_channels_per_client = 3;
    });
    assert_eq!(first.join("realtime:c", json!({"config": {}})).await?.0["status"], "ok");
    assert_eq!(second.join("realtime:a", json!({"config": {}})).await?.0["status"], "ok");
    assert_eq!(first.settle().await?, [], "no frame for what was there");
    server.stop().await
}

/// protocol 60
#[tokio::test]
async fn presence_for_all_channels_of_a_tenant() -> Result<()> {
    let db = TestDb::new().await?;
    let server = Inside::start(&db).await?;
    server.change(|tenant| tenant.presence_enabled = true);
    let mut socket = server.socket(Version::V1).await?;
    socket.join("realtime:a", json!({"config": {}})).await?;
    assert_eq!(socket.event("realtime:a", "presence_state").await?, json!({}));
    server.stop().await
}
