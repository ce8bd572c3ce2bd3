//! What every page is made with.

use axum::extract::Query;
use http::StatusCode;
use serde::Deserialize;

use super::access::Visitor;

/// The query of a page's address: how to show it.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub struct Look {
    /// Seconds after which the page reloads itself.
    refresh: Option<u32>,
}

/// What every page needs.
pub struct Page {
    /// The person who looks at it.
    pub visitor: Visitor,
    /// Seconds after which it reloads itself.
    pub refresh: Option<u32>,
}

impl<S: Send + Sync> axum::extract::FromRequestParts<S> for Page {
    type Rejection = StatusCode;

    async fn from_request_parts(
        parts: &mut http::request::Parts,
        state: &S,
    ) -> Result<Self, Self::Rejection> {
        let visitor = parts.extensions.get::<Visitor>().cloned();
        // The guarding layer sets it; without it nobody gets here.
        let visitor = visitor.ok_or(StatusCode::FORBIDDEN)?;
        let look = Query::<Look>::from_request_parts(parts, state).await;
        let refresh = look.ok().and_then(|Query(look)| look.refresh).map(|seconds| seconds.clamp(2, 300));
        Ok(Self { visitor, refresh })
    }
}
