//! The upkeep of one replica: what is due when says [`crate::upkeep`]; how it is done,
//! `replica::{compact, retain, verify}`.
//!
//! Blocking: only on the upkeep lane, one piece at a time. Only the owner of a replica gets here,
//! and before anything is written or removed the names at level 0 say whether it still is.

use std::time::Duration;

use sqlrep_format::ltx::Level;
use sqlrep_format::{Timestamp, Txid, TxidRange};
use sqlrep_replica::Verified;
use sqlrep_replica::owner::WriterId;
use sqlrep_replica::retain::{self, Policy};
use sqlrep_replica::{Doubt, Listing, ReplicaFile, Store};
use sqlrep_spool::DatabaseSpool;

use crate::clock::Jumps;
use crate::error::StageError;
use crate::home::Home;
use crate::inspect::{Bench, Whole};
use crate::limits;
use crate::remote::Remote;
use crate::stage::scrub::Damage;
use crate::upkeep::Chore;

/// What the stage works on.
#[derive(Clone, Debug)]
pub(crate) struct Tend {
    pub(crate) store: Remote,
    pub(crate) spool: DatabaseSpool,
    pub(crate) home: Home,
    pub(crate) writer: WriterId,
    pub(crate) policy: Policy,
    /// How long what lies beside the chain is kept.
    pub(crate) keep_beside: Duration,
    /// A level-0 file that was shipped with every page of the live database, to mend with.
    pub(crate) full: Option<Txid>,
    /// The state that SQLite was last asked about.
    pub(crate) checked: Option<Txid>,
    /// Where it is asked.
    pub(crate) bench: Option<Bench>,
    /// What the replica holds, as far as the actor knows.
    pub(crate) known: Listing,
    /// Where the time was set forward.
    pub(crate) jumps: Jumps,
    /// Whether what time it is there was heard before.
    pub(crate) compared: bool,
}

/// What a piece of upkeep came to.
#[derive(Debug)]
pub(crate) enum Tended {
    /// The replica was looked at.
    Listed(Listed),
    /// A file was written, or was there.
    Wrote(ReplicaFile),
    /// Files are gone.
    Removed(Vec<ReplicaFile>),
    /// The replica restores; and the database that comes of it, to be looked at.
    Verified(Verified, Look),
    /// A part of the replica is damaged.
    Damaged(Damage),
    /// What lay beside the chain for long is gone; when the next of it goes.
    Pruned(Option<Timestamp>),
    /// Nothing was done before it is known what time it is there, which is this.
    Heard(Timestamp),
    /// There was nothing to do.
    Nothing,
    /// The replica holds what it should not, or lacks what it should hold: list it again.
    Surprised,
    /// Somebody else writes to it.
    NotOurs { head: Txid },
}

/// Whether SQLite is to be asked about a state.
#[derive(Debug)]
pub(crate) enum Look {
    /// It was, and said something.
    Known,
    /// It is: here it is, or why there is nothing.
    Due(Result<Whole, String>),
}

/// What a look at a replica found.
#[derive(Debug)]
pub(crate) struct Listed {
    /// What it holds.
    pub(crate) listing: Listing,
    /// The claims that its owners made.
    pub(crate) claims: Vec<Txid>,
    /// That it was found damaged, by whomever, and not mended.
    pub(crate) doubt: Option<Doubt>,
    /// When something beside the chain is old.
    pub(crate) prune_at: Option<Timestamp>,
    /// What time it is there, if that can be told.
    pub(crate) there: Option<Timestamp>,
}

impl Tend {
    /// Does one chore.
    pub(crate) fn run(&self, chore: Chore, now: Timestamp) -> Result<Tended, StageError> {
        self.home.check()?;
        if !self.compared && matches!(chore, Chore::Retain | Chore::Verify | Chore::Prune) {
            return self.hear(now);
        }
        match chore {
            Chore::List => self.list(now),
            Chore::Compact(level) => self.compact(level, now),
            Chore::Snapshot => self.snapshot(now),
            Chore::Retain => self.retain(now),
            Chore::Verify => {
                // Beside it, for a branch that somebody else made since the last look.
                self.prune(now, now)?;
                self.verify(now)
            }
            Chore::Prune => self.prune(now, now),
        }
    }

    /// A clock that is ahead makes all that lies there look old. So what goes by its age waits until it
    /// is known what time it is there, however late that can be told.
    fn hear(&self, now: Timestamp) -> Result<Tended, StageError> {
        match self.store.clock() {
            // It never will be: then it is this one.
            Err(error) if error.is_unknown_there() => Ok(Tended::Heard(now)),
            there => Ok(there?.map_or(Tended::Surprised, Tended::Heard)),
        }
    }

    fn list(&self, now: Timestamp) -> Result<Tended, StageError> {
        let there = self.store.clock();
        if let Err(error) = &there {
            // A share without room or right to write: then nothing new comes, and nothing goes.
            tracing::debug!(err = %error, "what time it is there is not known");
        }
        let unknown = there.is_err() && !self.compared;
        let there = there.ok().flatten();
        let manifest = self.store.load_manifest()?;
        let claims = manifest.map(|manifest| manifest.claims).unwrap_or_default();
        let prune_at = if unknown {
            Some(now) // asked again by then
        } else {
            // Temp files have times of where they lie.
            let temps = there.unwrap_or(now).earlier(limits::TEMP_AGE);
            self.store.sweep(temps)?;
            let sure = there.map_or(now, |there| now.min(there));
            match self.prune(now, sure)? {
                Tended::Pruned(next) => next,
                _ => None, // somebody else's to prune
            }
        };
        Ok(Tended::Listed(Listed {
            listing: self.store.list()?,
            claims,
            doubt: self.store.load_doubt(now),
            prune_at,
            there,
        }))
    }

    /// `sure`: it is this time at least.
    fn prune(&self, now: Timestamp, sure: Timestamp) -> Result<Tended, StageError> {
        if let Some(stop) = self.stranger(&self.store.ranges(Level::L0)?) {
            return Ok(stop);
        }
        let sure = sure.min(now.earlier(self.jumps.total()));
        let next = self.store.prune(self.keep_beside, sure)?;
        Ok(Tended::Pruned(next.map(|at| at.later(sure.until(now)))))
    }

    /// Who else writes to the replica, told from the names at level 0.
    pub(super) fn stranger(&self, found: &[TxidRange]) -> Option<Tended> {
        let ours = self.spool.position().map(|position| position.txid);
        let head = found.last().copied().map(TxidRange::max)?;
        (Some(head) > ours).then_some(Tended::NotOurs { head })
    }

    /// Whether the replica is still ours, and holds the level-0 files among the inputs, told from the
    /// names at level 0. What a writer that had lost the replica left there is removed.
    pub(super) fn look(&self, inputs: &[ReplicaFile]) -> Result<Option<Tended>, StageError> {
        let found = self.store.ranges(Level::L0)?;
        if let Some(stop) = self.stranger(&found) {
            return Ok(Some(stop));
        }
        let there = |range: &TxidRange| found.binary_search(range).is_ok();
        let mut needed = inputs.iter().filter(|file| file.level == Level::L0);
        if !needed.all(|file| there(&file.range)) {
            return Ok(Some(Tended::Surprised));
        }
        let strays =
            retain::strays(&self.known, &found, &self.policy).map_err(|error| refused(&error))?;
        if !strays.expired().is_empty() {
            tracing::warn!(
                files = strays.expired().len(),
                "a writer that had lost the replica left files below its head: they are removed"
            );
            strays.carry_out(&self.store)?;
        }
        Ok(None)
    }
}

pub(super) fn refused(error: &dyn std::error::Error) -> StageError {
    StageError::Upkeep {
        reason: crate::error::chain(error),
    }
}

#[cfg(test)]
mod tests;
