//! Points in time, in the resolution of an LTX header.

use std::time::Duration;

/// Milliseconds since the Unix epoch. Reading the clock is the caller's work (L1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Any number of milliseconds is a point in time.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the epoch.
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// The later of `now` and one millisecond after `self`: within one database timestamps
    /// rise strictly, else a point in time would be ambiguous (LITESTREAM.md §7).
    #[must_use]
    pub fn after(self, now: Self) -> Self {
        now.max(Self(self.0.saturating_add(1)))
    }

    /// This point and so much after it; the last of all where there is none.
    #[must_use]
    pub fn later(self, by: Duration) -> Self {
        Self(self.0.saturating_add(millis(by)))
    }

    /// This point and so much before it; the first of all where there is none.
    #[must_use]
    pub fn earlier(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(millis(by)))
    }

    /// How long before `later` this point lies; zero if it does not.
    pub fn until(self, later: Self) -> Duration {
        let millis = later.0.saturating_sub(self.0).max(0);
        Duration::from_millis(millis.unsigned_abs())
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_rises_even_when_the_clock_does_not() {
        let (early, late) = (Timestamp::from_millis(10), Timestamp::from_millis(20));
        assert_eq!(early.after(late), late);
        assert_eq!(late.after(early), Timestamp::from_millis(21));
        assert_eq!(late.after(late), Timestamp::from_millis(21));
    }
}
