//! Which tenant a request means.

use std::{collections::HashMap, sync::Arc};

use parking_lot::RwLock;

use crate::Tenant;

/// The tenants this server knows, by name.
#[derive(Debug, Default)]
pub struct Registry {
    tenants: RwLock<HashMap<Box<str>, Arc<Tenant>>>,
}

impl Registry {
    /// Adds a tenant or replaces the one of the same name.
    pub fn put(&self, tenant: Tenant) {
        self.tenants.write().insert(tenant.external_id.clone(), Arc::new(tenant));
    }

    /// The tenant of this name.
    #[must_use]
    pub fn get(&self, external_id: &str) -> Option<Arc<Tenant>> {
        self.tenants.read().get(external_id).map(Arc::clone)
    }

    /// All tenants, by name.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Tenant>> {
        let mut tenants: Vec<_> = self.tenants.read().values().map(Arc::clone).collect();
        tenants.sort_by(|a, b| a.external_id.cmp(&b.external_id));
        tenants
    }

    /// The tenant that a request's host means (protocol 1.4): the one named by its first label, else the
    /// only default tenant, else none. `host` may carry a port and is matched in lower case.
    #[must_use]
    pub fn resolve(&self, host: &str) -> Option<Arc<Tenant>> {
        let label = first_label(host).to_ascii_lowercase();
        let tenants = self.tenants.read();
        if let Some(tenant) = tenants.get(label.as_str()) {
            return Some(Arc::clone(tenant));
        }
        let mut defaults = tenants.values().filter(|tenant| tenant.default);
        match (defaults.next(), defaults.next()) {
            (Some(only), None) => Some(Arc::clone(only)),
            _ => None,
        }
    }
}

/// The text before the first dot, or all of it, without the port.
pub(crate) fn first_label(host: &str) -> &str {
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or(v6),
        None => host.split(':').next().unwrap_or(host),
    };
    host.split('.').next().unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DatabaseSettings, Limits};

    fn tenant(external_id: &str, default: bool) -> Tenant {
        Tenant {
            external_id: external_id.into(),
            default,
            jwt_secret: None,
            jwt_jwks: None,
            private_only: false,
            suspend: false,
            presence_enabled: false,
            limits: Limits::default(),
            webhooks: std::sync::Arc::default(),
            database: DatabaseSettings {
                host: "localhost".into(),
                port: 5432,
                route: realtime_tls::Route::default(),
                name: "postgres".into(),
                user: "postgres".into(),
                password: "".into(),
                publication: "supabase_realtime".into(),
                slot_name: "slot".into(),
                durable_slot: false,
                max_lag_bytes: 0,
                idle_stop: std::time::Duration::ZERO,
                pool_size: 1,
                policy_pool_size: None,
                queue_target: None,
            },
        }
    }

    fn resolved(registry: &Registry, host: &str) -> Option<String> {
        registry.resolve(host).map(|tenant| tenant.external_id.to_string())
    }

    /// protocol 1, 13
    #[test]
    fn the_first_label_names_the_tenant() {
        let registry = Registry::default();
        registry.put(tenant("abc", false));
        registry.put(tenant("127", false));
        for host in ["abc", "abc.supabase.co", "abc.a.b.c", "ABC.example", "abc:4000", "abc.localhost:4000"] {
            assert_eq!(resolved(&registry, host).as_deref(), Some("abc"), "{host}");
        }
        assert_eq!(resolved(&registry, "127.0.0.1:4000").as_deref(), Some("127"));
        for host in ["", "a.abc", "localhost", "[::1]:4000", "."] {
            assert_eq!(resolved(&registry, host), None, "{host}");
        }
    }

    /// spec README, decision 12
    #[test]
    fn unknown_hosts_mean_the_only_default_tenant() {
        let registry = Registry::default();
        registry.put(tenant("abc", false));
        registry.put(tenant("home", true));
        assert_eq!(resolved(&registry, "localhost:4000").as_deref(), Some("home"));
        assert_eq!(resolved(&registry, "abc.localhost").as_deref(), Some("abc"));
        registry.put(tenant("second", true));
        assert_eq!(resolved(&registry, "localhost:4000"), None);
    }
}
