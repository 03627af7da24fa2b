//! The upkeep of one replica: what is due when says [`crate::upkeep`]; how it is done,
//! `replica::{compact, retain, verify}`.
//!
//! Blocking: only on the upkeep lane, one piece at a time. Only the owner of a replica gets here,
//! and before anything is written or removed the names at level 0 say whether it still is.

use sqlrep_format::ltx::Level;
use sqlrep_format::{Timestamp, Txid, TxidRange};
use sqlrep_replica::retain::{self, Policy};
use sqlrep_replica::verify::Verified;
use sqlrep_replica::{Listing, ReplicaFile, Store};
use sqlrep_spool::DatabaseSpool;

use crate::error::StageError;
use crate::limits;
use crate::remote::Remote;
use crate::root::RootWatch;
use crate::upkeep::Chore;

/// What the stage works on.
#[derive(Clone, Debug)]
pub(crate) struct Tend {
    pub(crate) store: Remote,
    pub(crate) spool: DatabaseSpool,
    pub(crate) root: RootWatch,
    pub(crate) policy: Policy,
    /// What the replica holds, as far as the actor knows.
    pub(crate) known: Listing,
}

/// What a piece of upkeep came to.
#[derive(Debug)]
pub(crate) enum Tended {
    /// The replica holds this, and these are the claims that its owners made.
    Listed(Listing, Vec<Txid>),
    /// A file was written, or was there.
    Wrote(ReplicaFile),
    /// Files are gone.
    Removed(Vec<ReplicaFile>),
    /// The replica restores.
    Verified(Verified),
    /// The replica does not restore.
    Damaged(Damage),
    /// There was nothing to do.
    Nothing,
    /// The replica holds what it should not, or lacks what it should hold: list it again.
    Surprised,
    /// Somebody else writes to it.
    NotOurs { head: Txid },
}

/// A replica that cannot be read back, and what was done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    /// What is wrong.
    pub(crate) reason: String,
    /// The snapshot that stands in for what is damaged, when one could be made.
    pub(crate) healed: Option<ReplicaFile>,
}

impl Tend {
    /// Does one chore.
    pub(crate) fn run(&self, chore: Chore, now: Timestamp) -> Result<Tended, StageError> {
        self.store.acting(|| self.root.check())?;
        match chore {
            Chore::List => self.list(now),
            Chore::Compact(level) => self.compact(level),
            Chore::Snapshot => self.snapshot(),
            Chore::Retain => self.retain(now),
            Chore::Verify => self.verify(),
        }
    }

    fn list(&self, now: Timestamp) -> Result<Tended, StageError> {
        let old = limits::TEMP_AGE.as_millis();
        let old = now
            .millis()
            .saturating_sub_unsigned(u64::try_from(old).unwrap_or(u64::MAX));
        self.store.sweep(Timestamp::from_millis(old))?;
        let manifest = self.store.load_manifest()?;
        let claims = manifest.map(|manifest| manifest.claims).unwrap_or_default();
        Ok(Tended::Listed(self.store.list()?, claims))
    }

    /// Whether the replica is still ours, and holds the level-0 files among the inputs, told from the
    /// names at level 0. What a writer that had lost the replica left there is removed.
    pub(super) fn look(&self, inputs: &[ReplicaFile]) -> Result<Option<Tended>, StageError> {
        let found = self.store.ranges(Level::L0)?;
        let ours = self.spool.position().map(|position| position.txid);
        if let Some(head) = found.last().copied().map(TxidRange::max)
            && Some(head) > ours
        {
            return Ok(Some(Tended::NotOurs { head }));
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
