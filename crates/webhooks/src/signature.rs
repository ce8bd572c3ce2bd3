//! Signatures of webhooks in the form of <https://www.standardwebhooks.com>. Its libraries verify them.

use aws_lc_rs::hmac;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use secrecy::{ExposeSecret as _, SecretString};

/// Prefix of a secret that is written as base64.
pub(crate) const PREFIX: &str = "whsec_";

/// The key of a secret: the bytes that follow `whsec_` as base64, or the text itself.
#[must_use]
pub fn key(secret: &SecretString) -> hmac::Key {
    let text = secret.expose_secret();
    let decoded = decoded(text);
    hmac::Key::new(hmac::HMAC_SHA256, decoded.as_deref().unwrap_or(text.as_bytes()))
}

/// The bytes of a secret that is written as base64, if they can be read.
pub(crate) fn decoded(secret: &str) -> Option<Vec<u8>> {
    secret.strip_prefix(PREFIX).and_then(|encoded| BASE64_STANDARD.decode(encoded).ok())
}

/// The header `webhook-signature` of a message.
#[must_use]
pub fn sign(key: &hmac::Key, id: &str, unix_seconds: u64, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(key);
    context.update(format!("{id}.{unix_seconds}.").as_bytes());
    context.update(body);
    format!("v1,{}", BASE64_STANDARD.encode(context.sign()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's reference libraries.
    #[test]
    fn the_example_of_the_specification() {
        let key = key(&"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned().into());
        let signature = sign(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn other_secrets_are_keys_themselves() {
        let (plain, encoded) = (key(&"abc".to_owned().into()), key(&"whsec_YWJj".to_owned().into()));
        assert_eq!(sign(&plain, "1", 2, b"3"), sign(&encoded, "1", 2, b"3"));
    }
}
