//! Moving secrets from the older cipher to AES-256-GCM (http_and_ops 7.3).

use secrecy::ExposeSecret as _;

use super::{Store, StoreError, now};
use crate::{TenantRecord, encrypted_settings};

impl Store {
    /// Encrypts anew what a record has of the older form, each value only where it still is what the record says:
    /// whoever changes a secret at the same time wins. Notes in the record's row that all is moved, if it is, and
    /// tells whether it is. Nobody is told of a change: there is none.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was changed then.
    pub async fn move_secrets(&self, record: &TenantRecord) -> Result<bool, StoreError> {
        let ciphers = self.ciphers();
        if !ciphers.writes_gcm() {
            return Ok(false);
        }
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        let mut all = true;
        if let Some(old) = record.jwt_secret.as_ref().filter(|secret| secret.is_legacy()) {
            let new = ciphers.encrypt(ciphers.decrypt(old)?.expose_secret())?;
            let moved = transaction
                .execute(
                    "update tenants set jwt_secret = $3 where id = $1 and jwt_secret = $2",
                    &[&record.id, &old.as_str(), &new.as_str()],
                )
                .await?;
            all &= moved == 1;
        }
        for extension in &record.extensions {
            for setting in encrypted_settings(&extension.kind) {
                let old = extension.ciphertext(setting).filter(crate::Ciphertext::is_legacy);
                let Some(old) = old else { continue };
                let new = ciphers.encrypt(ciphers.decrypt(&old)?.expose_secret())?;
                let moved = transaction
                    .execute(
                        "update extensions
                         set settings = pg_catalog.jsonb_set(settings, array[$2::text], pg_catalog.to_jsonb($4::text))
                         where id = $1 and settings ->> $2::text = $3",
                        &[&extension.id, &setting, &old.as_str(), &new.as_str()],
                    )
                    .await?;
                all &= moved == 1;
            }
        }
        if all {
            transaction
                .execute("update tenants set gcm_migrated_at = $2 where id = $1", &[&record.id, &now()])
                .await?;
        }
        transaction.commit().await?;
        Ok(all)
    }
}
