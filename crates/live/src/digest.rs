//! Digests of rows.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    sync::OnceLock,
};

use siphasher::sip128::{Hasher128 as _, SipHasher13};

/// What tells one row from another: 128 bits, so that no two rows have the same by chance.
pub type Digest = [u8; 16];

/// What digests are made with, so that nobody can choose values that have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Secret(u64, u64);

impl Secret {
    /// That of this process.
    #[must_use]
    pub fn of_process() -> Self {
        static SECRET: OnceLock<Secret> = OnceLock::new();
        *SECRET.get_or_init(|| {
            let random = || RandomState::new().build_hasher().finish();
            Self(random(), random())
        })
    }

    /// A known one, for tests.
    #[must_use]
    pub const fn fixed(first: u64, second: u64) -> Self {
        Self(first, second)
    }

    pub(crate) const fn first(self) -> u64 {
        self.0
    }

    pub(crate) const fn second(self) -> u64 {
        self.1
    }
}

/// Makes the digest of a row from its values.
#[derive(Debug)]
pub struct Digester(SipHasher13);

impl Digester {
    /// A digester for one row.
    #[must_use]
    pub fn new(secret: Secret) -> Self {
        Self(SipHasher13::new_with_keys(secret.0, secret.1))
    }

    /// Takes the next value.
    pub fn value(&mut self, value: Option<&[u8]>) {
        match value {
            Some(text) => {
                self.0.write_u64(text.len() as u64);
                self.0.write(text);
            }
            None => self.0.write_u64(u64::MAX),
        }
    }

    /// The digest of what it was given.
    #[must_use]
    pub fn finish(self) -> Digest {
        self.0.finish128().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_told_apart() {
        let of = |values: &[Option<&str>]| {
            let mut digester = Digester::new(Secret(1, 2));
            values.iter().for_each(|value| digester.value(value.map(str::as_bytes)));
            digester.finish()
        };
        let rows: [&[Option<&str>]; 7] = [
            &[Some("a"), Some("b")],
            &[Some("ab"), Some("")],
            &[Some(""), Some("ab")],
            &[None, Some("ab")],
            &[Some("ab"), None],
            &[Some("ab")],
            &[],
        ];
        for (at, row) in rows.iter().enumerate() {
            assert_eq!(of(row), of(row));
            for other in &rows[..at] {
                assert_ne!(of(row), of(other), "{row:?} {other:?}");
            }
        }
    }
}
