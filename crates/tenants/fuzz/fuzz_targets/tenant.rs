//! What an administrator says of a tenant, and its key set.
#![cfg_attr(fuzzing, no_main)]

use libfuzzer_sys::fuzz_target;
use realtime_auth::Jwks;
use realtime_tenants::TenantFields;
use serde_json::{Map, Value};

fuzz_target!(|data: &[u8]| {
    let Ok(tenant) = serde_json::from_slice::<Map<String, Value>>(data) else { return };
    if let Err(errors) = TenantFields::cast(&tenant) {
        assert!(!errors.is_empty());
    }
    if let Some(jwks) = tenant.get("jwt_jwks") {
        let _ = Jwks::parse(&jwks.to_string());
    }
});
