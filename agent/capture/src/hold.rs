//! The hold: what keeps frames that we have not read from being overwritten.
//!
//! A writer begins the WAL anew (a *reset*) only when every frame is in the database file **and**
//! it gets the locks of the read marks 1 to 4 exclusively; a checkpoint copies frames only while
//! it holds the lock of mark 0 exclusively (`walRestartLog` and `walCheckpoint` in SQLite's wal.c,
//! <https://www.sqlite.org/walformat.html#wal_locks>). So there are two holds, and at every
//! instant we have at least one:
//!
//! - **Pin**: a shared lock on a mark that is not in use (0xffffffff). Nobody can reset the WAL.
//!   Unlike a read transaction it limits no checkpoint: the application's own may copy all there
//!   is, when and as it likes.
//! - **Rest**: a shared lock on mark 0, taken when every frame is both captured and in the
//!   database file. The next writer may reset the WAL, once: what it writes then can be neither
//!   copied nor reset until we have read it and pinned the WAL again.
//!
//! And one lock that only slows down: the **brake**, a shared lock on a mark that is in use. Until
//! it is released no checkpoint copies a frame beyond that mark. Under a writer at full speed each
//! checkpoint that completes while the WAL is pinned is wasted (the WAL cannot be reset, so the
//! very next commit checkpoints again, with its fsyncs); with the brake they cost nothing until
//! the WAL is worth one (see the crate's README).
//!
//! All are locks of our open `-shm` (open file description locks), not of the process: they
//! conflict with SQLite's POSIX locks, in our own process too, and no close of another descriptor
//! drops them (DESIGN §9 items 3 and 4).

use std::fs::File;
use std::io;
use std::time::Duration;

use crate::ffi::{self, Bytes, Lock};
use crate::live::Published;

/// The lock byte of read mark 0 in a `-shm`; those of marks 1 to 4 follow.
const MARK_ZERO: i64 = 123;

/// The marks a pin may use, the one that SQLite's readers use last first.
const PIN_SLOTS: [u8; 4] = [4, 3, 2, 1];

/// Which locks we have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hold {
    pinned: Option<Pin>,
    brake: Option<u8>,
    resting: bool,
    /// The rest began when all was captured, so a reset is no loss of continuity.
    verified: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pin {
    slot: u8,
    /// The mark is in use: it limits checkpoints until a better one is free.
    limiting: bool,
}

/// What became of an attempt to rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// The WAL may be reset; nothing else may happen to it.
    Resting,
    /// Not now: a checkpoint is running, or there is something new.
    NotNow,
}

impl Hold {
    /// Whether the next writer may reset the WAL, and nothing is lost by it.
    pub(crate) fn is_resting(self) -> bool {
        self.resting && self.verified && self.pinned.is_none()
    }

    /// Whether nothing protects us: only before the first hold.
    pub(crate) fn is_none(self) -> bool {
        !self.resting && self.pinned.is_none()
    }

    /// Pins the WAL, and lets go of mark 0. Without success what we had stays.
    pub(crate) fn pin(
        &mut self,
        shm: &File,
        look: impl Fn() -> io::Result<Option<Published>>,
    ) -> io::Result<bool> {
        let old = self.pinned;
        if old.is_none_or(|pin| pin.limiting)
            && let Some(pin) = take_pin(shm, old, look)?
        {
            self.pinned = Some(pin);
            if let Some(old) = old {
                ffi::lock(shm, mark(old.slot), Lock::Release)?;
            }
        }
        if self.pinned.is_some() && self.resting {
            ffi::lock(shm, mark(0), Lock::Release)?;
            self.resting = false;
            self.verified = false;
        }
        Ok(self.pinned.is_some())
    }

    /// Lets the next writer reset the WAL, if all of it is captured, and in the database file.
    pub(crate) fn rest(
        &mut self,
        shm: &File,
        is_captured: impl Fn(&Published) -> bool,
        look: impl Fn() -> io::Result<Option<Published>>,
    ) -> io::Result<Rest> {
        if self.is_resting() {
            return Ok(Rest::Resting);
        }
        if !self.resting && !ffi::lock(shm, mark(0), Lock::Shared)? {
            return Ok(Rest::NotNow); // a checkpoint is copying frames
        }
        self.resting = true;
        // Looked at again under the lock. What is published after this cannot be copied, so the
        // WAL cannot be reset over it.
        let done = look()?.is_some_and(|now| is_captured(&now) && now.is_backfilled());
        match (done, self.pinned) {
            (true, pinned) => {
                self.release_brake(shm)?;
                if let Some(pin) = pinned {
                    ffi::lock(shm, mark(pin.slot), Lock::Release)?;
                    self.pinned = None;
                }
                self.verified = true;
                Ok(Rest::Resting)
            }
            (false, Some(_)) => {
                ffi::lock(shm, mark(0), Lock::Release)?;
                self.resting = false;
                Ok(Rest::NotNow)
            }
            // The first hold of a session: keep it, it protects what is not captured yet.
            (false, None) => Ok(Rest::NotNow),
        }
    }

    /// Waits for the end of a checkpoint that copies frames at this moment, at most `patience`, and
    /// then rests if that may be. `None`: there is no such checkpoint.
    ///
    /// Whoever copies frames holds mark 0 until it has noted that they are copied, and its next
    /// commit cannot begin the WAL anew before we let go of our pin: so this is the moment.
    pub(crate) fn rest_after_checkpoint(
        &mut self,
        shm: &File,
        patience: Duration,
        is_captured: impl Fn(&Published) -> bool,
        look: impl Fn() -> io::Result<Option<Published>>,
    ) -> io::Result<Option<Rest>> {
        if self.resting || !ffi::is_locked(shm, mark(0))? {
            return Ok(None);
        }
        if !ffi::lock_within(shm, mark(0), patience)? {
            return Ok(Some(Rest::NotNow));
        }
        self.resting = true;
        self.rest(shm, is_captured, look).map(Some)
    }

    /// Puts the brake on, if a mark is in use. Only a pinned WAL is braked.
    pub(crate) fn brake(&mut self, shm: &File, published: &Published) -> io::Result<()> {
        let Some(pin) = self.pinned else {
            return Ok(());
        };
        if self.brake.is_some() {
            return Ok(());
        }
        for slot in PIN_SLOTS
            .iter()
            .rev()
            .copied()
            .filter(|slot| *slot != pin.slot)
        {
            // A checkpoint may set the mark aside before we have the lock; then it brakes nothing,
            // and harms nothing.
            if !published.is_unused(slot.into()) && ffi::lock(shm, mark(slot), Lock::Shared)? {
                self.brake = Some(slot);
                break;
            }
        }
        Ok(())
    }

    /// Lets checkpoints copy everything.
    pub(crate) fn release_brake(&mut self, shm: &File) -> io::Result<()> {
        if let Some(slot) = self.brake {
            ffi::lock(shm, mark(slot), Lock::Release)?;
            self.brake = None;
        }
        Ok(())
    }

    /// Whether the brake is on.
    #[cfg(test)]
    pub(crate) fn is_braked(self) -> bool {
        self.brake.is_some()
    }

    /// Holds mark 0 whatever the state is, for a session that has no hold yet.
    pub(crate) fn rest_blindly(&mut self, shm: &File) -> io::Result<bool> {
        self.resting = self.resting || ffi::lock(shm, mark(0), Lock::Shared)?;
        Ok(self.resting)
    }
}

/// Locks a mark that is not in use; if all are, the one that limits checkpoints least.
fn take_pin(
    shm: &File,
    old: Option<Pin>,
    look: impl Fn() -> io::Result<Option<Published>>,
) -> io::Result<Option<Pin>> {
    let Some(published) = look()? else {
        return Ok(None);
    };
    for slot in PIN_SLOTS {
        let held = old.is_some_and(|pin| pin.slot == slot); // never locked twice
        if held || !published.is_unused(slot.into()) || !ffi::lock(shm, mark(slot), Lock::Shared)? {
            continue;
        }
        // A reader may have taken the mark into use before we had the lock; from now on nobody can.
        if look()?.is_some_and(|now| now.is_unused(slot.into())) {
            return Ok(Some(Pin {
                slot,
                limiting: false,
            }));
        }
        ffi::lock(shm, mark(slot), Lock::Release)?;
    }
    if old.is_some() {
        return Ok(None);
    }
    let mut slots = PIN_SLOTS;
    slots.sort_by_key(|slot| {
        std::cmp::Reverse(
            published
                .marks
                .get(usize::from(*slot))
                .copied()
                .unwrap_or(0),
        )
    });
    for slot in slots {
        if ffi::lock(shm, mark(slot), Lock::Shared)? {
            return Ok(Some(Pin {
                slot,
                limiting: true,
            }));
        }
    }
    Ok(None)
}

fn mark(slot: u8) -> Bytes {
    Bytes {
        start: MARK_ZERO + i64::from(slot),
        len: 1,
    }
}
