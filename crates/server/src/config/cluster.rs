//! How this node finds others: `NATS_…`, `CLUSTER_…`.

use std::{path::PathBuf, time::Duration};

use realtime_cluster::{Credentials, NatsConfig, parse_servers};
use realtime_tls::{Certificate, Tls, TlsMode};
use secrecy::SecretString;

use super::{ConfigError, Env};

/// Bounds of `CLUSTER_HEARTBEAT_MS`. More heartbeats cost without use; fewer hide losses for too long.
const HEARTBEAT: std::ops::RangeInclusive<u64> = 100..=60_000;

/// Heartbeats that a node may miss at least.
const MISSED: u64 = 3;

/// The settings of the cluster. `None` without `NATS_URL`: the node is alone.
pub(super) fn cluster(env: &Env, node_name: String) -> Result<Option<NatsConfig>, ConfigError> {
    let Some(list) = env.text("NATS_URL") else { return Ok(None) };
    let (servers, of_url) = parse_servers(&list).map_err(|error| env.wrong("NATS_URL", error))?;
    let path = |name: &str| env.text(name).map(PathBuf::from);
    let client_certificate = match (path("NATS_TLS_CERT_FILE"), path("NATS_TLS_KEY_FILE")) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) => {
            return Err(env.wrong("NATS_TLS_KEY_FILE", "must be set with NATS_TLS_CERT_FILE"));
        }
        (None, Some(_)) => {
            return Err(env.wrong("NATS_TLS_CERT_FILE", "must be set with NATS_TLS_KEY_FILE"));
        }
    };
    let ca = path("NATS_TLS_CA_FILE");
    if let Some(ca) = &ca {
        let wrong = |error| env.wrong("NATS_TLS_CA_FILE", format!("cannot be used: {error}"));
        Tls::new(TlsMode::VerifyCa, Some(ca)).map_err(wrong)?;
    }
    if let Some((certificate, key)) = client_certificate.clone() {
        let wrong = |error| env.wrong("NATS_TLS_CERT_FILE", format!("cannot be used: {error}"));
        Certificate::load(certificate, key).map_err(wrong)?;
    }
    let heartbeat = env.integer("CLUSTER_HEARTBEAT_MS")?;
    if !HEARTBEAT.contains(&heartbeat) {
        return Err(env.wrong("CLUSTER_HEARTBEAT_MS", "must be between 100 and 60000"));
    }
    let timeout = match env.found("CLUSTER_NODE_TIMEOUT_MS") {
        Some(_) => env.integer("CLUSTER_NODE_TIMEOUT_MS")?,
        None => heartbeat.saturating_mul(6),
    };
    if timeout < heartbeat.saturating_mul(MISSED) {
        let problem = format!("must be at least {MISSED} times CLUSTER_HEARTBEAT_MS");
        return Err(env.wrong("CLUSTER_NODE_TIMEOUT_MS", problem));
    }
    Ok(Some(NatsConfig {
        servers,
        credentials: credentials(env, of_url)?,
        require_tls: env.boolean("NATS_TLS")?,
        ca,
        client_certificate,
        prefix: prefix(env)?,
        node_name,
        region: env.text("REGION"),
        version: env!("CARGO_PKG_VERSION"),
        heartbeat: Duration::from_millis(heartbeat),
        node_timeout: Duration::from_millis(timeout),
        linger: env.millis("CLUSTER_LINGER_MS")?,
    }))
}

/// The one way to log in: from the address, or from the other settings.
fn credentials(env: &Env, of_url: Credentials) -> Result<Credentials, ConfigError> {
    let secret = |name: &str| env.text(name).map(SecretString::from);
    let password = match (env.text("NATS_USER"), secret("NATS_PASSWORD")) {
        (Some(user), Some(password)) => Some(Credentials::Password { user, password }),
        (None, None) => None,
        (Some(_), None) => return Err(env.wrong("NATS_PASSWORD", "must be set with NATS_USER")),
        (None, Some(_)) => return Err(env.wrong("NATS_USER", "must be set with NATS_PASSWORD")),
    };
    let ways = [
        ("NATS_USER", password),
        ("NATS_TOKEN", secret("NATS_TOKEN").map(Credentials::Token)),
        ("NATS_NKEY_SEED", secret("NATS_NKEY_SEED").map(Credentials::NKey)),
        (
            "NATS_CREDENTIALS_FILE",
            env.text("NATS_CREDENTIALS_FILE").map(|path| Credentials::File(path.into())),
        ),
    ];
    let of_url = Some(of_url).filter(|way| !matches!(way, Credentials::None));
    let ways = [("a name in NATS_URL", of_url)].into_iter().chain(ways);
    let mut set = ways.filter_map(|(name, way)| Some((name, way?)));
    let Some((name, way)) = set.next() else { return Ok(Credentials::None) };
    if let Some((second, _)) = set.next() {
        return Err(env.wrong(second, format!("must not be set together with {name}")));
    }
    way.check().map_err(|problem| env.wrong(name, problem))?;
    Ok(way)
}

fn prefix(env: &Env) -> Result<String, ConfigError> {
    let prefix = env.required("NATS_SUBJECT_PREFIX")?;
    let valid = |part: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    if !prefix.split('.').all(valid) {
        let problem = "must consist of letters, digits, - and _, in parts with dots between";
        return Err(env.wrong("NATS_SUBJECT_PREFIX", problem));
    }
    Ok(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<NatsConfig>, ConfigError> {
        let lookup =
            |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        cluster(&Env::new(&lookup), "n".to_owned())
    }

    #[test]
    fn a_node_is_alone_unless_told_otherwise() {
        assert!(read(&[]).unwrap().is_none());
        let config = read(&[("NATS_URL", "nats://me:s3cret@a")]).unwrap().unwrap();
        assert_eq!((config.servers, &*config.node_name), (vec!["nats://a:4222".to_owned()], "n"));
        assert!(matches!(config.credentials, Credentials::Password { .. }));
        assert_eq!((config.heartbeat, config.node_timeout), (Duration::from_secs(1), Duration::from_secs(6)));
    }

    #[test]
    fn secrets_do_not_print() {
        for variables in [
            [("NATS_URL", "nats://me:s3cret@a"), ("X", "")],
            [("NATS_URL", "a"), ("NATS_TOKEN", "s3cret")],
            [("NATS_URL", "a"), ("NATS_NKEY_SEED", "s3cret")],
        ] {
            let text = format!("{:?}", read(&variables));
            assert!(!text.contains("s3cret"), "{text}");
        }
    }

    #[test]
    fn wrong_settings_are_one_readable_line() {
        for (variable, problem) in [
            (("NATS_URL", "http://a"), "NATS_URL must be a list of addresses like nats://host:4222"),
            (("NATS_USER", "u"), "NATS_PASSWORD must be set with NATS_USER"),
            (("NATS_TLS_CERT_FILE", "/x"), "NATS_TLS_KEY_FILE must be set with NATS_TLS_CERT_FILE"),
            (
                ("NATS_SUBJECT_PREFIX", "a.>"),
                "NATS_SUBJECT_PREFIX must consist of letters, digits, - and _, in parts with dots between",
            ),
            (("CLUSTER_HEARTBEAT_MS", "1"), "CLUSTER_HEARTBEAT_MS must be between 100 and 60000"),
            (
                ("CLUSTER_NODE_TIMEOUT_MS", "1000"),
                "CLUSTER_NODE_TIMEOUT_MS must be at least 3 times CLUSTER_HEARTBEAT_MS",
            ),
        ] {
            let mut variables = vec![variable];
            if variable.0 != "NATS_URL" {
                variables.push(("NATS_URL", "a"));
            }
            assert_eq!(read(&variables).unwrap_err().to_string(), problem);
        }
        let two = [("NATS_URL", "a"), ("NATS_TOKEN", "t"), ("NATS_CREDENTIALS_FILE", "/")];
        let error = read(&two).unwrap_err().to_string();
        assert_eq!(error, "NATS_CREDENTIALS_FILE must not be set together with NATS_TOKEN");
        let two = [("NATS_URL", "me:s3cret@a"), ("NATS_TOKEN", "t")];
        let error = read(&two).unwrap_err().to_string();
        assert_eq!(error, "NATS_TOKEN must not be set together with a name in NATS_URL");
        let error = read(&[("NATS_URL", "a"), ("NATS_NKEY_SEED", "s3cret")]).unwrap_err().to_string();
        assert_eq!(error, "NATS_NKEY_SEED is not the seed of an NKey");
        for name in ["NATS_TLS_CA_FILE", "NATS_CREDENTIALS_FILE"] {
            for path in ["/does/not/exist", "Cargo.toml"] {
                assert_eq!(read(&[("NATS_URL", "a"), (name, path)]).unwrap_err().name, name);
            }
        }
        let missing = read(&[("NATS_URL", "a"), ("NATS_TLS_CA_FILE", "/does/not/exist")]).unwrap_err();
        assert_eq!(missing.name, "NATS_TLS_CA_FILE");
    }
}
