//! Branches: what a fenced writer could not publish, and chains that came to their end.
//!
//! A branch lies at `.sqlrep/branches/<time>-<label>/` in its replica and is a replica itself. The
//! tail of a fenced writer begins in the middle and goes on from the main chain; a retired chain
//! has its own beginning.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sqlrep_format::ltx::Level;
use sqlrep_format::{Timestamp, Txid};

use crate::calendar::{compact, parse_compact};
use crate::durable::{self, Fs, OsFs, Place};
use crate::layout::{BRANCHES_DIR, LTX_DIR, META_DIR, encode_part};
use crate::{DirStore, Listing, Put, ReplicaFile, Store, StoreError};

/// Longest label: a pod's name may have 253 bytes, a directory's 255, and the time takes 20.
const LABEL_BYTES_MAX: usize = 200;

/// A branch with at least one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// Its name: time and label.
    pub name: String,
    /// The pod whose tail it is, or why a chain was retired.
    pub label: String,
    /// When it was begun.
    pub created: Timestamp,
    /// Of when its newest state is, and not before it was begun.
    pub changed: Timestamp,
    /// Its first own TXID.
    pub from: Txid,
    /// Its last TXID.
    pub head: Txid,
    /// How many files it has of its own.
    pub files: usize,
    /// The bytes of those.
    pub bytes: u64,
}

/// A new branch of the replica at `replica`, and its name. It exists with its first file.
pub fn branch(
    replica: impl Into<Place>,
    pod: &str,
    now: Timestamp,
) -> Result<(String, DirStore), StoreError> {
    let name = branch_name(pod, now);
    let store = DirStore::new(branches_place(&replica.into()).join(&name));
    Ok((name, store))
}

/// Moves the whole chain of a replica to a branch, so that a new chain can begin at TXID 1; says
/// the branch's name. For a database that changed its page size, or a chain with a hole.
pub fn retire_chain(
    replica: impl Into<Place>,
    label: &str,
    now: Timestamp,
) -> Result<String, StoreError> {
    retire_chain_with(&OsFs, replica, label, now)
}

/// The same over another [`Fs`].
pub fn retire_chain_with(
    fs: &dyn Fs,
    replica: impl Into<Place>,
    label: &str,
    now: Timestamp,
) -> Result<String, StoreError> {
    let (replica, name) = (replica.into(), branch_name(label, now));
    let dir = replica
        .open()
        .map_err(StoreError::io("open", replica.path()))?;
    let meta = durable::ensure_subdir(fs, &dir, OsStr::new(META_DIR))?;
    let branches = durable::ensure_subdir(fs, &meta, OsStr::new(BRANCHES_DIR))?;
    let branch = durable::ensure_subdir(fs, &branches, OsStr::new(&name))?;
    durable::move_dir(fs, &dir, OsStr::new(LTX_DIR), &branch, OsStr::new(LTX_DIR))?;
    // A replica is known by this directory; one that waits for its next chain is a replica still.
    durable::ensure_subdir(fs, &dir, OsStr::new(LTX_DIR))?;
    Ok(name)
}

/// The branches of the replica at `replica`, oldest first. Directories that are no branches
/// are left out.
pub fn list_branches(replica: impl Into<Place>) -> Result<Vec<Branch>, StoreError> {
    let dir = branches_place(&replica.into());
    let names = match dir.open().and_then(|dir| dir.entries()) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StoreError::io("list", dir.path())(error)),
    };
    let mut names: Vec<String> = names
        .into_iter()
        .filter_map(|name| name.into_string().ok())
        .collect();
    names.sort();
    let mut branches = Vec::new();
    for name in names {
        let Some((created, label)) = parse_name(&name) else {
            continue;
        };
        let listing = DirStore::new(dir.join(&name)).list()?;
        let first = listing.files().iter().map(|file| file.range.min()).min();
        let (Some(from), Some(head)) = (first, listing.head()) else {
            continue;
        };
        let bytes = listing
            .files()
            .iter()
            .map(|file| file.bytes)
            .fold(0, u64::saturating_add);
        let (label, files) = (label.to_owned(), listing.files().len());
        let newest = listing.files().iter().map(|file| file.modified).max();
        branches.push(Branch {
            name,
            label,
            created,
            changed: newest.map_or(created, |newest| newest.max(created)),
            from,
            head,
            files,
            bytes,
        });
    }
    Ok(branches)
}

/// The newest branch that is a whole chain: what a replica without files held until its chain was
/// retired.
pub fn retired_chain(replica: impl Into<Place>) -> Result<Option<Branch>, StoreError> {
    let branches = list_branches(replica)?;
    let whole = |branch: &Branch| branch.from == Txid::FIRST;
    Ok(branches.into_iter().rfind(whole))
}

/// What a restore from a branch may use: the branch's own files, and of the main chain those that
/// end before the branch begins. A branch that begins at TXID 1 stands alone.
pub fn branch_listing(main: &Listing, own: &Listing) -> Listing {
    let Some(from) = own.files().iter().map(|file| file.range.min()).min() else {
        return Listing::default();
    };
    let before = main.files().iter().filter(|file| file.range.max() < from);
    let alone = own.files().iter().any(|file| file.range.is_snapshot());
    let before = before.filter(|_| !alone).cloned();
    main.of(before.chain(own.files().iter().cloned()))
}

/// A branch as a store: plans, restores and verifications work on it as on any replica.
#[derive(Clone, Debug)]
pub struct BranchStore {
    main: DirStore,
    own: DirStore,
    from: Option<Txid>,
}

impl BranchStore {
    /// Opens a branch of the replica at `replica` by its name.
    pub fn open(replica: impl Into<Place>, name: &str) -> Result<Self, StoreError> {
        let replica = replica.into();
        let dir = branches_place(&replica);
        if parse_name(name).is_none() {
            let no_branch = io::Error::new(io::ErrorKind::NotFound, "not the name of a branch");
            return Err(StoreError::io("open", dir.path().join(name))(no_branch));
        }
        let own = DirStore::new(dir.join(name));
        // Opened, and not only looked at: a branch that is not there must not look empty.
        own.place()
            .open()
            .map_err(StoreError::io("open", own.dir()))?;
        let from = own
            .list()?
            .files()
            .iter()
            .map(|file| file.range.min())
            .min();
        Ok(Self {
            main: DirStore::new(replica),
            own,
            from,
        })
    }

    /// Which directory a file lies in.
    fn side(&self, file: &ReplicaFile) -> &DirStore {
        match self.from {
            Some(from) if file.range.max() < from => &self.main,
            _ => &self.own,
        }
    }
}

impl Store for BranchStore {
    fn list(&self) -> Result<Listing, StoreError> {
        Ok(branch_listing(&self.main.list()?, &self.own.list()?))
    }

    fn list_level(&self, level: Level) -> Result<Vec<ReplicaFile>, StoreError> {
        Ok(self.list()?.level(level).cloned().collect())
    }

    fn open(&self, file: &ReplicaFile) -> Result<File, StoreError> {
        self.side(file).open(file)
    }

    fn put(
        &self,
        file: &ReplicaFile,
        write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Put, StoreError> {
        self.own.put(file, write)
    }

    fn remove(&self, file: &ReplicaFile) -> Result<(), StoreError> {
        self.side(file).remove(file)
    }

    fn set_aside(&self, file: &ReplicaFile, now: Timestamp) -> Result<(), StoreError> {
        self.side(file).set_aside(file, now)
    }

    fn path(&self, file: &ReplicaFile) -> PathBuf {
        self.side(file).path(file)
    }

    fn dir(&self) -> &Path {
        self.own.dir()
    }
}

fn branches_place(replica: &Place) -> Place {
    replica.join(META_DIR).join(BRANCHES_DIR)
}

fn branch_name(label: &str, now: Timestamp) -> String {
    let mut label = encode_part(OsStr::new(label));
    // Encoded text is ASCII, so that it can be cut anywhere.
    label.truncate(LABEL_BYTES_MAX);
    format!("{}-{label}", compact(now))
}

fn parse_name(name: &str) -> Option<(Timestamp, &str)> {
    let (time, label) = name.split_once('-')?;
    let plain = !label.is_empty() && !label.contains('/');
    parse_compact(time)
        .filter(|_| plain)
        .map(|created| (created, label))
}
