//! The admin API, on a real metadata database and real databases of tenants.

mod access;
mod life;
mod operations;
mod tenants;

use std::sync::Arc;

use anyhow::{Context as _, Result};
use realtime_testkit::{
    Answer, Server, ServerOptions, Socket, TestDb, Version, sign, sign_with, unix_now, until,
};
use serde_json::{Value, json};

use crate::BINARY;

/// Secret of the tokens of the tenants that the tests make.
pub(crate) const TENANT_SECRET: &str = "a1d99c8b-91b6-47b2-8f3c-aa7d9a9ad20f";

/// A server with a metadata database in which there is no tenant yet.
pub(crate) struct Admin {
    pub(crate) server: Server,
    metadata: Arc<TestDb>,
}

impl Admin {
    pub(crate) async fn start() -> Result<Self> {
        Self::start_with(ServerOptions::default()).await
    }

    pub(crate) async fn start_with(options: ServerOptions) -> Result<Self> {
        Self::on(Arc::new(TestDb::new().await?), options).await
    }

    /// Another server on the same metadata database.
    async fn another(&self) -> Result<Self> {
        Self::on(Arc::clone(&self.metadata), ServerOptions::default()).await
    }

    pub(crate) async fn on(metadata: Arc<TestDb>, options: ServerOptions) -> Result<Self> {
        let options = ServerOptions::default()
            .env("DB_ENC_KEY", "1234567890123456")
            .env("SEED_SELF_HOST", "false")
            .env("TENANT_MAX_CONCURRENT_USERS", "200")
            .and(options);
        let server = Server::start(BINARY, &metadata, options).await?;
        server.administered().await?;
        Ok(Self { server, metadata })
    }

    /// A request of an administrator.
    pub(crate) async fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        let bearer = format!("Bearer {}", sign(&json!({})));
        let mut headers = vec![("Authorization", bearer.as_str())];
        headers.extend(body.map(|_| ("Content-Type", "application/json")));
        let body = body.map(Value::to_string).unwrap_or_default();
        self.server.http(method, path, &headers, body.as_bytes()).await
    }

    /// A text of the metadata database.
    pub(crate) async fn stored(&self, sql: &str) -> Result<String> {
        Ok(self.metadata.client().query_one(sql, &[]).await?.get(0))
    }

    async fn get(&self, path: &str) -> Result<Answer> {
        self.request("GET", path, None).await
    }

    async fn put(&self, external_id: &str, tenant: Value) -> Result<Answer> {
        self.request("PUT", &format!("/api/tenants/{external_id}"), Some(&json!({ "tenant": tenant }))).await
    }

    async fn post(&self, tenant: Value) -> Result<Answer> {
        self.request("POST", "/api/tenants", Some(&json!({ "tenant": tenant }))).await
    }

    /// Makes a tenant on a database.
    pub(crate) async fn make(&self, external_id: &str, db: &TestDb) -> Result<()> {
        let answer = self
            .post(json!({
                "external_id": external_id,
                "jwt_secret": TENANT_SECRET,
                "extensions": [extension(db).await?],
            }))
            .await?;
        anyhow::ensure!(answer.status == 201, "{answer:?}");
        Ok(())
    }

    /// Changes a tenant.
    pub(crate) async fn change(&self, external_id: &str, fields: Value) -> Result<()> {
        let answer = self.put(external_id, fields).await?;
        anyhow::ensure!(answer.status == 200, "{answer:?}");
        Ok(())
    }

    pub(crate) async fn health(&self, external_id: &str) -> Result<Value> {
        let answer = self.get(&format!("/api/tenants/{external_id}/health")).await?;
        anyhow::ensure!(answer.status == 200, "{answer:?}");
        data(&answer)
    }

    /// A socket of a tenant, with a token of `anon`.
    pub(crate) async fn socket(&self, external_id: &str, secret: &str) -> Result<Socket> {
        let url = format!(
            "ws://127.0.0.1:{}/socket/websocket?vsn=2.0.0&apikey={}",
            self.server.port(),
            tenant_token(secret)
        );
        match Socket::try_connect(&url, &[("host", external_id)], Version::V2).await? {
            Ok(socket) => Ok(socket),
            Err(refused) => anyhow::bail!("{refused:?}"),
        }
    }
}

pub(crate) fn tenant_token(secret: &str) -> String {
    sign_with(secret, &json!({"role": "anon", "exp": unix_now() + 3600}))
}

/// `data` of an answer.
fn data(answer: &Answer) -> Result<Value> {
    let mut body: Value = serde_json::from_str(&answer.body).with_context(|| answer.body.clone())?;
    Ok(body["data"].take())
}

/// The entry of `extensions` that means a database.
pub(crate) async fn extension(db: &TestDb) -> Result<Value> {
    let mut settings = json!({"region": "us-east-1", "ssl_enforced": false});
    for (name, value) in db.env().await? {
        settings[name.to_ascii_lowercase()] = json!(value);
    }
    Ok(json!({"type": "postgres_cdc_rls", "settings": settings}))
}

/// Connections of servers to a database: process ids.
pub(crate) async fn connections(db: &TestDb) -> Result<Vec<i32>> {
    let rows = db
        .client()
        .query(
            "select pid from pg_stat_activity where datname = current_database() and application_name like 'realtime%'
             order by pid",
            &[],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
