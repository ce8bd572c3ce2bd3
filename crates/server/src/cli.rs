//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

/// Exit code for settings that cannot be used (`EX_USAGE` of sysexits.h).
pub const EXIT_CONFIG: u8 = 64;

/// Turns a PostgreSQL into a realtime back end, wire-compatible with Supabase Realtime.
#[derive(Debug, Parser)]
#[command(
    name = "realtime",
    version,
    after_help = "Without a command it serves, configured by its environment alone."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the tenants that the environment describes (the default)
    Serve,
    /// Serve with a private PostgreSQL, a sample table and a token: something to play with
    Dev(DevArgs),
    /// Print a token for a tenant that uses API_JWT_SECRET
    Token(TokenArgs),
    /// Set the databases up for private topics, print what changed, and exit
    Migrate,
    /// Read the settings, print them without secrets, and exit
    CheckConfig,
}

/// Options of `realtime dev`.
#[derive(Debug, Args)]
pub struct DevArgs {
    /// Where the private PostgreSQL keeps its data; a second start finds it again
    #[arg(long, env = "REALTIME_DEV_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Port of the server
    #[arg(long, env = "PORT", default_value_t = 4000)]
    pub port: u16,
    /// Port of the private PostgreSQL; 15432, or a free one if that is taken
    #[arg(long, env = "REALTIME_DEV_PG_PORT")]
    pub pg_port: Option<u16>,
    /// Folder of PostgreSQL's server programs (initdb, postgres); found or installed if not given
    #[arg(long, env = "REALTIME_PG_BIN", value_name = "DIR")]
    pub pg_bin: Option<PathBuf>,
}

/// Options of `realtime token`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// Database role that the token stands for
    #[arg(long, default_value = "anon")]
    pub role: String,
    /// User id, as the claim `sub`
    #[arg(long)]
    pub sub: Option<String>,
    /// Lifetime in seconds
    #[arg(long, default_value_t = 3600)]
    pub expires_in: u64,
    /// Further claims, as a JSON object
    #[arg(long, default_value = "{}", value_name = "JSON")]
    pub claims: String,
}

impl TokenArgs {
    /// The claims of the token, as JSON text, for a token made at this time.
    ///
    /// # Errors
    /// When `--claims` is not a JSON object.
    pub fn claims(&self, now: Duration) -> Result<String, serde_json::Error> {
        let mut claims: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&self.claims)?;
        claims.insert("role".into(), self.role.as_str().into());
        claims.insert("iat".into(), now.as_secs().into());
        claims.insert("exp".into(), (now.as_secs() + self.expires_in).into());
        if let Some(sub) = &self.sub {
            claims.insert("sub".into(), sub.as_str().into());
        }
        Ok(serde_json::Value::Object(claims).to_string())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn token_claims() {
        let Cli { command: Some(Command::Token(args)) } = Cli::parse_from([
            "realtime",
            "token",
            "--role",
            "authenticated",
            "--sub",
            "u1",
            "--claims",
            r#"{"a":1}"#,
        ]) else {
            panic!("token expected")
        };
        let claims: serde_json::Value =
            serde_json::from_str(&args.claims(Duration::from_secs(100)).unwrap()).unwrap();
        assert_eq!(claims, serde_json::json!({"role":"authenticated","sub":"u1","iat":100,"exp":3700,"a":1}));
    }
}
