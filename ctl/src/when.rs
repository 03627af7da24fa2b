//! Points in time as people write them.

use jiff::civil;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Zoned};
use sqlrep_format::Timestamp;

/// What `--timestamp` takes, for messages.
const ACCEPTED: &str = "RFC 3339 (2026-11-22T20:49:00Z), a local time (2026-11-22 20:49), a time \
                        in a zone (2026-11-22T20:49[Europe/Berlin]) and how long ago (10m, 2h ago)";

/// The clock and the time zone of the person at the terminal.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    now: Zoned,
}

impl Clock {
    /// The system's clock and time zone (TZ).
    pub(crate) fn system() -> Self {
        Self { now: Zoned::now() }
    }

    /// A clock that stands still.
    #[cfg(test)]
    pub(crate) fn at(now: Zoned) -> Self {
        Self { now }
    }

    /// How long ago `time` was; zero if it is yet to come.
    pub(crate) fn age(&self, time: Timestamp) -> std::time::Duration {
        time.until(Timestamp::from_millis(
            self.now.timestamp().as_millisecond(),
        ))
    }

    /// Reads a point in time.
    ///
    /// A fraction of a millisecond rounds up: "the last state before" must not lose one that was
    /// written in that very millisecond.
    pub(crate) fn parse(&self, text: &str) -> Result<Timestamp, String> {
        let text = text.trim();
        let time = self
            .ago(text)
            .or_else(|| absolute(text))
            .map_or_else(|| self.local(text), Ok)?;
        let nanos = time.as_nanosecond();
        let millis = nanos.div_euclid(1_000_000) + i128::from(nanos.rem_euclid(1_000_000) > 0);
        i64::try_from(millis)
            .map(Timestamp::from_millis)
            .map_err(|_| format!("{text:?} is too far away"))
    }

    /// `10m`, `10m ago`, `1h 30m ago`.
    fn ago(&self, text: &str) -> Option<jiff::Timestamp> {
        let span = text.strip_suffix("ago").unwrap_or(text).trim();
        let ago = SignedDuration::try_from(humantime::parse_duration(span).ok()?).ok()?;
        self.now.timestamp().checked_sub(ago).ok()
    }

    /// A time without an offset means the clock on this person's wall.
    fn local(&self, text: &str) -> Result<jiff::Timestamp, String> {
        let (time, zone) = match text.rsplit_once(' ') {
            // 2026-11-22 20:49 Europe/Berlin
            Some((time, zone)) if zone.contains(char::is_alphabetic) => {
                let zone = TimeZone::get(zone)
                    .map_err(|error| format!("unknown time zone {zone:?} in {text:?}: {error}"))?;
                (time, zone)
            }
            _ => (text, self.now.time_zone().clone()),
        };
        let time: civil::DateTime = time
            .parse()
            .map_err(|_| format!("{text:?} is no point in time; accepted are {ACCEPTED}"))?;
        zone.to_ambiguous_timestamp(time)
            .unambiguous()
            .map_err(|_| {
                format!(
                    "{text:?} happens twice or never there, because the clocks change; \
                 give an offset, as in {time}+01:00"
                )
            })
    }
}

/// A time with an offset or a zone.
fn absolute(text: &str) -> Option<jiff::Timestamp> {
    let instant = text.parse::<jiff::Timestamp>().ok();
    instant.or_else(|| text.parse::<Zoned>().ok().map(|zoned| zoned.timestamp()))
}

/// A time for people and programs: RFC 3339, UTC, milliseconds.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(time.millis()).map_or_else(
        |_| format!("{} ms", time.millis()),
        |time| format!("{time:.3}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock() -> Clock {
        Clock::at("2026-11-22T21:00:00+01:00[Europe/Berlin]".parse().unwrap())
    }

    fn parsed(text: &str) -> String {
        clock().parse(text).map_or_else(|error| error, rfc3339)
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, time) in [
            ("2026-11-22T20:49:00Z", "2026-11-22T20:49:00.000Z"),
            ("2026-11-22T20:49:00.123Z", "2026-11-22T20:49:00.123Z"),
            ("2026-11-22T20:49:00+02:00", "2026-11-22T18:49:00.000Z"),
            ("2026-11-22 20:49", "2026-11-22T19:49:00.000Z"),
            ("2026-07-22 20:49:10", "2026-07-22T18:49:10.000Z"),
            (
                "2026-11-22T20:49[America/New_York]",
                "2026-11-23T01:49:00.000Z",
            ),
            (
                "2026-11-22 20:49 America/New_York",
                "2026-11-23T01:49:00.000Z",
            ),
            ("2026-11-22", "2026-11-21T23:00:00.000Z"),
            ("10m", "2026-11-22T19:50:00.000Z"),
            ("10m ago", "2026-11-22T19:50:00.000Z"),
            ("1h 30m ago", "2026-11-22T18:30:00.000Z"),
        ] {
            assert_eq!(parsed(text), time, "{text}");
        }
    }

    #[test]
    fn a_fraction_of_a_millisecond_rounds_up() {
        assert_eq!(
            parsed("2026-11-22T20:49:00.0001Z"),
            "2026-11-22T20:49:00.001Z"
        );
        assert_eq!(
            parsed("1969-12-31T23:59:59.9999Z"),
            "1970-01-01T00:00:00.000Z"
        );
    }

    #[test]
    fn what_is_no_time_is_refused_with_what_is() {
        for text in ["", "yesterday", "10", "2026-13-01", "-5m", "20:49"] {
            assert!(
                parsed(text).contains("accepted are"),
                "{text}: {}",
                parsed(text)
            );
        }
        assert!(parsed("2026-11-22 20:49 Europe/Nowhere").contains("unknown time zone"));
    }

    #[test]
    fn local_times_that_happen_twice_or_never_need_an_offset() {
        assert!(parsed("2026-10-25 02:30").contains("give an offset"));
        assert!(parsed("2026-03-29 02:30").contains("give an offset"));
    }
}
