//! The only place that opens a live database, its `-wal` or its `-shm` (L3).
//!
//! Everything is opened beneath the volume's directory, through no link and no mount point, and
//! must be a regular file with one name (L13). Of one inode a process keeps one [`Live`] at most:
//! SQLite's POSIX locks are those of the process, and closing any descriptor of the inode would
//! drop them. For the same reason the connection is the first field of [`Live`], so that it is
//! closed before the descriptors. What holds the WAL, though, are locks of the open descriptors
//! themselves ([`crate::hold`]), which nothing but their own closing drops.

mod link;
mod registry;

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use sqlrep_format::wal::{INDEX_HEADER_BYTES, IndexError, IndexHeader, Salts, WalChecksum};
use sqlrep_format::{DatabaseHeader, HeaderError, JournalMode, PageSize};

use crate::Error;
use crate::confine::Owner;
use crate::ffi::{self, Bytes, Lock};

pub(crate) use link::Link;
use registry::Claim;

/// The bytes of a database file that readers of any journal mode lock (SQLite's SHARED lock).
/// Whoever wants to leave WAL mode, or to delete the WAL after a last close, must hold them
/// exclusively (<https://www.sqlite.org/lockingv3.html>).
const SHARED_BYTES: Bytes = Bytes {
    start: 0x4000_0002,
    len: 510,
};

/// The byte of a `-shm` by which a process says that it uses it; the first to come would wipe it.
const DMS_BYTE: Bytes = Bytes { start: 128, len: 1 };

/// The bytes of a `-shm` that a writer and a checkpoint hold.
const WORK_BYTES: Bytes = Bytes { start: 120, len: 2 };

/// A read mark that limits nobody.
const MARK_NOT_USED: u32 = u32::MAX;

/// Where a live database lies: a volume, and a path relative to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveFile {
    volume: PathBuf,
    path: PathBuf,
}

impl LiveFile {
    /// Refuses a volume that is not absolute, and a path that is not plainly relative to it.
    pub fn new(volume: impl Into<PathBuf>, path: impl Into<PathBuf>) -> Result<Self, Error> {
        let (volume, path) = (volume.into(), path.into());
        if !volume.is_absolute() {
            return Err(Error::Refused {
                path: volume,
                reason: "a volume's path is absolute",
            });
        }
        let plain = path
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        if !plain || path.file_name().is_none() {
            let reason = "a database's path is relative to its volume and has no '..'";
            return Err(Error::Refused { path, reason });
        }
        Ok(Self { volume, path })
    }

    /// The volume's directory.
    pub fn volume(&self) -> &Path {
        &self.volume
    }

    /// The path in the volume.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The whole path, for messages.
    pub fn full_path(&self) -> PathBuf {
        self.volume.join(&self.path)
    }

    /// The path of a file beside the database.
    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = OsString::from(self.path.as_os_str());
        name.push(suffix);
        name.into()
    }
}

/// What a file is, by its first bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Probe {
    /// A database in WAL mode.
    Wal {
        /// The size of its pages.
        page_size: PageSize,
    },
    /// A database with a rollback journal: `PRAGMA journal_mode=wal` is needed.
    Rollback {
        /// The size of its pages.
        page_size: PageSize,
    },
    /// A file without bytes; SQLite makes a database of it with the first write.
    Empty,
    /// Not a database, or an encrypted one.
    NotADatabase {
        /// What is wrong with the header.
        reason: String,
    },
}

/// The inode of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Inode {
    pub(crate) device: u64,
    pub(crate) number: u64,
}

impl Inode {
    fn of(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev,
            number: stat.st_ino,
        }
    }
}

/// Whether the database's path still leads to the file that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whereabouts {
    Here,
    Replaced,
    Unlinked,
}

/// What the wal-index says: the state that SQLite published last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    /// The number of frames that count.
    pub(crate) mx_frame: u32,
    /// How many of them are in the database file.
    pub(crate) backfilled: u32,
    /// The generation of the WAL; means nothing without frames.
    pub(crate) salts: Salts,
    /// The running checksum of the last frame that counts.
    pub(crate) checksum: WalChecksum,
    /// The read marks.
    pub(crate) marks: [u32; 5],
}

impl Published {
    /// Whether the next writer may begin the WAL anew, if nobody reads it.
    pub(crate) fn is_backfilled(&self) -> bool {
        self.backfilled == self.mx_frame
    }

    /// Whether nobody is limited by this mark.
    pub(crate) fn is_unused(&self, slot: usize) -> bool {
        self.marks.get(slot) == Some(&MARK_NOT_USED)
    }

    /// `None` for bytes caught half-written.
    fn parse(bytes: &[u8]) -> Result<Option<Self>, IndexError> {
        match IndexHeader::parse(bytes) {
            Ok(None) => Ok(None),
            Ok(Some(header)) => Ok(Some(Self {
                mx_frame: header.mx_frame,
                backfilled: header.backfilled,
                salts: header.salts,
                checksum: header.frame_checksum,
                marks: header.read_marks,
            })),
            // SQLite leaves the page size 0 when it recovered an index from a WAL without frames.
            Err(IndexError::PageSize(size)) if size.0 == 0 => Ok(Some(Self {
                mx_frame: 0,
                backfilled: 0,
                salts: Salts::default(),
                checksum: WalChecksum::default(),
                marks: marks(bytes),
            })),
            Err(error) => Err(error),
        }
    }
}

/// Which marks are not in use; the others read as 0.
fn marks(bytes: &[u8]) -> [u32; 5] {
    std::array::from_fn(|slot| {
        let at = 100 + 4 * slot;
        let unused = bytes.get(at..at + 4) == Some(&[0xff; 4]);
        if unused { MARK_NOT_USED } else { 0 }
    })
}

/// The files of one live database, and the connection to it while there is one.
///
/// The order of the fields is the order in which they are let go.
#[derive(Debug)]
pub(crate) struct Live {
    link: Option<Link>,
    shm: File,
    wal: File,
    db: File,
    volume: OwnedFd,
    file: LiveFile,
    owner: Owner,
    mode: u32,
    page_size: PageSize,
    claim: Claim,
}

impl Live {
    /// Attaches to a database in WAL mode. SQLite creates its `-wal` and `-shm` if they are
    /// missing, and repairs the latter.
    pub(crate) fn open(file: &LiveFile) -> Result<Self, Error> {
        let path = file.full_path();
        let volume = open_volume(file)?;
        let claim = Claim::take(inode_at(&volume, file)?, &path)?;
        let db = open_beneath(&volume, file, &file.path, OFlags::RDONLY)?;
        let stat = checked_stat(&db, &path)?;
        if Inode::of(&stat) != claim.inode() {
            return Err(Error::Busy {
                path,
                what: "it was replaced while it was opened",
            });
        }
        let owner = Owner {
            uid: stat.st_uid,
            gid: stat.st_gid,
        };
        let mode = stat.st_mode & 0o7777;
        let locked = ffi::lock(&db, SHARED_BYTES, Lock::Shared);
        if !locked.map_err(Error::io("lock", &path))? {
            let what = "another process holds it exclusively (locking_mode=EXCLUSIVE, or it is \
                        changing its journal mode); end that, or let it close the database";
            return Err(Error::Busy { path, what });
        }
        // Read under the lock: from here on nobody can leave WAL mode.
        let page_size = match read_header(&db, &path)? {
            Probe::Wal { page_size } => page_size,
            other => return Err(not_wal(path, other)),
        };
        let link = Link::open(&volume, file, owner)?;
        let shm = open_beneath(&volume, file, &file.beside("-shm"), OFlags::RDONLY)?;
        checked_stat(&shm, &path)?;
        // The link holds the same byte: its process is this one, its lock is another.
        if !ffi::lock(&shm, DMS_BYTE, Lock::Shared).map_err(Error::io("lock the -shm of", &path))? {
            return Err(Error::Busy {
                path,
                what: "its wal-index is being created",
            });
        }
        let wal = open_beneath(&volume, file, &file.beside("-wal"), OFlags::RDONLY)?;
        checked_stat(&wal, &path)?;
        let link = Some(link);
        let file = file.clone();
        let live = Self {
            link,
            shm,
            wal,
            db,
            volume,
            file,
            owner,
            mode,
            page_size,
            claim,
        };
        if live.whereabouts() != Whereabouts::Here {
            return Err(Error::Busy {
                path,
                what: "it was replaced while it was opened",
            });
        }
        Ok(live)
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.file.full_path()
    }

    pub(crate) fn page_size(&self) -> PageSize {
        self.page_size
    }

    pub(crate) fn ownership(&self) -> (u32, u32, u32) {
        (self.owner.uid, self.owner.gid, self.mode)
    }

    pub(crate) fn shm(&self) -> &File {
        &self.shm
    }

    pub(crate) fn wal(&self) -> &File {
        &self.wal
    }

    pub(crate) fn db(&self) -> &File {
        &self.db
    }

    /// The published state; `None` when it was caught half-written.
    pub(crate) fn published(&self) -> Result<Option<Published>, Error> {
        let mut bytes = [0; INDEX_HEADER_BYTES];
        let read = read_full(&self.shm, &mut bytes, 0)
            .map_err(Error::io("read the -shm of", self.path()))?;
        let published = Published::parse(bytes.get(..read).unwrap_or_default());
        published.map_err(|error| Error::WalMismatch {
            path: self.path(),
            reason: error.to_string(),
        })
    }

    /// Whether a writer is in the middle of a transaction, or somebody of a checkpoint.
    pub(crate) fn is_at_work(&self) -> Result<bool, Error> {
        ffi::is_locked(&self.shm, WORK_BYTES).map_err(Error::io("query locks of", self.path()))
    }

    /// Where the path leads now.
    pub(crate) fn whereabouts(&self) -> Whereabouts {
        // Only compared, never opened: it may lead where it will.
        match rustix::fs::statat(&self.volume, &self.file.path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if Inode::of(&stat) == self.claim.inode() => Whereabouts::Here,
            Ok(_) => Whereabouts::Replaced,
            Err(_) => Whereabouts::Unlinked,
        }
    }

    /// Opens the `-wal` again if its path leads to another file now. Only a process that does not
    /// know SQLite's rules exchanges it; what is in the new one is then judged by its salts.
    pub(crate) fn reopen_wal(&mut self) -> Result<bool, Error> {
        let path = self.path();
        let wal = open_beneath(
            &self.volume,
            &self.file,
            &self.file.beside("-wal"),
            OFlags::RDONLY,
        )?;
        let (old, new) = (checked_stat(&self.wal, &path), checked_stat(&wal, &path)?);
        if old.is_ok_and(|old| Inode::of(&old) == Inode::of(&new)) {
            return Ok(false);
        }
        self.wal = wal; // a -wal carries no locks: the old one may be closed
        Ok(true)
    }

    /// The connection, opened if there is none. It may create files: not for a terminating pod.
    pub(crate) fn link(&mut self) -> Result<&Link, Error> {
        let link = match self.link.take() {
            Some(link) => link,
            None => Link::open(&self.volume, &self.file, self.owner)?,
        };
        Ok(self.link.insert(link))
    }

    /// Whether there is a connection.
    #[cfg(test)]
    pub(crate) fn is_linked(&self) -> bool {
        self.link.is_some()
    }

    /// Closes the connection: an idle database costs three descriptors and no SQLite.
    pub(crate) fn unlink(&mut self) {
        self.link = None;
    }

    /// The size of the database file.
    pub(crate) fn file_bytes(&self) -> Result<u64, Error> {
        Ok(self
            .db
            .metadata()
            .map_err(Error::io("stat", self.path()))?
            .len())
    }

    /// The size of the `-wal` file; SQLite keeps it at its largest.
    pub(crate) fn wal_file_bytes(&self) -> Result<u64, Error> {
        Ok(self
            .wal
            .metadata()
            .map_err(Error::io("stat the -wal of", self.path()))?
            .len())
    }
}

/// What the file is; only for one that is not held (its descriptor is closed again, which would
/// drop the locks of a session in this process).
pub fn probe(file: &LiveFile) -> Result<Probe, Error> {
    let volume = open_volume(file)?;
    let _claim = Claim::take(inode_at(&volume, file)?, &file.full_path())?;
    let db = open_beneath(&volume, file, &file.path, OFlags::RDONLY)?;
    checked_stat(&db, &file.full_path())?;
    read_header(&db, &file.full_path())
}

/// Changes a database to WAL mode, which stays. Refuses with [`Error::Busy`] when somebody uses
/// it at this moment. A database that is in WAL mode, or followed by a session, is left alone.
pub fn convert_to_wal(file: &LiveFile) -> Result<(), Error> {
    let path = file.full_path();
    let volume = open_volume(file)?;
    let claim = match Claim::take(inode_at(&volume, file)?, &path) {
        Err(Error::Held { .. }) => return Ok(()), // a session follows only what is in WAL mode
        other => other?,
    };
    let db = open_beneath(&volume, file, &file.path, OFlags::RDONLY)?;
    let stat = checked_stat(&db, &path)?;
    if Inode::of(&stat) != claim.inode() {
        return Err(Error::Busy {
            path,
            what: "it was replaced while it was opened",
        });
    }
    match read_header(&db, &path)? {
        Probe::Wal { .. } => Ok(()),
        Probe::Rollback { .. } => {
            let owner = Owner {
                uid: stat.st_uid,
                gid: stat.st_gid,
            };
            link::convert(&volume, file, owner)?;
            match read_header(&db, &path)? {
                Probe::Wal { .. } => Ok(()),
                other => Err(not_wal(path, other)),
            }
        }
        other => Err(not_wal(path, other)),
    }
}

fn not_wal(path: PathBuf, probe: Probe) -> Error {
    match probe {
        Probe::NotADatabase { reason } => Error::NotADatabase { path, reason },
        Probe::Wal { .. } | Probe::Rollback { .. } => Error::Unsupported {
            path,
            mode: "delete",
            hint: "run PRAGMA journal_mode=wal in the application once (it lasts), or annotate the \
                   pod with sqlrep.io/journal-mode: wal",
        },
        Probe::Empty => Error::Unsupported {
            path,
            mode: "none",
            hint: "the file is empty; it is followed once the application has written to it",
        },
    }
}

fn open_volume(file: &LiveFile) -> Result<OwnedFd, Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(&file.volume, flags, Mode::empty())
        .map_err(Error::io("open the volume", &file.volume))
}

/// The inode that the database's path leads to, without opening it: closing a descriptor would
/// drop the locks of a session in this process. (One opened with O_PATH does not.)
fn inode_at(volume: &OwnedFd, file: &LiveFile) -> Result<Inode, Error> {
    let fd = beneath(volume, file, &file.path, OFlags::PATH)?;
    let stat = rustix::fs::fstat(&fd).map_err(Error::io("stat", file.full_path()))?;
    Ok(Inode::of(&stat))
}

fn open_beneath(
    volume: &OwnedFd,
    file: &LiveFile,
    path: &Path,
    access: OFlags,
) -> Result<File, Error> {
    // NONBLOCK: a FIFO of that name must not hang us.
    Ok(beneath(volume, file, path, access | OFlags::NONBLOCK)?.into())
}

fn beneath(
    volume: &OwnedFd,
    file: &LiveFile,
    path: &Path,
    access: OFlags,
) -> Result<OwnedFd, Error> {
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    let flags = access | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(volume, path, flags, Mode::empty(), resolve).map_err(|source| {
        let path = file.volume.join(path);
        match source {
            rustix::io::Errno::LOOP | rustix::io::Errno::XDEV => Error::Refused {
                path,
                reason: "a link or a mount point lies on the way to it",
            },
            source => Error::Io {
                attempt: "open",
                path,
                source: source.into(),
            },
        }
    })
}

/// The facts of an open file, which must be a regular one with one name or none.
fn checked_stat(file: &File, path: &Path) -> Result<Stat, Error> {
    let stat = rustix::fs::fstat(file).map_err(Error::io("stat", path))?;
    let refused = |reason| {
        Err(Error::Refused {
            path: path.to_owned(),
            reason,
        })
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return refused("it, its -wal or its -shm is not a regular file");
    }
    if stat.st_nlink > 1 {
        return refused("it, its -wal or its -shm has more than one name (hard link)");
    }
    Ok(stat)
}

fn read_header(db: &File, path: &Path) -> Result<Probe, Error> {
    let mut bytes = [0; 100];
    let read = read_full(db, &mut bytes, 0).map_err(Error::io("read", path))?;
    if read == 0 {
        return Ok(Probe::Empty);
    }
    match DatabaseHeader::parse(bytes.get(..read).unwrap_or_default()) {
        Ok(DatabaseHeader {
            page_size, journal, ..
        }) => Ok(match journal {
            JournalMode::Wal => Probe::Wal { page_size },
            JournalMode::Rollback => Probe::Rollback { page_size },
        }),
        Err(error @ HeaderError::NotADatabase) => {
            let reason = format!("{error}; it may be encrypted, which is not supported");
            Ok(Probe::NotADatabase { reason })
        }
        Err(error) => Ok(Probe::NotADatabase {
            reason: error.to_string(),
        }),
    }
}

/// Fills as much of `buffer` as the file holds from `offset` on.
pub(crate) fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset.saturating_add(filled as u64)) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
