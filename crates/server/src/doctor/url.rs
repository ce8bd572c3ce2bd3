//! A database's address in the place of the settings `DB_…`.

use secrecy::{ExposeSecret as _, SecretString};
use tokio_postgres::config::{Host, SslMode};

use crate::config::ConfigError;

/// TLS modes that the driver does not know by name.
const FURTHER_MODES: [&str; 2] = ["verify-ca", "verify-full"];

/// The settings that an address stands for.
///
/// # Errors
/// When it is no address of a PostgreSQL database.
pub fn of_url(url: &SecretString) -> Result<Vec<(&'static str, String)>, ConfigError> {
    let url = url.expose_secret();
    let further = FURTHER_MODES.iter().find(|mode| url.contains(&format!("sslmode={mode}")));
    let known = match further {
        Some(mode) => url.replace(&format!("sslmode={mode}"), "sslmode=require"),
        None => url.to_owned(),
    };
    // The error of the driver quotes what it does not understand, which may be the password.
    let wrong = || ConfigError::new("--url", "must be as postgres://user:password@host:5432/database");
    let config: tokio_postgres::Config = known.parse().map_err(|_| wrong())?;
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        _ => return Err(wrong()),
    };
    let mode = match (further, config.get_ssl_mode()) {
        (Some(mode), _) => mode,
        (None, SslMode::Disable) => "disable",
        (None, SslMode::Require) => "require",
        (None, _) => "prefer",
    };
    let mut settings = vec![
        ("DB_HOST", host),
        ("DB_PORT", config.get_ports().first().copied().unwrap_or(5432).to_string()),
        ("DB_SSL_MODE", mode.to_owned()),
        ("SEED_SELF_HOST", "true".to_owned()),
        ("METADATA_DATABASE", "false".to_owned()),
    ];
    if let Some(user) = config.get_user() {
        settings.push(("DB_USER", user.to_owned()));
    }
    if let Some(password) = config.get_password() {
        settings.push(("DB_PASSWORD", String::from_utf8_lossy(password).into_owned()));
    }
    if let Some(name) = config.get_dbname() {
        settings.push(("DB_NAME", name.to_owned()));
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<String, String> {
        let settings = of_url(&url.to_owned().into()).map_err(|error| error.to_string())?;
        let shown = settings.iter().map(|(name, value)| format!("{name}={value}"));
        Ok(shown.filter(|line| line.starts_with("DB_")).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn addresses_stand_for_settings() {
        assert_eq!(
            read("postgres://me:p%40ss@db:6543/app?sslmode=verify-full").unwrap(),
            "DB_HOST=db DB_PORT=6543 DB_SSL_MODE=verify-full DB_USER=me DB_PASSWORD=p@ss DB_NAME=app"
        );
        assert_eq!(read("postgresql://db").unwrap(), "DB_HOST=db DB_PORT=5432 DB_SSL_MODE=prefer");
        for bad in ["http://db:pa55", "postgres://", "postgres://u:pa55@h:port/x"] {
            let error = read(bad).unwrap_err();
            assert!(error.starts_with("--url must be as") && !error.contains("pa55"), "{error}");
        }
    }
}
