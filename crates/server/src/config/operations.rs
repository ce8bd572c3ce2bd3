//! How operators watch a server: metrics, request ids, logs of requests (http_and_ops 3, 5).

use std::time::Duration;

use realtime_auth::Blocklist;
use secrecy::SecretString;

use super::{ConfigError, Env};

/// Shortest time between two pushes, and shortest time-out of a push.
const SHORTEST: Duration = Duration::from_millis(1);

/// How operators watch a server.
#[derive(Debug, Clone)]
pub struct Operations {
    /// Member of the W3C `baggage` header that names a request.
    pub request_id_baggage_key: String,
    /// Whether requests about health are logged.
    pub log_healthchecks: bool,
    /// Tokens that may not read the metrics, even if they are valid.
    pub metrics_blocklist: Blocklist,
    /// How long the server waits for another node's metrics.
    pub metrics_limit: Duration,
    /// Where metrics are pushed to.
    pub pusher: Option<Pusher>,
}

/// Where and how metrics are pushed.
#[derive(Debug, Clone)]
pub struct Pusher {
    /// Address of the receiver.
    pub url: reqwest::Url,
    /// User and password, if the receiver asks for them.
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
    pub fn from_env(env: &Env) -> Result<Self, ConfigError> {
        Ok(Self {
            request_id_baggage_key: env.required("REQUEST_ID_BAGGAGE_KEY")?,
            log_healthchecks: !env.boolean("DISABLE_HEALTHCHECK_LOGGING")?,
            metrics_blocklist: Blocklist::parse(&env.text("METRICS_TOKEN_BLOCKLIST").unwrap_or_default()),
            metrics_limit: env.millis("METRICS_RPC_TIMEOUT_IN_MS")?.max(SHORTEST),
            pusher: pusher(env)?,
        })
    }
}

/// The entries of a list with commas, without empty ones.
fn list(env: &Env, name: &str) -> impl Iterator<Item = String> {
    let text = env.text(name).unwrap_or_default();
    let entries: Vec<_> = text.split(',').map(|entry| entry.trim().to_owned()).collect();
    entries.into_iter().filter(|entry| !entry.is_empty())
}

fn pusher(env: &Env) -> Result<Option<Pusher>, ConfigError> {
    if !env.boolean("METRICS_PUSHER_ENABLED")? {
        return Ok(None);
    }
    let wrong = |problem: &str| env.wrong("METRICS_PUSHER_URL", problem);
    let url =
        env.text("METRICS_PUSHER_URL").ok_or_else(|| wrong("must be set when METRICS_PUSHER_ENABLED is"))?;
    // The address may contain a password, so the error does not repeat it.
    let url: reqwest::Url = url.parse().map_err(|_| wrong("must be the address of a page"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("must begin with http:// or https://"));
    }
    let extra_labels: Vec<String> = list(env, "METRICS_PUSHER_EXTRA_LABELS").collect();
    if let Some(label) = extra_labels.iter().find(|label| !label.contains('=')) {
        let problem = format!("must be name=value,name=value, not {label:?}");
        return Err(env.wrong("METRICS_PUSHER_EXTRA_LABELS", problem));
    }
    let user = env.required("METRICS_PUSHER_USER")?;
    Ok(Some(Pusher {
        url,
        auth: env.text("METRICS_PUSHER_AUTH").map(|password| (user, SecretString::from(password))),
        interval: env.millis("METRICS_PUSHER_INTERVAL_MS")?.max(SHORTEST),
        timeout: env.millis("METRICS_PUSHER_TIMEOUT_MS")?.max(SHORTEST),
        compress: env.boolean("METRICS_PUSHER_COMPRESS")?,
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
        assert!(settings.metrics_blocklist.contains("x") && settings.metrics_blocklist.contains("y"));
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
            (
                vec![enabled, ("METRICS_PUSHER_URL", "http://push"), ("METRICS_PUSHER_INTERVAL_MS", "5s")],
                "METRICS_PUSHER_INTERVAL_MS",
            ),
        ] {
            assert_eq!(read(&variables).unwrap_err().name, name);
        }
    }
}
