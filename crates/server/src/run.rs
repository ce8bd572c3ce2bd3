//! From settings to a running server, and back down.

use std::{io, process::ExitCode, sync::Arc, time::Duration};

use realtime_cluster::ConnectError;
use realtime_codes::ErrorCode;
use realtime_tls::Certificate;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{
    cli::EXIT_CONFIG,
    config::Settings,
    dashboard, http,
    node::{self, Node},
    operators::{answer::answer_others, history, metrics::push, status},
    process::{ignore_other_signals, raise_descriptor_limit, stop_or_end_of_input, stop_signal},
    transport::listener,
    web::Web,
};

/// How long a server waits for its first connection to NATS before it serves.
const FIRST_CONNECTION: Duration = Duration::from_secs(1);

/// Pause between two looks at the files of the certificate.
const CERTIFICATE_INTERVAL: Duration = Duration::from_secs(60);

/// Serves until the process is asked to stop, or until standard input ends if that is wanted.
pub async fn serve(settings: Settings, until_stdin_ends: bool) -> ExitCode {
    raise_descriptor_limit();
    let port = settings.port;
    let server = match Server::bind(settings) {
        Ok(server) => server,
        Err(error) => {
            tracing::error!(%error, port, "the server cannot start; if the port is taken, set PORT to another one");
            return ExitCode::FAILURE;
        }
    };
    if let Err(error) = server.join_others().await {
        tracing::error!(%error, "cannot join the other nodes");
        return ExitCode::from(EXIT_CONFIG);
    }
    if let Ok(port) = server.port() {
        tracing::info!(port, version = env!("CARGO_PKG_VERSION"), "serving");
    }
    ignore_other_signals();
    let stop = stop_signal();
    server
        .run(async move { if until_stdin_ends { stop_or_end_of_input(stop).await } else { stop.await } })
        .await;
    ExitCode::SUCCESS
}

/// A server that has bound its port.
pub struct Server {
    web: Web,
    listener: TcpListener,
    stopping: CancellationToken,
    /// The certificate and the acceptor, if connections are encrypted.
    tls: Option<(Arc<Certificate>, TlsAcceptor)>,
}

impl Server {
    /// Binds the port.
    ///
    /// # Errors
    /// Those of the operating system, for example that the port is taken.
    pub fn bind(settings: Settings) -> io::Result<Self> {
        let listener = listener::bind(settings.listen, settings.port)?;
        let accept = |certificate: &Arc<Certificate>| {
            let acceptor = certificate.acceptor().map_err(io::Error::other)?;
            io::Result::Ok((Arc::clone(certificate), acceptor))
        };
        let tls = settings.certificate.as_ref().map(accept).transpose()?;
        let stopping = CancellationToken::new();
        let node = Node::new(settings, stopping.clone()).map_err(io::Error::other)?;
        let web = Web::new(node);
        answer_others(&web.gathered);
        Ok(Self { web, listener, stopping, tls })
    }

    /// The node that it serves.
    #[must_use]
    pub fn node(&self) -> &Arc<Node> {
        &self.web.node
    }

    /// The port that was bound.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn port(&self) -> io::Result<u16> {
        Ok(self.listener.local_addr()?.port())
    }

    /// Begins to talk to other nodes, if there can be any, and waits a moment for the connection: a client that joins
    /// earlier hears only this node.
    ///
    /// # Errors
    /// If the settings cannot be used. Servers that cannot be reached are no error; the node retries.
    pub async fn join_others(&self) -> Result<(), ConnectError> {
        match self.web.node.cluster() {
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
        let node = Arc::clone(&self.web.node);
        node::begin(&node).await;
        let pusher = node.settings().operations.pusher.clone();
        let pushing = pusher.map(|pusher| tokio::spawn(push::run(Arc::clone(&self.web.gathered), pusher)));
        node.sockets().spawn(status::watch(Arc::clone(&self.web.status)));
        node.sockets().spawn(history::watch(Arc::clone(&node), Arc::clone(self.web.gathered.history())));
        node.sockets().spawn(node::forget_idle(Arc::clone(&node)));
        let router = http::router(self.web, dashboard::router(&node));
        let (certificate, acceptor) = self.tls.unzip();
        let stopping = self.stopping.clone();
        let places = Arc::clone(node.places());
        let patience = node.settings().send_timeout;
        let serving =
            tokio::spawn(listener::serve(self.listener, router, places, acceptor, patience, stopping));
        tokio::spawn(self.stopping.clone().run_until_cancelled_owned(follow(certificate)));
        stop.await;
        tracing::info!("stopping");
        self.stopping.cancel();
        node.shut_down(async {
            let _ = serving.await;
        })
        .await;
        if let Some(pushing) = pushing {
            pushing.abort();
        }
    }
}

/// Starts to use a new certificate when its files have changed, on SIGHUP or at a regular look. Without a certificate,
/// SIGHUP does nothing; by default it would end the process.
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
                let code = ErrorCode::CertificateNotReloaded.as_str();
                tracing::error!(code, %error, "the certificate in use stays");
                failed = true;
                continue;
            }
            Err(_) => continue,
        }
        failed = false;
    }
}
