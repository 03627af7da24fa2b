//! The rests between batches of hints, in which the kernel merges what writers cause. Whom we told of them
//! looks after them by itself meanwhile; those who write beside them wait for as long.

use std::time::{Duration, Instant};

/// When the next batch may be taken.
#[derive(Debug)]
pub(super) struct Rests {
    pause: Duration,
    until: Instant,
    /// Hints come faster than batches are taken.
    crowded: bool,
}

impl Rests {
    pub(super) fn new(pause: Duration, now: Instant) -> Self {
        Self {
            pause,
            until: now,
            crowded: false,
        }
    }

    /// A batch was taken; whether there was anything in it.
    pub(super) fn took(&mut self, any: bool, now: Instant) {
        if any {
            self.until = now + self.pause;
        }
        self.crowded &= any;
    }

    /// Whether the rest is worth its time at once. Else the next hint is waited for first, and when it
    /// comes late there is none: a writer now and then costs one wake-up for a batch.
    pub(super) fn is_crowded(&self) -> bool {
        self.crowded
    }

    /// What is left of the rest.
    pub(super) fn left(&mut self, now: Instant) -> Option<Duration> {
        let left = self.until.saturating_duration_since(now);
        let any = !left.is_zero();
        self.crowded |= any;
        any.then_some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_millis(16);

    /// Hints at these times: when batches are taken, and how often is waited for them.
    fn batches(hints: impl Iterator<Item = u64>) -> (Vec<u64>, u32) {
        let start = Instant::now();
        let ms = |at: Instant| u64::try_from((at - start).as_millis()).unwrap();
        let mut hints = hints.peekable();
        let (mut now, mut rests) = (start, Rests::new(PAUSE, start));
        let (mut taken, mut waits) = (vec![], 0);
        loop {
            let any = std::iter::from_fn(|| hints.next_if(|at| *at <= ms(now))).count() > 0;
            if any {
                taken.push(ms(now));
            }
            rests.took(any, now);
            if !rests.is_crowded() {
                let Some(next) = hints.peek() else {
                    return (taken, waits);
                };
                now = now.max(start + Duration::from_millis(*next));
                waits += 1;
            }
            if let Some(left) = rests.left(now) {
                now += left;
                waits += 1;
            }
        }
    }

    #[test]
    fn a_hint_now_and_then_is_taken_at_once_with_one_wait() {
        let (taken, waits) = batches((0..100).map(|number| number * 20));
        assert_eq!(
            taken,
            (0..100).map(|number| number * 20).collect::<Vec<_>>()
        );
        assert_eq!(waits, 99, "none before the first");
    }

    #[test]
    fn a_crowd_of_hints_is_taken_once_a_pause_with_one_wait() {
        let (taken, waits) = batches(0..1600);
        assert!((100..=102).contains(&taken.len()), "{}", taken.len());
        assert!(waits <= 104, "{waits}");
        assert!(taken.windows(2).all(|two| two[1] - two[0] >= 16));
        // And when it ends, the next hint is taken at once.
        let (taken, _) = batches((0..100).chain([500]));
        assert_eq!(taken.last(), Some(&500));
    }
}
