//! The hold, kept in line with what was read (see [`crate::hold`]).

use super::reading::is_read;
use super::{BUSY_STEPS, CALM_LOOKS, CHECKPOINT_PATIENCE, EBB_LOOKS, Session, TIMED_OUT_LOOKS};
use crate::Error;
use crate::cadence::Cadence;
use crate::hold::Rest;
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
        pinned.map_err(Error::io("lock the -shm of", live))
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
            let Self {
                live, hold, cursor, ..
            } = self;
            let look = || live.published().map_err(std::io::Error::other);
            let is_captured = |now: &Published| is_read(cursor.as_ref(), now);
            hold.rest(live.shm(), is_captured, look)
                .map_err(Error::io("lock the -shm of", &*live))?;
        }
        if self.hold.is_resting() {
            self.hold_again_bytes = 0;
        }
        self.may_reset = self.hold.is_resting() || published.mx_frame == 0;
        Ok(())
    }

    /// While a busy writer's checkpoint is awaited: waits for the end of the one that is under way,
    /// and lets go of the WAL at once, for every commit that finds it pinned costs the writer another
    /// checkpoint. `false`: none is under way.
    pub(super) fn outwait_checkpoint(&mut self) -> Result<bool, Error> {
        if !self.awaits_checkpoint() {
            return Ok(false);
        }
        let Self {
            live, hold, cursor, ..
        } = self;
        let look = || live.published().map_err(std::io::Error::other);
        let is_captured = |now: &Published| is_read(cursor.as_ref(), now);
        let rest = hold
            .rest_after_checkpoint(live.shm(), CHECKPOINT_PATIENCE, is_captured, look)
            .map_err(Error::io("lock the -shm of", &*live))?;
        match rest {
            Some(Rest::Resting) => self.may_reset = true,
            Some(Rest::NotNow) => self.ebb_looks = self.ebb_looks.saturating_add(TIMED_OUT_LOOKS),
            None => {}
        }
        Ok(rest.is_some())
    }

    /// Brakes the checkpoints of a busy writer until its WAL is worth one, and again while one is
    /// under way: should it be over before we let go of the WAL, the commits that follow do not
    /// checkpoint, in vain, what they wrote.
    pub(super) fn set_brake(&mut self, published: &Published) -> Result<(), Error> {
        let braked = self.is_busy()
            && (!self.is_worth_a_checkpoint(published) || self.live.is_checkpointed_aside()?);
        self.put_brake(braked, published)
    }

    /// While a file is fsynced nobody reads the WAL: no commit is to checkpoint meanwhile, one after
    /// the other.
    pub(super) fn brake_for_fsync(&mut self) -> Result<(), Error> {
        match self.last_seen {
            Some(seen) if self.is_busy() && !self.hold.is_resting() => self.put_brake(true, &seen),
            _ => Ok(()),
        }
    }

    fn put_brake(&mut self, braked: bool, published: &Published) -> Result<(), Error> {
        if !braked {
            return self.release_brake();
        }
        let set = self.hold.brake(self.live.shm(), published);
        set.map_err(Error::io("lock the -shm of", &self.live))
    }

    pub(super) fn release_brake(&mut self) -> Result<(), Error> {
        let released = self.hold.release_brake(self.live.shm());
        released.map_err(Error::io("lock the -shm of", &self.live))
    }

    /// Whether looks find nothing of it any more.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet_looks >= CALM_LOOKS || (self.quiet_looks > 0 && self.is_long_ago())
    }

    /// Whether the last step that found something was long ago.
    pub(super) fn is_long_ago(&self) -> bool {
        self.last_new
            .is_some_and(|at| at.elapsed() >= Cadence::CALM)
    }

    pub(super) fn is_busy(&self) -> bool {
        self.busy_steps >= BUSY_STEPS
    }

    pub(super) fn is_worth_a_checkpoint(&self, published: &Published) -> bool {
        self.bounds().is_worth_a_checkpoint(self.extent(published))
    }

    /// Whether a busy writer is about to checkpoint: the moment after it must not be missed.
    pub(super) fn is_ebbing(&self) -> bool {
        let worth = |seen: Published| self.is_worth_a_checkpoint(&seen);
        self.is_busy() && self.last_seen.is_some_and(worth)
    }

    /// Whether that moment is still to come, and not given up.
    pub(super) fn awaits_checkpoint(&self) -> bool {
        self.is_ebbing() && !self.hold.is_resting() && self.ebb_looks < EBB_LOOKS
    }

    /// Counts the looks at a WAL that is worth a checkpoint and gets none.
    pub(super) fn count_ebb(&mut self, published: &Published) {
        if self.is_ebbing() && published.backfilled == self.ebb_backfilled {
            self.ebb_looks = self.ebb_looks.saturating_add(1);
        } else {
            self.ebb_looks = 0;
            self.ebb_backfilled = published.backfilled;
        }
    }
}
