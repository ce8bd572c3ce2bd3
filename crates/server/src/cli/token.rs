//! `realtime token`: tokens for tenants, the admin API and metrics.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use crate::config::{ConfigError, Env, WELL_KNOWN_SECRET};

/// Shown below the options.
pub(super) const EXAMPLES: &str = "\
Examples:
  realtime token                                         for the role anon, good for an hour
  realtime token --role authenticated --sub 5c1… --expires-in 30d
  realtime token --claims '{\"org\":\"acme\"}' --tenant shop
  curl -H \"Authorization: Bearer $(realtime token --metrics)\" http://localhost:4000/metrics";

/// Options of `realtime token`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// Database role of the token [default: anon]
    #[arg(long, conflicts_with_all = ["admin", "metrics"])]
    pub role: Option<String>,
    /// User id, as the claim `sub`
    #[arg(long)]
    pub sub: Option<String>,
    /// Lifetime: seconds, or a number with m, h or d
    #[arg(long, default_value = "1h", value_parser = lifetime, value_name = "TIME")]
    pub expires_in: Duration,
    /// Further claims, as a JSON object; they override those of the other options
    #[arg(long, default_value = "{}", value_name = "JSON")]
    pub claims: String,
    /// A token for the admin API, which has no role; signed with API_JWT_SECRET
    #[arg(long, conflicts_with_all = ["metrics", "tenant"])]
    pub admin: bool,
    /// A token for /metrics; signed with METRICS_JWT_SECRET
    #[arg(long, conflicts_with = "tenant")]
    pub metrics: bool,
    /// Tenant whose secret signs it [default: the only one]
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<String>,
    /// Secret to sign with, instead of the one in the settings; other users of the machine can see it
    #[arg(long, conflicts_with = "secret_file")]
    pub secret: Option<String>,
    /// File with the secret to sign with
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
}

/// How long a token lives that is made for one request.
const BRIEF: Duration = Duration::from_secs(60);

impl TokenArgs {
    /// A token for one request of this program.
    pub(super) fn brief() -> Self {
        Self {
            role: None,
            sub: None,
            expires_in: BRIEF,
            claims: "{}".to_owned(),
            admin: false,
            metrics: false,
            tenant: None,
            secret: None,
            secret_file: None,
        }
    }

    /// The token, made at this time since 1970.
    ///
    /// # Errors
    /// When `--claims` is not a JSON object, or there is no secret.
    pub fn token(&self, env: &Env, now: Duration) -> Result<String, ConfigError> {
        self.sign(&self.secret(env)?, now)
    }

    /// The token, made at this time since 1970, with a secret that was found before.
    pub(super) fn sign(&self, secret: &str, now: Duration) -> Result<String, ConfigError> {
        let claims = self.claims(now).map_err(|error| ConfigError::new("--claims", error))?;
        Ok(realtime_auth::sign_hs256(secret, &claims))
    }

    /// The claims of the token, as JSON text, for a token made at this time.
    fn claims(&self, now: Duration) -> Result<String, String> {
        let own: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(&self.claims).map_err(|error| format!("must be a JSON object ({error})"))?;
        let mut claims = serde_json::Map::new();
        if !self.admin && !self.metrics {
            claims.insert("role".into(), self.role.as_deref().unwrap_or("anon").into());
        }
        claims.insert("iat".into(), now.as_secs().into());
        claims.insert("exp".into(), (now + self.expires_in).as_secs().into());
        if let Some(sub) = &self.sub {
            claims.insert("sub".into(), sub.as_str().into());
        }
        claims.extend(own);
        Ok(serde_json::Value::Object(claims).to_string())
    }

    pub(super) fn secret(&self, env: &Env) -> Result<String, ConfigError> {
        if let Some(secret) = &self.secret {
            return Ok(secret.clone());
        }
        if let Some(path) = &self.secret_file {
            let name = format!("--secret-file {}", path.display());
            let text = std::fs::read_to_string(path)
                .map_err(|error| ConfigError::new(&name, format!("cannot be read: {error}")))?;
            return Ok(text.trim_end_matches(['\r', '\n']).to_owned());
        }
        if self.metrics {
            return env.required("METRICS_JWT_SECRET");
        }
        if self.admin {
            return env.required("API_JWT_SECRET");
        }
        self.tenant_secret(env)
    }

    /// The secret of a tenant of the file, or of the environment's tenant.
    fn tenant_secret(&self, env: &Env) -> Result<String, ConfigError> {
        let seeded = env.found("SEED_SELF_HOST").is_some() && env.boolean("SEED_SELF_HOST")?;
        let of_environment = || env.text("API_JWT_SECRET").unwrap_or_else(|| WELL_KNOWN_SECRET.to_owned());
        let entry = match (&self.tenant, env.tenants()) {
            (None, []) => return Ok(of_environment()),
            (Some(name), tenants) => {
                let found = tenants.iter().find(|tenant| tenant.external_id.eq_ignore_ascii_case(name));
                let of_environment_name = env.text("SELF_HOST_TENANT_NAME");
                if found.is_none()
                    && (seeded || tenants.is_empty())
                    && of_environment_name.is_some_and(|seeded| seeded.eq_ignore_ascii_case(name))
                {
                    return Ok(of_environment());
                }
                found.ok_or_else(|| {
                    ConfigError::new("--tenant", format!("{name:?} is no tenant of the settings"))
                })?
            }
            (None, [only]) if !seeded => only,
            (None, _) => return Err(ConfigError::new("--tenant", "has to name one of several tenants")),
        };
        entry.jwt_secret.clone().ok_or_else(|| {
            ConfigError::new("--tenant", format!("{:?} has no secret, only a key set", entry.external_id))
        })
    }
}

/// Seconds, or a number with a unit.
fn lifetime(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err("must be seconds, or a number with m, h or d".to_owned()),
    };
    // A lifetime of more than a thousand years is a mistake.
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    let seconds = seconds.filter(|seconds| (1..=31_557_600_000).contains(seconds));
    seconds.map(Duration::from_secs).ok_or_else(|| "must be a positive number of a sensible size".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use serde_json::{Value, json};

    use super::*;
    use crate::cli::{Cli, Command};

    fn claims(arguments: &[&str]) -> Result<Value, String> {
        let arguments = [&["realtime", "token"], arguments].concat();
        let cli = Cli::try_parse_from(arguments).map_err(|error| error.to_string())?;
        let Some(Command::Token(args)) = cli.command else { return Err("token expected".to_owned()) };
        let claims = args.claims(Duration::from_secs(100))?;
        serde_json::from_str(&claims).map_err(|error| error.to_string())
    }

    #[test]
    fn claims_of_options() {
        assert_eq!(claims(&[]), Ok(json!({"role": "anon", "iat": 100, "exp": 3700})));
        assert_eq!(
            claims(&[
                "--role",
                "authenticated",
                "--sub",
                "u1",
                "--claims",
                r#"{"a":1}"#,
                "--expires-in",
                "2d"
            ]),
            Ok(json!({"role": "authenticated", "sub": "u1", "iat": 100, "exp": 172_900, "a": 1}))
        );
        for kind in ["--admin", "--metrics"] {
            assert_eq!(claims(&[kind, "--expires-in", "60"]), Ok(json!({"iat": 100, "exp": 160})));
        }
        assert_eq!(claims(&["--claims", r#"{"exp":1}"#]).unwrap()["exp"], 1);
        for bad in ["[]", "{", "1"] {
            assert!(claims(&["--claims", bad]).unwrap_err().starts_with("must be a JSON object"));
        }
        assert!(claims(&["--admin", "--role", "anon"]).is_err());
    }

    #[test]
    fn lifetimes() {
        assert_eq!(lifetime("90"), Ok(Duration::from_secs(90)));
        assert_eq!(lifetime("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "0", "h", "1w", "-1", "99999999999999999999", "99999999999d"] {
            assert!(lifetime(bad).is_err(), "{bad}");
        }
    }
}
