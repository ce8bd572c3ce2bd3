//! Commit times as clients see them.

use realtime_pgoutput::message::UnixMicros;

/// `YYYY-MM-DDTHH:MM:SS.mmmZ`, milliseconds cut off (postgres_changes 2.2).
pub(crate) fn write_timestamp(out: &mut Vec<u8>, time: UnixMicros) {
    let millis = time.0.div_euclid(1000);
    let (days, millis) = (millis.div_euclid(86_400_000), millis.rem_euclid(86_400_000));
    let (year, month, day) = civil(days);
    let (seconds, millis) = (millis / 1000, millis % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z");
    out.extend_from_slice(text.as_bytes());
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
    }

    /// Every day of eight centuries follows the one before by the calendar's rules.
    #[test]
    fn days_follow_one_another() {
        let mut expected = (1700, 1, 1);
        for days in -98_615..194_580 {
            assert_eq!(civil(days), expected, "day {days}");
            let (year, month, day) = expected;
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
