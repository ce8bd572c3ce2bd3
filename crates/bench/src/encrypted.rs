//! A server that encrypts, and a way to it for clients that do not.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use realtime_testkit::ServerOptions;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tempfile::TempDir;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsConnector;

/// The certificate of a server, in files.
pub(crate) struct Certificate {
    dir: TempDir,
}

impl Certificate {
    /// Makes one for `localhost` that signs itself.
    pub(crate) fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        std::fs::write(dir.path().join("cert.pem"), made.cert.pem())?;
        std::fs::write(dir.path().join("key.pem"), made.signing_key.serialize_pem())?;
        Ok(Self { dir })
    }

    /// Settings with which a server shows it.
    pub(crate) fn of(&self, options: ServerOptions) -> ServerOptions {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        options.env("TLS_CERT_FILE", &path("cert.pem")).env("TLS_KEY_FILE", &path("key.pem"))
    }

    /// Begins to encrypt for clients that connect to the returned port, in this process: connections of their own to the server.
    pub(crate) async fn relay(&self, server: u16) -> Result<u16> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.dir.path().join("cert.pem"))?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        tokio::spawn(async move {
            while let Ok((plain, _)) = listener.accept().await {
                tokio::spawn(carry(plain, server, connector.clone()));
            }
        });
        Ok(port)
    }
}

async fn carry(mut plain: TcpStream, server: u16, connector: TlsConnector) -> Result<()> {
    plain.set_nodelay(true)?;
    let tcp = TcpStream::connect(("127.0.0.1", server)).await?;
    tcp.set_nodelay(true)?;
    let name = ServerName::try_from("localhost").context("name")?;
    let mut encrypted = connector.connect(name, tcp).await?;
    copy_bidirectional(&mut plain, &mut encrypted).await?;
    Ok(())
}
