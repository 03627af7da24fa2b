//! The compact stage: a level from the level below it, and snapshots.
//!
//! A snapshot is merged from the replica, and not read from the live database: it then needs no
//! hold on the app's WAL for as long as a large file takes to write, takes nothing from the app's
//! page cache, and proves what it is made of. It costs one read of the snapshot before it and of
//! what came since, and only when something did; level 0 comes from the spool.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sqlrep_format::Timestamp;
use sqlrep_format::ltx::Level;
use sqlrep_replica::compact::{self, CompactError, Compacted};
use sqlrep_replica::{Listing, Plan, PlanError, Put, ReplicaFile, Store, StoreError};
use sqlrep_spool::{DatabaseSpool, Entry};

use super::upkeep::{Tend, Tended, refused};
use crate::error::StageError;
use crate::remote::Remote;

impl Tend {
    pub(super) fn compact(&self, level: Level, now: Timestamp) -> Result<Tended, StageError> {
        let files = compact::pending(&self.known, level);
        let Some(plan) = Plan::of(files) else {
            return Ok(Tended::Nothing);
        };
        if let Some(stop) = self.look(&plan.steps)? {
            return Ok(stop);
        }
        self.write(&plan, level, now)
    }

    pub(super) fn snapshot(&self, now: Timestamp) -> Result<Tended, StageError> {
        let plan = match compact::first_snapshot_plan(&self.known) {
            Some(plan) => plan,
            None => match compact::snapshot_plan(&self.known) {
                Ok(Some(plan)) => plan,
                Ok(None) | Err(PlanError::Empty) => return Ok(Tended::Nothing),
                Err(error) => return Err(refused(&error)),
            },
        };
        if let Some(stop) = self.look(&plan.steps)? {
            return Ok(stop);
        }
        match self.promote(&plan)? {
            Some(promoted) => Ok(promoted),
            None => self.write(&plan, Level::SNAPSHOT, now),
        }
    }

    /// The first snapshot is most often the file that was just shipped, byte for byte as it was proven
    /// then: it gets a second name, and its gigabytes do not go to the share again. `None`: it is to be
    /// merged, and so proven anew.
    fn promote(&self, plan: &Plan) -> Result<Option<Tended>, StageError> {
        let [file] = plan.steps.as_slice() else {
            return Ok(None);
        };
        if !file.range.is_snapshot() || self.near().kept(file).is_none() {
            return Ok(None);
        }
        match self.store.put_again(file, Level::SNAPSHOT) {
            Ok(Some(Put::Published)) => {
                tracing::debug!(txid = %file.range.max(), bytes = file.bytes, "it is the snapshot too");
                Ok(Some(Tended::Wrote(ReplicaFile {
                    level: Level::SNAPSHOT,
                    ..file.clone()
                })))
            }
            Ok(Some(Put::Taken)) => Ok(Some(Tended::Surprised)),
            Ok(None) => Ok(None),
            Err(error) if error.is_missing() => Ok(Some(Tended::Surprised)),
            Err(error) => Err(error.into()),
        }
    }

    fn write(&self, plan: &Plan, level: Level, now: Timestamp) -> Result<Tended, StageError> {
        match self.merge(plan, level) {
            Ok(Compacted { file, put, .. }) => {
                tracing::debug!(
                    level = level.get(), from = %file.range.min(), txid = %file.range.max(),
                    files = plan.steps.len(), bytes = file.bytes, "compacted"
                );
                match put {
                    Put::Published => Ok(Tended::Wrote(file)),
                    // Somebody compacted the same files, or we did and never heard: the same
                    // content, but how many bytes it has only a listing says.
                    Put::Taken => Ok(Tended::Surprised),
                }
            }
            Err(error) if error.store().is_some_and(StoreError::is_missing) => {
                Ok(Tended::Surprised)
            }
            Err(error) => match error.damaged() {
                Some(file) => self.mend(crate::error::chain(&error), vec![file.clone()], now),
                None => Err(failed(error)),
            },
        }
    }

    /// Merges, level 0 from the spool where it is still there. A copy of ours that went bad there
    /// is no reason to give up.
    fn merge(&self, plan: &Plan, level: Level) -> Result<Compacted, CompactError> {
        let near = self.near();
        match compact::compact(&near, plan, level, &()) {
            Err(error)
                if error
                    .damaged()
                    .is_some_and(|file| near.kept(file).is_some()) =>
            {
                tracing::warn!(err = %error, "a file of the spool is damaged; the replica's is used");
                compact::compact(&self.store, plan, level, &())
            }
            merged => merged,
        }
    }

    /// The replica as it is read for a merge.
    pub(super) fn near(&self) -> Near<'_> {
        Near {
            main: &self.store,
            spool: &self.spool,
        }
    }
}

pub(super) fn failed(error: CompactError) -> StageError {
    match error {
        CompactError::Store(error) => error.into(),
        error => refused(&error),
    }
}

/// The replica, read from the spool where that still has what was shipped: bytes read from a
/// share are bytes wasted.
#[derive(Debug)]
pub(super) struct Near<'a> {
    main: &'a Remote,
    spool: &'a DatabaseSpool,
}

impl Near<'_> {
    pub(super) fn kept(&self, file: &ReplicaFile) -> Option<Entry> {
        // Nobody else can have published this TXID: shipping it was a compare-and-swap.
        let single = file.level == Level::L0 && file.range.is_single();
        self.spool.kept(file.range.max()).filter(|_| single)
    }
}

impl Store for Near<'_> {
    fn list(&self) -> Result<Listing, StoreError> {
        self.main.list()
    }

    fn list_level(&self, level: Level) -> Result<Vec<ReplicaFile>, StoreError> {
        self.main.list_level(level)
    }

    fn open(&self, file: &ReplicaFile) -> Result<File, StoreError> {
        // One that went meanwhile is in the replica all the same.
        match self.kept(file).map(|kept| File::open(kept.path)) {
            Some(Ok(opened)) => Ok(opened),
            _ => self.main.open(file),
        }
    }

    fn put(
        &self,
        file: &ReplicaFile,
        write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Put, StoreError> {
        self.main.put(file, write)
    }

    fn remove(&self, file: &ReplicaFile) -> Result<(), StoreError> {
        self.main.remove(file)
    }

    fn set_aside(&self, file: &ReplicaFile, now: Timestamp) -> Result<(), StoreError> {
        self.main.set_aside(file, now)
    }

    fn path(&self, file: &ReplicaFile) -> PathBuf {
        self.main.path(file)
    }

    fn dir(&self) -> &Path {
        self.main.dir()
    }
}
