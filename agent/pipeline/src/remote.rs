//! A replica as the lane's identity sees it.
//!
//! On a root-squashed share the agent's root is nobody, so every call on the replica is made as
//! `--replica-uid`, and in a volume of a pod as whoever owns the replica there. The spool and its
//! ledger stay the agent's own: only the calls themselves change who the thread is, not the work
//! around them.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlrep_format::{Timestamp, TxidRange, ltx::Level};
use sqlrep_replica::durable::Place;
use sqlrep_replica::retain::Beside;
use sqlrep_replica::{
    DirStore, Doubt, Listing, Manifest, Moved, Put, ReplicaFile, Store, StoreError, doubt,
    manifest, moved,
};

use crate::error::{StageError, chain};
use crate::lane::{Identity, acting};
use crate::target::as_owner;
use crate::timing::{Meter, NfsOp};

/// Whom a call on a replica is made as.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Whose {
    /// This user; `None`: the agent itself.
    Given(Option<Identity>),
    /// Whoever owns the replica's directory, or the nearest one above it.
    Owner,
}

/// A [`DirStore`] where replicas live.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    store: DirStore,
    whose: Whose,
    meter: Meter,
}

impl Remote {
    pub(crate) fn new(place: impl Into<Place>, whose: Whose, meter: Meter) -> Self {
        Self {
            store: DirStore::new(place),
            whose,
            meter,
        }
    }

    /// Where it is.
    pub(crate) fn place(&self) -> &Place {
        self.store.place()
    }

    /// Another store under the same identity.
    pub(crate) fn with(&self, store: DirStore) -> Self {
        Self {
            store,
            whose: self.whose,
            meter: self.meter.clone(),
        }
    }

    /// Runs a call on the replica under the identity.
    pub(crate) fn acting<T>(&self, call: impl FnOnce() -> T) -> T {
        let identity = match self.whose {
            Whose::Given(identity) => identity,
            Whose::Owner => {
                let owner = self.place().owner().ok();
                owner.and_then(|(uid, gid)| as_owner(uid, gid))
            }
        };
        acting(identity, call)
    }

    /// The same for a call that counts as one on the share.
    fn calling<T, E>(&self, op: NfsOp, call: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        self.acting(|| self.meter.timed(op, call))
    }

    /// Removes branches and damaged files that are older than `keep`; says when the next are.
    pub(crate) fn prune(
        &self,
        keep: Duration,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, StoreError> {
        self.calling(NfsOp::Remove, || {
            let beside = Beside::look(self.place(), &self.store.list()?, keep, now)?;
            for branch in beside.branches() {
                tracing::info!(dir = %self.dir().display(), branch, "an old branch is removed");
            }
            beside.carry_out(self.place(), self.store.fs().as_ref())?;
            Ok(beside.next())
        })
    }

    /// Unlinks temp files that nobody touched since `before`.
    pub(crate) fn sweep(&self, before: Timestamp) -> Result<u32, StoreError> {
        self.calling(NfsOp::Remove, || self.store.sweep(before))
    }

    /// What time it is where the replica lies; `None`: there is none yet.
    pub(crate) fn clock(&self) -> Result<Option<Timestamp>, StoreError> {
        self.calling(NfsOp::Check, || self.store.clock())
    }

    pub(crate) fn load_manifest(&self) -> Result<Option<Manifest>, StageError> {
        self.calling(NfsOp::ReadNote, || manifest::load(self.place()))
            .map_err(|error| self.manifest_error(&error))
    }

    pub(crate) fn save_manifest(&self, wanted: &Manifest) -> Result<(), StageError> {
        self.calling(NfsOp::WriteNote, || manifest::save(self.place(), wanted))
            .map_err(|error| self.manifest_error(&error))
    }

    /// The note that the replica is kept in another place.
    pub(crate) fn load_moved(&self) -> Result<Option<Moved>, StageError> {
        self.calling(NfsOp::ReadNote, || moved::load(self.place()))
            .map_err(|error| self.manifest_error(&error))
    }

    pub(crate) fn save_moved(&self, note: &Moved) -> Result<(), StageError> {
        self.calling(NfsOp::WriteNote, || moved::save(self.place(), note))
            .map_err(|error| self.manifest_error(&error))
    }

    /// The note that the replica was found damaged. One that cannot be read says so too.
    pub(crate) fn load_doubt(&self, now: Timestamp) -> Option<Doubt> {
        let found = self.calling(NfsOp::ReadNote, || doubt::load(self.place()));
        found.unwrap_or_else(|error| Some(Doubt::new(&chain(&error), now)))
    }

    /// Leaves that note. It is best effort: what was found is found again when the replica's turn to
    /// be read back comes, and a share that takes no note is no reason not to mend.
    pub(crate) fn note_doubt(&self, reason: &str, now: Timestamp) {
        let note = Doubt::new(reason, now);
        let saved = self.calling(NfsOp::WriteNote, || doubt::save(self.place(), &note));
        if let Err(error) = saved {
            let error = self.manifest_error(&error);
            tracing::warn!(err = %error.text(), "that the replica is damaged is not noted in it");
        }
    }

    /// Takes it away; one that stays has the replica read back once more.
    pub(crate) fn clear_doubt(&self) {
        let cleared = self.calling(NfsOp::Remove, || doubt::clear(self.place()));
        if let Err(error) = cleared {
            let error = self.manifest_error(&error);
            tracing::debug!(err = %error.text(), "the note that the replica is damaged stays");
        }
    }

    fn manifest_error(&self, error: &dyn std::error::Error) -> StageError {
        StageError::Manifest {
            dir: self.dir().to_path_buf(),
            text: chain(error),
        }
    }
}

impl Store for Remote {
    fn list(&self) -> Result<Listing, StoreError> {
        self.calling(NfsOp::List, || self.store.list())
    }

    fn list_level(&self, level: Level) -> Result<Vec<ReplicaFile>, StoreError> {
        self.calling(NfsOp::List, || self.store.list_level(level))
    }

    fn ranges(&self, level: Level) -> Result<Vec<TxidRange>, StoreError> {
        self.calling(NfsOp::List, || self.store.ranges(level))
    }

    fn open(&self, file: &ReplicaFile) -> Result<File, StoreError> {
        self.calling(NfsOp::Open, || self.store.open(file))
    }

    fn put(
        &self,
        file: &ReplicaFile,
        write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Put, StoreError> {
        self.calling(NfsOp::Put, || self.store.put(file, write))
    }

    fn put_again(&self, file: &ReplicaFile, level: Level) -> Result<Option<Put>, StoreError> {
        self.calling(NfsOp::Put, || self.store.put_again(file, level))
    }

    fn remove(&self, file: &ReplicaFile) -> Result<(), StoreError> {
        self.calling(NfsOp::Remove, || self.store.remove(file))
    }

    fn set_aside(&self, file: &ReplicaFile, now: Timestamp) -> Result<(), StoreError> {
        self.calling(NfsOp::Remove, || self.store.set_aside(file, now))
    }

    fn path(&self, file: &ReplicaFile) -> PathBuf {
        self.store.path(file)
    }

    fn dir(&self) -> &Path {
        self.store.dir()
    }
}
