//! Timestamps as people write them; pure arithmetic, UTC only.

use sqlrep_format::Timestamp;

const MILLIS_A_DAY: i64 = 86_400_000;

/// RFC 3339 with milliseconds: `2026-11-22T20:48:58.552Z`.
pub fn rfc3339(time: Timestamp) -> String {
    let Fields {
        year,
        month,
        day,
        hour,
        minute,
        second,
        millis,
    } = fields(time);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// The same without separators, for file names: `20261122T204858552Z`.
pub(crate) fn compact(time: Timestamp) -> String {
    rfc3339(time)
        .chars()
        .filter(|c| !matches!(c, '-' | ':' | '.'))
        .collect()
}

/// Reads what [`compact`] writes.
pub(crate) fn parse_compact(text: &str) -> Option<Timestamp> {
    let (date, clock) = text.strip_suffix('Z')?.split_once('T')?;
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if date.len() != 8 || clock.len() != 9 || !digits(date) || !digits(clock) {
        return None;
    }
    let number = |text: &str, from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let days = days_from_civil(
        number(date, 0, 4)?,
        number(date, 4, 6)?,
        number(date, 6, 8)?,
    );
    let seconds = number(clock, 0, 2)? * 3600 + number(clock, 2, 4)? * 60 + number(clock, 4, 6)?;
    let time = days * MILLIS_A_DAY + seconds * 1000 + number(clock, 6, 9)?;
    let time = Timestamp::from_millis(time);
    // The 31st of February reads as a day in March: not what was written.
    (compact(time) == text).then_some(time)
}

struct Fields {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    millis: i64,
}

/// Civil date from days since the epoch, by eras of 400 years that begin in March.
fn fields(time: Timestamp) -> Fields {
    let days = time.millis().div_euclid(MILLIS_A_DAY);
    let rest = time.millis().rem_euclid(MILLIS_A_DAY);
    let shifted = days + 719_468; // days from 0000-03-01 to 1970-01-01
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    Fields {
        year: year_of_era + era * 400 + i64::from(month <= 2),
        month,
        day: day_of_year - (153 * shifted_month + 2) / 5 + 1,
        hour: rest / 3_600_000,
        minute: rest / 60_000 % 60,
        second: rest / 1000 % 60,
        millis: rest % 1000,
    }
}

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_times() {
        let text = |millis| rfc3339(Timestamp::from_millis(millis));
        assert_eq!(text(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(text(-1), "1969-12-31T23:59:59.999Z");
        assert_eq!(text(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(text(1_795_380_538_552), "2026-11-22T20:48:58.552Z");
        assert_eq!(
            compact(Timestamp::from_millis(1_795_380_538_552)),
            "20261122T204858552Z"
        );
        // Any header may hold any time: no overflow.
        text(i64::MIN);
        text(i64::MAX);
    }

    #[test]
    fn bad_names_are_no_times() {
        for bad in [
            "",
            "20261122T204858552",
            "20260231T204858552Z",
            "2026112ZT204858552Z",
            "ü026112T204858552Z",
        ] {
            assert_eq!(parse_compact(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn names_round_trip(millis in 0i64..253_402_300_800_000) {
            let time = Timestamp::from_millis(millis);
            prop_assert_eq!(parse_compact(&compact(time)), Some(time));
        }
    }
}
