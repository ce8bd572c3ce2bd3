//! From settings to a running server, and back down.

use std::{io, sync::Arc, time::Duration};

use rand::Rng as _;
use realtime_cluster::ConnectError;
use realtime_tls::Certificate;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    config::Settings,
    http::{self, listener},
    idle, metadata, status,
    tenant_runtime::TenantRuntime,
};

/// Pause between attempts to reach a database at start: doubles up to the second value, with jitter.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// How long a server waits for its first connection to NATS before it serves.
const FIRST_CONNECTION: Duration = Duration::from_secs(1);

/// How often the files of the certificate are looked at.
const CERTIFICATE_INTERVAL: Duration = Duration::from_secs(60);

/// A server that has its port.
pub struct Server {
    app: Arc<App>,
    listener: TcpListener,
    stopping: CancellationToken,
    /// With what it encrypts connections, if it does.
    tls: Option<(Arc<Certificate>, TlsAcceptor)>,
}

impl Server {
    /// Takes the port.
    ///
    /// # Errors
    /// What the operating system says, for example that the port is taken.
    pub fn bind(settings: Settings) -> io::Result<Self> {
        let listener = listener::bind(settings.listen, settings.port)?;
        let accept = |certificate: &Arc<Certificate>| {
            let acceptor = certificate.acceptor().map_err(io::Error::other)?;
            io::Result::Ok((Arc::clone(certificate), acceptor))
        };
        let tls = settings.certificate.as_ref().map(accept).transpose()?;
        let stopping = CancellationToken::new();
        let app = App::new(settings, stopping.clone()).map_err(io::Error::other)?;
        Ok(Self { app, listener, stopping, tls })
    }

    /// What the server shares.
    #[must_use]
    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// The port that was taken.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn port(&self) -> io::Result<u16> {
        Ok(self.listener.local_addr()?.port())
    }

    /// Begins to talk to other nodes, if there can be any, and waits a moment for the connection: who joins before it hears
    /// this node alone.
    ///
    /// # Errors
    /// When the settings cannot be used. Servers that are not there are no error: they are tried again.
    pub async fn join_others(&self) -> Result<(), ConnectError> {
        match self.app.cluster() {
            Some(cluster) => {
                cluster.start().await?;
                cluster.connected(FIRST_CONNECTION).await;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Serves until `stop` is done, then lets requests end and closes sockets with code 1012.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        metadata::begin(&self.app).await;
        let pushing = self.app.push_metrics();
        self.app.sockets().spawn(status::watch(Arc::clone(&self.app)));
        self.app.sockets().spawn(idle::watch(Arc::clone(&self.app)));
        let router = http::router(Arc::clone(&self.app));
        let (certificate, acceptor) = self.tls.unzip();
        let stopping = self.stopping.clone();
        let places = Arc::clone(self.app.places());
        let serving = tokio::spawn(listener::serve(self.listener, router, places, acceptor, stopping));
        tokio::spawn(self.stopping.clone().run_until_cancelled_owned(follow(certificate)));
        stop.await;
        tracing::info!("stopping");
        self.stopping.cancel();
        self.app
            .shut_down(async {
                let _ = serving.await;
            })
            .await;
        if let Some(pushing) = pushing {
            pushing.abort();
        }
    }
}

/// Takes a new certificate into use when its files have changed: on SIGHUP, or when they are looked at. Without a
/// certificate SIGHUP asks for nothing, and does not end the process as it would by itself.
async fn follow(certificate: Option<Arc<Certificate>>) {
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => hangup,
        Err(error) => {
            tracing::error!(%error, "cannot listen for SIGHUP: the certificate is not read again");
            return;
        }
    };
    let Some(certificate) = certificate else {
        while hangup.recv().await.is_some() {
            tracing::info!("there is no certificate to read again");
        }
        return;
    };
    let mut failed = false;
    loop {
        let asked = time::timeout(CERTIFICATE_INTERVAL, hangup.recv()).await.is_ok();
        match certificate.reload() {
            Ok(true) => tracing::info!("serving with a new certificate"),
            Ok(false) => {}
            Err(error) if asked || !failed => {
                tracing::error!(code = "CertificateNotReloaded", %error, "the certificate in use stays");
                failed = true;
                continue;
            }
            Err(_) => continue,
        }
        failed = false;
    }
}

/// Tries to reach a tenant's database until it works; says so once, and again when it works.
pub async fn connect(runtime: &TenantRuntime) {
    let tenant = runtime.tenant();
    let mut pause = RETRY.0;
    let mut failed = false;
    loop {
        if runtime.tenant().suspend {
            return;
        }
        match runtime.database().try_on().await {
            Ok(()) => {
                tracing::info!(tenant = &*tenant.external_id, "connected to the tenant's database");
                return;
            }
            Err(error) => {
                if !failed {
                    let code = "UnableToConnectToTenantDatabase";
                    tracing::error!(tenant = &*tenant.external_id, code, %error, "cannot reach the tenant's database, trying on");
                }
                failed = true;
            }
        }
        let jitter = rand::rng().random_range(0.5..1.0);
        time::sleep(pause.mul_f64(jitter)).await;
        pause = (pause * 2).min(RETRY.1);
    }
}
