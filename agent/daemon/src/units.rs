//! Sizes and durations as people write them: `10Gi`, `256Mi`, `1s`, `7d`.

use std::time::Duration;

/// What one unit letter multiplies by; the spelling of Kubernetes quantities.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("", 1),
];

/// Reads a size: a whole number and one of `Ki Mi Gi Ti` (or `k M G T`, or nothing for bytes).
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let wrong = || format!("`{text}` is not a size; write a whole number and a unit, as in 256Mi");
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let (_, factor) = SIZE_UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(wrong)?;
    number
        .checked_mul(*factor)
        .ok_or_else(|| format!("`{text}` is more than 16 exabytes"))
}

/// Writes a size with the largest unit that divides it.
pub(crate) fn format_size(bytes: u64) -> String {
    for (name, factor) in SIZE_UNITS[..4].iter().rev() {
        if bytes >= *factor && bytes.is_multiple_of(*factor) {
            return format!("{}{name}", bytes / factor);
        }
    }
    bytes.to_string()
}

/// Reads a duration: `500ms`, `1s`, `5m`, `24h`, `7d`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| {
        format!("`{text}` is not a duration; write a number and a unit, as in 1s, 5m, 24h or 7d")
    })
}

/// Writes a duration as [`parse_duration`] reads it.
pub(crate) fn format_duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}
