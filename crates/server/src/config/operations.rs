//! How a server is watched: metrics, request ids, logs of requests (http_and_ops 3, 5).

use std::time::Duration;

use secrecy::SecretString;

use super::{ConfigError, Env};

/// How a server is watched.
#[derive(Debug, Clone)]
pub struct Operations {
    /// Member of the W3C `baggage` header that names a request.
    pub request_id_baggage_key: String,
    /// Whether requests about health are logged.
    pub log_healthchecks: bool,
    /// Tokens that may not read the metrics, though they are good.
    pub metrics_blocklist: Vec<SecretString>,
    /// How often numbers that have to be gathered are gathered, at most.
    pub poll_rate: Duration,
    /// Where metrics are pushed to.
    pub pusher: Option<Pusher>,
}

/// Where and how metrics are pushed.
#[derive(Debug, Clone)]
pub struct Pusher {
    /// Where to.
    pub url: reqwest::Url,
    /// User and password, if they are asked for.
    pub auth: Option<(String, SecretString)>,
    /// Time between two pushes.
    pub interval: Duration,
    /// How long a request may take.
    pub timeout: Duration,
    /// Whether bodies are compressed.
    pub compress: bool,
    /// Labels that the receiver adds: `name=value`.
    pub extra_labels: Vec<String>,
}

impl Operations {
    /// Reads the settings.
    ///
    /// # Errors
    /// The first that cannot be used.
    pub fn from_env(env: &Env<'_>) -> Result<Self, ConfigError> {
        Ok(Self {
            request_id_baggage_key: env.text_or("REQUEST_ID_BAGGAGE_KEY", "request-id"),
            log_healthchecks: !env.boolean("DISABLE_HEALTHCHECK_LOGGING", false)?,
            metrics_blocklist: list(env, "METRICS_TOKEN_BLOCKLIST").map(SecretString::from).collect(),
            poll_rate: Duration::from_millis(env.integer("PROM_POLL_RATE", 5_000)?),
            pusher: pusher(env)?,
        })
    }
}

/// The entries of a list with commas; empty ones mean nothing.
fn list(env: &Env<'_>, name: &str) -> impl Iterator<Item = String> {
    let text = env.text(name).unwrap_or_default();
    let entries: Vec<_> = text.split(',').map(|entry| entry.trim().to_owned()).collect();
    entries.into_iter().filter(|entry| !entry.is_empty())
}

fn pusher(env: &Env<'_>) -> Result<Option<Pusher>, ConfigError> {
    if !env.boolean("METRICS_PUSHER_ENABLED", false)? {
        return Ok(None);
    }
    let url = env.text("METRICS_PUSHER_URL").ok_or_else(|| {
        ConfigError::new("METRICS_PUSHER_URL", "must be set when METRICS_PUSHER_ENABLED is")
    })?;
    let url: reqwest::Url = url.parse().map_err(|error| ConfigError::new("METRICS_PUSHER_URL", error))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(ConfigError::new("METRICS_PUSHER_URL", "must begin with http:// or https://"));
    }
    let user = env.text_or("METRICS_PUSHER_USER", "realtime");
    let millis = |name: &str, default: u64| {
        env.integer(name, default).map(|millis| Duration::from_millis(millis.max(1)))
    };
    let extra_labels: Vec<String> = list(env, "METRICS_PUSHER_EXTRA_LABELS").collect();
    if let Some(wrong) = extra_labels.iter().find(|label| !label.contains('=')) {
        let problem = format!("must be name=value,name=value, not {wrong:?}");
        return Err(ConfigError::new("METRICS_PUSHER_EXTRA_LABELS", problem));
    }
    Ok(Some(Pusher {
        url,
        auth: env.text("METRICS_PUSHER_AUTH").map(|password| (user, SecretString::from(password))),
        interval: millis("METRICS_PUSHER_INTERVAL_MS", 30_000)?,
        timeout: millis("METRICS_PUSHER_TIMEOUT_MS", 15_000)?,
        compress: env.boolean("METRICS_PUSHER_COMPRESS", true)?,
        extra_labels,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Operations, ConfigError> {
        let lookup =
            |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        Operations::from_env(&Env::new(&lookup))
    }

    #[test]
    fn nothing_is_pushed_unless_it_is_asked_for() {
        let settings = read(&[("METRICS_PUSHER_URL", "http://push")]).unwrap();
        assert!(settings.pusher.is_none() && settings.log_healthchecks);
        assert_eq!(settings.request_id_baggage_key, "request-id");
    }

    #[test]
    fn everything_about_pushing_can_be_set() {
        let settings = read(&[
            ("METRICS_PUSHER_ENABLED", "true"),
            ("METRICS_PUSHER_URL", "https://push.example/import"),
            ("METRICS_PUSHER_AUTH", "s3cret"),
            ("METRICS_PUSHER_EXTRA_LABELS", "a=b, c=d"),
            ("METRICS_PUSHER_COMPRESS", "false"),
            ("METRICS_TOKEN_BLOCKLIST", " x ,,y"),
        ])
        .unwrap();
        assert_eq!(settings.metrics_blocklist.len(), 2);
        assert!(!format!("{settings:?}").contains("s3cret"));
        let pusher = settings.pusher.unwrap();
        assert_eq!(pusher.auth.unwrap().0, "realtime");
        assert_eq!(pusher.extra_labels, ["a=b", "c=d"]);
        assert_eq!((pusher.interval.as_secs(), pusher.timeout.as_secs()), (30, 15));
        assert!(!pusher.compress);
    }

    #[test]
    fn wrong_settings_are_named() {
        let enabled = ("METRICS_PUSHER_ENABLED", "true");
        for (variables, name) in [
            (vec![enabled], "METRICS_PUSHER_URL"),
            (vec![enabled, ("METRICS_PUSHER_URL", "push")], "METRICS_PUSHER_URL"),
            (vec![enabled, ("METRICS_PUSHER_URL", "ftp://push")], "METRICS_PUSHER_URL"),
            (
                vec![enabled, ("METRICS_PUSHER_URL", "http://push"), ("METRICS_PUSHER_EXTRA_LABELS", "a")],
                "METRICS_PUSHER_EXTRA_LABELS",
            ),
            (vec![("PROM_POLL_RATE", "5s")], "PROM_POLL_RATE"),
        ] {
            assert_eq!(read(&variables).unwrap_err().name, name);
        }
    }
}
