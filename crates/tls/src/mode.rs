//! The modes of TLS to a database, with the names and meanings of PostgreSQL's own clients.

use std::{
    fmt, io,
    path::Path,
    str::FromStr,
    sync::{Arc, LazyLock},
};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use crate::{
    error::TlsError,
    provider::PROVIDER,
    verify::{AnyCertificate, AnyName},
};

/// Whether a connection is encrypted, and what the server has to prove (`sslmode` of libpq).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsMode {
    /// Never encrypted.
    #[default]
    Disable,
    /// Encrypted if the server can, its certificate not verified. No protection against anybody in between.
    Prefer,
    /// Encrypted, the certificate not verified: what `ssl_enforced` means (tenant_database 8.4).
    Require,
    /// Encrypted, the certificate signed by a trusted authority, for any name.
    VerifyCa,
    /// Encrypted, the certificate signed by a trusted authority, and for the host that was asked for.
    VerifyFull,
}

impl TlsMode {
    /// All modes and their names.
    pub const NAMES: [(&'static str, Self); 5] = [
        ("disable", Self::Disable),
        ("prefer", Self::Prefer),
        ("require", Self::Require),
        ("verify-ca", Self::VerifyCa),
        ("verify-full", Self::VerifyFull),
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, mode)| *mode == self).map_or("disable", |(name, _)| name)
    }

    /// Whether the server's certificate is verified.
    #[must_use]
    pub const fn verifies(self) -> bool {
        matches!(self, Self::VerifyCa | Self::VerifyFull)
    }
}

impl fmt::Display for TlsMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for TlsMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::NAMES.iter().find(|(name, _)| *name == text).map(|(_, mode)| *mode);
        found.ok_or_else(|| {
            let names: Vec<_> = Self::NAMES.iter().map(|(name, _)| *name).collect();
            format!("must be one of {}, not {text:?}", names.join(", "))
        })
    }
}

/// TLS to a database: a mode, and what is needed for it. Cheap to clone.
#[derive(Clone, Default)]
pub struct Tls {
    mode: TlsMode,
    ca_file: Option<Arc<Path>>,
    /// `None` only if nothing is ever encrypted.
    client: Option<Arc<ClientConfig>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("mode", &self.mode).field("ca_file", &self.ca_file).finish()
    }
}

impl Tls {
    /// Never encrypted.
    #[must_use]
    pub fn disable() -> Self {
        Self::default()
    }

    /// Encrypted, the server's certificate not verified: what `ssl_enforced` means.
    #[must_use]
    pub fn require() -> Self {
        Self { mode: TlsMode::Require, ca_file: None, client: Some(Arc::clone(&UNVERIFIED)) }
    }

    /// TLS of a mode. Certificates are verified against the authorities of a PEM file, or against those that the
    /// system trusts. The file is read here, once.
    ///
    /// # Errors
    /// [`TlsError`] when there is nothing to verify against.
    pub fn new(mode: TlsMode, ca_file: Option<&Path>) -> Result<Self, TlsError> {
        let client = match mode {
            TlsMode::Disable => None,
            TlsMode::Prefer | TlsMode::Require => Some(Arc::clone(&UNVERIFIED)),
            TlsMode::VerifyCa => {
                let verifier = AnyName::new(roots(ca_file)?);
                Some(Arc::new(
                    builder()?
                        .dangerous()
                        .with_custom_certificate_verifier(Arc::new(verifier))
                        .with_no_client_auth(),
                ))
            }
            TlsMode::VerifyFull => {
                Some(Arc::new(builder()?.with_root_certificates(roots(ca_file)?).with_no_client_auth()))
            }
        };
        Ok(Self { mode, ca_file: ca_file.map(Into::into), client })
    }

    /// TLS as `DB_SSL` and `DB_SSL_CA_CERT` ask for it (http_and_ops 5): none, encryption, or with a file also a server
    /// that proves its name.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of_variables(ssl: bool, ca_file: Option<&Path>) -> Result<Self, TlsError> {
        let mode = match (ssl, ca_file) {
            (false, _) => TlsMode::Disable,
            (true, None) => TlsMode::Require,
            (true, Some(_)) => TlsMode::VerifyFull,
        };
        Self::new(mode, ca_file.filter(|_| ssl))
    }

    /// The mode.
    #[must_use]
    pub fn mode(&self) -> TlsMode {
        self.mode
    }

    /// The file of authorities that certificates are verified against, if not those that the system trusts.
    #[must_use]
    pub fn ca_file(&self) -> Option<&Path> {
        self.ca_file.as_deref()
    }

    /// The configuration for a handshake.
    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        self.client.as_ref().map_or_else(|| Arc::clone(&UNVERIFIED), Arc::clone)
    }
}

/// Accepts any certificate.
static UNVERIFIED: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let verifier = Arc::new(AnyCertificate);
    #[expect(clippy::expect_used, reason = "the provider has TLS 1.2 and 1.3, whatever the input")]
    let builder = builder().expect("the protocol versions are the provider's own");
    Arc::new(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
});

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, TlsError> {
    Ok(ClientConfig::builder_with_provider(Arc::clone(&PROVIDER)).with_safe_default_protocol_versions()?)
}

/// The authorities of a file, or those that the system trusts.
fn roots(file: Option<&Path>) -> Result<Arc<RootCertStore>, TlsError> {
    const WHAT: &str = "CA file";
    let mut roots = RootCertStore::empty();
    if let Some(path) = file {
        for certificate in certificates(WHAT, path, &read(WHAT, path)?)? {
            roots.add(certificate).map_err(|error| TlsError::file(WHAT, path, error))?;
        }
    } else {
        // Authorities that cannot be read are left out: the others can still be trusted.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(TlsError::NoRoots);
        }
    }
    Ok(Arc::new(roots))
}

/// The certificates of a PEM file, at least one.
pub(crate) fn certificates(
    what: &'static str,
    path: &Path,
    text: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => {
            Err(TlsError::file(what, path, "holds no certificate in PEM form"))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(TlsError::file(what, path, error)),
    }
}

/// A file.
pub(crate) fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| TlsError::file(what, path, kind(&error)))
}

/// The operating system's error as a text without its number.
fn kind(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "may not be read".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for (name, mode) in TlsMode::NAMES {
            assert_eq!(name.parse(), Ok(mode));
            assert_eq!(mode.to_string(), name);
        }
        let error = "on".parse::<TlsMode>().unwrap_err();
        assert_eq!(error, "must be one of disable, prefer, require, verify-ca, verify-full, not \"on\"");
    }

    #[test]
    fn what_the_variables_mean() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&path, key.cert.pem()).unwrap();
        let mode = |ssl, file| Tls::of_variables(ssl, file).unwrap().mode();
        assert_eq!(mode(false, None), TlsMode::Disable);
        assert_eq!(mode(false, Some(&*path)), TlsMode::Disable);
        assert_eq!(mode(true, None), TlsMode::Require);
        assert_eq!(mode(true, Some(&*path)), TlsMode::VerifyFull);
    }

    #[test]
    fn files_that_are_of_no_use_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let refused = || Tls::new(TlsMode::VerifyCa, Some(&path)).unwrap_err().to_string();
        assert_eq!(refused(), format!("CA file {}: there is no such file", path.display()));
        std::fs::write(&path, "nonsense").unwrap();
        assert_eq!(refused(), format!("CA file {}: holds no certificate in PEM form", path.display()));
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        assert!(refused().starts_with(&format!("CA file {}: ", path.display())));
    }
}
