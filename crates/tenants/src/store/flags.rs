//! Feature flags as rows.

use tokio_postgres::Row;
use uuid::Uuid;

use super::{CHANNEL, Store, StoreError, now};
use crate::{FeatureFlag, FlagFields};

const NOT_FOUND: StoreError = StoreError::NotFound { what: "feature flag" };

impl Store {
    /// All feature flags, by name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn flags(&self) -> Result<Vec<FeatureFlag>, StoreError> {
        let rows = self.client().await?.query("select * from feature_flags order by name", &[]).await?;
        rows.iter().map(|row| Ok(flag(row)?)).collect()
    }

    /// The feature flag of this name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn flag(&self, name: &str) -> Result<Option<FeatureFlag>, StoreError> {
        let client = self.client().await?;
        let row = client.query_opt("select * from feature_flags where name = $1", &[&name]).await?;
        Ok(row.as_ref().map(flag).transpose()?)
    }

    /// Makes a feature flag.
    ///
    /// # Errors
    /// [`StoreError::Taken`], [`StoreError::Check`] for a percentage out of range, or anything else.
    pub async fn create_flag(&self, fields: &FlagFields) -> Result<FeatureFlag, StoreError> {
        let now = now();
        self.write_flag(
            "insert into feature_flags
                 (id, name, enabled, rollout_percentage, bucket_key, inserted_at, updated_at)
             values ($1, $2, $3, $4, $5, $6, $6) returning *",
            &[
                &Uuid::new_v4(),
                &fields.name,
                &fields.enabled,
                &fields.rollout_percentage,
                &fields.bucket_key,
                &now,
            ],
            &fields.name,
        )
        .await
    }

    /// Changes the feature flag of this name, which may get another one.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], and as [`create_flag`](Self::create_flag).
    pub async fn update_flag(&self, name: &str, fields: &FlagFields) -> Result<FeatureFlag, StoreError> {
        self.write_flag(
            "update feature_flags
             set name = $2, enabled = $3, rollout_percentage = $4, bucket_key = $5, updated_at = $6
             where name = $1 returning *",
            &[&name, &fields.name, &fields.enabled, &fields.rollout_percentage, &fields.bucket_key, &now()],
            name,
        )
        .await
    }

    /// Removes the feature flag of this name, and tells what it was.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or anything else.
    pub async fn delete_flag(&self, name: &str) -> Result<FeatureFlag, StoreError> {
        self.write_flag("delete from feature_flags where name = $1 returning *", &[&name], name).await
    }

    async fn write_flag(
        &self,
        statement: &str,
        values: &[&(dyn tokio_postgres::types::ToSql + Sync)],
        name: &str,
    ) -> Result<FeatureFlag, StoreError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let row = transaction.query_opt(statement, values).await?.ok_or(NOT_FOUND)?;
        let told = format!("flag {name}");
        transaction.execute("select pg_catalog.pg_notify($1, $2)", &[&CHANNEL, &told]).await?;
        transaction.commit().await?;
        Ok(flag(&row)?)
    }

    /// What a tenant has otherwise than everybody: on, off, or (`None`) nothing of its own.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for an unknown tenant, or anything else.
    pub async fn override_flag(
        &self,
        external_id: &str,
        name: &str,
        value: Option<bool>,
    ) -> Result<super::Updated, StoreError> {
        self.edit(external_id, now(), |record| {
            match value {
                Some(value) => record.feature_flags.insert(name.to_owned(), value.into()),
                None => record.feature_flags.remove(name),
            };
            Ok(())
        })
        .await
    }
}

fn flag(row: &Row) -> Result<FeatureFlag, tokio_postgres::Error> {
    Ok(FeatureFlag {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        enabled: row.try_get("enabled")?,
        rollout_percentage: row.try_get("rollout_percentage")?,
        bucket_key: row.try_get("bucket_key")?,
        inserted_at: row.try_get("inserted_at")?,
        updated_at: row.try_get("updated_at")?,
    })
}
