//! The command line.

mod doctor;
mod explain;
mod pages;
mod pair;
mod remote;
mod token;
mod watch;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
pub use doctor::DoctorArgs;
pub use explain::ExplainArgs;
pub use pages::{CompletionsArgs, ManArgs};
pub use remote::{SendArgs, TenantsArgs, TenantsCommand};
pub use token::TokenArgs;
pub use watch::{Tokens, WatchArgs};

use crate::config;

/// Exit code for settings that cannot be used (`EX_USAGE` of sysexits.h).
pub const EXIT_CONFIG: u8 = 64;

/// Turns a PostgreSQL into a realtime back end, wire-compatible with Supabase Realtime.
#[derive(Debug, Parser)]
#[command(
    name = "realtime",
    version,
    after_help = "Without a command it serves. Settings are environment variables, or keys of a TOML file:\n\
                  `realtime serve --help` lists them, `realtime check-config` shows what counts."
)]
pub struct Cli {
    /// TOML file with settings; the environment overrides it
    #[arg(long, global = true, env = "REALTIME_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the tenants that the settings describe (the default)
    #[command(after_long_help = config::reference::help())]
    Serve(ServeArgs),
    /// Serve with a private PostgreSQL, a sample table and a token, on one node or several: for trying things out
    Dev(DevArgs),
    /// Print a token: for a tenant, for the admin API, or for metrics
    #[command(after_help = token::EXAMPLES)]
    Token(TokenArgs),
    /// Show the rows of a table, kept right: redrawn in place on a terminal, else as lines of JSON
    #[command(after_help = watch::EXAMPLES)]
    Watch(WatchArgs),
    /// Send a message to a topic of a running server
    #[command(after_help = remote::SEND_EXAMPLES)]
    Send(SendArgs),
    /// List, show or change the tenants of a running server
    #[command(after_help = remote::TENANTS_EXAMPLES)]
    Tenants(TenantsArgs),
    /// Set the databases up for private topics, print what changed, and exit
    Migrate(MigrateArgs),
    /// Look at the settings and the databases, and say what is wrong and what mends it
    #[command(after_help = doctor::EXAMPLES)]
    Doctor(DoctorArgs),
    /// Say why a user gets no changes of a table, or of one row
    #[command(after_help = explain::EXAMPLES)]
    Explain(ExplainArgs),
    /// Print the settings in force and where each came from, without secrets; or what is wrong (exit code 64)
    CheckConfig,
    /// Print completions for a shell, as in: source <(realtime completions bash)
    Completions(CompletionsArgs),
    /// Print the man page, as in: realtime man | man -l -
    Man(ManArgs),
    /// Print docs/configuration.md
    #[command(hide = true)]
    Reference,
}

/// Options of `realtime serve`.
#[derive(Debug, Default, Args)]
pub struct ServeArgs {
    /// Stop when standard input ends, so that the server ends with the process that started it
    #[arg(long, hide = true)]
    pub until_stdin_ends: bool,
}

/// Options of `realtime migrate`.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct MigrateArgs {
    /// Only say what would be changed
    #[arg(long)]
    pub dry_run: bool,
}

/// Options of `realtime dev`.
#[derive(Debug, Args)]
pub struct DevArgs {
    /// Where the private PostgreSQL keeps its data; a second start finds it again
    #[arg(long, env = "REALTIME_DEV_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Port of the server, or of the first of several nodes: the others have the next ones
    #[arg(long, env = "PORT", default_value_t = 4000)]
    pub port: u16,
    /// Nodes of a cluster, 1 to 9: each is a process of its own that can be killed, paused and started again
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub nodes: u8,
    /// NATS for several nodes; if not given, a private one is started (nats-server has to be installed)
    #[arg(long, env = "NATS_URL", hide_env_values = true, value_name = "URL")]
    pub nats_url: Option<String>,
    /// Port of the private PostgreSQL; 15432, or a free one if that is taken
    #[arg(long, env = "REALTIME_DEV_PG_PORT")]
    pub pg_port: Option<u16>,
    /// Folder of PostgreSQL's server programs (initdb, postgres); found or installed if not given
    #[arg(long, env = "REALTIME_PG_BIN", value_name = "DIR")]
    pub pg_bin: Option<PathBuf>,
}

impl DevArgs {
    /// NATS to use instead of a private one.
    #[must_use]
    pub fn nats_url(&self) -> Option<&str> {
        self.nats_url.as_deref().filter(|url| !url.is_empty())
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
}
