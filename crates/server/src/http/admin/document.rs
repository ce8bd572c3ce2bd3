//! The admin API in the OpenAPI document (http_and_ops 3).

use utoipa::{Modify, OpenApi};

use super::{health, operations, policies, read, webhooks, write};

/// The operations.
#[derive(OpenApi)]
#[openapi(
    paths(
        read::list,
        read::show,
        write::post,
        write::put,
        write::delete,
        operations::reload,
        operations::shutdown,
        health::health,
        policies::show,
        webhooks::list,
        webhooks::put,
        webhooks::delete,
    ),
    tags((
        name = "Tenants",
        description = "For administrators. Where tenants are those of the configuration, nothing of it can be changed"
    )),
    modifiers(&Patch)
)]
pub(in crate::http) struct Document;

/// One handler serves two methods, and each operation needs an id of its own.
struct Patch;

impl Modify for Patch {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        for path in document.paths.paths.values_mut() {
            if let Some(patch) = &mut path.patch {
                patch.operation_id = Some("patch_tenant".to_owned());
            }
        }
    }
}
