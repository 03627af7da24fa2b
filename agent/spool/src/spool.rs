//! The state directory of a node: lock, ledger, and the spools of all databases.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use sqlrep_replica::DbId;
use sqlrep_replica::durable::{self, Failure, Fs, OsFs};
use sqlrep_replica::root::RootId;

use crate::budget::Budget;
use crate::database::Inner;
use crate::files::Files;
use crate::ledger::Ledger;
use crate::lock::StateLock;
use crate::memo::failed;
use crate::{DatabaseSpool, Error, VolumeNote, memo, tenure};

/// The ledger is flushed when files of this many bytes rely on it: so much is decoded again, or
/// kept although it is shipped, after a crash.
const UNFLUSHED_BYTES_MAX: u64 = 64 << 20;
/// Or so many files.
const UNFLUSHED_FILES_MAX: u64 = 64;

/// namespace, app, volume, at least one part of the path, pod uid.
const PARTS_MIN: usize = 5;

/// The bounds of a spool.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes that may wait to be shipped, over all databases.
    pub bytes_max: u64,
}

/// A database that the state directory holds files of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The database.
    pub id: DbId,
    /// The pod that it lived in.
    pub pod_uid: String,
    /// The bytes of its files, shipped or not.
    pub bytes: u64,
}

/// The spool of a node.
#[derive(Debug)]
pub struct Spool {
    state_dir: PathBuf,
    shared: Arc<Shared>,
}

/// What the databases share.
pub(crate) struct Shared {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) budget: Budget,
    pub(crate) unflushed: Unflushed,
    files_dir: PathBuf,
    fs: Arc<dyn Fs>,
    open: Mutex<BTreeMap<PathBuf, Known>>,
    // Last: the directory is let go of when everything in it is closed.
    _lock: StateLock,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("files_dir", &self.files_dir)
            .finish_non_exhaustive()
    }
}

/// A database directory, open or not.
enum Known {
    /// Handles exist.
    Open(Weak<Inner>),
    /// Files exist, and count this much into the budget.
    Closed(u64),
}

/// Counts what relies on the ledger since its last flush.
#[derive(Debug, Default)]
pub(crate) struct Unflushed {
    bytes: AtomicU64,
    files: AtomicU64,
}

impl Unflushed {
    /// One more file.
    pub(crate) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.files.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a flush is due for somebody who may wait for as much as so many times the bound.
    pub(crate) fn is_due(&self, patience: u64) -> bool {
        self.bytes.load(Ordering::Relaxed) >= UNFLUSHED_BYTES_MAX * patience
            || self.files.load(Ordering::Relaxed) >= UNFLUSHED_FILES_MAX * patience
    }

    fn reset(&self) {
        self.bytes.store(0, Ordering::Relaxed);
        self.files.store(0, Ordering::Relaxed);
    }
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Known>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Flushes the ledger. One that fails says so itself, once.
    pub(crate) fn flush_ledger(&self) {
        self.unflushed.reset();
        if let Err(err) = self.ledger.flush() {
            tracing::debug!(%err, "the ledger is not flushed");
        }
    }

    /// The last handle of a database is gone; what waits there counts on.
    pub(crate) fn closed(&self, dir: &Path, pending: u64) {
        let mut open = self.open();
        match open.get(dir) {
            Some(Known::Open(inner)) if inner.strong_count() == 0 => {
                if pending > 0 {
                    open.insert(dir.to_owned(), Known::Closed(pending));
                } else {
                    open.remove(dir);
                }
            }
            // A new handle was opened, and counted, meanwhile.
            _ => self.budget.sub(pending),
        }
    }

    /// Removes directories that a retired database left empty.
    pub(crate) fn prune(&self, dir: &Path) {
        for parent in dir
            .ancestors()
            .take_while(|parent| *parent != self.files_dir)
        {
            // Not empty: another database lives there.
            if fs::remove_dir(parent).is_err() {
                break;
            }
        }
    }
}

impl Spool {
    /// Opens the state directory, and creates it where it is missing.
    pub fn open(state_dir: &Path, limits: Limits) -> Result<Self, Error> {
        Self::open_with(state_dir, limits, Arc::new(OsFs))
    }

    /// The same over another [`Fs`] for the files of databases.
    pub(crate) fn open_with(
        state_dir: &Path,
        limits: Limits,
        fs: Arc<dyn Fs>,
    ) -> Result<Self, Error> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state_dir)
            .map_err(Error::io("create", state_dir))?;
        let lock = StateLock::take(state_dir)?;
        let ledger = Arc::new(Ledger::open(&state_dir.join("ledger"))?);
        let files_dir = state_dir.join("spool");
        settle(fs.as_ref(), &files_dir).map_err(failed)?;
        let shared = Shared {
            ledger,
            budget: Budget::new(limits.bytes_max),
            unflushed: Unflushed::default(),
            files_dir,
            fs,
            open: Mutex::default(),
            _lock: lock,
        };
        let spool = Self {
            state_dir: state_dir.to_owned(),
            shared: Arc::new(shared),
        };
        for (dir, bytes) in spool.scan()? {
            spool.shared.budget.add(bytes);
            spool.shared.open().insert(dir, Known::Closed(bytes));
        }
        Ok(spool)
    }

    /// The replica root that this node has seen; `None` when it never saw one.
    pub fn remembered_root(&self) -> Result<Option<RootId>, Error> {
        memo::load(&self.root_path())
    }

    /// Remembers the replica root, durably and outside the ledger (L8).
    pub fn remember_root(&self, root: &RootId) -> Result<(), Error> {
        memo::save(&self.root_path(), root)
    }

    /// The same for a volume of pods that holds replicas. Its key is made of letters, digits and '-'.
    pub fn remembered_target(&self, key: &str) -> Result<Option<RootId>, Error> {
        memo::load(&self.target_path(key))
    }

    /// Remembers it.
    pub fn remember_target(&self, key: &str, id: &RootId) -> Result<(), Error> {
        memo::save(&self.target_path(key), id)
    }

    /// Where that is remembered, for people who have to remove it.
    pub fn target_path(&self, key: &str) -> PathBuf {
        let plain: String = key
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
            .collect();
        self.state_dir.join("targets").join(format!("{plain}.json"))
    }

    /// Remembers that the agents' root names a pod of this node as the one that has a volume.
    pub fn note_volume(&self, volume: &VolumeNote) -> Result<(), Error> {
        tenure::note(&self.volumes_path(), volume)
    }

    /// The volumes that are remembered.
    pub fn volumes(&self) -> Result<Vec<VolumeNote>, Error> {
        tenure::all(&self.volumes_path())
    }

    /// It has been given back.
    pub fn forget_volume(&self, volume: &VolumeNote) -> Result<(), Error> {
        tenure::forget(&self.volumes_path(), volume)
    }

    fn volumes_path(&self) -> PathBuf {
        self.state_dir.join("volumes")
    }

    fn root_path(&self) -> PathBuf {
        self.state_dir.join("root.json")
    }

    /// The spool of one database in one pod. Opened twice it is the same.
    pub fn database(&self, id: &DbId, pod_uid: &str) -> Result<DatabaseSpool, Error> {
        tenure::check_uid(pod_uid)?;
        let dir = self.shared.files_dir.join(id.replica_path()).join(pod_uid);
        // Held over the reading of its files, so that nobody reads them a second time meanwhile.
        let mut open = self.shared.open();
        let counted = match open.get(&dir) {
            Some(Known::Open(inner)) => match inner.upgrade() {
                Some(inner) => return Ok(DatabaseSpool { inner }),
                // Its last handle is being dropped, and takes its bytes out of the budget.
                None => 0,
            },
            Some(Known::Closed(bytes)) => *bytes,
            None => 0,
        };
        let files = self.files(dir.clone());
        let inner = Inner::open(Arc::clone(&self.shared), id.clone(), pod_uid, files)?;
        self.shared.budget.add(inner.pending_bytes());
        self.shared.budget.sub(counted);
        let inner = Arc::new(inner);
        open.insert(dir, Known::Open(Arc::downgrade(&inner)));
        Ok(DatabaseSpool { inner })
    }

    /// All databases that the state directory holds files of: after a start also those of pods
    /// that went away meanwhile, whose files are still to be shipped.
    pub fn databases(&self) -> Result<Vec<Held>, Error> {
        let held = self.scan()?.into_iter().filter_map(|(dir, bytes)| {
            let relative = dir.strip_prefix(&self.shared.files_dir).ok()?;
            let pod_uid = relative.file_name()?.to_str()?.to_owned();
            match relative.parent()?.to_str()?.parse() {
                Ok(id) => Some(Held { id, pod_uid, bytes }),
                Err(err) => {
                    tracing::warn!(dir = %dir.display(), %err, "a directory in the spool is not ours");
                    None
                }
            }
        });
        Ok(held.collect())
    }

    /// Bytes that wait to be shipped, over all databases.
    pub fn pending_bytes(&self) -> u64 {
        self.shared.budget.pending()
    }

    /// Whether the limit is reached: appends fail until something was shipped.
    pub fn is_over_limit(&self) -> bool {
        self.shared.budget.is_over_limit()
    }

    /// Makes the ledger durable and removes what is shipped. Never needed for safety; it makes
    /// the next start faster.
    pub fn flush(&self) -> Result<(), Error> {
        self.shared.flush_ledger();
        let open: Vec<Arc<Inner>> = self
            .shared
            .open()
            .values()
            .filter_map(|known| match known {
                Known::Open(inner) => inner.upgrade(),
                Known::Closed(_) => None,
            })
            .collect();
        open.iter().try_for_each(|inner| inner.reap())
    }

    /// The files of a database in its directory.
    fn files(&self, dir: PathBuf) -> Files {
        Files::new(dir, &self.shared.files_dir, Arc::clone(&self.shared.fs))
    }

    /// Walks the directories that only we write; symbolic links are not followed.
    fn scan(&self) -> Result<Vec<(PathBuf, u64)>, Error> {
        let mut found = Vec::new();
        let mut open = vec![(self.shared.files_dir.clone(), 0)];
        while let Some((dir, depth)) = open.pop() {
            let entries = match fs::read_dir(&dir) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(Error::io("list", &dir)(error)),
            };
            for entry in entries {
                let entry = entry.map_err(Error::io("list", &dir))?;
                if !entry
                    .file_type()
                    .map_err(Error::io("look at", entry.path()))?
                    .is_dir()
                {
                    continue;
                }
                let name = entry.file_name();
                let ours = name == sqlrep_replica::LTX_DIR || name == sqlrep_replica::META_DIR;
                if ours && depth >= PARTS_MIN {
                    let files = self.files(dir.clone()).list()?;
                    found.push((dir.clone(), files.iter().map(|file| file.bytes).sum()));
                } else {
                    open.push((entry.path(), depth + 1));
                }
            }
        }
        // One that has files and notes was met twice.
        found.sort();
        found.dedup();
        Ok(found)
    }
}

/// The directory of all files, there and durable, once for all of them.
fn settle(fs: &dyn Fs, dir: &Path) -> Result<(), Failure> {
    let place = dir.into();
    let (opened, _) = durable::make_dirs(fs, &place)?;
    durable::settle(fs, &place, &opened, None)
}

#[cfg(test)]
mod tests;
