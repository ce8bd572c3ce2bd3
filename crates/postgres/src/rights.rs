//! What the server's own role may do that it should not.

use tokio_postgres::{Client, Error};

/// Tells operators, in the log, when the server's role is a superuser. Code of applications, in policies and in checks of
/// domains, runs in sessions of this role: under another one, but a function can go back to it.
pub(crate) async fn warn_of_superuser(client: &Client, tenant: &str) -> Result<(), Error> {
    let row = client.query_one("select pg_catalog.current_setting('is_superuser')", &[]).await?;
    if row.try_get::<_, &str>(0)? == "on" {
        tracing::warn!(
            tenant,
            code = "DatabaseRoleIsSuperuser",
            "the server's role is a superuser: give it a role of its own, with the rights of docs/securing.md"
        );
    }
    Ok(())
}
