//! Feature flags (http_and_ops 7.2).

use jiff::civil::DateTime;
use uuid::Uuid;

use crate::TenantRecord;

/// The flag that lets secrets be moved to AES-256-GCM in the background.
pub const GCM_BACKFILL: &str = "gcm_encryption_backfill";

/// A row of `_realtime.feature_flags`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureFlag {
    /// Primary key.
    pub id: Uuid,
    /// Unique name.
    pub name: String,
    /// Whether it is on for anybody that has no setting of its own.
    pub enabled: bool,
    /// For how many of 100 tenants.
    pub rollout_percentage: i32,
    /// What tenants are told apart by, beside their name; the flag's name if there is none. Flags with the same key
    /// are on for the same tenants.
    pub bucket_key: Option<String>,
    /// When it was made, in UTC.
    pub inserted_at: DateTime,
    /// When it was last changed, in UTC.
    pub updated_at: DateTime,
}

/// A flag as it shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlagFields {
    /// Unique name.
    pub name: String,
    /// Whether it is on.
    pub enabled: bool,
    /// For how many of 100 tenants.
    pub rollout_percentage: i32,
    /// See [`FeatureFlag::bucket_key`].
    pub bucket_key: Option<String>,
}

impl FeatureFlag {
    /// Whether the flag is on for a tenant: as its own setting says, else by the rollout.
    #[must_use]
    pub fn is_on_for(&self, tenant: &TenantRecord) -> bool {
        if let Some(own) = tenant.feature_flags.get(&self.name).and_then(serde_json::Value::as_bool) {
            return own;
        }
        self.enabled && self.bucket(&tenant.external_id) < self.rollout_percentage
    }

    /// Which of 100 parts a tenant belongs to.
    fn bucket(&self, external_id: &str) -> i32 {
        let key = self.bucket_key.as_deref().unwrap_or(&self.name);
        let bucket = crate::phash2::of_pair(external_id.as_bytes(), key.as_bytes(), 100);
        i32::try_from(bucket).unwrap_or_default()
    }
}
