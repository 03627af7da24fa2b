//! The pauses that keep a busy database's WAL small and its writer fast.

use std::time::Duration;

/// How often a follower turns to a session; measured (see the crate's README).
#[derive(Clone, Copy, Debug)]
pub struct Cadence;

impl Cadence {
    /// Pause between looks while commits keep coming. Short enough that the WAL does not grow much
    /// meanwhile, long enough that a page which is written often is read once.
    pub const BUSY: Duration = Duration::from_millis(6);

    /// Pause between looks while the application's checkpoint is awaited: after it, the WAL can be
    /// let go until the next commit, which is a fraction of a millisecond away.
    pub const EBB: Duration = Duration::from_micros(150);

    /// A writer of whom a look finds nothing for so long has paused: a time to let go of its WAL, and to
    /// help it. Steps that are as far apart do not make it a busy one.
    pub const CALM: Duration = Duration::from_millis(60);

    /// First pause between looks after a hint.
    pub const LOOK: Duration = Duration::from_millis(1);
}
