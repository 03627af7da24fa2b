//! What a session is told, and what it tells.

use std::path::PathBuf;

/// How a session works.
#[derive(Clone, Debug)]
pub struct Options {
    /// The writer's id, for the headers of L0 files.
    pub writer: u64,
    /// How much memory pending pages may take; what is more goes to a scratch file.
    pub arena_bytes: usize,
    /// Where the scratch file is made (it has no name); on the node, not in the volume.
    pub scratch_dir: PathBuf,
    /// From this size of the WAL on, a busy application's checkpoints are let through, and the
    /// agent checkpoints when the application does not. Twice the 1000 pages at which SQLite
    /// checkpoints by itself: half as many checkpoints, with two fsyncs each, make up for what
    /// capture costs a writer at full speed.
    pub wal_soft_bytes: u64,
    /// From this size on it takes the write lock to do so, for milliseconds.
    pub wal_hard_bytes: u64,
}

impl Options {
    /// The measured defaults (see the crate's README).
    pub fn new(writer: u64, scratch_dir: impl Into<PathBuf>) -> Self {
        Self {
            writer,
            arena_bytes: 3 << 19,
            scratch_dir: scratch_dir.into(),
            wal_soft_bytes: 8 << 20,
            wal_hard_bytes: 256 << 20,
        }
    }
}

/// How a session began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Start {
    /// The WAL goes on where capture stopped.
    Resumed,
    /// The whole database went into the first L0 file, or into one that stands in for a lost one.
    Snapshot {
        /// How many pages that was.
        pages: u32,
    },
    /// Continuity was lost: the pages that differ went into one L0 file; none when none did.
    Resync {
        /// How many pages differed.
        pages: u32,
    },
}

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Nothing new.
    Quiet,
    /// Nothing new, but a transaction or a checkpoint is under way: look again soon.
    Uncommitted,
    /// Commits that were not read yet: step.
    New,
    /// The path leads to another file, or that of the `-wal` or `-shm` does: step and cut what is left here, then open that one.
    Replaced,
    /// The `-wal` or the `-shm` was deleted, whoever had them open has closed the database, and all of
    /// the deleted WAL is in the database file: open that anew, which makes the two again. Whoever
    /// opens it, commits and closes it in between two looks leaves no other trace.
    Closed,
    /// The path leads nowhere, or to another file while the `-wal` of this one is still beside it.
    /// What is left here can still be read.
    Unlinked,
}

/// What a step read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// How many frames.
    pub frames: u32,
    /// How many pages they put into the pending set.
    pub pages: u32,
    /// What they took in the WAL, in bytes; a database without a WAL has none.
    pub bytes: u64,
}
