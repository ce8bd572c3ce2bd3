//! The life of tenants: what happens to their sockets and databases when a record changes or is removed (http_and_ops
//! 1.4).
//!
//! [`SideEffects`] says what a change requires. It compares two records, so it does not matter who made the change, on
//! which node, or how this node learned of it; following twice is the same as following once. [`Node::follow`] carries
//! it out. Invariants:
//!
//! - Records are followed under the lock of the runtimes, and the record in force is looked up under that lock, not
//!   before. Changes may overtake one another on their way here; the last record always wins. [`Node::runtime_of`] makes
//!   a runtime in the same way, so that nobody revives a tenant that has just gone.
//! - Order within a change: settings and verifier, then the database's handle, then the signals to sockets. So a
//!   socket that acts on its signal sees the new state, and a socket that was admitted in the old state is ended
//!   ([`Era`](realtime_channels::sockets::Era)).
//! - A handle that was replaced, or whose tenant is suspended or gone, is shut down and never connects again, whoever
//!   still holds it.
//! - Nothing waits for an end under the lock. Ends go on by themselves; a caller that asked for one waits a bounded
//!   time.

use std::{sync::Arc, time::Duration};

use realtime_auth::Verifier;
use realtime_channels::{database::Database, tenant_runtime::TenantRuntime};
use realtime_codes::ErrorCode;
use realtime_tenants::Tenant;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{task::JoinHandle, time};

use super::node::Node;

/// How long a request waits for a database's connections to end.
pub const DATABASE_LIMIT: Duration = Duration::from_secs(5);

/// How long a reload waits.
pub const RELOAD_LIMIT: Duration = Duration::from_secs(10);

/// What the change of a record requires beside using the new record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SideEffects {
    /// Tokens are verified with other keys.
    pub keys: bool,
    /// All sockets end.
    pub disconnect: bool,
    /// The connections to the database end; a new handle replaces the old one.
    pub database: bool,
    /// The new handle may lead to another database.
    pub elsewhere: bool,
}

impl SideEffects {
    /// Compares two records. Limits need no effect: meters take theirs from the record.
    #[must_use]
    pub fn of(before: &Tenant, after: &Tenant) -> Self {
        let secret =
            |secret: &Option<SecretString>| secret.as_ref().map(|secret| secret.expose_secret().to_owned());
        let keys =
            secret(&before.jwt_secret) != secret(&after.jwt_secret) || before.jwt_jwks != after.jwt_jwks;
        let suspend = before.suspend != after.suspend;
        let elsewhere = before.database != after.database;
        Self {
            keys,
            disconnect: keys || suspend || before.private_only != after.private_only,
            database: keys || suspend || elsewhere,
            elsewhere,
        }
    }

    /// Why sockets end, where they do.
    fn reason(self, before: &Tenant, after: &Tenant) -> &'static str {
        match (self.keys, before.suspend, after.suspend) {
            (true, ..) => "jwt_secret or jwt_jwks of the tenant has changed",
            (false, false, true) => "the tenant was suspended",
            (false, true, false) => "the tenant is no longer suspended",
            _ => "private_only of the tenant has changed",
        }
    }
}

/// Connections that are ending. They end even if nobody waits.
#[must_use]
#[derive(Debug, Default)]
pub struct Ending(Option<JoinHandle<()>>);

impl Ending {
    /// Waits for the end, `limit` at most; an end that takes longer is logged. Cancel safe.
    pub async fn wait(self, external_id: &str, limit: Duration) {
        let Some(ending) = self.0 else { return };
        if time::timeout(limit, ending).await.is_err() {
            tracing::warn!(
                tenant = external_id,
                code = ErrorCode::UnableToStopDatabaseConnection.as_str(),
                "the connections to the tenant's database did not end in time"
            );
        }
    }
}

impl Node {
    /// Makes the runtime of a tenant follow its record, which has changed. If there is no record any more, the tenant
    /// is gone. Does nothing for a tenant that does not run here, or whose runtime has followed already. Call it
    /// within a runtime.
    pub fn follow(&self, external_id: &str) -> Ending {
        let mut runtimes = self.lock_runtimes();
        let Some(runtime) = runtimes.get(external_id).map(Arc::clone) else { return Ending::default() };
        let latest = self.tenants().latest(external_id);
        let verifier = latest.as_ref().map(|tenant| (tenant, self.verifier(tenant)));
        let (tenant, verifier) = match verifier {
            Some((tenant, Ok(verifier))) => (tenant, verifier),
            gone => {
                if let Some((_, Err(error))) = gone {
                    tracing::error!(tenant = external_id, %error, "tenant cannot be served: its jwt_secret or jwt_jwks cannot be used; correct its record");
                }
                runtimes.remove(external_id);
                return self.retire(&runtime);
            }
        };
        self.change(&runtime, tenant, verifier)
    }

    fn change(&self, runtime: &TenantRuntime, tenant: &Arc<Tenant>, verifier: Verifier) -> Ending {
        let before = runtime.tenant();
        let effects = SideEffects::of(&before, tenant);
        if effects.keys {
            runtime.set_verifier(verifier);
        }
        if effects.keys || effects.elsewhere {
            // Perhaps another tenant of the same name: what was said is not its own.
            runtime.forget_history();
        }
        runtime.set_tenant(Arc::clone(tenant));
        self.apply_webhooks(runtime);
        if effects.elsewhere {
            runtime.forget_set_up();
        }
        let ending = if !effects.database {
            Ending::default()
        } else if tenant.suspend {
            self.end(runtime.database())
        } else {
            self.end(self.replace_database(runtime))
        };
        if effects.disconnect {
            self.disconnect(runtime, effects.reason(&before, tenant));
        } else if effects.database {
            runtime.sockets().database_replaced(effects.elsewhere);
        }
        ending
    }

    /// Ends the runtime of a tenant that nobody can reach any more.
    fn retire(&self, runtime: &TenantRuntime) -> Ending {
        runtime.retire();
        self.end_webhooks(runtime);
        let ending = self.end(runtime.database());
        self.disconnect(runtime, "the tenant was removed, or its record cannot be used");
        ending
    }

    /// Ends a tenant's connections to its database. Sockets stay. The database is connected again on its next use,
    /// which is soon if somebody watches it. `None` if the tenant does not run here.
    #[must_use]
    pub fn end_database(&self, external_id: &str) -> Option<Ending> {
        let runtimes = self.lock_runtimes();
        let runtime = runtimes.get(external_id)?;
        if runtime.tenant().suspend {
            return None;
        }
        let ending = self.end(self.replace_database(runtime));
        runtime.sockets().database_replaced(false);
        Some(ending)
    }

    /// Ends a tenant's connections to its database and its sockets. `None` if the tenant does not run here.
    #[must_use]
    pub fn reload(&self, external_id: &str) -> Option<Ending> {
        let runtimes = self.lock_runtimes();
        let runtime = runtimes.get(external_id)?;
        let ending = if runtime.tenant().suspend {
            Ending::default()
        } else {
            self.end(self.replace_database(runtime))
        };
        self.disconnect(runtime, "an operator has asked for it");
        Some(ending)
    }

    /// Replaces the handle of the tenant's database with a new one from the tenant's settings.
    fn replace_database(&self, runtime: &TenantRuntime) -> Arc<Database> {
        runtime.replace_database(self.prepared(&runtime.tenant()), true)
    }

    /// Ends a tenant's webhooks, in the background.
    pub(super) fn end_webhooks(&self, runtime: &TenantRuntime) {
        let webhooks = Arc::clone(runtime.webhooks());
        if webhooks.is_any() {
            self.endings().spawn(async move { webhooks.shut_down().await });
        }
    }

    /// Shuts a handle down, in the background.
    pub(crate) fn end(&self, database: Arc<Database>) -> Ending {
        Ending(Some(self.endings().spawn(async move { database.shutdown().await })))
    }

    /// Ends the sockets of a tenant (protocol 12): tells each joined channel, then closes with code 1012. `reason`: for
    /// the log.
    pub fn disconnect(&self, runtime: &TenantRuntime, reason: &'static str) {
        let external_id = &**runtime.name();
        tracing::warn!(
            tenant = external_id,
            sockets = runtime.sockets().len(),
            reason,
            "Disconnecting all sockets for tenant {external_id}"
        );
        runtime.sockets().disconnect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Env, Settings};

    fn tenant(change: impl FnOnce(&mut Tenant)) -> Tenant {
        let settings = Settings::from_env(&Env::new(&|_| None)).unwrap();
        let mut tenant = settings.tenants.into_iter().next().unwrap();
        change(&mut tenant);
        tenant
    }

    fn effects(change: impl FnOnce(&mut Tenant)) -> SideEffects {
        SideEffects::of(&tenant(|_| {}), &tenant(change))
    }

    /// http_and_ops 20: what does not end in time is not waited for
    #[tokio::test(start_paused = true)]
    async fn ends_are_waited_for_within_their_limit() {
        let begun = time::Instant::now();
        Ending(Some(tokio::spawn(std::future::pending()))).wait("t", DATABASE_LIMIT).await;
        assert_eq!(begun.elapsed(), DATABASE_LIMIT);
        Ending(Some(tokio::spawn(time::sleep(Duration::from_secs(1))))).wait("t", RELOAD_LIMIT).await;
        assert_eq!(begun.elapsed(), DATABASE_LIMIT + Duration::from_secs(1));
        Ending::default().wait("t", RELOAD_LIMIT).await;
        assert_eq!(begun.elapsed(), DATABASE_LIMIT + Duration::from_secs(1));
    }

    #[test]
    fn the_reason_why_sockets_end_is_told() {
        let reason = |before: fn(&mut Tenant), after: fn(&mut Tenant)| {
            let (before, after) = (tenant(before), tenant(after));
            SideEffects::of(&before, &after).reason(&before, &after)
        };
        let suspended: fn(&mut Tenant) = |tenant| tenant.suspend = true;
        let nothing: fn(&mut Tenant) = |_| {};
        assert_eq!(reason(nothing, suspended), "the tenant was suspended");
        assert_eq!(reason(suspended, nothing), "the tenant is no longer suspended");
        assert!(reason(nothing, |tenant| tenant.private_only = true).contains("private_only"));
        assert!(reason(nothing, |tenant| tenant.jwt_jwks = Some("{}".into())).contains("jwt_jwks"));
    }

    /// http_and_ops 19 to 22
    #[test]
    fn what_a_change_asks_for() {
        let none = SideEffects::default();
        assert_eq!(effects(|_| {}), none);
        assert_eq!(effects(|tenant| tenant.limits.max_events_per_second = 7), none);
        assert_eq!(effects(|tenant| tenant.presence_enabled = true), none);
        let keys = SideEffects { keys: true, disconnect: true, database: true, elsewhere: false };
        assert_eq!(effects(|tenant| tenant.jwt_secret = Some("other".to_owned().into())), keys);
        assert_eq!(effects(|tenant| tenant.jwt_secret = None), keys);
        assert_eq!(effects(|tenant| tenant.jwt_jwks = Some("{}".into())), keys);
        assert_eq!(effects(|tenant| tenant.suspend = true), SideEffects { keys: false, ..keys });
        assert_eq!(effects(|tenant| tenant.private_only = true), SideEffects { disconnect: true, ..none });
        let moved = SideEffects { database: true, elsewhere: true, ..none };
        assert_eq!(effects(|tenant| tenant.database.port += 1), moved);
        assert_eq!(effects(|tenant| tenant.database.password = "other".to_owned().into()), moved);
    }
}
