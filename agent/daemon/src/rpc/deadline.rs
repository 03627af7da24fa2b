//! How long a caller waits: the header `grpc-timeout`.
//!
//! tonic applies it until an answer begins; a stream goes on after that, so it is applied to
//! streams here.

use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::MetadataMap;

/// More digits are not in the protocol.
const DIGITS_MAX: usize = 8;

/// When the caller gives up, if it said so and the header can be read.
pub(super) fn of(metadata: &MetadataMap) -> Option<Instant> {
    let timeout = parse(metadata.get("grpc-timeout")?.to_str().ok()?)?;
    Instant::now().checked_add(timeout)
}

fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let plain = digits.len() <= DIGITS_MAX && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = plain.then(|| digits.parse().ok()).flatten()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_read_and_nonsense_is_not() {
        assert_eq!(parse("2H"), Some(Duration::from_hours(2)));
        assert_eq!(parse("3M"), Some(Duration::from_mins(3)));
        assert_eq!(parse("99999999S"), Some(Duration::from_secs(99_999_999)));
        assert_eq!(parse("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse("7u"), Some(Duration::from_micros(7)));
        assert_eq!(parse("7n"), Some(Duration::from_nanos(7)));
        for text in [
            "",
            "S",
            "1",
            "-1S",
            "+1S",
            "1.5S",
            "123456789S",
            "1s",
            "1é",
            "é",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
