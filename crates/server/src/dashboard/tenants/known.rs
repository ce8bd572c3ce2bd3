//! The tenant of a page.

use std::sync::Arc;

use axum::response::Response;
use http::StatusCode;
use realtime_tenants::{StoreError, Tenant, TenantRecord};

use crate::{
    dashboard::{Page, failure, source},
    node::Node,
};

/// The message for an unknown tenant.
pub(super) const NOT_FOUND: &str = "Tenant not found";

/// A tenant, and where it is kept.
pub enum Known {
    /// The metadata database.
    Record(Box<TenantRecord>),
    /// The configuration.
    Configured(Arc<Tenant>),
}

impl Known {
    pub(super) fn external_id(&self) -> &str {
        match self {
            Self::Record(record) => &record.external_id,
            Self::Configured(tenant) => &tenant.external_id,
        }
    }

    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Self::Record(record) => record.name.as_deref(),
            Self::Configured(_) => None,
        }
    }

    pub(super) fn is_suspended(&self) -> bool {
        match self {
            Self::Record(record) => record.suspend,
            Self::Configured(tenant) => tenant.suspend,
        }
    }

    pub(super) fn is_private(&self) -> bool {
        match self {
            Self::Record(record) => record.private_only,
            Self::Configured(tenant) => tenant.private_only,
        }
    }

    /// Whether its name contains a searched text, in any case.
    pub(super) fn matches(&self, search: &str) -> bool {
        let search = search.to_lowercase();
        let has = |text: &str| text.to_lowercase().contains(&search);
        has(self.external_id()) || self.name().is_some_and(has)
    }

    /// The tenant as the server uses it, or why it cannot be used.
    pub(super) async fn served(&self, node: &Node) -> Result<Arc<Tenant>, String> {
        match self {
            Self::Configured(tenant) => Ok(Arc::clone(tenant)),
            Self::Record(record) => source::served(node, &record.external_id).await,
        }
    }
}

/// All tenants, by name.
pub(super) async fn all(node: &Node) -> Result<Vec<Known>, StoreError> {
    match source::directory(node) {
        Some(directory) => {
            let records = directory.store().list().await?;
            Ok(records.into_iter().map(|record| Known::Record(Box::new(record))).collect())
        }
        None => Ok(source::configured(node).into_iter().map(Known::Configured).collect()),
    }
}

/// The tenant with a name.
pub(super) async fn find(node: &Node, external_id: &str) -> Result<Option<Known>, StoreError> {
    match source::directory(node) {
        Some(directory) => {
            let record = directory.store().get(external_id).await?;
            Ok(record.map(|record| Known::Record(Box::new(record))))
        }
        None => {
            let mut configured = source::configured(node).into_iter();
            Ok(configured.find(|tenant| *tenant.external_id == *external_id).map(Known::Configured))
        }
    }
}

/// The tenant with a name, or the page that is shown instead.
pub(super) async fn require(node: &Node, page: &Page, external_id: &str) -> Result<Known, Response> {
    match find(node, external_id).await {
        Ok(Some(known)) => Ok(known),
        Ok(None) => Err(failure::page(page, StatusCode::NOT_FOUND, "Tenant", NOT_FOUND)),
        Err(error) => Err(unavailable(page, &error)),
    }
}

/// The page that is shown while the metadata database does not answer.
pub fn unavailable(page: &Page, error: &StoreError) -> Response {
    tracing::error!(code = error.code(), %error, "dashboard: the metadata database did not answer");
    failure::page(page, StatusCode::SERVICE_UNAVAILABLE, "Metadata database", &error.to_string())
}
