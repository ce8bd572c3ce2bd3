//! JSON Web Key Sets (RFC 7517).

use secrecy::{ExposeSecret as _, SecretSlice};
use serde_json::{Map, Value};

use crate::token::BASE64URL;
use base64::Engine as _;

/// The keys of a set.
#[derive(Debug, Clone, Default)]
pub struct Jwks {
    keys: Vec<Jwk>,
}

/// How many keys are tried for a token that names none. Sets have one or two keys of a type, while keys are being replaced.
/// Each costs some ten microseconds, and anybody can send such tokens.
const TRIED: usize = 8;

/// Smallest and largest modulus of an RSA key, in bytes: those that signatures are verified with.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// The text is not a key set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be a JSON object with a list `keys`")]
pub struct JwksError;

/// The type of a key (`kty`); keys of different types may share a `kid`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyType {
    Rsa,
    Ec,
    Okp,
    Oct,
}

/// A key of the set.
#[derive(Debug, Clone)]
pub(crate) struct Jwk {
    kid: Option<String>,
    key_type: KeyType,
    /// `None`: the key is of this type, but nothing can be verified with it.
    pub(crate) material: Option<Material>,
}

/// The material that a key verifies with.
#[derive(Debug, Clone)]
pub(crate) enum Material {
    /// Modulus and exponent, big-endian.
    Rsa { n: Vec<u8>, e: Vec<u8> },
    /// Curve name, and the uncompressed point.
    Ec { curve: Curve, point: Vec<u8> },
    /// Public key on edwards25519. Ed448 has no well-kept released implementation yet.
    Ed25519(Vec<u8>),
    /// Shared secret.
    Oct(SecretSlice<u8>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Curve {
    P256,
    P384,
    P521,
}

impl Jwks {
    /// Reads `{"keys":[…]}`. Keys of an unknown type are skipped; keys that cannot be used are refused when a token asks for
    /// them.
    ///
    /// # Errors
    /// [`JwksError`] when the text is not such an object.
    pub fn parse(json: &str) -> Result<Self, JwksError> {
        let set: Map<String, Value> = serde_json::from_str(json).map_err(|_| JwksError)?;
        let keys = set.get("keys").and_then(Value::as_array).ok_or(JwksError)?;
        Ok(Self { keys: keys.iter().filter_map(Jwk::read).collect() })
    }

    /// Whether the set has a key that a token can be verified with.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.keys.iter().filter_map(|key| key.material.as_ref()).any(Material::is_usable)
    }

    /// The first key of this type and id.
    pub(crate) fn find(&self, key_type: KeyType, kid: &str) -> Option<&Jwk> {
        self.keys.iter().find(|key| key.key_type == key_type && key.kid.as_deref() == Some(kid))
    }

    /// The keys of this type that a token without `kid` may be signed with: those that can be used, at most [`TRIED`].
    pub(crate) fn of_type(&self, key_type: KeyType) -> impl Iterator<Item = &Material> {
        let keys = self.keys.iter().filter(move |key| key.key_type == key_type);
        keys.filter_map(|key| key.material.as_ref()).take(TRIED)
    }
}

impl Jwk {
    fn read(key: &Value) -> Option<Self> {
        let text = |name: &str| key.get(name).and_then(Value::as_str);
        let bytes = |name: &str| text(name).and_then(|text| BASE64URL.decode(text).ok());
        let (key_type, material) = match text("kty")? {
            "RSA" => (KeyType::Rsa, bytes("n").zip(bytes("e")).map(|(n, e)| Material::Rsa { n, e })),
            "EC" => (KeyType::Ec, ec(text("crv"), bytes("x"), bytes("y"))),
            "OKP" => {
                let ed25519 = text("crv") == Some("Ed25519");
                (KeyType::Okp, bytes("x").filter(|_| ed25519).map(Material::Ed25519))
            }
            // Everybody knows a key without bytes.
            "oct" => {
                let key = bytes("k").filter(|key| !key.is_empty());
                (KeyType::Oct, key.map(|key| Material::Oct(SecretSlice::from(key))))
            }
            _ => return None,
        };
        Some(Self { kid: text("kid").map(str::to_owned), key_type, material })
    }
}

/// A point in uncompressed form; coordinates may have lost leading zeros.
fn ec(curve: Option<&str>, x: Option<Vec<u8>>, y: Option<Vec<u8>>) -> Option<Material> {
    let (curve, len) = match curve? {
        "P-256" => (Curve::P256, 32),
        "P-384" => (Curve::P384, 48),
        "P-521" => (Curve::P521, 66),
        _ => return None,
    };
    let mut point = vec![4];
    for coordinate in [x?, y?] {
        point.extend(std::iter::repeat_n(0, usize::checked_sub(len, coordinate.len())?));
        point.extend(coordinate);
    }
    Some(Material::Ec { curve, point })
}

impl Material {
    /// Whether signatures can be verified with it.
    fn is_usable(&self) -> bool {
        match self {
            Self::Rsa { n, e } => {
                RSA_BYTES.contains(&n.iter().skip_while(|byte| **byte == 0).count()) && !e.is_empty()
            }
            Self::Ed25519(public) => public.len() == 32,
            Self::Ec { .. } | Self::Oct(_) => true,
        }
    }

    /// The shared secret, if the key is one.
    pub(crate) fn secret(&self) -> Option<&[u8]> {
        match self {
            Self::Oct(secret) => Some(secret.expose_secret()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_usable_if_one_of_its_keys_is() {
        let modulus = "v".repeat(344);
        let is_usable = |keys: &str| Jwks::parse(&format!(r#"{{"keys":[{keys}]}}"#)).unwrap().is_usable();
        for useless in [
            "",
            "{}",
            r#"{"kty":"new"}"#,
            r#"{"kty":"RSA"}"#,
            r#"{"kty":"RSA","n":"u7o","e":"AQAB"}"#,
            r#"{"kty":"EC","crv":"secp256k1","x":"AA","y":"AA"}"#,
            r#"{"kty":"OKP","crv":"Ed448","x":"AA"}"#,
            r#"{"kty":"OKP","crv":"Ed25519","x":"AA"}"#,
            r#"{"kty":"oct","k":""}"#,
        ] {
            assert!(!is_usable(useless), "{useless}");
        }
        let rsa = format!(r#"{{"kty":"RSA","n":"{modulus}","e":"AQAB"}}"#);
        for usable in [&*rsa, r#"{"kty":"oct","k":"AA"}"#, r#"{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}"#]
        {
            assert!(is_usable(&format!(r#"{{"kty":"new"}},{usable}"#)), "{usable}");
        }
    }
}
