//! How a node finds the others.

use std::path::{Path, PathBuf};

use nkeys::{KeyPair, KeyPairType};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::Duration;

/// How to reach NATS, and how this node presents itself there.
#[derive(Debug, Clone)]
pub struct NatsConfig {
    /// Addresses of NATS servers of one cluster, without credentials.
    pub servers: Vec<String>,
    /// How to log in.
    pub credentials: Credentials,
    /// Refuse connections without TLS. Servers that ask for TLS get it in any case.
    pub require_tls: bool,
    /// File with certificates of authorities to trust, instead of those of the system.
    pub ca: Option<PathBuf>,
    /// Files with a certificate and its key, for servers that ask for one.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// First part of all subjects: clusters that share NATS servers need different ones.
    pub prefix: String,
    /// The name of this node.
    pub node_name: String,
    /// The region that it runs in.
    pub region: Option<String>,
    /// Version of the program, to show.
    pub version: &'static str,
    /// How often a node says that it is there.
    pub heartbeat: Duration,
    /// How long a silent node is believed to be alive.
    pub node_timeout: Duration,
    /// How long a tenant's messages are still received after its last socket has gone.
    pub linger: Duration,
}

/// How to log in to NATS.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// Not at all.
    None,
    /// By name and password.
    Password {
        /// Name.
        user: String,
        /// Password.
        password: SecretString,
    },
    /// By a token.
    Token(SecretString),
    /// By the seed of an NKey.
    NKey(SecretString),
    /// By a file with a JWT and the seed of its NKey. It is read for each connection, so it may be replaced.
    File(PathBuf),
}

impl Credentials {
    /// Checks the credentials as far as that is possible without NATS.
    ///
    /// # Errors
    /// What is wrong with their setting, without a secret.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::None | Self::Password { .. } | Self::Token(_) => Ok(()),
            Self::NKey(seed) => match KeyPair::from_seed(seed.expose_secret()) {
                Ok(pair) if matches!(pair.key_pair_type(), KeyPairType::User) => Ok(()),
                Ok(_) => Err("must be the seed of a user, which begins with SU".to_owned()),
                Err(_) => Err("is not the seed of an NKey".to_owned()),
            },
            Self::File(path) => read_credentials(path).map(drop),
        }
    }
}

/// Reads a file of credentials: the JWT of a user, and its key.
///
/// # Errors
/// What is wrong with the file, without a secret.
pub(crate) fn read_credentials(path: &Path) -> Result<(String, KeyPair), String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("names a file that cannot be read: {error}"))?;
    // Each is on the line after one that introduces it.
    let after = |mark: &str| {
        let mut lines = text
            .lines()
            .map(str::trim)
            .skip_while(|line| !(line.starts_with("---") && line.contains("BEGIN") && line.contains(mark)));
        lines.nth(1).filter(|line| !line.is_empty() && !line.starts_with('-')).map(str::to_owned)
    };
    let found = after("JWT").zip(after("SEED").and_then(|seed| KeyPair::from_seed(&seed).ok()));
    found.ok_or_else(|| "names a file without credentials: a JWT and the seed of its user".to_owned())
}

/// Reads a list of addresses, `nats://host:4222,tls://host`; a name and password in one of them is for all.
///
/// # Errors
/// One line that says what is wrong, without the password.
pub fn parse_servers(list: &str) -> Result<(Vec<String>, Credentials), String> {
    let mut servers = Vec::new();
    let mut credentials = Credentials::None;
    for text in list.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        let address: async_nats::ServerAddr =
            text.parse().map_err(|_| "must be a list of addresses like nats://host:4222".to_owned())?;
        if address.is_websocket() || address.host().is_empty() {
            return Err("must be a list of addresses like nats://host:4222".to_owned());
        }
        match (address.username(), address.password()) {
            (Some(user), Some(password)) => {
                credentials =
                    Credentials::Password { user: user.to_owned(), password: password.to_owned().into() };
            }
            (Some(token), None) => credentials = Credentials::Token(token.to_owned().into()),
            (None, _) => {}
        }
        let host = address.host();
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        servers.push(format!("{}://{host}:{}", address.scheme(), address.port()));
    }
    if servers.is_empty() {
        return Err("must name a server".to_owned());
    }
    Ok((servers, credentials))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_and_files_are_checked() {
        let check = |seed: String| Credentials::NKey(seed.into()).check();
        assert_eq!(check(KeyPair::new_user().seed().unwrap()), Ok(()));
        let account = KeyPair::new_account().seed().unwrap();
        assert_eq!(
            check(account.clone()),
            Err("must be the seed of a user, which begins with SU".to_owned())
        );
        assert_eq!(check(account[..20].to_owned()), Err("is not the seed of an NKey".to_owned()));
        let error = Credentials::File("/does/not/exist".into()).check().unwrap_err();
        assert!(error.starts_with("names a file that cannot be read: "), "{error}");
        let error = Credentials::File("Cargo.toml".into()).check().unwrap_err();
        assert!(error.starts_with("names a file without credentials: "), "{error}");
    }

    #[test]
    fn lists_of_servers() {
        let (servers, credentials) = parse_servers("a, tls://b:1,nats://[::1]:5").unwrap();
        assert_eq!(servers, ["nats://a:4222", "tls://b:1", "nats://[::1]:5"]);
        assert!(matches!(credentials, Credentials::None));
        let (servers, credentials) = parse_servers("nats://me:s3cret@a:1,nats://b").unwrap();
        assert_eq!(servers, ["nats://a:1", "nats://b:4222"]);
        let text = format!("{servers:?} {credentials:?}");
        assert!(!text.contains("s3cret"), "{text}");
        let Credentials::Password { user, password } = credentials else { panic!("{text}") };
        assert_eq!((user.as_str(), password.expose_secret()), ("me", "s3cret"));
        assert!(matches!(parse_servers("t0ken@a").unwrap().1, Credentials::Token(_)));
        for bad in ["", ",", "http://a", "ws://a", "nats://me:s3cret@:x"] {
            let error = parse_servers(bad).unwrap_err();
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
