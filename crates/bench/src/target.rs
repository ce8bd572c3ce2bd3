//! What is measured: the server, or the ideal one.

use anyhow::Result;
use realtime_testkit::{Server, ServerOptions, TestDb};

use crate::{binary::server_binary, encrypted::Certificate, ideal};

/// A process that serves.
pub(crate) enum Target {
    /// The real server with its database.
    Real(Box<Server>, #[expect(dead_code, reason = "lives as long as the server")] Box<TestDb>),
    /// The same behind TLS: with its certificate, and the port at which clients are heard that do not encrypt.
    Encrypted(Box<Self>, #[expect(dead_code, reason = "read by the server")] Certificate, u16),
    /// The denominator.
    Ideal(ideal::Process),
}

impl Target {
    /// The server with limits that nothing here reaches. Its connection to the database stands.
    pub(crate) async fn real() -> Result<Self> {
        Self::start(options()).await
    }

    /// The same; with `history`, it keeps the last hundred broadcasts of each topic for a minute.
    pub(crate) async fn keeping(history: bool) -> Result<Self> {
        let kept = [("BROADCAST_HISTORY_SECONDS", "60"), ("BROADCAST_HISTORY_MESSAGES", "100")];
        let kept = kept.iter().filter(|_| history);
        Self::start(kept.fold(options(), |options, (name, value)| options.env(name, value))).await
    }

    /// The same with its tenant in a metadata database.
    pub(crate) async fn with_metadata() -> Result<Self> {
        Self::start(options().env("DB_ENC_KEY", "1234567890123456")).await
    }

    /// The same behind TLS.
    pub(crate) async fn encrypted() -> Result<Self> {
        let certificate = Certificate::new()?;
        let server = Self::launch(certificate.of(options())).await?;
        let port = certificate.relay(server.port()).await?;
        Self::Encrypted(Box::new(server), certificate, port).warm().await
    }

    async fn start(options: ServerOptions) -> Result<Self> {
        Self::launch(options).await?.warm().await
    }

    async fn launch(options: ServerOptions) -> Result<Self> {
        let db = TestDb::new().await?;
        let server = Server::start(server_binary()?, &db, options).await?;
        Ok(Self::Real(Box::new(server), Box::new(db)))
    }

    /// Its connection to the database stands afterwards.
    async fn warm(self) -> Result<Self> {
        crate::wire::joined(self.port(), "realtime:first", "{}").await?;
        Ok(self)
    }

    /// The ideal server.
    pub(crate) async fn ideal(coalesce: bool) -> Result<Self> {
        Ok(Self::Ideal(ideal::Process::start(coalesce).await?))
    }

    pub(crate) fn port(&self) -> u16 {
        match self {
            Self::Real(server, _) => server.port(),
            Self::Encrypted(_, _, port) => *port,
            Self::Ideal(process) => process.port,
        }
    }

    /// CPU time so far, in seconds.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        match self {
            Self::Real(server, _) => ideal::cpu_seconds(server.pid()),
            Self::Encrypted(server, ..) => server.cpu_seconds(),
            Self::Ideal(process) => process.cpu_seconds(),
        }
    }

    /// Resident memory in bytes; of the real server alone.
    pub(crate) fn resident_bytes(&self) -> Result<u64> {
        match self {
            Self::Real(server, _) => Ok(server.usage()?.resident_bytes),
            Self::Encrypted(server, ..) => server.resident_bytes(),
            Self::Ideal(_) => Ok(0),
        }
    }
}

/// Limits that nothing here reaches.
pub(crate) fn options() -> ServerOptions {
    [
        "TENANT_MAX_JOINS_PER_SECOND",
        "TENANT_MAX_EVENTS_PER_SECOND",
        "TENANT_MAX_PRESENCE_EVENTS_PER_SECOND",
        "CLIENT_PRESENCE_MAX_CALLS",
    ]
    .iter()
    .fold(ServerOptions::default(), |options, name| options.env(name, "100000000"))
}
