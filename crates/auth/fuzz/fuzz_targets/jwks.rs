//! A key set as an administrator writes it; whatever it holds, a token for each type of key is verified or refused.
#![cfg_attr(fuzzing, no_main)]

use libfuzzer_sys::fuzz_target;
use realtime_auth::{ClaimValidators, Jwks, Keys, Verifier};

const NOW: u64 = 1_800_000_000;

/// `{"alg":…,"kid":"k"}`, claims `{}`, a signature of 64 zeros.
const HEADERS: [&str; 5] = [
    "eyJhbGciOiJIUzI1NiIsImtpZCI6ImsifQ",
    "eyJhbGciOiJSUzI1NiIsImtpZCI6ImsifQ",
    "eyJhbGciOiJFUzI1NiIsImtpZCI6ImsifQ",
    "eyJhbGciOiJFUzUxMiIsImtpZCI6ImsifQ",
    "eyJhbGciOiJFZERTQSIsImtpZCI6ImsifQ",
];

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(jwks) = Jwks::parse(text) else { return };
    let verifier = Verifier::new(Keys::new(None, Some(jwks)), ClaimValidators::default());
    let signature = "A".repeat(86);
    for header in HEADERS {
        assert!(verifier.verify(&format!("{header}.e30.{signature}"), NOW).is_err());
    }
});
