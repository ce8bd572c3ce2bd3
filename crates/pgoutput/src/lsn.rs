//! Positions in the write-ahead log.

use std::{fmt, str::FromStr};

/// A log sequence number: a byte position in PostgreSQL's write-ahead log.
///
/// Displayed and parsed in PostgreSQL's own form, two hexadecimal halves: `2/A7F4A8B0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// The text was not two hexadecimal halves of at most 32 bits joined by a slash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Invalid LSN, expected the form 2/A7F4A8B0")]
pub struct ParseLsnError;

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (high, low) = text.split_once('/').ok_or(ParseLsnError)?;
        let half = |half: &str| {
            if half.is_empty() || half.len() > 8 || half.starts_with('+') {
                return Err(ParseLsnError);
            }
            u32::from_str_radix(half, 16).map_err(|_| ParseLsnError)
        };
        Ok(Self(u64::from(half(high)?) << 32 | u64::from(half(low)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displays_and_parses_postgresqls_form() {
        let lsn = Lsn(0x0000_0002_A7F4_A8B0);
        assert_eq!(lsn.to_string(), "2/A7F4A8B0");
        assert_eq!("2/A7F4A8B0".parse(), Ok(lsn));
        assert_eq!("0/0".parse(), Ok(Lsn(0)));
        for bad in ["", "/", "1/", "/1", "1", "1/2/3", "+1/2", "123456789/0", "g/0"] {
            assert_eq!(bad.parse::<Lsn>(), Err(ParseLsnError), "{bad}");
        }
    }
}
