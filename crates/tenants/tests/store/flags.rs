use std::time::Duration;

use anyhow::Result;
use realtime_tenants::{FlagFields, StoreError};
use realtime_testkit::TestDb;
use serde_json::json;

use crate::support::{complete, directory, store};

fn flag(name: &str, enabled: bool, rollout_percentage: i32) -> FlagFields {
    FlagFields { name: name.to_owned(), enabled, rollout_percentage, bucket_key: None }
}

#[tokio::test]
async fn flags_are_made_changed_and_removed() -> Result<()> {
    let db = TestDb::new().await?;
    let store = store(&db).await?;
    let made = store.create_flag(&flag("b", true, 10)).await?;
    store.create_flag(&flag("a", false, 100)).await?;
    let names: Vec<_> = store.flags().await?.into_iter().map(|flag| flag.name).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(store.flag("b").await?, Some(made));
    let taken = store.create_flag(&flag("b", true, 1)).await.unwrap_err();
    assert_eq!(taken, StoreError::Taken { field: "name" });
    let wrong = store.update_flag("b", &flag("b", true, 101)).await.unwrap_err();
    assert_eq!(
        wrong.field_errors().unwrap().to_json(),
        json!({"rollout_percentage": ["must be between 0 and 100"]})
    );
    let changed = FlagFields { bucket_key: Some("k".to_owned()), ..flag("b", false, 7) };
    assert_eq!(store.update_flag("b", &changed).await?.rollout_percentage, 7);
    store.delete_flag("b").await?;
    assert_eq!(store.delete_flag("b").await.unwrap_err(), StoreError::NotFound { what: "feature flag" });
    Ok(())
}

/// Unknown flags are off whatever a tenant says; else its own word counts; else whether the flag is on, and for how
/// many.
#[tokio::test]
async fn who_a_flag_is_on_for() -> Result<()> {
    let db = TestDb::new().await?;
    let store = store(&db).await?;
    store.create("t", &complete("secret")).await?;
    // So that each question asks the database.
    let directory = directory(&store, Duration::ZERO, None);
    let is_on = async || directory.is_flag_on("f", "t").await;

    store.override_flag("t", "f", Some(true)).await?;
    assert!(!is_on().await?, "unknown");
    store.create_flag(&flag("f", false, 0)).await?;
    assert!(is_on().await?, "of its own");
    store.override_flag("t", "f", None).await?;
    assert!(!is_on().await?, "off");
    store.update_flag("f", &flag("f", true, 0)).await?;
    assert!(!is_on().await?, "for nobody");
    store.update_flag("f", &flag("f", true, 100)).await?;
    assert!(is_on().await?, "for all");
    store.override_flag("t", "f", Some(false)).await?;
    assert!(!is_on().await?, "not for this one");
    assert!(!directory.is_flag_on("f", "nobody").await?);
    Ok(())
}
