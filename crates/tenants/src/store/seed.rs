//! The tenant that a self-hosted server's environment describes (http_and_ops 6).

use std::fmt;

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value, json};

use super::{Store, StoreError, Updated, now};
use crate::{ExtensionFields, FlagFields, GCM_BACKFILL, TenantFields, TenantRecord, fields};

/// A tenant as the environment describes it.
#[derive(Clone)]
pub struct Seed {
    /// Its name.
    pub external_id: String,
    /// Secret of its tokens; `None` leaves that of a tenant that exists.
    pub jwt_secret: Option<SecretString>,
    /// What a new tenant gets where [`jwt_secret`](Self::jwt_secret) says nothing.
    pub fallback_secret: SecretString,
    /// Its JSON Web Key Set; `None` leaves that of a tenant that exists.
    pub jwt_jwks: Option<Value>,
    /// Whether presence is on for channels of a new tenant that do not ask for it.
    pub presence_enabled: bool,
    /// Where its database is.
    pub place: SeedPlace,
}

impl fmt::Debug for Seed {
    /// Without the key set, which may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seed")
            .field("external_id", &self.external_id)
            .field("jwt_secret", &self.jwt_secret)
            .field("jwt_jwks", &self.jwt_jwks.is_some())
            .field("presence_enabled", &self.presence_enabled)
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

/// Where a seeded tenant's database is.
#[derive(Debug, Clone)]
pub struct SeedPlace {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Database name.
    pub name: String,
    /// Role to log in as.
    pub user: String,
    /// Its password.
    pub password: SecretString,
    /// Publication of a new tenant.
    pub publication: String,
    /// Whether connections are encrypted.
    pub ssl_enforced: bool,
}

/// What seeding did.
#[derive(Debug, Clone)]
pub enum Seeded {
    /// The tenant was made.
    Created(Box<TenantRecord>),
    /// It was there; what differed from the environment was changed.
    Updated(Box<Updated>),
}

impl SeedPlace {
    fn settings(&self) -> Map<String, Value> {
        let Value::Object(settings) = json!({
            "db_host": self.host,
            "db_port": self.port.to_string(),
            "db_name": self.name,
            "db_user": self.user,
            "db_password": self.password.expose_secret(),
            "ssl_enforced": self.ssl_enforced,
        }) else {
            return Map::new();
        };
        settings
    }

    /// Its settings over those that an operator may have made.
    fn over(&self, mut settings: Map<String, Value>) -> Map<String, Value> {
        settings.extend(self.settings());
        settings
    }

    fn fresh(&self) -> Result<ExtensionFields, StoreError> {
        let mut settings = self.settings();
        settings.insert("region".to_owned(), "us-east-1".into());
        settings.insert("publication".to_owned(), self.publication.as_str().into());
        let entry = json!({"type": crate::POSTGRES_CDC_RLS, "settings": settings});
        ExtensionFields::cast(&entry)
            .map_err(|errors| StoreError::Check(format!("of the settings DB_…: {errors}")))
    }
}

impl Store {
    /// Makes the tenant that the environment describes, or, if it is there, gives it the keys and the place of the
    /// database that the environment says. Limits and all else that an operator may have changed stay (spec README,
    /// decision 11). The flag that lets secrets be moved is made if it is not there. Several nodes may do it at once.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn seed(&self, seed: &Seed) -> Result<Seeded, StoreError> {
        if self.flag(GCM_BACKFILL).await?.is_none() {
            let name = GCM_BACKFILL.to_owned();
            let flag = FlagFields { name, enabled: true, rollout_percentage: 100, bucket_key: None };
            match self.create_flag(&flag).await {
                Ok(_) | Err(StoreError::Taken { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        if self.get(&seed.external_id).await?.is_none() {
            let secret = seed.jwt_secret.as_ref().unwrap_or(&seed.fallback_secret);
            let fields = TenantFields {
                jwt_secret: Some(Some(secret.clone())),
                jwt_jwks: Some(seed.jwt_jwks.clone()),
                presence_enabled: Some(seed.presence_enabled),
                extensions: Some(vec![seed.place.fresh()?]),
                ..TenantFields::default()
            };
            match self.create(&seed.external_id, &fields).await {
                // Another node was faster.
                Err(StoreError::Taken { .. }) => {}
                made => return made.map(Box::new).map(Seeded::Created),
            }
        }
        let now = now();
        let updated = self.edit(&seed.external_id, now, |record| {
            let place = match record.database() {
                Some(extension) => ExtensionFields {
                    kind: extension.kind.clone(),
                    // One that cannot be read is made anew.
                    settings: match fields::clear(extension, self.ciphers()) {
                        Some(clear) => seed.place.over(clear.settings),
                        None => seed.place.over(extension.settings.clone()),
                    },
                },
                None => seed.place.fresh()?,
            };
            let others = record.extensions.iter().filter(|other| other.kind != crate::POSTGRES_CDC_RLS);
            let others = others.filter_map(|other| fields::clear(other, self.ciphers()));
            let fields = TenantFields {
                jwt_secret: seed.jwt_secret.clone().map(Some),
                jwt_jwks: seed.jwt_jwks.clone().map(Some),
                extensions: Some(others.chain([place]).collect()),
                ..TenantFields::default()
            };
            Ok(fields.apply(record, self.ciphers(), now)?)
        });
        updated.await.map(Box::new).map(Seeded::Updated)
    }
}
