//! Who may see the dashboard (http_and_ops 3.1, 5).

use std::net::IpAddr;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use secrecy::SecretString;

use super::{ConfigError, Env};

/// Who may see the dashboard.
#[derive(Debug, Clone)]
pub enum DashboardAccess {
    /// People who know a name and a password.
    Basic {
        /// The name. If not set: a random one.
        user: SecretString,
        /// The password. If not set: a random one, so that nobody knows it.
        password: SecretString,
    },
    /// People whom Cloudflare Access lets through.
    Zta {
        /// Origin of the team, without a slash at its end.
        team: String,
        /// The application that tokens must be for. `None`: any application of the team.
        audience: Option<String>,
    },
}

/// Settings of the dashboard.
#[derive(Debug, Clone)]
pub struct DashboardSettings {
    /// Who may see it.
    pub access: DashboardAccess,
    /// Key that seals forms. All nodes behind one address need the same key. If not set: a random one.
    pub secret: SecretString,
}

impl DashboardSettings {
    /// Reads `DASHBOARD_…`, `CF_…` and `SECRET_KEY_BASE`.
    pub(super) fn from_env(env: &Env) -> Result<Self, ConfigError> {
        let or_random = |name: &str| SecretString::from(env.text(name).unwrap_or_else(random));
        let zta = env.one_of("DASHBOARD_AUTH", false, &[("basic_auth", false), ("zta", true)])?;
        let access = if zta {
            let domain = env.text("CF_TEAM_DOMAIN");
            let domain = domain
                .ok_or_else(|| ConfigError::new("CF_TEAM_DOMAIN", "is needed by DASHBOARD_AUTH=zta"))?;
            DashboardAccess::Zta { team: team(env, &domain)?, audience: env.text("CF_ACCESS_AUD") }
        } else {
            DashboardAccess::Basic {
                user: or_random("DASHBOARD_USER"),
                password: or_random("DASHBOARD_PASSWORD"),
            }
        };
        Ok(Self { access, secret: or_random("SECRET_KEY_BASE") })
    }
}

/// The origin of a domain. Plain HTTP is allowed only for this machine: with forged keys anyone could log in.
fn team(env: &Env, domain: &str) -> Result<String, ConfigError> {
    let (scheme, host) = domain.trim_end_matches('/').split_once("://").unwrap_or(("https", domain));
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let local = name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    let valid = host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:".contains(&b));
    match scheme {
        "https" if valid => Ok(format!("https://{host}")),
        "http" if valid && local => Ok(format!("http://{host}")),
        _ => Err(env.wrong("CF_TEAM_DOMAIN", "must be a domain, as team.cloudflareaccess.com")),
    }
}

/// A word that nobody knows.
fn random() -> String {
    BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Result<DashboardSettings, String> {
        let lookup =
            |name: &str| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        DashboardSettings::from_env(&Env::new(&lookup)).map_err(|error| error.to_string())
    }

    #[test]
    fn nobody_knows_what_is_not_set() {
        let words = || match settings(&[]).unwrap().access {
            DashboardAccess::Basic { user, password } => {
                (user.expose_secret().to_owned(), password.expose_secret().to_owned())
            }
            DashboardAccess::Zta { .. } => panic!("basic is the default"),
        };
        let (first, second) = (words(), words());
        assert!(first.0 != second.0 && first.1 != second.1 && first.0 != first.1);
        assert_eq!(first.1.len(), 43);
    }

    #[test]
    fn teams_are_domains() {
        let team =
            |domain: &str| match settings(&[("DASHBOARD_AUTH", "zta"), ("CF_TEAM_DOMAIN", domain)])?.access {
                DashboardAccess::Zta { team, .. } => Ok(team),
                DashboardAccess::Basic { .. } => Err("basic".to_owned()),
            };
        assert_eq!(team("a.cloudflareaccess.com").unwrap(), "https://a.cloudflareaccess.com");
        assert_eq!(team("https://a.example/").unwrap(), "https://a.example");
        assert_eq!(team("http://127.0.0.1:80").unwrap(), "http://127.0.0.1:80");
        for bad in ["http://a.example", "ftp://a", "a/b", "a b", "http://127.0.0.1.evil.example"] {
            assert!(team(bad).unwrap_err().starts_with("CF_TEAM_DOMAIN must be"), "{bad}");
        }
        assert!(settings(&[("DASHBOARD_AUTH", "zta")]).unwrap_err().starts_with("CF_TEAM_DOMAIN is needed"));
        assert!(settings(&[("DASHBOARD_AUTH", "none")]).unwrap_err().starts_with("DASHBOARD_AUTH must be"));
    }
}
