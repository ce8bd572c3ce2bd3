//! Verification of a token against a tenant's keys (protocol 8.2 to 8.4).

use aws_lc_rs::{
    hmac,
    signature::{self, RsaPublicKeyComponents, UnparsedPublicKey},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;

use crate::{
    AuthError, Claims, Jwks,
    claims::{self, ClaimValidators},
    jwks::{Curve, KeyType, Material},
    token::Parts,
};

/// The keys of a tenant.
#[derive(Debug, Clone)]
pub struct Keys {
    secret: Option<SecretString>,
    jwks: Option<Jwks>,
}

impl Keys {
    /// Keys from a shared secret, a key set, or both.
    #[must_use]
    pub fn new(secret: Option<&str>, jwks: Option<Jwks>) -> Self {
        Self { secret: secret.map(SecretString::from), jwks }
    }
}

/// Verifies tokens.
#[derive(Debug, Clone)]
pub struct Verifier {
    keys: Keys,
    validators: ClaimValidators,
}

/// A signature algorithm, by family and hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Hmac(hmac::Algorithm),
    Rsa(&'static signature::RsaParameters),
    Ec(Curve, &'static signature::EcdsaVerificationAlgorithm),
    EdDsa,
}

impl Algorithm {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "HS256" => Self::Hmac(hmac::HMAC_SHA256),
            "HS384" => Self::Hmac(hmac::HMAC_SHA384),
            "HS512" => Self::Hmac(hmac::HMAC_SHA512),
            "RS256" => Self::Rsa(&signature::RSA_PKCS1_2048_8192_SHA256),
            "RS384" => Self::Rsa(&signature::RSA_PKCS1_2048_8192_SHA384),
            "RS512" => Self::Rsa(&signature::RSA_PKCS1_2048_8192_SHA512),
            "ES256" => Self::Ec(Curve::P256, &signature::ECDSA_P256_SHA256_FIXED),
            "ES384" => Self::Ec(Curve::P384, &signature::ECDSA_P384_SHA384_FIXED),
            "ES512" => Self::Ec(Curve::P521, &signature::ECDSA_P521_SHA512_FIXED),
            "EdDSA" | "Ed25519" | "Ed448" => Self::EdDsa,
            _ => return None,
        })
    }

    const fn key_type(self) -> KeyType {
        match self {
            Self::Hmac(_) => KeyType::Oct,
            Self::Rsa(_) => KeyType::Rsa,
            Self::Ec(..) => KeyType::Ec,
            Self::EdDsa => KeyType::Okp,
        }
    }
}

impl Verifier {
    /// A verifier for these keys that demands these claims.
    #[must_use]
    pub fn new(keys: Keys, validators: ClaimValidators) -> Self {
        Self { keys, validators }
    }

    /// Verifies a token of a tenant's client at a Unix second: first the signature, then the claims.
    ///
    /// # Errors
    /// The first problem.
    pub fn verify(&self, token: &str, now: u64) -> Result<Claims, AuthError> {
        let parts = self.verified(token, now)?;
        Claims::of_tenant(parts.claims, parts.claims_text, now)
    }

    /// Verifies a token as servers of the first generation did (legacy 1.2): its header must say that it is a JWT. No claim is
    /// required; claims that are present must be right.
    ///
    /// # Errors
    /// The first problem.
    pub fn verify_first_generation(&self, token: &str, now: u64) -> Result<Claims, AuthError> {
        let parts = self.verified(token, now)?;
        if parts.header.get("typ").and_then(Value::as_str) != Some("JWT") {
            return Err(AuthError::Malformed);
        }
        Ok(Claims::of_first_generation(parts.claims, parts.claims_text))
    }

    /// Verifies a token that needs no claim, like those for administration and metrics (http_and_ops 0.2). Returns the claims
    /// as a JSON object.
    ///
    /// # Errors
    /// The first problem.
    pub fn verify_any(&self, token: &str, now: u64) -> Result<serde_json::Map<String, Value>, AuthError> {
        Ok(self.verified(token, now)?.claims)
    }

    fn verified(&self, token: &str, now: u64) -> Result<Parts, AuthError> {
        let parts = Parts::of(token)?;
        self.check_signature(&parts)?;
        claims::check(&parts.claims, &self.validators, now)?;
        Ok(parts)
    }

    fn check_signature(&self, parts: &Parts) -> Result<(), AuthError> {
        if parts.header.contains_key("crit") {
            return Err(AuthError::Critical);
        }
        let algorithm = parts
            .header
            .get("alg")
            .and_then(Value::as_str)
            .and_then(Algorithm::of)
            .ok_or(AuthError::Signer)?;
        let kid = parts.header.get("kid").and_then(Value::as_str);
        let signed = parts.signed.as_bytes();
        let by_kid = match (kid, &self.keys.jwks) {
            (Some(kid), Some(jwks)) => Some((kid, jwks.find(algorithm.key_type(), kid))),
            _ => None,
        };
        match (algorithm, by_kid, &self.keys.secret) {
            (Algorithm::Hmac(hash), None | Some((_, None)), Some(secret)) => {
                let key = hmac::Key::new(hash, secret.expose_secret().as_bytes());
                hmac::verify(&key, signed, &parts.signature).map_err(|_| AuthError::Signature)
            }
            (_, None, _) => self.try_keys(algorithm, parts),
            (Algorithm::Hmac(_), Some((_, None)), None) => Err(AuthError::Signer),
            (_, Some((kid, key)), _) => {
                let unusable = || AuthError::SignerForKid(kid.to_owned());
                let material = key.and_then(|key| key.material.as_ref()).ok_or_else(unusable)?;
                verify_with(algorithm, material, signed, &parts.signature)
            }
        }
    }

    /// Verifies a token that names no key, with any key of the set that has its algorithm's type.
    fn try_keys(&self, algorithm: Algorithm, parts: &Parts) -> Result<(), AuthError> {
        let keys = self.keys.jwks.iter().flat_map(|jwks| jwks.of_type(algorithm.key_type()));
        let mut outcome = Err(AuthError::Signer);
        for key in keys {
            outcome = verify_with(algorithm, key, parts.signed.as_bytes(), &parts.signature);
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }
}

/// Verifies with a key of the set. A key of another curve than the algorithm's verifies nothing.
fn verify_with(
    algorithm: Algorithm,
    key: &Material,
    signed: &[u8],
    signature: &[u8],
) -> Result<(), AuthError> {
    let verified = match (algorithm, key) {
        (Algorithm::Hmac(hash), key) => key
            .secret()
            .is_some_and(|secret| hmac::verify(&hmac::Key::new(hash, secret), signed, signature).is_ok()),
        (Algorithm::Rsa(parameters), Material::Rsa { n, e }) => {
            RsaPublicKeyComponents { n, e }.verify(parameters, signed, signature).is_ok()
        }
        (Algorithm::Ec(wanted, algorithm), Material::Ec { curve, point }) if wanted == *curve => {
            UnparsedPublicKey::new(algorithm, point).verify(signed, signature).is_ok()
        }
        (Algorithm::EdDsa, Material::Ed25519(public)) => {
            UnparsedPublicKey::new(&signature::ED25519, public).verify(signed, signature).is_ok()
        }
        _ => false,
    };
    if verified { Ok(()) } else { Err(AuthError::Signature) }
}

#[cfg(test)]
mod tests;
