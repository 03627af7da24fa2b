//! Checkpoints of ours, for an application that does not checkpoint (see [`crate::checkpoint`]).

use std::time::Duration;

use super::{CALM_LOOKS, Options, Session};
use crate::Error;
use crate::checkpoint::{Bounds, Checkpoint, Mode, Need};
use crate::live::Published;

/// How often the write lock is tried for, and the pause between: a writer that is hardly ever out
/// of a transaction is caught between two of them, or at the next call.
const LOCK_TRIES: u32 = 300;
const LOCK_PAUSE: Duration = Duration::from_micros(50);

impl Session {
    pub(super) fn need(&self, published: &Published) -> Option<Need> {
        let Options {
            wal_soft_bytes,
            wal_hard_bytes,
            ..
        } = self.options;
        let bounds = Bounds {
            soft_bytes: wal_soft_bytes,
            hard_bytes: wal_hard_bytes,
        };
        let lagging = published.mx_frame.saturating_sub(published.backfilled);
        let (live, lagging) = (self.bytes_of(published.mx_frame), self.bytes_of(lagging));
        let lagging = if published.is_backfilled() {
            0
        } else {
            lagging
        };
        match bounds.need(live, lagging, self.quiet_looks >= CALM_LOOKS) {
            Need::Nothing => None,
            need => Some(need),
        }
    }

    /// Copies what it can beside the writers. `None` when another process is at it.
    pub(super) fn passive_checkpoint(&mut self) -> Result<Option<Checkpoint>, Error> {
        let done = self.live.link()?.checkpoint()?;
        if done.is_some() {
            self.step()?;
        }
        Ok(done.map(|backfill| Checkpoint::of(Mode::Passive, backfill)))
    }

    /// Takes the write lock, copies what is left, reads the WAL to its end and lets go of it: the
    /// next commit begins it anew. `None` when the lock was not to be had.
    pub(super) fn full_checkpoint(&mut self) -> Result<Option<Checkpoint>, Error> {
        let second = self.live.second_link()?; // made before the lock, which must be short
        let mut tries = 0;
        while !self.live.link()?.lock_writers()? {
            tries += 1;
            if tries == LOCK_TRIES {
                return Ok(None);
            }
            std::thread::sleep(LOCK_PAUSE);
        }
        let done = second
            .checkpoint()
            .and_then(|done| self.step().map(|_| done));
        self.live.link()?.end()?;
        Ok(done?.map(|backfill| Checkpoint::of(Mode::Full, backfill)))
    }
}
