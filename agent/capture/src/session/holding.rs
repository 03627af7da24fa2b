//! The hold, kept in line with what was read (see [`crate::hold`]).

use super::{BUSY_STEPS, Session};
use crate::Error;
use crate::live::Published;

impl Session {
    /// Before the first hold nothing is known, so either of the two will do.
    pub(super) fn take_first_hold(&mut self) -> Result<(), Error> {
        self.published_or_repaired()?;
        if self.pin()? {
            return Ok(());
        }
        let io = Error::io("lock the -shm of", self.live.path());
        if self.hold.is_none() && !self.hold.rest_blindly(self.live.shm()).map_err(io)? {
            let what = "all marks of its wal-index are being changed; try again";
            return Err(Error::Busy {
                path: self.live.path(),
                what,
            });
        }
        Ok(())
    }

    pub(super) fn pin(&mut self) -> Result<bool, Error> {
        let live = &self.live;
        let look = || live.published().map_err(std::io::Error::other);
        let pinned = self.hold.pin(live.shm(), look);
        pinned.map_err(Error::io("lock the -shm of", live.path()))
    }

    /// Brings the hold in line with what was read: rest when the WAL is captured and copied, pin
    /// it when there are frames that are not copied, so that the application may copy them.
    pub(super) fn settle(&mut self, published: &Published) -> Result<(), Error> {
        if self.is_new(published) {
            return Ok(());
        }
        if !published.is_backfilled() {
            self.pin()?;
            return self.set_brake(published);
        }
        if !self.hold.is_resting() {
            let live = &self.live;
            let look = || live.published().map_err(std::io::Error::other);
            let rest = self.hold.rest(live.shm(), published, look);
            rest.map_err(Error::io("lock the -shm of", live.path()))?;
        }
        self.may_reset = self.hold.is_resting() || published.mx_frame == 0;
        Ok(())
    }

    /// Brakes the checkpoints of a busy writer until its WAL is worth one.
    pub(super) fn set_brake(&mut self, published: &Published) -> Result<(), Error> {
        let rising = self.busy_steps >= BUSY_STEPS && !self.is_worth_a_checkpoint(published);
        let shm = self.live.shm();
        let set = if rising {
            self.hold.brake(shm, published)
        } else {
            self.hold.release_brake(shm)
        };
        set.map_err(Error::io("lock the -shm of", self.live.path()))
    }

    pub(super) fn is_worth_a_checkpoint(&self, published: &Published) -> bool {
        self.bytes_of(published.mx_frame) >= self.options.wal_soft_bytes
    }

    /// Whether a busy writer is about to checkpoint: the moment after it must not be missed.
    pub(super) fn is_ebbing(&self) -> bool {
        self.busy_steps >= BUSY_STEPS
            && !self.hold.is_braked()
            && self
                .last_seen
                .is_some_and(|seen| self.is_worth_a_checkpoint(&seen))
    }

    pub(super) fn count_ebb(&mut self, published: &Published) {
        if self.is_ebbing() && published.backfilled == self.ebb_backfilled {
            self.ebb_looks = self.ebb_looks.saturating_add(1);
        } else {
            self.ebb_looks = 0;
            self.ebb_backfilled = published.backfilled;
        }
    }
}
