//! The time of one chain: pure, what clocks say is an argument.
//!
//! A node's clock may be set back by a day, or be a day ahead until somebody notices. What is captured
//! has times that rise all the same, and what is due by those times must become due. So a chain's
//! time never goes back, and passes at least as fast as time does: from the newest time that the chain
//! holds on, wherever the clock was set to. Where the clock is right it is the clock.
//!
//! Set forward, it makes what is there look old. So where it jumped is remembered, and how old a state
//! is for sure says [`Jumps`].

use std::borrow::Cow;
use std::time::{Duration, Instant};

use sqlrep_format::Timestamp;
use sqlrep_replica::{Listing, ReplicaFile};

/// A clock that gains more than this at once was set; less is the drift of one that is corrected, or
/// a machine that slept. So far apart may the clocks of two machines be that both are right.
pub(crate) const SET_MIN: Duration = Duration::from_mins(1);

/// Jumps that are told apart (L12); of more, the oldest count as one.
const JUMPS_MAX: usize = 16;

/// What two clocks of the node say at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// The one on the wall, which may be set.
    pub(crate) wall: Timestamp,
    /// The one that only counts.
    pub(crate) count: Instant,
}

impl Reading {
    /// Now.
    pub(crate) fn take() -> Self {
        Self {
            wall: crate::stage::capture::wall_now(),
            count: Instant::now(),
        }
    }
}

/// The time of one chain.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ChainClock {
    /// A time that was reached, and when.
    reached: Option<(Timestamp, Instant)>,
}

impl ChainClock {
    /// The time now.
    pub(crate) fn now(&mut self, reading: Reading) -> Timestamp {
        self.now_and_gain(reading).0
    }

    /// The time now, and by how much it was set forward since it was last asked, if it was.
    pub(crate) fn now_and_gain(&mut self, reading: Reading) -> (Timestamp, Option<Duration>) {
        let counted = self.counted(reading);
        let now = counted.max(reading.wall);
        self.reach(now, reading);
        (now, set(counted.until(now)))
    }

    /// The chain holds a state of this time; says by how much that is ahead, if it is.
    pub(crate) fn holds(&mut self, newest: Timestamp, reading: Reading) -> Option<Duration> {
        let counted = self.counted(reading);
        self.reach(newest.max(counted), reading);
        set(counted.until(newest))
    }

    fn reach(&mut self, now: Timestamp, reading: Reading) {
        if self.reached.is_none() || self.counted(reading) < now {
            self.reached = Some((now, reading.count));
        }
    }

    fn counted(&self, reading: Reading) -> Timestamp {
        let Some((at, since)) = self.reached else {
            return reading.wall;
        };
        at.later(reading.count.saturating_duration_since(since))
    }
}

fn set(gain: Duration) -> Option<Duration> {
    Some(gain).filter(|gain| *gain >= SET_MIN)
}

/// Where the time of a chain was set forward. A state from before has not aged by that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Jumps(Vec<Jump>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Jump {
    to: Timestamp,
    by: Duration,
}

impl Jumps {
    /// It was set to a time, by so much.
    pub(crate) fn note(&mut self, to: Timestamp, by: Duration) {
        self.0.push(Jump { to, by });
        if self.0.len() > JUMPS_MAX {
            let first = self.0.remove(0);
            if let Some(second) = self.0.first_mut() {
                // Both at the later one: what is between them then looks younger than it is.
                second.by = second.by.saturating_add(first.by);
            }
        }
    }

    /// By how much in all.
    pub(crate) fn total(&self) -> Duration {
        let add = |sum: Duration, jump: &Jump| sum.saturating_add(jump.by);
        self.0.iter().fold(Duration::ZERO, add)
    }

    /// A listing whose files are, by the chain's time now, as old as they are for sure.
    pub(crate) fn aged<'a>(&self, listing: &'a Listing) -> Cow<'a, Listing> {
        if self.0.is_empty() {
            return Cow::Borrowed(listing);
        }
        let aged = |file: &ReplicaFile| ReplicaFile {
            modified: self.moved(file.modified),
            ..file.clone()
        };
        Cow::Owned(listing.of(listing.files().iter().map(aged)))
    }

    /// A time from before a jump is so much later, but not later than the jump.
    fn moved(&self, time: Timestamp) -> Timestamp {
        self.0.iter().fold(time, |time, jump| {
            let moved = time.later(jump.by).min(jump.to);
            time.max(moved)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn where_the_clock_is_right_it_is_the_clock() {
        let (mut clock, begun) = (ChainClock::default(), Instant::now());
        for second in 0..100_u64 {
            let count = begun + Duration::from_secs(second);
            // Ten seconds of sleep now and then, which only the wall saw.
            let wall = at(DAY + 1_100 * i64::try_from(second).unwrap());
            let (now, gain) = clock.now_and_gain(Reading { wall, count });
            assert_eq!((now, gain), (wall, None));
        }
    }

    #[test]
    fn set_back_it_goes_on_as_time_does() {
        let (mut clock, begun) = (ChainClock::default(), Instant::now());
        let wall = at(10 * DAY);
        clock.now(Reading { wall, count: begun });
        let count = begun + Duration::from_secs(30);
        let (now, gain) = clock.now_and_gain(Reading {
            wall: at(9 * DAY),
            count,
        });
        assert_eq!((now, gain), (at(10 * DAY + 30_000), None));
        // And back: no more than that has passed.
        let (now, gain) = clock.now_and_gain(Reading {
            wall: at(10 * DAY + 31_000),
            count,
        });
        assert_eq!((now, gain), (at(10 * DAY + 31_000), None));
    }

    #[test]
    fn after_a_restart_it_goes_on_from_what_the_chain_holds() {
        let (mut clock, begun) = (ChainClock::default(), Instant::now());
        let reading = Reading {
            wall: at(9 * DAY),
            count: begun,
        };
        let gain = clock.holds(at(10 * DAY), reading);
        assert_eq!(gain, Some(Duration::from_hours(24)), "the chain is ahead");
        assert_eq!(clock.holds(at(8 * DAY), reading), None);
        assert_eq!(clock.now(reading), at(10 * DAY));
        let count = begun + Duration::from_hours(1);
        let wall = at(9 * DAY + 3_600_000);
        assert_eq!(clock.now(Reading { wall, count }), at(10 * DAY + 3_600_000));
    }

    #[test]
    fn set_forward_it_says_by_how_much() {
        let (mut clock, begun) = (ChainClock::default(), Instant::now());
        let wall = at(DAY);
        assert_eq!(
            clock.now_and_gain(Reading { wall, count: begun }),
            (wall, None),
            "a start"
        );
        let count = begun + Duration::from_secs(5);
        let (now, gain) = clock.now_and_gain(Reading {
            wall: at(2 * DAY),
            count,
        });
        assert_eq!(now, at(2 * DAY));
        assert_eq!(gain, Some(Duration::from_secs(86_395)));
        let (_, gain) = clock.now_and_gain(Reading {
            wall: at(2 * DAY),
            count,
        });
        assert_eq!(gain, None, "said once");
    }

    #[test]
    fn what_a_chain_holds_from_long_ago_sets_nothing_forward() {
        let (mut clock, count) = (ChainClock::default(), Instant::now());
        let reading = Reading {
            wall: at(90 * DAY),
            count,
        };
        assert_eq!(clock.holds(at(10 * DAY), reading), None);
        assert_eq!(clock.now_and_gain(reading), (at(90 * DAY), None));
    }

    #[test]
    fn what_was_there_before_a_jump_is_no_older_for_it() {
        let mut jumps = Jumps::default();
        jumps.note(at(400 * DAY), Duration::from_hours(24 * 300));
        jumps.note(at(900 * DAY), Duration::from_hours(24 * 490));
        for (time, moved) in [
            (90, 880),  // ten days before the first, which was ten before the second
            (100, 890), // at the first
            (150, 890), // there is no such state, or it is ahead of its time
            (405, 895),
            (410, 900),
            (890, 900),
            (901, 901),
        ] {
            assert_eq!(jumps.moved(at(time * DAY)), at(moved * DAY), "{time}");
        }
        assert_eq!(jumps.total(), Duration::from_hours(24 * 790));
    }

    #[test]
    fn of_many_jumps_none_is_forgotten() {
        let mut jumps = Jumps::default();
        for day in 1..=100 {
            jumps.note(at(10 * day * DAY), Duration::from_hours(24));
        }
        assert_eq!(jumps.0.len(), JUMPS_MAX);
        assert_eq!(jumps.total(), Duration::from_hours(24 * 100));
        assert!(jumps.moved(at(DAY)) >= at(101 * DAY));
        assert_eq!(jumps.moved(at(999 * DAY + 1)), at(1000 * DAY));
    }
}
