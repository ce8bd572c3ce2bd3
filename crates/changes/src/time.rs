//! Commit times as clients see them.

use realtime_pgoutput::message::UnixMicros;

/// `YYYY-MM-DDTHH:MM:SS.mmmZ`, milliseconds cut off (postgres_changes 2.2).
pub(crate) fn write_timestamp(out: &mut Vec<u8>, time: UnixMicros) {
    let millis = time.0.div_euclid(1000);
    let (days, millis) = (millis.div_euclid(86_400_000), millis.rem_euclid(86_400_000));
    let (year, month, day) = civil(days);
    let (seconds, millis) = (millis / 1000, millis % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match u64::try_from(year) {
        Ok(year @ 0..=9_999) => out.extend_from_slice(&padded::<4>(year)),
        _ => out.extend_from_slice(format!("{year:04}").as_bytes()),
    }
    for (separator, part) in [(b'-', month), (b'-', day), (b'T', hour), (b':', minute), (b':', second)] {
        out.push(separator);
        out.extend_from_slice(&padded::<2>(part.unsigned_abs()));
    }
    out.push(b'.');
    out.extend_from_slice(&padded::<3>(millis.unsigned_abs()));
    out.push(b'Z');
}

/// The last `N` decimal digits of a number.
fn padded<const N: usize>(mut number: u64) -> [u8; N] {
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        *digit += u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
    }
    digits
}

/// The proleptic Gregorian date of a day counted from 1970-01-01. Years are counted from 1 March, so that the
/// leap day is the last of its year.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The time of a timestamptz as PostgreSQL writes it in ISO style, in microseconds since 1970. `None` for years before
/// Christ and whatever else is not written so; infinities are the ends of time.
pub(crate) fn parse_timestamptz(text: &[u8]) -> Option<i64> {
    match text {
        b"infinity" => return Some(i64::MAX),
        b"-infinity" => return Some(i64::MIN),
        _ => {}
    }
    let (date, time) = std::str::from_utf8(text).ok()?.split_once(' ')?;
    let mut date = date.splitn(3, '-').map(digits);
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let zone_at = time.find(['+', '-'])?;
    let (time, zone) = (time.get(..zone_at)?, time.get(zone_at..)?);
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let seconds = sexagesimal(clock)?;
    let micros = digits(fraction)?
        .checked_mul(10i64.checked_pow(6u32.checked_sub(u32::try_from(fraction.len()).ok()?)?)?)?;
    let offset = sexagesimal(zone.get(1..)?)?;
    let offset = if zone.starts_with('-') { -offset } else { offset };
    let seconds = days(year, month, day)?.checked_mul(86_400)?.checked_add(seconds)?.checked_sub(offset)?;
    seconds.checked_mul(1_000_000)?.checked_add(micros)
}

/// `HH`, `HH:MM` or `HH:MM:SS` in seconds.
fn sexagesimal(text: &str) -> Option<i64> {
    let mut parts = text.splitn(3, ':').map(digits);
    let hours = parts.next()??;
    let minutes = parts.next().map_or(Some(0), |part| part)?;
    let seconds = parts.next().map_or(Some(0), |part| part)?;
    hours.checked_mul(3_600)?.checked_add(minutes.checked_mul(60)?)?.checked_add(seconds)
}

fn digits(text: &str) -> Option<i64> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

/// The days from 1970-01-01 to a date of the proleptic Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || !(1..=300_000).contains(&year) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let shifted = (month + 9) % 12;
    let day_of_year = (153 * shifted + 2) / 5 + day - 1;
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps() {
        let text = |micros| {
            let mut out = Vec::new();
            write_timestamp(&mut out, UnixMicros(micros));
            String::from_utf8(out).unwrap()
        };
        assert_eq!(text(1_563_469_355_726_322), "2019-07-18T17:02:35.726Z");
        assert_eq!(text(9_987_654), "1970-01-01T00:00:09.987Z");
        assert_eq!(text(-1), "1969-12-31T23:59:59.999Z");
        assert_eq!(text(951_782_400_000_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(text(4_102_444_800_000_000), "2100-01-01T00:00:00.000Z");
        assert_eq!(text(253_402_300_800_000_000), "10000-01-01T00:00:00.000Z");
        assert_eq!(text(-62_198_755_200_000_000), "-001-01-01T00:00:00.000Z");
    }

    #[test]
    fn times_are_read_as_they_are_written() {
        for (text, micros) in [
            ("1970-01-01 00:00:00+00", Some(0)),
            ("2019-07-18 17:02:35.726322+00", Some(1_563_469_355_726_322)),
            ("2019-07-18 19:02:35.7+02", Some(1_563_469_355_700_000)),
            ("2019-07-18 12:32:35-04:30", Some(1_563_469_355_000_000)),
            ("infinity", Some(i64::MAX)),
            ("-infinity", Some(i64::MIN)),
            ("0044-03-15 00:00:00+00 BC", None),
            ("2019-07-18 17:02:35", None),
            ("2019-07-18", None),
            ("", None),
            ("2019-13-18 17:02:35+00", None),
            ("2019-07-18 17:02:35.1234567+00", None),
            ("99999999999999999999-07-18 17:02:35+00", None),
        ] {
            assert_eq!(parse_timestamptz(text.as_bytes()), micros, "{text}");
        }
    }

    /// Every day of eight centuries follows the one before by the calendar's rules.
    #[test]
    fn days_follow_one_another() {
        let mut expected = (1700, 1, 1);
        for days in -98_615..194_580 {
            assert_eq!(civil(days), expected, "day {days}");
            let (year, month, day) = expected;
            assert_eq!(super::days(year, month, day), Some(days));
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length =
                [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month as usize - 1];
            expected = match (month, day) {
                (12, 31) => (year + 1, 1, 1),
                _ if day == length => (year, month + 1, 1),
                _ => (year, month, day + 1),
            };
        }
    }
}
