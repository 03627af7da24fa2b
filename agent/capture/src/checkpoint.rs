//! When and how the agent checkpoints.
//!
//! An application that checkpoints itself (SQLite's default: every 1000 pages) needs no help: the
//! hold limits none of its checkpoints. Help is for those that do not, or whose checkpoints are
//! cut short by their own readers. A checkpoint never runs without a hold, and is never one that
//! resets the WAL itself (RESTART, TRUNCATE).

use crate::live::Backfill;

/// How a checkpoint was run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// Beside the writers, who notice nothing.
    Passive,
    /// With the write lock, for as long as the rest takes to copy.
    Full,
}

/// What a checkpoint did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// How it was run.
    pub mode: Mode,
    /// Frames in the WAL.
    pub log_frames: u32,
    /// Frames of them that are in the database file now.
    pub backfilled_frames: u32,
}

/// From so many times the soft bound on, the WAL is one of several writers: while one of them
/// checkpoints the others commit, and the moment at which it could begin anew does not come.
const CROWDED_TIMES: u64 = 4;

/// In such a WAL a checkpoint is worth its two fsyncs when it copies so many times the soft bound.
const CROWDED_SHARE: u64 = 2;

/// When so many times the soft bound is not copied, a busy application does not checkpoint by itself.
const UNHELPED_TIMES: u64 = 3;

/// How much of a WAL there is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// The part that counts.
    pub(crate) live: u64,
    /// What of it is not in the database file; 0 when all is.
    pub(crate) lagging: u64,
}

/// The limits between which the agent helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// From here on it helps when nothing new was found.
    pub(crate) soft_bytes: u64,
    /// From here on it takes the write lock.
    pub(crate) hard_bytes: u64,
}

/// What the size of the WAL calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    Nothing,
    Passive,
    Full,
}

impl Bounds {
    /// `quiet`: the last looks found nothing new.
    pub(crate) fn need(self, wal: Extent, quiet: bool) -> Need {
        let unhelped = self.soft_bytes.saturating_mul(UNHELPED_TIMES);
        if wal.lagging == 0 || wal.live <= self.soft_bytes {
            Need::Nothing
        } else if wal.live > self.hard_bytes {
            Need::Full
        } else if quiet || wal.lagging > unhelped {
            // A busy writer whose own checkpoints do not come: the bulk at least.
            Need::Passive
        } else {
            Need::Nothing
        }
    }

    /// Whether a busy application's checkpoints are let through.
    pub(crate) fn is_worth_a_checkpoint(self, wal: Extent) -> bool {
        if self.is_crowded(wal) {
            wal.lagging >= self.soft_bytes.saturating_mul(CROWDED_SHARE)
        } else {
            wal.live >= self.soft_bytes
        }
    }

    fn is_crowded(self, wal: Extent) -> bool {
        wal.live >= self.soft_bytes.saturating_mul(CROWDED_TIMES)
    }
}

impl Checkpoint {
    pub(crate) fn of(mode: Mode, backfill: Backfill) -> Self {
        Self {
            mode,
            log_frames: backfill.log,
            backfilled_frames: backfill.done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        soft_bytes: 100,
        hard_bytes: 1000,
    };

    fn wal(live: u64, lagging: u64) -> Extent {
        Extent { live, lagging }
    }

    #[test]
    fn a_small_wal_or_one_that_is_copied_is_left_alone() {
        assert_eq!(BOUNDS.need(wal(100, 100), true), Need::Nothing);
        assert_eq!(BOUNDS.need(wal(5000, 0), true), Need::Nothing);
    }

    #[test]
    fn help_comes_in_a_quiet_moment_or_when_the_application_does_not_checkpoint() {
        assert_eq!(BOUNDS.need(wal(101, 101), true), Need::Passive);
        assert_eq!(BOUNDS.need(wal(101, 101), false), Need::Nothing);
        assert_eq!(BOUNDS.need(wal(300, 300), false), Need::Nothing);
        assert_eq!(BOUNDS.need(wal(301, 301), false), Need::Passive);
    }

    #[test]
    fn the_write_lock_is_for_emergencies() {
        assert_eq!(BOUNDS.need(wal(1000, 1000), true), Need::Passive);
        assert_eq!(BOUNDS.need(wal(1001, 1001), false), Need::Full);
    }

    #[test]
    fn a_small_wal_is_checkpointed_whenever_it_may_begin_anew_by_that() {
        assert!(!BOUNDS.is_worth_a_checkpoint(wal(99, 99)));
        for lagging in [1, 100, 399] {
            assert!(BOUNDS.is_worth_a_checkpoint(wal(399, lagging)));
        }
    }

    #[test]
    fn one_that_does_not_begin_anew_is_checkpointed_by_the_lot() {
        for live in [400, 999, 5000] {
            assert!(!BOUNDS.is_worth_a_checkpoint(wal(live, 199)));
            assert!(BOUNDS.is_worth_a_checkpoint(wal(live, 200)));
        }
    }
}
