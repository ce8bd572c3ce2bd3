use aws_lc_rs::{
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
        EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _,
    },
};
use base64::Engine as _;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{SKEW, sign_hs256, token::BASE64URL};

const SECRET: &str = "hush-hush";
const NOW: u64 = 1_000_000;

fn claims() -> Value {
    json!({"role": "anon", "exp": NOW + 100})
}

fn verifier(jwks: Option<Value>) -> Verifier {
    let jwks = jwks.map(|jwks| Jwks::parse(&jwks.to_string()).unwrap());
    Verifier::new(Keys::new(Some(SECRET), jwks), ClaimValidators::default())
}

fn hs(claims: &Value) -> Result<Claims, AuthError> {
    verifier(None).verify(&sign_hs256(SECRET, &claims.to_string()), NOW)
}

/// A token with any header; `sign` makes the signature.
fn token(header: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let signed =
        format!("{}.{}", BASE64URL.encode(header.to_string()), BASE64URL.encode(claims().to_string()));
    let signature = BASE64URL.encode(sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

fn hmac_sign(algorithm: hmac::Algorithm, secret: &[u8]) -> impl FnOnce(&[u8]) -> Vec<u8> {
    move |signed| hmac::sign(&hmac::Key::new(algorithm, secret), signed).as_ref().to_vec()
}

#[test]
fn a_good_token() {
    let claims = hs(&json!({"role": "authenticated", "exp": NOW + 1, "sub": "u"})).unwrap();
    assert_eq!((claims.role(), claims.exp()), ("authenticated", NOW as i64 + 1));
    assert_eq!(serde_json::from_str::<Value>(claims.json()).unwrap()["sub"], "u");
}

/// protocol 3, 4, 5, 33: every refusal with its texts for handshake, join and system frame.
#[test]
fn refusals_and_their_texts() {
    let malformed = "The token provided is not a valid JWT";
    let signer = "Failed to generate JWT signer, check your JWT secret or JWKS configuration";
    let fields = "Fields `role` and `exp` are required in JWT";
    let signed = |claims: Value| sign_hs256(SECRET, &claims.to_string());
    let not_object = format!("{}.{}.x", BASE64URL.encode("[]"), BASE64URL.encode("{}"));
    let cases = [
        ("", malformed, format!("MalformedJWT: {malformed}"), malformed.to_owned()),
        ("not-a-jwt", malformed, format!("MalformedJWT: {malformed}"), malformed.to_owned()),
        ("a.b", malformed, format!("MalformedJWT: {malformed}"), malformed.to_owned()),
        ("aaa.bbb.ccc", malformed, format!("MalformedJWT: {malformed}"), malformed.to_owned()),
        ("!.!.!", malformed, format!("MalformedJWT: {malformed}"), malformed.to_owned()),
        (&not_object, malformed, format!("MalformedJWT: {malformed}"), malformed.to_owned()),
        (
            &sign_hs256("other", &claims().to_string()),
            "Failed to validate JWT signature",
            "JwtSignatureError: Failed to validate JWT signature".to_owned(),
            "Failed to validate JWT signature".to_owned(),
        ),
        (
            &token(&json!({"alg": "none"}), |_| Vec::new()),
            signer,
            format!("JwtSignerError: {signer}"),
            signer.to_owned(),
        ),
        (
            &token(&json!({"alg": "PS256"}), |_| vec![1]),
            signer,
            format!("JwtSignerError: {signer}"),
            signer.to_owned(),
        ),
        (&token(&json!({}), |_| vec![1]), signer, format!("JwtSignerError: {signer}"), signer.to_owned()),
        (
            &token(&json!({"alg": "RS256", "kid": "k"}), |_| vec![1]),
            signer,
            format!("JwtSignerError: {signer}"),
            signer.to_owned(),
        ),
        (
            &signed(json!({"role": "anon", "exp": NOW - 1000})),
            "Token has expired",
            "InvalidJWTToken: Token has expired 1000 seconds ago".to_owned(),
            "Token has expired 1000 seconds ago".to_owned(),
        ),
        (
            &signed(json!({"role": "anon", "exp": NOW - SKEW})),
            "Token has expired",
            "InvalidJWTToken: Token has expired 5 seconds ago".to_owned(),
            "Token has expired 5 seconds ago".to_owned(),
        ),
        (
            &signed(json!({"role": "anon", "exp": -5})),
            "Token has expired",
            format!("InvalidJWTToken: Token has expired {} seconds ago", NOW + 5),
            format!("Token has expired {} seconds ago", NOW + 5),
        ),
        (&signed(json!({"exp": NOW + 5})), fields, format!("InvalidJWTToken: {fields}"), fields.to_owned()),
        (&signed(json!({"role": "anon"})), fields, format!("InvalidJWTToken: {fields}"), fields.to_owned()),
        (
            &signed(json!({"role": "anon", "exp": (NOW - SKEW) as f64 + 0.3})),
            "Error connecting to Realtime",
            "InvalidJWTToken: Token expiration time is invalid".to_owned(),
            "Token expiration time is invalid".to_owned(),
        ),
        (
            &signed(json!({"role": "anon", "exp": "soon"})),
            "Error connecting to Realtime",
            "Unknown Error on Channel".to_owned(),
            "Claim `exp` is not valid in JWT".to_owned(),
        ),
        (
            &signed(json!({"role": "anon", "exp": NOW + 5, "iat": "now"})),
            "Error connecting to Realtime",
            "Unknown Error on Channel".to_owned(),
            "Claim `iat` is not valid in JWT".to_owned(),
        ),
        (
            &signed(json!({"role": 5, "exp": NOW + 5})),
            "Error connecting to Realtime",
            "Unknown Error on Channel".to_owned(),
            "Claim `role` is not valid in JWT".to_owned(),
        ),
    ];
    for (token, handshake, join, system) in cases {
        let error = verifier(None).verify(token, NOW).unwrap_err();
        assert_eq!(error.handshake(), (401, handshake.into()), "{token}");
        assert_eq!(error.join_reason(), join, "{token}");
        assert_eq!(error.system_message(), system, "{token}");
    }
}

/// An expired token with a bad signature reports the signature (protocol 8.4).
#[test]
fn the_signature_comes_first() {
    let token = sign_hs256("other", &json!({"exp": 1}).to_string());
    assert_eq!(verifier(None).verify(&token, NOW), Err(AuthError::Signature));
}

#[test]
fn clocks_may_differ_by_five_seconds() {
    let verify = |name: &str, at: f64| {
        let mut claims = claims();
        claims[name] = json!(at);
        hs(&claims).map(|_| ())
    };
    let now = NOW as f64;
    assert_eq!(verify("exp", now - 4.0), Ok(()));
    assert_eq!(verify("exp", now - 5.0), Err(AuthError::Expired(5)));
    for name in ["nbf", "iat"] {
        assert_eq!(verify(name, now - 1e6), Ok(()), "{name}");
        assert_eq!(verify(name, now + 5.0), Ok(()), "{name}");
        assert_eq!(verify(name, now + 5.5), Err(AuthError::NotYetValid(6)), "{name}");
        assert_eq!(verify(name, f64::MAX), Err(AuthError::NotYetValid(u64::MAX)), "{name}");
    }
    for nbf in [json!("soon"), Value::Null, json!(true), json!([NOW])] {
        let refused = hs(&json!({"role": "anon", "exp": NOW + 100, "nbf": nbf}));
        assert_eq!(refused, Err(AuthError::Claim("nbf".into())), "{nbf}");
    }
    let early = AuthError::NotYetValid(60);
    assert_eq!(early.handshake(), (401, "Token is not valid yet".into()));
    let text = "InvalidJWTToken: Token is not valid before 60 seconds from now";
    assert_eq!(early.join_reason(), text);
}

#[test]
fn a_header_that_demands_more_is_refused() {
    for crit in [json!(["exp"]), json!(["b64"]), json!([]), Value::Null] {
        let header = json!({"alg": "HS256", "crit": crit});
        let token = token(&header, hmac_sign(hmac::HMAC_SHA256, SECRET.as_bytes()));
        assert_eq!(verifier(None).verify(&token, NOW), Err(AuthError::Critical), "{crit}");
    }
}

#[test]
fn a_token_without_kid_may_be_of_any_key_of_its_type() {
    let [old, new, strange] = std::array::from_fn(|_| Ed25519KeyPair::generate().unwrap());
    let jwk = |pair: &Ed25519KeyPair| json!({"kty": "OKP", "crv": "Ed25519", "x": BASE64URL.encode(pair.public_key().as_ref())});
    let mut with_kid = jwk(&old);
    with_kid["kid"] = json!("old");
    let unusable = json!({"kty": "OKP", "kid": "g", "crv": "Ed448", "x": "AAAA"});
    let shared = json!({"kty": "oct", "kid": "o", "k": BASE64URL.encode("keyed")});
    let set = json!({"keys": [unusable, with_kid, jwk(&new), shared]});
    let verify = |header: Value, sign: &dyn Fn(&[u8]) -> Vec<u8>| {
        verifier(Some(set.clone())).verify(&token(&header, sign), NOW).map(|_| ())
    };
    let plain = json!({"alg": "EdDSA"});
    for pair in [&old, &new] {
        assert_eq!(verify(plain.clone(), &|signed| pair.sign(signed).as_ref().to_vec()), Ok(()));
    }
    let sign = |signed: &[u8]| strange.sign(signed).as_ref().to_vec();
    assert_eq!(verify(plain, &sign), Err(AuthError::Signature));
    assert_eq!(verify(json!({"alg": "RS256"}), &sign), Err(AuthError::Signer), "no key of that type");
    let named = verify(json!({"alg": "EdDSA", "kid": "new"}), &|signed| new.sign(signed).as_ref().to_vec());
    assert_eq!(named, Err(AuthError::SignerForKid("new".into())), "a kid names one key");
    let keyed = token(&json!({"alg": "HS256"}), hmac_sign(hmac::HMAC_SHA256, b"keyed"));
    let jwks = Some(Jwks::parse(&set.to_string()).unwrap());
    let no_secret = Verifier::new(Keys::new(None, jwks), ClaimValidators::default());
    assert!(no_secret.verify(&keyed, NOW).is_ok());
    assert_eq!(
        verifier(Some(set)).verify(&keyed, NOW),
        Err(AuthError::Signature),
        "the tenant's secret counts"
    );
}

/// protocol 34
#[test]
fn fractional_times_are_rounded() {
    let claims = hs(&json!({"role": "anon", "exp": NOW as f64 + 100.99, "iat": NOW as f64 - 0.4})).unwrap();
    assert_eq!(claims.exp(), NOW as i64 + 101);
    let json: Value = serde_json::from_str(claims.json()).unwrap();
    assert_eq!((&json["exp"], &json["iat"]), (&json!(NOW + 101), &json!(NOW)));
}

#[test]
fn tokens_are_cleaned() {
    let token = sign_hs256(SECRET, &claims().to_string());
    let messy = format!(" {}%20\n{}", &token[..10], &token[10..]).replace('.', "%2E");
    assert!(verifier(None).verify(&messy, NOW).is_ok());
}

#[test]
fn every_hmac() {
    for (name, algorithm) in
        [("HS256", hmac::HMAC_SHA256), ("HS384", hmac::HMAC_SHA384), ("HS512", hmac::HMAC_SHA512)]
    {
        let header = json!({"alg": name});
        assert!(verifier(None).verify(&token(&header, hmac_sign(algorithm, SECRET.as_bytes())), NOW).is_ok());
        let other = token(&header, hmac_sign(algorithm, b"x"));
        assert_eq!(verifier(None).verify(&other, NOW), Err(AuthError::Signature));
    }
    let no_secret = Verifier::new(Keys::new(None, None), ClaimValidators::default());
    assert_eq!(no_secret.verify(&sign_hs256(SECRET, "{}"), NOW), Err(AuthError::Signer));
}

/// An `oct` key by kid; the tenant's secret where there is none (table 8.2).
#[test]
fn hmac_keys_of_the_set() {
    let jwks = json!({"keys": [
        {"kty": "oct", "kid": "a", "k": BASE64URL.encode("keyed")},
        {"kty": "oct", "kid": "bad", "k": "!"},
        {"kty": "oct", "kid": "empty", "k": ""},
    ]});
    let verify = |kid: &str, secret: &[u8]| {
        let token = token(&json!({"alg": "HS256", "kid": kid}), hmac_sign(hmac::HMAC_SHA256, secret));
        verifier(Some(jwks.clone())).verify(&token, NOW).map(|_| ())
    };
    assert_eq!(verify("a", b"keyed"), Ok(()));
    assert_eq!(verify("a", SECRET.as_bytes()), Err(AuthError::Signature));
    assert_eq!(verify("other", SECRET.as_bytes()), Ok(()));
    assert_eq!(verify("bad", b"x"), Err(AuthError::SignerForKid("bad".into())));
    assert_eq!(verify("empty", b""), Err(AuthError::SignerForKid("empty".into())));
}

/// protocol 7
#[test]
fn an_unknown_kid_is_named() {
    let token = token(&json!({"alg": "RS256", "kid": "no \"such\""}), |_| vec![1]);
    let error = verifier(Some(json!({"keys": []}))).verify(&token, NOW).unwrap_err();
    let text = "Failed to generate JWT signer for key ID (kid) \"no \"such\"\", check your JWT secret or JWKS configuration";
    assert_eq!(error.handshake(), (401, text.into()));
    assert_eq!(error.join_reason(), format!("JwtSignerError: {text}"));
}

#[test]
fn rsa_of_every_hash() {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let public = pair.public_key();
    let jwk = json!({
        "kty": "RSA", "kid": "r",
        "n": BASE64URL.encode(public.modulus().big_endian_without_leading_zero()),
        "e": BASE64URL.encode(public.exponent().big_endian_without_leading_zero()),
    });
    let verifier = verifier(Some(json!({ "keys": [jwk] })));
    for (name, padding) in [
        ("RS256", &signature::RSA_PKCS1_SHA256),
        ("RS384", &signature::RSA_PKCS1_SHA384),
        ("RS512", &signature::RSA_PKCS1_SHA512),
    ] {
        let sign = |signed: &[u8]| {
            let mut out = vec![0; pair.public_modulus_len()];
            pair.sign(padding, &SystemRandom::new(), signed, &mut out).unwrap();
            out
        };
        assert!(verifier.verify(&token(&json!({"alg": name, "kid": "r"}), sign), NOW).is_ok(), "{name}");
        let forged = token(&json!({"alg": name, "kid": "r"}), |_| vec![1; 256]);
        assert_eq!(verifier.verify(&forged, NOW), Err(AuthError::Signature));
        assert!(verifier.verify(&token(&json!({"alg": name}), sign), NOW).is_ok(), "{name} without a kid");
    }
}

#[test]
fn every_elliptic_curve() {
    let cases: [(&str, &str, &'static EcdsaSigningAlgorithm); 3] = [
        ("ES256", "P-256", &ECDSA_P256_SHA256_FIXED_SIGNING),
        ("ES384", "P-384", &ECDSA_P384_SHA384_FIXED_SIGNING),
        ("ES512", "P-521", &ECDSA_P521_SHA512_FIXED_SIGNING),
    ];
    for (name, curve, algorithm) in cases {
        let pair = EcdsaKeyPair::generate(algorithm).unwrap();
        let point = &pair.public_key().as_ref()[1..];
        let (x, y) = point.split_at(point.len() / 2);
        let jwk = json!({"kty": "EC", "kid": "e", "crv": curve, "x": BASE64URL.encode(x), "y": BASE64URL.encode(y)});
        let verifier = verifier(Some(json!({ "keys": [jwk] })));
        let sign = |signed: &[u8]| pair.sign(&SystemRandom::new(), signed).unwrap().as_ref().to_vec();
        assert!(verifier.verify(&token(&json!({"alg": name, "kid": "e"}), sign), NOW).is_ok(), "{name}");
        let other = if name == "ES256" { "ES384" } else { "ES256" };
        let confused = token(&json!({"alg": other, "kid": "e"}), sign);
        assert_eq!(verifier.verify(&confused, NOW), Err(AuthError::Signature));
        let as_hmac = token(&json!({"alg": "HS256", "kid": "e"}), hmac_sign(hmac::HMAC_SHA256, point));
        assert_eq!(verifier.verify(&as_hmac, NOW), Err(AuthError::Signature));
    }
}

#[test]
fn edwards_curves() {
    let pair = Ed25519KeyPair::generate().unwrap();
    let jwks = json!({"keys": [
        {"kty": "OKP", "kid": "d", "crv": "Ed25519", "x": BASE64URL.encode(pair.public_key().as_ref())},
        {"kty": "OKP", "kid": "g", "crv": "Ed448", "x": "AAAA"},
        {"kty": "OKP", "kid": "x", "crv": "X25519", "x": "AAAA"},
    ]});
    let sign = |signed: &[u8]| pair.sign(signed).as_ref().to_vec();
    let verify = |alg: &str, kid: &str| {
        verifier(Some(jwks.clone())).verify(&token(&json!({"alg": alg, "kid": kid}), sign), NOW).map(|_| ())
    };
    assert_eq!(verify("EdDSA", "d"), Ok(()));
    assert_eq!(verify("Ed25519", "d"), Ok(()));
    assert_eq!(verify("EdDSA", "g"), Err(AuthError::SignerForKid("g".into())));
    assert_eq!(verify("EdDSA", "x"), Err(AuthError::SignerForKid("x".into())));
}

/// spec README, decision 8
#[test]
fn validators_demand_claims() {
    let verify = |lenient, claims: Value| {
        let validators = ClaimValidators::parse(r#"{"iss":"me"}"#, lenient).unwrap();
        let token = sign_hs256(SECRET, &claims.to_string());
        Verifier::new(Keys::new(Some(SECRET), None), validators).verify(&token, NOW).map(|_| ())
    };
    let refused = Err(AuthError::Claim("iss".into()));
    assert_eq!(verify(false, json!({"role": "anon", "exp": NOW + 1, "iss": "me"})), Ok(()));
    assert_eq!(verify(false, json!({"role": "anon", "exp": NOW + 1, "iss": "you"})), refused);
    assert_eq!(verify(false, json!({"role": "anon", "exp": NOW + 1})), refused);
    assert_eq!(verify(true, json!({"role": "anon", "exp": NOW + 1})), Ok(()));
    assert_eq!(verify(true, json!({"role": "anon", "exp": NOW + 1, "iss": "you"})), refused);
    assert!(ClaimValidators::parse("[]", false).is_err());
}

#[test]
fn administration_needs_no_claim() {
    assert_eq!(verifier(None).verify_any(&sign_hs256(SECRET, "{}"), NOW), Ok(serde_json::Map::new()));
    let expired = sign_hs256(SECRET, r#"{"exp":1}"#);
    assert_eq!(verifier(None).verify_any(&expired, NOW), Err(AuthError::Expired(NOW - 1)));
}

#[test]
fn secrets_do_not_print() {
    let verifier =
        verifier(Some(json!({"keys": [{"kty": "oct", "kid": "a", "k": BASE64URL.encode("keyed")}]})));
    let text = format!("{verifier:?}");
    assert!(!text.contains(SECRET) && !text.contains("keyed") && !text.contains("107, 101"), "{text}");
}

proptest! {
    #[test]
    fn never_panics(token in "\\PC*|([A-Za-z0-9_%-]{0,20}\\.){0,3}[A-Za-z0-9_-]{0,20}") {
        let _ = verifier(None).verify(&token, NOW);
    }

    #[test]
    fn any_claims_are_judged(claims in "\\{\"exp\":[0-9.e+-]{1,20}\\}") {
        let _ = verifier(None).verify(&sign_hs256(SECRET, &claims), NOW);
    }
}

/// legacy 3, 5, 6, 7, 8
#[test]
fn tokens_of_the_first_generation() {
    let validators = |lenient| ClaimValidators::parse(r#"{"iss": "me", "aud": "you"}"#, lenient).unwrap();
    let with = |validators| Verifier::new(Keys::new(Some(SECRET), None), validators);
    let verify = |claims: Value| {
        with(ClaimValidators::default())
            .verify_first_generation(&sign_hs256(SECRET, &claims.to_string()), NOW)
    };
    let none = verify(json!({})).unwrap();
    assert_eq!((none.role(), none.exp(), none.json()), ("", i64::MAX, "{}"));
    let some = verify(json!({"role": "anon", "exp": NOW + 1})).unwrap();
    assert_eq!((some.role(), some.exp()), ("anon", NOW as i64 + 1));
    assert_eq!(verify(json!({"exp": NOW - 5})), Err(AuthError::Expired(5)));
    assert_eq!(verify(json!({"exp": NOW - 6})), Err(AuthError::Expired(6)));
    assert_eq!(verify(json!({"nbf": NOW + 6})), Err(AuthError::NotYetValid(6)));
    assert_eq!(verify(json!([])), Err(AuthError::Malformed));

    let good = |alg: &str, algorithm| {
        token(&json!({"alg": alg, "typ": "JWT"}), hmac_sign(algorithm, SECRET.as_bytes()))
    };
    for (alg, algorithm) in
        [("HS256", hmac::HMAC_SHA256), ("HS384", hmac::HMAC_SHA384), ("HS512", hmac::HMAC_SHA512)]
    {
        let token = good(alg, algorithm);
        assert!(verifier(None).verify_first_generation(&token, NOW).is_ok());
        let dot = token.find('.').unwrap();
        let spaced = format!("{}\n %20{}\t", &token[..dot], &token[dot..]);
        assert!(verifier(None).verify_first_generation(&spaced, NOW).is_ok());
    }
    for header in
        [json!({"alg": "HS256"}), json!({"typ": "JWT"}), json!({"alg": "HS1", "typ": "JWT"}), json!([])]
    {
        let token = token(&header, hmac_sign(hmac::HMAC_SHA256, SECRET.as_bytes()));
        assert!(verifier(None).verify_first_generation(&token, NOW).is_err(), "{header}");
    }
    for bad in ["", "a.b", "a.b.c", "a.b.c.d"] {
        assert!(verifier(None).verify_first_generation(bad, NOW).is_err());
    }

    let validated = |claims: Value, lenient| {
        with(validators(lenient))
            .verify_first_generation(&sign_hs256(SECRET, &claims.to_string()), NOW)
            .is_ok()
    };
    assert!(validated(json!({"iss": "me", "aud": "you", "more": 1}), true));
    assert!(!validated(json!({"iss": "them", "aud": "you"}), true));
    assert!(validated(json!({"aud": "you"}), true) && !validated(json!({"aud": "you"}), false));
}
