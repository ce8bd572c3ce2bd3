//! `realtime send` and `realtime tenants`: the options.

use clap::{Args, Subcommand};
use secrecy::{ExposeSecret as _, SecretString};

use super::{TokenArgs, pair::pair};
use crate::config::{ConfigError, Env};

/// Shown below the options of `realtime send`.
pub(super) const SEND_EXAMPLES: &str = "\
Examples:
  realtime send room:1 greet '{\"text\": \"hello\"}'
  realtime send room:1 greet '{}' --private --role service_role";

/// Shown below the options of `realtime tenants`.
pub(super) const TENANTS_EXAMPLES: &str = "\
Examples:
  realtime tenants list
  realtime tenants show acme
  realtime tenants set acme max_concurrent_users=1000 suspend=false

The fields of a tenant: docs/admin-api.md";

/// Options of `realtime send`.
#[derive(Debug, Args)]
pub struct SendArgs {
    /// Name of the channel, without realtime: before it
    #[arg(value_name = "TOPIC")]
    pub topic: String,
    /// The event that receivers listen for
    #[arg(value_name = "EVENT")]
    pub event: String,
    /// The payload
    #[arg(value_name = "JSON", default_value = "{}")]
    pub payload: String,
    /// To members of the private channel
    #[arg(long)]
    pub private: bool,
    /// Server, with or without /realtime/v1
    #[arg(long, env = "REALTIME_URL", default_value = "http://localhost:4000")]
    pub url: String,
    /// Token of the sender [default: one is made, as by `realtime token`]
    #[arg(long, env = "REALTIME_TOKEN", hide_env_values = true)]
    pub token: Option<SecretString>,
    /// Database role, if the token is made [default: anon]
    #[arg(long, conflicts_with = "token")]
    pub role: Option<String>,
    /// User id, if the token is made
    #[arg(long, conflicts_with = "token")]
    pub sub: Option<String>,
}

/// Options of `realtime tenants`.
#[derive(Debug, Args)]
pub struct TenantsArgs {
    /// What to do with them.
    #[command(subcommand)]
    pub command: TenantsCommand,
    /// Server
    #[arg(long, global = true, env = "REALTIME_URL", default_value = "http://localhost:4000")]
    pub url: String,
    /// Token of an administrator [default: one is made with API_JWT_SECRET]
    #[arg(long, global = true, env = "REALTIME_ADMIN_TOKEN", hide_env_values = true)]
    pub token: Option<SecretString>,
}

/// What to do with tenants.
#[derive(Debug, Subcommand)]
pub enum TenantsCommand {
    /// Print their names
    List,
    /// Print one as JSON
    Show {
        /// Its name
        name: String,
    },
    /// Change fields of one that exists
    Set {
        /// Its name
        name: String,
        /// Fields and values; values are JSON, or else texts
        #[arg(value_name = "FIELD=VALUE", required = true, value_parser = pair)]
        fields: Vec<(String, String)>,
    },
}

impl SendArgs {
    /// The token to send with, made at this time since 1970 if none is given.
    ///
    /// # Errors
    /// When there is neither a token nor a secret.
    pub fn token(&self, env: &Env, now: std::time::Duration) -> Result<String, ConfigError> {
        match &self.token {
            Some(token) => Ok(token.expose_secret().trim().to_owned()),
            None => TokenArgs { role: self.role.clone(), sub: self.sub.clone(), ..TokenArgs::brief() }
                .token(env, now),
        }
    }
}

impl TenantsArgs {
    /// The token of an administrator, made at this time since 1970 if none is given.
    ///
    /// # Errors
    /// When there is neither a token nor a secret.
    pub fn token(&self, env: &Env, now: std::time::Duration) -> Result<String, ConfigError> {
        match &self.token {
            Some(token) => Ok(token.expose_secret().trim().to_owned()),
            None => TokenArgs { admin: true, ..TokenArgs::brief() }.token(env, now),
        }
    }
}
