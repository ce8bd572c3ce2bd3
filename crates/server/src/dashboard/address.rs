//! Addresses of pages.

/// Path of the dashboard.
pub const BASE: &str = "/admin/dashboard";

/// A name as part of a path.
pub fn path_of(external_id: &str) -> String {
    let name = percent_encoding::utf8_percent_encode(external_id, percent_encoding::NON_ALPHANUMERIC);
    format!("tenants/{name}")
}
