//! Who may administer tenants (http_and_ops 1.1).

use realtime_auth::Blocklist;
use secrecy::SecretString;

use super::Env;

/// Who may administer tenants.
#[derive(Debug, Clone, Default)]
pub struct AdminSettings {
    /// Secrets of administrators' tokens: `API_JWT_SECRET` and its successor, if they are set. If there are none,
    /// nobody is an administrator.
    pub secrets: Vec<SecretString>,
    /// Tokens that are refused, even if they are valid.
    pub blocklist: Blocklist,
}

impl AdminSettings {
    /// Reads `API_JWT_SECRET`, `API_JWT_SECRET_NEXT` and `API_TOKEN_BLOCKLIST`.
    pub(super) fn from_env(env: &Env) -> Self {
        let secrets = ["API_JWT_SECRET", "API_JWT_SECRET_NEXT"];
        Self {
            secrets: secrets.iter().filter_map(|name| env.text(name)).map(SecretString::from).collect(),
            blocklist: Blocklist::parse(&env.text("API_TOKEN_BLOCKLIST").unwrap_or_default()),
        }
    }
}
