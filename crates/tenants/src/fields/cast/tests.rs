use super::*;

fn cast(tenant: Value) -> Result<TenantFields, Value> {
    TenantFields::cast(tenant.as_object().unwrap()).map_err(|errors| errors.to_json())
}

fn database() -> Map<String, Value> {
    json!({"region": "us-east-1", "db_host": "db", "db_port": "5432", "db_name": "app", "db_user": "me", "db_password": "pw"})
        .as_object()
        .cloned()
        .unwrap()
}

#[test]
fn what_is_not_given_stays_open() {
    let fields =
        cast(json!({"unknown": 1, "name": null, "max_client_presence_events_per_window": ""})).unwrap();
    assert_eq!(fields.name, Some(None));
    assert_eq!(fields.max_client_presence_events_per_window, Some(None));
    assert!(fields.suspend.is_none() && fields.max_joins_per_second.is_none() && fields.extensions.is_none());
}

#[test]
fn numbers_and_booleans_may_be_text() {
    let fields = cast(json!({
        "max_events_per_second": "12", "max_concurrent_users": -1, "suspend": "1", "private_only": "false",
    }))
    .unwrap();
    assert_eq!((fields.max_events_per_second, fields.max_concurrent_users), (Some(12), Some(-1)));
    assert_eq!((fields.suspend, fields.private_only), (Some(true), Some(false)));
}

/// http_and_ops 15
#[test]
fn everything_wrong_is_told_at_once() {
    let errors = cast(json!({
        "external_id": null, "name": 7, "max_events_per_second": "12ms", "max_joins_per_second": 3_000_000_000_i64,
        "private_only": "yes", "broadcast_adapter": "pigeon", "jwt_jwks": [], "feature_flags": null,
        "extensions": {},
    }))
    .unwrap_err();
    assert_eq!(
        errors,
        json!({
            "external_id": ["can't be blank"], "name": ["is invalid"], "max_events_per_second": ["is invalid"],
            "max_joins_per_second": ["is invalid"], "private_only": ["is invalid"],
            "broadcast_adapter": ["is invalid"], "jwt_jwks": ["is invalid"],
            "feature_flags": ["can't be blank"], "extensions": ["is invalid"],
        })
    );
}

/// http_and_ops 16
#[test]
fn databases_must_be_complete() {
    let mut bad = database();
    bad.remove("db_password");
    bad.insert("db_port".into(), 5432.into());
    bad.insert("db_pool".into(), "two".into());
    bad.insert("slot_name".into(), "Mine".into());
    bad.insert("publication".into(), 7.into());
    let entries = json!([
        {"type": "postgres_cdc_rls", "settings": database()},
        {"type": "postgres_cdc_rls", "settings": bad},
        {"settings": 1},
    ]);
    assert_eq!(
        cast(json!({"extensions": entries})).unwrap_err(),
        json!({"extensions": [
            {},
            {"settings": ["db_password can't be blank", "db_port is invalid", "publication is invalid", "slot_name is invalid", "db_pool is invalid"]},
            {"type": ["can't be blank"], "settings": ["is invalid"]},
        ]})
    );
}

/// http_and_ops 14, 17
#[test]
fn old_names_and_defaults_are_filled_in() {
    let mut settings = database();
    settings.insert("subcriber_pool_size".into(), 3.into());
    settings.insert("slot_name".into(), "mine".into());
    let fields = cast(json!({"extensions": [{"type": "postgres", "settings": settings.clone()}]})).unwrap();
    let [extension] = &fields.extensions.unwrap()[..] else { panic!("one extension expected") };
    assert_eq!(extension.kind, "postgres_cdc_rls");
    assert_eq!(extension.settings["publication"], "supabase_realtime");
    assert_eq!(extension.settings["slot_name"], "mine");
    assert_eq!(extension.settings["poll_max_record_bytes"], 1_048_576);
    assert_eq!(extension.settings["subcriber_pool_size"], 3);

    settings.insert("postgres_changes_pool".into(), 10.into());
    let extension = ExtensionFields::cast(&json!({"type": "postgres", "settings": settings})).unwrap();
    assert_eq!(extension.settings["subcriber_pool_size"], 10);
    assert!(!extension.settings.contains_key("postgres_changes_pool"));
}

#[test]
fn unknown_extensions_are_kept_as_they_are() {
    let given = json!({"type": "other", "settings": {"token": "t"}});
    let extension = ExtensionFields::cast(&given).unwrap();
    assert_eq!((extension.kind.as_str(), &extension.settings["token"]), ("other", &json!("t")));
    assert!(!format!("{extension:?}").contains("\"t\""), "{extension:?}");
}
