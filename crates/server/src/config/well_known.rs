//! The secret and the name that a self-hosted server has unless told otherwise.

/// Tenant secret of a self-hosted server that was given none (http_and_ops 6). Everybody knows it.
pub const WELL_KNOWN_SECRET: &str = "super-secret-jwt-token-with-at-least-32-characters-long";

/// Tenant of a self-hosted server that was given no name.
pub const DEFAULT_TENANT: &str = "realtime-dev";

/// Secrets that stand in examples, here and elsewhere.
pub const WELL_KNOWN: &[&str] = &[
    WELL_KNOWN_SECRET,
    "your-super-secret-jwt-token-with-at-least-32-characters-long",
    "your-super-secret-and-long-postgres-password",
    "supabaserealtime",
    "this_password_is_insecure_and_should_be_updated",
];
