//! Where a server's tenants come from.

use std::sync::Arc;

use crate::{Directory, Registry, StoreError, Tenant};

/// Where a server's tenants come from: its configuration or a metadata database. The functions that do not wait
/// answer from what is known.
#[derive(Debug)]
pub enum Tenants {
    /// Those of the configuration, and no others.
    Configured(Registry),
    /// Those of a metadata database.
    Stored(Arc<Directory>),
}

impl Tenants {
    /// The tenant that a request's host means, if that is known without asking. `None` says nothing.
    #[must_use]
    pub fn resolve_cached(&self, host: &str) -> Option<Arc<Tenant>> {
        match self {
            Self::Configured(registry) => registry.resolve(host),
            Self::Stored(directory) => directory.resolve_cached(host),
        }
    }

    /// The tenant that a request's host means (protocol 1.4), if there is one that can be served.
    ///
    /// # Errors
    /// [`StoreError`] when the metadata database does not answer and the tenant is not known.
    pub async fn resolve(&self, host: &str) -> Result<Option<Arc<Tenant>>, StoreError> {
        match self {
            Self::Configured(registry) => Ok(registry.resolve(host)),
            Self::Stored(directory) => directory.resolve(host).await,
        }
    }

    /// The tenant of this name; as [`resolve`](Self::resolve).
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub async fn get(&self, external_id: &str) -> Result<Option<Arc<Tenant>>, StoreError> {
        match self {
            Self::Configured(registry) => Ok(registry.get(external_id)),
            Self::Stored(directory) => directory.get(external_id).await,
        }
    }

    /// The tenant of this name as it was last seen, however long ago: what is in force for sockets.
    #[must_use]
    pub fn latest(&self, external_id: &str) -> Option<Arc<Tenant>> {
        match self {
            Self::Configured(registry) => registry.get(external_id),
            Self::Stored(directory) => directory.latest(external_id),
        }
    }

    /// The metadata database, where there is one.
    #[must_use]
    pub fn directory(&self) -> Option<&Arc<Directory>> {
        match self {
            Self::Configured(_) => None,
            Self::Stored(directory) => Some(directory),
        }
    }
}
