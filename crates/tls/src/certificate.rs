//! The certificate of our own listener, which can be replaced while serving.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::RwLock;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs::Ticketer,
    pki_types::{PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    error::TlsError,
    mode::{certificates, read},
    provider::PROVIDER,
};

const CERTIFICATE: &str = "Certificate file";
const KEY: &str = "Key file";

/// A certificate and its key, in two PEM files. What is loaded stays until something valid can take its place.
#[derive(Debug)]
pub struct Certificate {
    certificate: PathBuf,
    key: PathBuf,
    resolver: Arc<Resolver>,
}

/// What is in use, with the texts that it was read from.
#[derive(Debug)]
struct Loaded {
    texts: (Vec<u8>, Vec<u8>),
    key: Arc<CertifiedKey>,
}

#[derive(Debug)]
struct Resolver(RwLock<Loaded>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().key))
    }
}

impl Certificate {
    /// Reads a certificate, with those that lead to its authority behind it, and its key.
    ///
    /// # Errors
    /// [`TlsError`] when a file cannot be used, or the two do not belong together.
    pub fn load(certificate: PathBuf, key: PathBuf) -> Result<Self, TlsError> {
        let loaded = load(&certificate, &key, texts(&certificate, &key)?)?;
        Ok(Self { certificate, key, resolver: Arc::new(Resolver(RwLock::new(loaded))) })
    }

    /// Reads the files again; true if there was something new in them. On an error what was there stays.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn reload(&self) -> Result<bool, TlsError> {
        let texts = texts(&self.certificate, &self.key)?;
        if texts == self.resolver.0.read().texts {
            return Ok(false);
        }
        *self.resolver.0.write() = load(&self.certificate, &self.key, texts)?;
        Ok(true)
    }

    /// What accepts connections with it, whatever it is at that time. TLS 1.2 and 1.3, HTTP/1.1.
    ///
    /// # Errors
    /// [`TlsError`] when the library refuses.
    pub fn acceptor(&self) -> Result<TlsAcceptor, TlsError> {
        let resolver: Arc<dyn ResolvesServerCert> = Arc::<Resolver>::clone(&self.resolver);
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Clients that come back after a restart of their network, all at once, need no full handshake, and we no memory.
        config.ticketer = Ticketer::new()?;
        Ok(Arc::new(config).into())
    }
}

fn texts(certificate: &Path, key: &Path) -> Result<(Vec<u8>, Vec<u8>), TlsError> {
    Ok((read(CERTIFICATE, certificate)?, read(KEY, key)?))
}

fn load(certificate: &Path, key: &Path, texts: (Vec<u8>, Vec<u8>)) -> Result<Loaded, TlsError> {
    let chain = certificates(CERTIFICATE, certificate, &texts.0)?;
    let private = PrivateKeyDer::from_pem_slice(&texts.1)
        .map_err(|_| TlsError::file(KEY, key, "holds no private key in PEM form"))?;
    let both = CertifiedKey::from_der(chain, private, &PROVIDER)
        .map_err(|error| TlsError::file(KEY, key, format!("does not fit the certificate: {error}")))?;
    Ok(Loaded { texts, key: Arc::new(both) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_replaced_only_by_a_valid_one() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        let write = || {
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            std::fs::write(&certificate, made.cert.pem()).unwrap();
            std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        };
        let load = || Certificate::load(certificate.clone(), key.clone());
        let missing = load().unwrap_err().to_string();
        assert_eq!(missing, format!("Certificate file {}: there is no such file", certificate.display()));
        write();
        let loaded = load().unwrap();
        let served = || loaded.resolver.0.read().key.cert[0].clone();
        let first = served();
        assert!(!loaded.reload().unwrap());
        std::fs::write(&key, "nonsense").unwrap();
        assert!(loaded.reload().unwrap_err().to_string().ends_with("holds no private key in PEM form"));
        let other = rcgen::KeyPair::generate().unwrap();
        std::fs::write(&key, other.serialize_pem()).unwrap();
        assert!(loaded.reload().unwrap_err().to_string().contains("does not fit the certificate"));
        assert_eq!(served(), first);
        write();
        assert!(loaded.reload().unwrap());
        assert_ne!(served(), first);
    }
}
