//! The only place that opens a live database, its `-wal` or its `-shm` (L3).
//!
//! Everything is opened beneath the volume's directory, through no link and no mount point, and
//! must be a regular file with one name (L13). Of one inode a process keeps one [`Live`] at most:
//! SQLite's POSIX locks are those of the process, and closing any descriptor of the inode would
//! drop them. For the same reason the connection is the first field of [`Live`], so that it is
//! closed before the descriptors. What holds the WAL, though, are locks of the open descriptors
//! themselves ([`crate::hold`]), which nothing but their own closing drops.

mod beneath;
mod journal;
mod journaled;
mod link;
mod probe;
mod published;
mod registry;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, OFlags, Stat};
use sqlrep_format::PageSize;
use sqlrep_format::wal::INDEX_HEADER_BYTES;

use crate::Error;
use crate::confine::Owner;
use crate::ffi::{self, Bytes, Lock};

pub use beneath::LiveFile;
use beneath::{checked_stat, inode_at, open_beneath, open_volume};
pub(crate) use journal::Hot;
pub(crate) use journaled::{Journaled, Stamp, Writer};
pub(crate) use link::{Backfill, Link};
pub use probe::{Probe, convert_to_wal, probe};
use probe::{not_wal, read_header};
pub(crate) use published::Published;
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
        let db = open_beneath(&volume, file, file.path(), OFlags::RDONLY)?;
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
        owned_now(&self.db).unwrap_or((self.owner.uid, self.owner.gid, self.mode))
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
        whereabouts(&self.volume, &self.file, self.claim.inode())
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

    /// A connection besides that one.
    pub(crate) fn second_link(&self) -> Result<Link, Error> {
        Link::open(&self.volume, &self.file, self.owner)
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

/// Uid, gid and mode of an open file as they are now; `None` where the system does not say.
fn owned_now(file: &File) -> Option<(u32, u32, u32)> {
    use std::os::unix::fs::MetadataExt as _;
    let now = file.metadata().ok()?;
    Some((now.uid(), now.gid(), now.mode() & 0o7777))
}

fn whereabouts(volume: &OwnedFd, file: &LiveFile, inode: Inode) -> Whereabouts {
    // Only compared, never opened: it may lead where it will.
    match rustix::fs::statat(volume, file.path(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if Inode::of(&stat) == inode => Whereabouts::Here,
        Ok(_) => Whereabouts::Replaced,
        Err(_) => Whereabouts::Unlinked,
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
