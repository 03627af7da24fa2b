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
    /// `live_bytes` is the part of the WAL that counts; `lagging_bytes` what of it is not in the
    /// database file; `quiet` that the last look found nothing new.
    pub(crate) fn need(self, live_bytes: u64, lagging_bytes: u64, quiet: bool) -> Need {
        if lagging_bytes == 0 || live_bytes <= self.soft_bytes {
            Need::Nothing
        } else if live_bytes > self.hard_bytes {
            Need::Full
        } else if quiet || lagging_bytes > self.soft_bytes.saturating_mul(2) {
            // A busy writer whose own checkpoints do not come: the bulk at least.
            Need::Passive
        } else {
            Need::Nothing
        }
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

    #[test]
    fn a_small_wal_or_one_that_is_copied_is_left_alone() {
        assert_eq!(BOUNDS.need(100, 100, true), Need::Nothing);
        assert_eq!(BOUNDS.need(5000, 0, true), Need::Nothing);
    }

    #[test]
    fn help_comes_in_a_quiet_moment_or_when_the_application_does_not_checkpoint() {
        assert_eq!(BOUNDS.need(101, 101, true), Need::Passive);
        assert_eq!(BOUNDS.need(101, 101, false), Need::Nothing);
        assert_eq!(BOUNDS.need(201, 201, false), Need::Passive);
    }

    #[test]
    fn the_write_lock_is_for_emergencies() {
        assert_eq!(BOUNDS.need(1000, 1000, true), Need::Passive);
        assert_eq!(BOUNDS.need(1001, 1001, false), Need::Full);
    }
}
