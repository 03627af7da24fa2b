//! The marker of a replica root: proof that what is mounted there is what was there before.
//!
//! A NAS share that is not mounted looks like an empty directory, and an export can be swapped for
//! an empty file system without any error (NFS.md). So the root holds an id, and whoever uses the
//! root remembers it; a root without the id, or with another one, is not used.

mod probe;

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::{Access, AtFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::durable::{self, About, Base, Dir, Failure, Fs, OsFs, Place, is_temp_name};

pub use probe::{probe, probe_with};

/// The marker's name in the root.
const NAME: &str = ".sqlrep-root.json";
/// A marker is some dozen bytes.
const BYTES_MAX: u64 = 4096;
/// What file systems and NAS boxes put into an empty share by themselves.
const NOT_DATA: [&str; 8] = [
    "lost+found",
    ".snapshot",
    ".snapshots",
    ".zfs",
    ".Trash-0",
    "@eaDir",
    "#recycle",
    ".DS_Store",
];
/// Names shown when a root is not empty.
const NAMES_SHOWN: usize = 3;

/// The id of a replica root: 32 hex digits, written once.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RootId(u128);

/// A text that is no root id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a root id is 32 lower-case hex digits")]
pub struct InvalidRootId;

impl fmt::Display for RootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for RootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RootId({self})")
    }
}

impl FromStr for RootId {
    type Err = InvalidRootId;

    fn from_str(text: &str) -> Result<Self, InvalidRootId> {
        let good = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let id = u128::from_str_radix(text, 16).map_err(|_| InvalidRootId)?;
        if good {
            Ok(Self(id))
        } else {
            Err(InvalidRootId)
        }
    }
}

impl Serialize for RootId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RootId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Why a replica root must not be used. Until it can be, nothing is written to it and no app is
/// started on the belief that it has no replica.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootError {
    /// Nothing there.
    #[error("replica root {} does not exist: mount the share, or correct --replica-root", path.display())]
    Missing {
        /// The root.
        path: PathBuf,
    },
    /// Something else there.
    #[error("replica root {} is not a directory: correct --replica-root", path.display())]
    NotADirectory {
        /// The root.
        path: PathBuf,
    },
    /// No marker, though there was one.
    #[error(
        "replica root {} has lost its marker {NAME} (id {expected} is remembered): the share is \
         probably not mounted; mount it. If this really is a new root, remove the remembered id \
         from the state directory first", path.display()
    )]
    Lost {
        /// The root.
        path: PathBuf,
        /// The id that is remembered.
        expected: RootId,
    },
    /// No marker, and not empty either.
    #[error(
        "replica root {} has no marker {NAME}, but is not empty (it holds {found}): if it is the \
         right directory, create an empty one in it and use that", path.display()
    )]
    Unmarked {
        /// The root.
        path: PathBuf,
        /// Some of what it holds.
        found: String,
    },
    /// Another root.
    #[error(
        "replica root {} has id {found}, but id {expected} is remembered: another share is mounted \
         there; mount the right one", path.display()
    )]
    Exchanged {
        /// The root.
        path: PathBuf,
        /// The id that is remembered.
        expected: RootId,
        /// The id that is there.
        found: RootId,
    },
    /// Whether it is ours cannot be known now.
    #[error(
        "replica root {} is not used yet: this node has not seen it before, and the cluster does \
         not say which one it is ({reason})", path.display()
    )]
    Unconfirmed {
        /// The root.
        path: PathBuf,
        /// Why the cluster does not say.
        reason: String,
    },
    /// The marker makes no sense.
    #[error("the marker {} cannot be read: {reason}; restore it from another copy of the root", path.display())]
    Marker {
        /// The marker.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Mounted read-only.
    #[error("replica root {} is mounted read-only: remount it read-write", path.display())]
    ReadOnly {
        /// The root.
        path: PathBuf,
    },
    /// Not ours to write.
    #[error(
        "replica root {} may not be written by uid {uid} (permission denied): change its owner or mode, or set \
         --replica-uid and --replica-gid", path.display()
    )]
    Forbidden {
        /// The root.
        path: PathBuf,
        /// Who we are.
        uid: u32,
    },
    /// Two writers could take the same name.
    #[error(
        "replica root {} lets a file take a name that is taken: link(2) does not work there as it \
         must; use another file system or other mount options", path.display()
    )]
    NotExclusive {
        /// The root.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The marker file.
#[derive(Serialize, Deserialize)]
struct Marker {
    version: u32,
    id: RootId,
}

/// Says that the root is the one that is remembered, or, when none is, what its id is. Only a
/// root that nobody remembers gets a marker, and only if it is empty or holds replicas.
pub fn check(root: &Path, remembered: Option<&RootId>) -> Result<RootId, RootError> {
    check_with(&OsFs, root, remembered)
}

/// The same over another [`Fs`].
pub fn check_with(
    fs: &dyn Fs,
    root: &Path,
    remembered: Option<&RootId>,
) -> Result<RootId, RootError> {
    check_dir(fs, &open(root)?, remembered, Content::Replicas)
}

/// Opens a root, to be checked: what is found of it then holds of this descriptor, and not of the path.
pub fn open(root: &Path) -> Result<Dir, RootError> {
    Dir::open(root).map_err(|source| refused(root, "open", source))
}

/// The same as [`check`] for one that is open.
pub fn check_open(dir: &Dir, remembered: Option<&RootId>) -> Result<RootId, RootError> {
    check_dir(&OsFs, dir, remembered, Content::Replicas)
}

/// The same for the open top of a volume that a pod names for its replicas. Whoever named it meant
/// it, so it may hold anything else when it is marked.
pub fn check_volume(dir: &Dir, remembered: Option<&RootId>) -> Result<RootId, RootError> {
    check_dir(&OsFs, dir, remembered, Content::Anything)
}

/// What a root that is marked may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// Replicas or nothing.
    Replicas,
    /// It does not matter.
    Anything,
}

fn check_dir(
    fs: &dyn Fs,
    dir: &Dir,
    remembered: Option<&RootId>,
    content: Content,
) -> Result<RootId, RootError> {
    let found = match (read(dir)?, remembered) {
        (Some(found), _) => found,
        (None, Some(expected)) => {
            return Err(RootError::Lost {
                path: dir.path().to_owned(),
                expected: *expected,
            });
        }
        (None, None) => {
            writable(dir)?;
            initialise(fs, dir, content)?
        }
    };
    if let Some(expected) = remembered.copied().filter(|expected| *expected != found) {
        return Err(RootError::Exchanged {
            path: dir.path().to_owned(),
            expected,
            found,
        });
    }
    writable(dir)?;
    Ok(found)
}

fn read(dir: &Dir) -> Result<Option<RootId>, RootError> {
    let path = dir.path().join(NAME);
    let file = match dir.open_file(OsStr::new(NAME)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(refused(&path, "open", source)),
    };
    let mut bytes = Vec::new();
    file.take(BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(|source| refused(&path, "read", source))?;
    match serde_json::from_slice::<Marker>(&bytes) {
        Ok(marker) => Ok(Some(marker.id)),
        Err(error) => Err(RootError::Marker {
            path,
            reason: error.to_string(),
        }),
    }
}

/// Marks a root. Of two nodes that do so at once one publishes, and both read that id.
fn initialise(fs: &dyn Fs, dir: &Dir, content: Content) -> Result<RootId, RootError> {
    let names = dir
        .entries()
        .map_err(|source| refused(dir.path(), "list", source))?;
    let data: Vec<String> = names
        .iter()
        .filter(|name| !is_temp_name(name) && !NOT_DATA.iter().any(|known| name == known))
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    // Another node may have marked it since we looked. A root that nobody remembers and that holds
    // replicas is no share that is missing: somebody who had Litestream write there moves over.
    let marked = data.iter().any(|name| name == NAME);
    let refusable = content == Content::Replicas;
    if refusable && !data.is_empty() && !marked && !holds_replicas(dir) {
        let mut found = data.get(..NAMES_SHOWN).unwrap_or(&data).join(", ");
        if data.len() > NAMES_SHOWN {
            found.push_str(", …");
        }
        return Err(RootError::Unmarked {
            path: dir.path().to_owned(),
            found,
        });
    }
    let marker = Marker {
        version: 1,
        id: RootId(fastrand::u128(1..)),
    };
    let bytes = serde_json::to_vec(&marker).map_err(|error| RootError::Marker {
        path: dir.path().join(NAME),
        reason: error.to_string(),
    })?;
    durable::publish(fs, dir, OsStr::new(NAME), About::default(), &mut |file| {
        file.write_all(&bytes)
    })
    .map_err(|Failure { step, path, source }| refused(&path, step, source))?;
    read(dir)?.ok_or_else(|| {
        refused(
            &dir.path().join(NAME),
            "read back",
            io::ErrorKind::NotFound.into(),
        )
    })
}

/// Whether something below is a replica. A root too large to be looked through is not taken.
fn holds_replicas(dir: &Dir) -> bool {
    let base = Base::of_root(dir.path());
    base.hold(dir.clone());
    crate::replicas_below(Place::beneath(&base, "")).is_ok_and(|found| !found.is_empty())
}

fn writable(dir: &Dir) -> Result<(), RootError> {
    let access = Access::WRITE_OK | Access::EXEC_OK;
    // EACCESS: as whom we act now, which need not be who started us.
    match rustix::fs::accessat(dir, ".", access, AtFlags::EACCESS) {
        Ok(()) => Ok(()),
        Err(error) => Err(refused(dir.path(), "write to", error.into())),
    }
}

fn refused(path: &Path, action: &'static str, source: io::Error) -> RootError {
    let path = path.to_owned();
    let code = source.raw_os_error().map(Errno::from_raw_os_error);
    match code {
        Some(Errno::NOENT) => RootError::Missing { path },
        Some(Errno::NOTDIR) => RootError::NotADirectory { path },
        Some(Errno::ROFS) => RootError::ReadOnly { path },
        Some(Errno::ACCESS | Errno::PERM) => RootError::Forbidden {
            path,
            uid: rustix::process::geteuid().as_raw(),
        },
        _ => RootError::Io {
            action,
            path,
            source,
        },
    }
}

#[cfg(test)]
mod tests;
