//! Positions of changes.

use std::{fmt, str::FromStr};

use crate::Lsn;

/// Where a change stands in the log: the commit record of its transaction, and its number in that, from 1. Ascends in
/// the order in which changes are sent.
///
/// Displayed and parsed as `16/B374D848:3` (resume 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// The commit record of the transaction.
    pub commit: Lsn,
    /// The change's number in the transaction.
    pub number: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.commit, self.number)
    }
}

/// The text was not an LSN and a number joined by a colon.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Invalid position, expected the form 16/B374D848:3")]
pub struct ParsePositionError;

impl FromStr for Position {
    type Err = ParsePositionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (commit, number) = text.split_once(':').ok_or(ParsePositionError)?;
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let number = number.parse().ok().filter(|_| is_number).ok_or(ParsePositionError)?;
        Ok(Self { commit: commit.parse().map_err(|_| ParsePositionError)?, number })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displays_and_parses_its_form() {
        let position = Position { commit: Lsn(0x16_B374_D848), number: 3 };
        assert_eq!(position.to_string(), "16/B374D848:3");
        assert_eq!("16/B374D848:3".parse(), Ok(position));
        for bad in
            ["", ":", "16/B:", "16/B:-1", "16/B:+1", "16/B", "16:1", "16/B:1:2", "0/0:99999999999999999999"]
        {
            assert_eq!(bad.parse::<Position>(), Err(ParsePositionError), "{bad}");
        }
    }
}
