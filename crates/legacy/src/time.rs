//! Times as the first generation wrote them.

use std::borrow::Cow;

use realtime_pgoutput::message::UnixMicros;

/// The commit time of a transaction: UTC, whole seconds, `2021-02-22T05:22:19Z`. Empty for a time outside of the calendar.
pub(crate) fn commit_timestamp(time: UnixMicros) -> String {
    let seconds = time.0.div_euclid(1_000_000);
    jiff::Timestamp::from_second(seconds).map(|at| at.to_string()).unwrap_or_default()
}

/// The text of a `timestamp` or `timestamptz` in the form of ISO 8601: the fraction as it stands, no offset and the offset
/// zero as `Z`. Any other text (`infinity`, years before Christ or beyond 9999) stays as it is.
pub(crate) fn iso(text: &str) -> Cow<'_, str> {
    iso_parts(text).map_or(Cow::Borrowed(text), Cow::Owned)
}

fn iso_parts(text: &str) -> Option<String> {
    let (date, rest) = text.split_once(' ')?;
    if !is_shaped(date, "dddd-dd-dd") {
        return None;
    }
    let (clock, rest) = rest.split_at_checked(8)?;
    if !is_shaped(clock, "dd:dd:dd") {
        return None;
    }
    let digits = rest.strip_prefix('.').map(|rest| rest.bytes().take_while(u8::is_ascii_digit).count());
    let (fraction, offset) = match digits {
        None => ("", rest),
        Some(0) => return None,
        Some(digits) => rest.split_at_checked(digits + 1)?,
    };
    let offset = match offset {
        "" | "+00" | "-00" | "+00:00" => Cow::Borrowed("Z"),
        short if is_shaped(short, "sdd") => Cow::Owned(format!("{short}:00")),
        long if is_shaped(long, "sdd:dd") => Cow::Borrowed(long),
        _ => return None,
    };
    Some(format!("{date}T{clock}{fraction}{offset}"))
}

/// Whether a text is of a shape: `d` stands for a digit, `s` for a sign, anything else for itself.
fn is_shaped(text: &str, shape: &str) -> bool {
    text.len() == shape.len()
        && text.bytes().zip(shape.bytes()).all(|(byte, shape)| match shape {
            b'd' => byte.is_ascii_digit(),
            b's' => byte == b'+' || byte == b'-',
            _ => byte == shape,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// legacy 31
    #[test]
    fn timestamps() {
        for (text, expected) in [
            ("2021-02-16 23:47:47.51613+00", "2021-02-16T23:47:47.51613Z"),
            ("2021-02-16 23:47:47.51613", "2021-02-16T23:47:47.51613Z"),
            ("2021-02-16 23:47:47+00", "2021-02-16T23:47:47Z"),
            ("2021-02-16 23:47:47", "2021-02-16T23:47:47Z"),
            ("2021-02-16 23:47:47.5+05:30", "2021-02-16T23:47:47.5+05:30"),
            ("2021-02-16 23:47:47-08", "2021-02-16T23:47:47-08:00"),
        ] {
            assert_eq!(iso(text), expected);
        }
        for text in [
            "infinity",
            "-infinity",
            "0044-03-15 12:00:00 BC",
            "10000-01-01 00:00:00",
            "2021-02-16",
            "",
            "2021-02-16 23:47:47.",
            "2021-02-16 23:47:47é",
            "2021-02-16 é3:47:47",
        ] {
            assert_eq!(iso(text), text);
        }
    }

    #[test]
    fn commit_times_have_whole_seconds() {
        assert_eq!(commit_timestamp(UnixMicros(1_613_971_339_999_999)), "2021-02-22T05:22:19Z");
        assert_eq!(commit_timestamp(UnixMicros(-1)), "1969-12-31T23:59:59Z");
        assert_eq!(commit_timestamp(UnixMicros(i64::MAX)), "");
    }
}
