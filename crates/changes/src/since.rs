//! Where a client that comes back wants to go on (resume 1, 2).

use std::fmt;

use jiff::{civil, fmt::temporal::Pieces};
use realtime_pgoutput::{Position, message::UnixMicros};

/// Longest text of a place.
const MAX_BYTES: usize = 64;

/// A place in the stream of changes, as a client has written it. `Display` gives its text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Since {
    text: Box<str>,
    /// What it means.
    pub place: Place,
}

/// What a place means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// What comes after this change.
    After(Position),
    /// What was committed at this time or later. Changes of before may come too, since commit times do not ascend
    /// strictly.
    From(UnixMicros),
}

impl Since {
    /// Reads `16/B374D848:3`, or the `commit_timestamp` of a change. `None` for what is neither.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_BYTES {
            return None;
        }
        let place = match text.parse::<Position>() {
            Ok(position) => Place::After(position),
            Err(_) => Place::From(time(text)?),
        };
        Some(Self { text: text.into(), place })
    }
}

/// Reads a time with its offset. The years that have four digits are read whole: their last hours are no
/// [`jiff::Timestamp`], but are a time all the same, and none of this history.
fn time(text: &str) -> Option<UnixMicros> {
    let pieces = Pieces::parse(text).ok()?;
    let (time, offset) = (pieces.time()?, pieces.to_numeric_offset()?);
    let epoch = civil::date(1970, 1, 1).to_datetime(civil::Time::midnight());
    let local = pieces.date().to_datetime(time).duration_since(epoch).as_micros();
    i64::try_from(local - i128::from(offset.seconds()) * 1_000_000).ok().map(UnixMicros)
}

impl fmt::Display for Since {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use realtime_pgoutput::Lsn;

    use super::*;

    /// resume 1, case 5
    #[test]
    fn places_are_positions_or_times() {
        let place = |text: &str| Since::parse(text).map(|since| since.place);
        let position = Position { commit: Lsn(0x16_B374_D848), number: 3 };
        assert_eq!(place("16/B374D848:3"), Some(Place::After(position)));
        let time = Some(Place::From(UnixMicros(1_700_000_000_123_000)));
        assert_eq!(place("2023-11-14T22:13:20.123Z"), time);
        assert_eq!(place("2023-11-14T22:13:20.123+00:00"), time);
        assert_eq!(place("2023-11-14 23:13:20.123+01"), time);
        assert_eq!(place("2023-11-14T22:13:20-05:30"), Some(Place::From(UnixMicros(1_700_019_800_000_000))));
        // No time is too far away to be one.
        for (far, micros) in [
            ("9999-12-31T23:59:59.999999Z", 253_402_300_799_999_999),
            ("9999-12-31T23:59:59-23:59", 253_402_387_139_000_000),
            ("0001-01-01T00:00:00Z", -62_135_596_800_000_000),
            ("1969-12-31T23:59:59Z", -1_000_000),
        ] {
            assert_eq!(place(far), Some(Place::From(UnixMicros(micros))), "{far}");
        }
        for bad in [
            "",
            "yesterday",
            "2023-11-14",
            "2023-11-14T22:13:20",
            "16/B374D848",
            "1700000000",
            &"1".repeat(100),
        ] {
            assert_eq!(place(bad), None, "{bad}");
        }
        assert_eq!(Since::parse("16/B374D848:3").unwrap().to_string(), "16/B374D848:3");
    }
}
