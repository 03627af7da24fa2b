//! Numbers and foreign text as words on a terminal.

use std::time::Duration;

/// Text that cannot command the terminal: names and messages come from pods and shares.
pub(crate) fn clean(text: &str) -> String {
    let commands = |c: char| {
        (c.is_control() && c != '\n')
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(commands) {
        return text.to_owned();
    }
    text.chars()
        .flat_map(|c| {
            if commands(c) {
                c.escape_unicode().collect()
            } else {
                vec![c]
            }
        })
        .collect()
}

/// Bytes in the largest unit that leaves a number of at least one: `12.4Mi`.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["", "Ki", "Mi", "Gi", "Ti", "Pi"];
    let mut number = bytes as f64;
    let mut unit = 0;
    // 1023.95 would be shown as 1024.0.
    while number >= 1023.95 && unit + 1 < UNITS.len() {
        number /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes}B")
    } else {
        format!("{number:.1}{}", UNITS[unit])
    }
}

/// A duration of which only the size matters: `0s`, `12ms`, `1.2s`, `3m5s`, `2h10m`, `3d4h`.
pub(crate) fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    let two = |large: u64, unit: &str, small: u64, lesser: &str| {
        if small == 0 {
            format!("{large}{unit}")
        } else {
            format!("{large}{unit}{small}{lesser}")
        }
    };
    match seconds {
        0 if time.as_millis() == 0 => "0s".to_owned(),
        0 => format!("{}ms", time.as_millis()),
        1..10 => format!("{seconds}.{}s", time.subsec_millis() / 100),
        10..60 => format!("{seconds}s"),
        60..3600 => two(seconds / 60, "m", seconds % 60, "s"),
        3600..86_400 => two(seconds / 3600, "h", seconds % 3600 / 60, "m"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_command_the_terminal() {
        assert_eq!(
            clean("a\x1b[2Jb\u{202e}c\rd"),
            "a\\u{1b}[2Jb\\u{202e}c\\u{d}d"
        );
        assert_eq!(
            clean("plain text, ü, 表\nand a new line"),
            "plain text, ü, 表\nand a new line"
        );
    }

    #[test]
    fn sizes_have_one_unit() {
        let cases = [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1.0Ki"),
            (1536, "1.5Ki"),
            (1_048_575, "1.0Mi"),
            (13_002_342, "12.4Mi"),
            (u64::MAX, "16384.0Pi"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn durations_have_two_units_at_most() {
        for (millis, text) in [
            (0, "0s"),
            (12, "12ms"),
            (1234, "1.2s"),
            (59_999, "59s"),
            (60_000, "1m"),
            (185_000, "3m5s"),
            (7_800_000, "2h10m"),
            (273_600_000, "3d4h"),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), text, "{millis}");
        }
    }
}
