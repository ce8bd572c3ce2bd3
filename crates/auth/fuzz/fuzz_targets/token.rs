//! A token of a client, as text, and one whose parts are written for it: header and claims as JSON, a wrong signature and a
//! right one.
#![cfg_attr(fuzzing, no_main)]

use libfuzzer_sys::fuzz_target;
use realtime_auth::{ClaimValidators, Jwks, Keys, Verifier, clean, is_api_key};

const NOW: u64 = 1_800_000_000;

/// One key of each type.
const KEYS: &str = r#"{"keys":[
    {"kid":"o","kty":"oct","k":"c2VjcmV0"},
    {"kid":"r","kty":"RSA","n":"u1SU1LfVLPHCozMxH2Mo4lgOEePzNm0tRgeLezV6ffAt0gunVTLw7onLRnrq0_IzW7yWR7QkrmBL7jTKEn5u","e":"AQAB"},
    {"kid":"e","kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"},
    {"kid":"d","kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

fuzz_target!(|data: &[u8]| {
    let Ok(jwks) = Jwks::parse(KEYS) else { return };
    let verifier = Verifier::new(Keys::new(Some("secret"), Some(jwks)), ClaimValidators::default());
    let verify = |token: &str| {
        let _ = verifier.verify(token, NOW);
        let _ = verifier.verify_first_generation(token, NOW);
        let _ = verifier.verify_any(token, NOW);
    };
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = is_api_key(text);
        if let Ok(cleaned) = clean(text) {
            assert!(!cleaned.contains(char::is_whitespace));
        }
        verify(text);
    }
    let mut parts = data.split(|byte| *byte == 0);
    let (header, claims) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    verify(&format!("{}.{}.c2ln", base64url(header), base64url(claims)));
});

fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let number =
            (0..3).fold(0, |number, at| number << 8 | u32::from(chunk.get(at).copied().unwrap_or(0)));
        for at in 0..=chunk.len() {
            out.push(char::from(ALPHABET[(number >> (18 - 6 * at) & 63) as usize]));
        }
    }
    out
}
