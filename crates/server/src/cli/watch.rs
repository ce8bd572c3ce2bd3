//! `realtime watch`: the rows of a table, kept right in a terminal.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use secrecy::{ExposeSecret as _, SecretString};

use super::TokenArgs;
use crate::config::{ConfigError, Env};

/// Shown below the options.
pub(super) const EXAMPLES: &str = "\
Examples:
  realtime watch todos
  realtime watch todos --filter done=is.false --order inserted_at.desc --limit 20
  realtime watch orders --url https://realtime.example.com --token \"$USER_TOKEN\"
  realtime watch todos --events | jq .record       one line of JSON for each message

On a terminal the table is redrawn in place: + a row that has entered, ~ one that has changed, - one that has left.
Ctrl-C ends it. Connections that are lost are made again. NO_COLOR turns colours off.";

/// How long a token lives that is made for a connection. After that the connection is made again, with a new one.
const LIFETIME: Duration = Duration::from_hours(1);

/// Options of `realtime watch`.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Table, partitioned table or view
    #[arg(value_name = "TABLE")]
    pub table: String,
    /// Its schema
    #[arg(long, default_value = "public")]
    pub schema: String,
    /// Conditions that rows meet, e.g. room=eq.5,done=is.false
    #[arg(long)]
    pub filter: Option<String>,
    /// Order of the rows, e.g. inserted_at.desc,id
    #[arg(long)]
    pub order: Option<String>,
    /// How many rows at most: the first ones of the order
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
    /// Columns to show [default: all that may be read]
    #[arg(long, value_delimiter = ',', value_name = "COLUMNS")]
    pub select: Vec<String>,
    /// Columns that tell rows apart, for a view [default: the primary key]
    #[arg(long, value_delimiter = ',', value_name = "COLUMNS")]
    pub key: Vec<String>,
    /// Server, with or without /realtime/v1
    #[arg(long, env = "REALTIME_URL", default_value = "http://localhost:4000")]
    pub url: String,
    /// Token of the user who watches [default: one is made, as by `realtime token`]
    #[arg(long, env = "REALTIME_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Database role, if the token is made [default: anon]
    #[arg(long, conflicts_with = "token")]
    pub role: Option<String>,
    /// User id, if the token is made
    #[arg(long, conflicts_with = "token")]
    pub sub: Option<String>,
    /// Print a line of JSON for each message, as when the output is no terminal
    #[arg(long)]
    pub events: bool,
}

impl WatchArgs {
    /// Where tokens for connections come from.
    ///
    /// # Errors
    /// When no token is given and there is no secret to make one.
    pub fn tokens(&self, env: &Env) -> Result<Tokens, ConfigError> {
        if let Some(token) = &self.token {
            return Ok(Tokens(Source::Given(token.trim().to_owned())));
        }
        let (role, sub) = (self.role.clone(), self.sub.clone());
        let args = TokenArgs { role, sub, expires_in: LIFETIME, ..TokenArgs::brief() };
        let secret = args.secret(env)?;
        Ok(Tokens(Source::Made { secret: secret.into(), args }))
    }
}

/// Where tokens for connections come from.
#[derive(Debug)]
pub struct Tokens(Source);

#[derive(Debug)]
enum Source {
    /// The person has given one.
    Given(String),
    /// A new one for each connection, signed with the secret of the settings.
    Made { secret: SecretString, args: TokenArgs },
}

impl Tokens {
    /// A token for a new connection.
    ///
    /// # Errors
    /// When none can be made.
    pub fn token(&self) -> Result<String, ConfigError> {
        match &self.0 {
            Source::Given(token) => Ok(token.clone()),
            Source::Made { secret, args } => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                args.sign(secret.expose_secret(), now)
            }
        }
    }
}
