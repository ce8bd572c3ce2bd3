//! JSON Web Tokens: keys, signatures, claims, and the texts of their refusals (protocol 8).
//!
//! Pure: no I/O, and time is an argument.

mod blocklist;
mod claims;
mod error;
mod jwks;
mod token;
mod verify;

pub use blocklist::Blocklist;
pub use claims::{ClaimValidators, ClaimValidatorsError, Claims, SKEW};
pub use error::AuthError;
pub use jwks::{Jwks, JwksError};
pub use token::{channel_token, clean, is_api_key, sign_hs256};
pub use verify::{Keys, Verifier};
