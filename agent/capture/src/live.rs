//! The only place that opens a live database, its `-wal` or its `-shm` (L3).
//!
//! Everything is opened beneath the volume's directory, through no link and no mount point, and
//! must be a regular file with one name (L13). Of one inode a process keeps one [`Live`] at most:
//! SQLite's POSIX locks are those of the process, and closing any descriptor of the inode would
//! drop them. For the same reason the connection is the first field of [`Live`], so that it is
//! closed before the descriptors. What holds the WAL, though, are locks of the open descriptors
//! themselves ([`crate::hold`]), which nothing but their own closing drops.

mod beneath;
mod extent;
mod journal;
mod journaled;
mod link;
mod probe;
mod published;
mod registry;
mod site;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, OFlags, Stat};
use sqlrep_format::wal::INDEX_HEADER_BYTES;
use sqlrep_format::{PageCount, PageSize};

use crate::Error;
use crate::confine::Owner;
use crate::ffi::{self, Bytes, Lock};

pub use beneath::LiveFile;
use beneath::{checked_stat, inode_at, open_beneath, open_volume};
pub(crate) use journal::Hot;
pub use journaled::Keeper;
pub(crate) use journaled::{Journaled, Stamp, Writer};
pub(crate) use link::{Backfill, Link};
use probe::not_wal;
pub(crate) use probe::read_header;
pub use probe::{Probe, convert_to_wal, probe};
pub(crate) use published::Published;
use registry::Claim;
pub(crate) use site::Site;

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
/// Those of a writer, and of a checkpoint.
const WRITE_BYTE: Bytes = Bytes { start: 120, len: 1 };
const CHECKPOINT_BYTE: Bytes = Bytes { start: 121, len: 1 };

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

/// Whether the database's path, and those of its `-wal` and `-shm`, still lead to the files that
/// are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whereabouts {
    Here,
    /// The database is here; its `-wal` or its `-shm` was deleted, which SQLite does not do while
    /// we have locks. Who has them open goes on with them; the next to come makes new ones.
    Bare,
    /// One of the paths leads to another file.
    Replaced,
    Unlinked,
}

/// The files of one live database, and the connection to it while there is one.
///
/// The order of the fields is the order in which they are let go.
#[derive(Debug)]
pub(crate) struct Live {
    link: Option<Link>,
    shm: Beside,
    wal: Beside,
    db: File,
    volume: OwnedFd,
    file: LiveFile,
    owner: Owner,
    mode: u32,
    page_size: PageSize,
    /// Our locks were taken back: this is of no use any more but to read what is left.
    disowned: bool,
    claim: Claim,
}

/// A file that SQLite keeps beside the database.
#[derive(Debug)]
struct Beside {
    file: File,
    inode: Inode,
    path: PathBuf,
}

impl Beside {
    fn open(volume: &OwnedFd, file: &LiveFile, suffix: &str) -> Result<Self, Error> {
        let path = file.beside(suffix);
        let opened = open_beneath(volume, file, &path, OFlags::RDONLY)?;
        let stat = checked_stat(&opened, &file.full_path())?;
        Ok(Self {
            file: opened,
            inode: Inode::of(&stat),
            path,
        })
    }

    fn whereabouts(&self, volume: &OwnedFd) -> Whereabouts {
        whereabouts(volume, &self.path, self.inode)
    }
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
        let shm = Beside::open(&volume, file, "-shm")?;
        // The link holds the same byte: its process is this one, its lock is another.
        let marked = ffi::lock(&shm.file, DMS_BYTE, Lock::Shared);
        if !marked.map_err(Error::io("lock the -shm of", &path))? {
            return Err(Error::Busy {
                path,
                what: "its wal-index is being created",
            });
        }
        let wal = Beside::open(&volume, file, "-wal")?;
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
            disowned: false,
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

    pub(crate) fn names(&self) -> u64 {
        names(&self.db)
    }

    pub(crate) fn shm(&self) -> &File {
        &self.shm.file
    }

    pub(crate) fn wal(&self) -> &File {
        &self.wal.file
    }

    pub(crate) fn db(&self) -> &File {
        &self.db
    }

    /// The published state; `None` when it was caught half-written.
    pub(crate) fn published(&self) -> Result<Option<Published>, Error> {
        let mut bytes = [0; INDEX_HEADER_BYTES];
        let read =
            read_full(self.shm(), &mut bytes, 0).map_err(Error::io("read the -shm of", self))?;
        let published = Published::parse(bytes.get(..read).unwrap_or_default());
        published.map_err(|error| Error::WalMismatch {
            path: self.path(),
            reason: error.to_string(),
        })
    }

    /// Whether a writer is in the middle of a transaction, or somebody of a checkpoint.
    pub(crate) fn is_at_work(&self) -> Result<bool, Error> {
        self.is_held(WORK_BYTES)
    }

    /// Whether somebody checkpoints and has the writers wait meanwhile: FULL, RESTART or TRUNCATE,
    /// which wait for every reader.
    pub(crate) fn is_checkpoint_waited_for(&self) -> Result<bool, Error> {
        Ok(self.is_held(CHECKPOINT_BYTE)? && self.is_held(WRITE_BYTE)?)
    }

    /// Whether somebody checkpoints beside the writers, of whom none is at work.
    pub(crate) fn is_checkpointed_aside(&self) -> Result<bool, Error> {
        Ok(self.is_held(CHECKPOINT_BYTE)? && !self.is_held(WRITE_BYTE)?)
    }

    fn is_held(&self, bytes: Bytes) -> Result<bool, Error> {
        ffi::is_locked(self.shm(), bytes).map_err(Error::io("query locks of", self))
    }

    /// Where the paths lead now. A file that took the database's place while its `-wal` is still
    /// there is not believed yet: SQLite would play that WAL onto it.
    pub(crate) fn whereabouts(&self) -> Whereabouts {
        let db = whereabouts(&self.volume, self.file.path(), self.claim.inode());
        let wal = self.wal.whereabouts(&self.volume);
        match (db, wal, self.shm.whereabouts(&self.volume)) {
            (Whereabouts::Replaced, Whereabouts::Here, _) => Whereabouts::Unlinked,
            (Whereabouts::Replaced | Whereabouts::Unlinked, ..) => db,
            (_, Whereabouts::Here, Whereabouts::Here) if !self.disowned => Whereabouts::Here,
            (_, Whereabouts::Unlinked, Whereabouts::Here | Whereabouts::Unlinked)
            | (_, Whereabouts::Here, Whereabouts::Unlinked) => Whereabouts::Bare,
            _ => Whereabouts::Replaced, // or put back after we let go of it
        }
    }

    /// Takes back what says that this process uses the database, whose `-wal` or `-shm` was
    /// deleted. Then the last close of those who have it open copies what they committed into the
    /// database file, and whoever comes next makes a `-shm` anew and does not believe the old one.
    pub(crate) fn disown(&mut self) -> Result<(), Error> {
        self.unlink();
        self.disowned = true;
        for (file, bytes) in [(self.shm(), DMS_BYTE), (self.db(), SHARED_BYTES)] {
            let released = ffi::lock(file, bytes, Lock::Release);
            released.map_err(Error::io("unlock", self.path()))?;
        }
        Ok(())
    }

    /// Whether anybody has the `-shm` open, after [`disown`](Self::disown): each connection holds the
    /// "dead man switch" byte of it for as long as it lives (<https://www.sqlite.org/walformat.html>).
    pub(crate) fn is_open(&self) -> Result<bool, Error> {
        ffi::is_taken(self.shm(), DMS_BYTE).map_err(Error::io("query locks of", self))
    }

    /// Whether the database is in WAL mode still, which only locks of ours guarantee.
    pub(crate) fn is_wal(&self) -> Result<bool, Error> {
        let header = read_header(&self.db, &self.path())?;
        Ok(matches!(header, Probe::Wal { .. }))
    }

    /// The connection, opened if there is none. It may create files: not for a terminating pod,
    /// and not beside a database whose `-wal` or `-shm` was deleted, for what is in them would be
    /// cut off.
    pub(crate) fn link(&mut self) -> Result<&Link, Error> {
        let link = match self.link.take() {
            Some(link) => link,
            None => self.second_link()?,
        };
        Ok(self.link.insert(link))
    }

    /// A connection besides that one.
    pub(crate) fn second_link(&self) -> Result<Link, Error> {
        if self.whereabouts() == Whereabouts::Bare {
            return Err(Error::Bare { path: self.path() });
        }
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

    /// Refuses a size that nothing on the disk stands for.
    pub(crate) fn check_extent(&self, commit: PageCount) -> Result<(), Error> {
        let claimed = commit.file_bytes(self.page_size);
        extent::check(claimed, &[&self.db, self.wal()], &self.path())
    }

    /// The size of the `-wal` file; SQLite keeps it at its largest.
    pub(crate) fn wal_file_bytes(&self) -> Result<u64, Error> {
        Ok(self
            .wal()
            .metadata()
            .map_err(Error::io("stat the -wal of", self.path()))?
            .len())
    }
}

/// What an error says of it.
impl From<&Live> for PathBuf {
    fn from(live: &Live) -> Self {
        live.path()
    }
}

/// Uid, gid and mode of an open file as they are now; `None` where the system does not say.
fn owned_now(file: &File) -> Option<(u32, u32, u32)> {
    use std::os::unix::fs::MetadataExt as _;
    let now = file.metadata().ok()?;
    Some((now.uid(), now.gid(), now.mode() & 0o7777))
}

/// How many names an open file has; one where the system does not say.
fn names(file: &File) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    file.metadata().map_or(1, |now| now.nlink())
}

fn whereabouts(volume: &OwnedFd, path: &Path, inode: Inode) -> Whereabouts {
    // Only compared, never opened: it may lead where it will.
    match rustix::fs::statat(volume, path, AtFlags::SYMLINK_NOFOLLOW) {
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
