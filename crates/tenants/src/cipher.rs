//! How secrets are kept in the metadata database (http_and_ops 7.3).
//!
//! Two forms, told apart by their beginning. The older is AES-128 in ECB mode with PKCS#7 padding, as base64: the
//! same text always gives the same ciphertext, and nothing notices a change to it. The newer is `g1:` and base64 of
//! a random 12-byte nonce, a 16-byte tag and the ciphertext of AES-256-GCM. `:` is no letter of base64, so the two
//! cannot be confused.

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    cipher::{
        AES_128, DecryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey, UnboundCipherKey,
    },
    rand,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use secrecy::{ExposeSecret as _, SecretString};

/// What a ciphertext of AES-256-GCM begins with.
pub(crate) const GCM_PREFIX: &str = "g1:";

/// Bytes of a tag of AES-256-GCM.
const TAG_LEN: usize = 16;

/// Why a value could not be encrypted or decrypted. Says nothing of the value or the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CipherError {
    /// `DB_ENC_KEY` has the wrong length.
    #[error("DB_ENC_KEY must be 16 bytes long")]
    LegacyKeyLength,
    /// `DB_ENC_KEY_GCM` has the wrong length.
    #[error("DB_ENC_KEY_GCM must be 32 bytes long")]
    GcmKeyLength,
    /// The value is of the older form, and there is no key for it.
    #[error("The value is encrypted with DB_ENC_KEY, which is not set")]
    NoLegacyKey,
    /// The value is of the newer form, and there is no key for it.
    #[error("The value is encrypted with DB_ENC_KEY_GCM, which is not set")]
    NoGcmKey,
    /// The value is none of ours, was changed, or was encrypted with another key.
    #[error("The value cannot be decrypted: it was encrypted with another key, or changed")]
    Undecipherable,
    /// The library failed, which it does for want of randomness only.
    #[error("The value could not be encrypted")]
    Failed,
}

/// An encrypted value, as it stands in the metadata database. Prints nothing of itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Ciphertext(Box<str>);

impl Ciphertext {
    /// A value read from the database.
    #[must_use]
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// The value as stored; the admin API answers with it (http_and_ops 1.2).
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is of the older form.
    #[must_use]
    pub fn is_legacy(&self) -> bool {
        !self.0.starts_with(GCM_PREFIX)
    }
}

impl fmt::Debug for Ciphertext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_legacy() { "[legacy ciphertext]" } else { "[GCM ciphertext]" })
    }
}

/// The keys of the metadata database. Cheap to clone.
#[derive(Clone, Default)]
pub struct Ciphers(Arc<Keys>);

#[derive(Default)]
struct Keys {
    legacy: Option<[u8; 16]>,
    gcm: Option<LessSafeKey>,
    write_gcm: bool,
}

impl fmt::Debug for Ciphers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ciphers")
            .field("legacy", &self.0.legacy.is_some())
            .field("gcm", &self.0.gcm.is_some())
            .field("write_gcm", &self.0.write_gcm)
            .finish()
    }
}

impl Ciphers {
    /// From `DB_ENC_KEY`, `DB_ENC_KEY_GCM` and `DB_ENC_WRITE_GCM`. The last means nothing without the second, and need
    /// not be said without the first.
    ///
    /// # Errors
    /// When a key has the wrong length.
    pub fn new(
        legacy: Option<&SecretString>,
        gcm: Option<&SecretString>,
        write_gcm: bool,
    ) -> Result<Self, CipherError> {
        let legacy = legacy
            .map(|key| key.expose_secret().as_bytes().try_into().map_err(|_| CipherError::LegacyKeyLength))
            .transpose()?;
        let gcm = gcm
            .map(|key| {
                let key = UnboundKey::new(&AES_256_GCM, key.expose_secret().as_bytes());
                key.map(LessSafeKey::new).map_err(|_| CipherError::GcmKeyLength)
            })
            .transpose()?;
        let write_gcm = gcm.is_some() && (write_gcm || legacy.is_none());
        Ok(Self(Arc::new(Keys { legacy, gcm, write_gcm })))
    }

    /// Whether values are written in the newer form.
    #[must_use]
    pub fn writes_gcm(&self) -> bool {
        self.0.write_gcm
    }

    /// Encrypts in the form that is written.
    ///
    /// # Errors
    /// When there is no key.
    pub fn encrypt(&self, plain: &str) -> Result<Ciphertext, CipherError> {
        if self.0.write_gcm { self.encrypt_gcm(plain) } else { self.encrypt_legacy(plain) }
    }

    /// Decrypts either form.
    ///
    /// # Errors
    /// When the key is missing or another, or the value was changed.
    pub fn decrypt(&self, value: &Ciphertext) -> Result<SecretString, CipherError> {
        let plain = match value.as_str().strip_prefix(GCM_PREFIX) {
            Some(encoded) => self.decrypt_gcm(encoded)?,
            None => self.decrypt_legacy(value.as_str())?,
        };
        String::from_utf8(plain).map(SecretString::from).map_err(|_| CipherError::Undecipherable)
    }

    fn encrypt_legacy(&self, plain: &str) -> Result<Ciphertext, CipherError> {
        let key = self.0.legacy.as_ref().ok_or(CipherError::NoLegacyKey)?;
        let mut bytes = plain.as_bytes().to_vec();
        UnboundCipherKey::new(&AES_128, key)
            .and_then(PaddedBlockEncryptingKey::ecb_pkcs7)
            .and_then(|key| key.encrypt(&mut bytes))
            .map_err(|_| CipherError::Failed)?;
        Ok(Ciphertext(BASE64_STANDARD.encode(bytes).into()))
    }

    fn decrypt_legacy(&self, encoded: &str) -> Result<Vec<u8>, CipherError> {
        let key = self.0.legacy.as_ref().ok_or(CipherError::NoLegacyKey)?;
        let mut bytes = BASE64_STANDARD.decode(encoded).map_err(|_| CipherError::Undecipherable)?;
        let plain = UnboundCipherKey::new(&AES_128, key)
            .and_then(PaddedBlockDecryptingKey::ecb_pkcs7)
            .and_then(|key| key.decrypt(&mut bytes, DecryptionContext::None).map(|plain| plain.len()))
            .map_err(|_| CipherError::Undecipherable)?;
        bytes.truncate(plain);
        Ok(bytes)
    }

    fn encrypt_gcm(&self, plain: &str) -> Result<Ciphertext, CipherError> {
        let key = self.0.gcm.as_ref().ok_or(CipherError::NoGcmKey)?;
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).map_err(|_| CipherError::Failed)?;
        let mut text = plain.as_bytes().to_vec();
        let tag = key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut text)
            .map_err(|_| CipherError::Failed)?;
        let bytes = [nonce.as_slice(), tag.as_ref(), &text].concat();
        Ok(Ciphertext(format!("{GCM_PREFIX}{}", BASE64_STANDARD.encode(bytes)).into()))
    }

    fn decrypt_gcm(&self, encoded: &str) -> Result<Vec<u8>, CipherError> {
        let key = self.0.gcm.as_ref().ok_or(CipherError::NoGcmKey)?;
        let bytes = BASE64_STANDARD.decode(encoded).map_err(|_| CipherError::Undecipherable)?;
        let (nonce, rest) = bytes.split_at_checked(NONCE_LEN).ok_or(CipherError::Undecipherable)?;
        let (tag, text) = rest.split_at_checked(TAG_LEN).ok_or(CipherError::Undecipherable)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| CipherError::Undecipherable)?;
        // The library wants the tag last.
        let mut sealed = [text, tag].concat();
        let plain = key
            .open_in_place(nonce, Aad::empty(), &mut sealed)
            .map(|plain| plain.len())
            .map_err(|_| CipherError::Undecipherable)?;
        sealed.truncate(plain);
        Ok(sealed)
    }
}

#[cfg(test)]
mod tests;
