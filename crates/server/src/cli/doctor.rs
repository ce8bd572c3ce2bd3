//! `realtime doctor`: the options.

use clap::Args;
use secrecy::SecretString;

/// Shown below the options.
pub(super) const EXAMPLES: &str = "\
Examples:
  realtime doctor                                        the settings, and the databases of all tenants
  realtime doctor --url postgres://realtime:secret@db:5432/app
  realtime doctor --json | jq '.parts[].findings[] | select(.severity == \"error\")'

Exit code: 0 if everything that clients need works, 1 if not, 64 if a setting cannot be used.
What the codes mean: docs/doctor.md";

/// Options of `realtime doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Database to look at, instead of those of the settings [DB_HOST, DB_PORT, DB_USER, DB_PASSWORD, DB_NAME]
    #[arg(long, env = "REALTIME_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub url: Option<SecretString>,
    /// Look at this tenant alone
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<String>,
    /// Print JSON, for scripts
    #[arg(long)]
    pub json: bool,
    /// Show notes, too
    #[arg(long)]
    pub all: bool,
    /// Exit code 1 for warnings, too
    #[arg(long)]
    pub strict: bool,
}
