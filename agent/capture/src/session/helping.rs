//! Checkpoints of ours, for an application that does not checkpoint (see [`crate::checkpoint`]).

use std::time::Duration;

use super::Session;
use crate::Error;
use crate::checkpoint::{Bounds, Checkpoint, Extent, Mode, Need};
use crate::live::{Backfill, Link, Published};

/// How often the write lock is tried for, and the pause between: a writer that is hardly ever out
/// of a transaction is caught between two of them, or at the next call.
const LOCK_TRIES: u32 = 300;
const LOCK_PAUSE: Duration = Duration::from_micros(50);

impl Session {
    pub(super) fn need(&self, published: &Published) -> Option<Need> {
        match self.bounds().need(self.extent(published), self.is_quiet()) {
            Need::Nothing => None,
            need => Some(need),
        }
    }

    pub(super) fn bounds(&self) -> Bounds {
        Bounds {
            soft_bytes: self.options.wal_soft_bytes,
            hard_bytes: self.options.wal_hard_bytes.max(self.hold_again_bytes),
        }
    }

    pub(super) fn extent(&self, published: &Published) -> Extent {
        let lagging = published.mx_frame.saturating_sub(published.backfilled);
        Extent {
            live: self.bytes_of(published.mx_frame),
            lagging: if published.is_backfilled() {
                0
            } else {
                self.bytes_of(lagging)
            },
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
        let done = self.copy_the_rest(&second);
        self.live.link()?.end()?;
        if !self.hold.is_resting() {
            self.hold_again_bytes = self.wal_bytes() + self.options.wal_soft_bytes;
        }
        Ok(done?.map(|backfill| Checkpoint::of(Mode::Full, backfill)))
    }

    /// Copies what is left while nobody commits, and reads it. Whoever committed last may be at its own
    /// checkpoint still: that one is waited for.
    fn copy_the_rest(&mut self, second: &Link) -> Result<Option<Backfill>, Error> {
        self.release_brake()?;
        let mut tries = 0;
        let done = loop {
            let done = second.checkpoint()?;
            tries += 1;
            if done.is_some() || tries == LOCK_TRIES {
                break done;
            }
            std::thread::sleep(LOCK_PAUSE);
        };
        self.step()?;
        Ok(done)
    }
}
