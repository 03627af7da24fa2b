//! The files of one live database in rollback-journal mode.
//!
//! SQLite's own protocol, by locks of our open file (<https://www.sqlite.org/lockingv3.html>): while
//! the SHARED bytes are held nobody writes to the database, and whoever wants to waits with PENDING
//! held. Nothing of it is ever written, and no connection to SQLite is ever opened.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use rustix::fs::OFlags;
use sqlrep_format::{DatabaseHeader, HeaderError, JournalMode, PageCount, PageSize, Pgno};

use super::beneath::{checked_stat, inode_at, open_beneath, open_volume};
use super::journal::Hot;
use super::registry::Claim;
use super::{Inode, LiveFile, SHARED_BYTES, Whereabouts, names, owned_now, read_full, whereabouts};
use crate::Error;
use crate::ffi::{self, Bytes, Lock};

/// The byte that a writer holds while it waits for the readers to go.
const PENDING_BYTE: Bytes = Bytes {
    start: 0x4000_0000,
    len: 1,
};

/// The byte that a writer holds from its first change on.
const RESERVED_BYTE: Bytes = Bytes {
    start: 0x4000_0001,
    len: 1,
};

/// The part of the header by which SQLite itself knows whether its cache still shows the database:
/// the change counter, the size, and the list of free pages. Each commit changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp([u8; 16]);

/// What page 1 says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) stamp: Stamp,
    pub(crate) page_size: PageSize,
    pub(crate) journal: JournalMode,
    /// The size; `None` when the header does not know it.
    pub(crate) pages: Option<PageCount>,
}

impl Facts {
    fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        let header = DatabaseHeader::parse(bytes)?;
        let stamp = bytes.get(24..).and_then(<[u8]>::first_chunk);
        let valid = header.page_count_is_valid();
        Ok(Self {
            stamp: Stamp(*stamp.expect("a header that was parsed has 100 bytes")),
            page_size: header.page_size,
            journal: header.journal,
            pages: PageCount::new(header.page_count).filter(|_| valid),
        })
    }
}

/// What a writer is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writer {
    /// Nobody writes.
    None,
    /// A transaction is being made; it does not need the file yet.
    Reserved,
    /// A transaction waits for us to let go.
    Pending,
}

/// The files.
#[derive(Debug)]
pub(crate) struct Journaled {
    db: File,
    volume: OwnedFd,
    file: LiveFile,
    page_size: PageSize,
    claim: Claim,
    /// Uid, gid and mode when it was opened.
    owned: (u32, u32, u32),
}

/// A process of our own that holds SQLite's EXCLUSIVE lock on a database for us, and lets go of it
/// only when it is told to, or when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keeper(
    /// Its id, as this process sees it.
    pub u32,
);

/// The SHARED lock; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Hold<'a>(&'a File);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        if let Err(error) = ffi::lock(self.0, SHARED_BYTES, Lock::Release) {
            // Cannot fail on an open file; the app would find its database locked.
            tracing::error!(%error, "a lock could not be given back");
        }
    }
}

impl Journaled {
    /// Opens a database that is in rollback-journal mode now.
    pub(crate) fn open(file: &LiveFile) -> Result<Self, Error> {
        let path = file.full_path();
        let volume = open_volume(file)?;
        let claim = Claim::take(inode_at(&volume, file)?, &path)?;
        let db = open_beneath(&volume, file, file.path(), OFlags::RDONLY)?;
        let stat = checked_stat(&db, &path)?;
        if Inode::of(&stat) != claim.inode() {
            let what = "it was replaced while it was opened";
            return Err(Error::Busy { path, what });
        }
        let mut live = Self {
            owned: (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777),
            db,
            volume,
            file: file.clone(),
            page_size: PageSize::MIN, // read below
            claim,
        };
        let facts = live.facts()?;
        if facts.journal == JournalMode::Wal {
            let what = "its journal mode changed while it was opened";
            return Err(Error::Busy { path, what });
        }
        live.page_size = facts.page_size;
        Ok(live)
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.file.full_path()
    }

    pub(crate) fn page_size(&self) -> PageSize {
        self.page_size
    }

    pub(crate) fn ownership(&self) -> (u32, u32, u32) {
        owned_now(&self.db).unwrap_or(self.owned)
    }

    pub(crate) fn names(&self) -> u64 {
        names(&self.db)
    }

    pub(crate) fn whereabouts(&self) -> Whereabouts {
        whereabouts(&self.volume, self.file.path(), self.claim.inode())
    }

    /// Takes the SHARED lock as SQLite does: behind a writer that waits, never before it.
    pub(crate) fn hold(&self) -> Result<Option<Hold<'_>>, Error> {
        let failed = |error| Error::io("lock", self.path())(error);
        if !ffi::lock(&self.db, PENDING_BYTE, Lock::Shared).map_err(failed)? {
            return Ok(None);
        }
        let shared = ffi::lock(&self.db, SHARED_BYTES, Lock::Shared);
        let released = ffi::lock(&self.db, PENDING_BYTE, Lock::Release);
        if !shared.map_err(failed)? {
            return Ok(None);
        }
        let hold = Hold(&self.db);
        released.map_err(failed)?;
        Ok(Some(hold))
    }

    /// What a writer is about to do.
    pub(crate) fn writer(&self) -> Result<Writer, Error> {
        let locked =
            |byte| ffi::is_locked(&self.db, byte).map_err(Error::io("query locks of", self.path()));
        if locked(PENDING_BYTE)? {
            return Ok(Writer::Pending);
        }
        Ok(if locked(RESERVED_BYTE)? {
            Writer::Reserved
        } else {
            Writer::None
        })
    }

    /// Whether that process holds the EXCLUSIVE lock. If it does now and did some time ago, nobody
    /// else has written meanwhile.
    pub(crate) fn is_kept_by(&self, keeper: Keeper) -> Result<bool, Error> {
        let holder = ffi::exclusive_holder(&self.db, SHARED_BYTES);
        let holder = holder.map_err(Error::io("query locks of", self.path()))?;
        Ok(holder.and_then(|pid| u32::try_from(pid).ok()) == Some(keeper.0))
    }

    /// What page 1 says: a hint without the lock, the truth with it.
    pub(crate) fn facts(&self) -> Result<Facts, Error> {
        let mut bytes = [0; DatabaseHeader::BYTES];
        let read = read_full(&self.db, &mut bytes, 0).map_err(Error::io("read", self.path()))?;
        self.parse(bytes.get(..read).unwrap_or_default())
    }

    /// The same of a page 1 that was read from elsewhere.
    pub(crate) fn parse(&self, page: &[u8]) -> Result<Facts, Error> {
        Facts::parse(page).map_err(|error| {
            let encrypted = match error {
                HeaderError::NotADatabase => "; it may be encrypted, which is not supported",
                _ => "",
            };
            Error::NotADatabase {
                path: self.path(),
                reason: format!("{error}{encrypted}"),
            }
        })
    }

    /// Reads a page from the file; what lies beyond its end reads as zeroes.
    pub(crate) fn read_page(&self, pgno: Pgno, page: &mut [u8]) -> std::io::Result<()> {
        let read = read_full(&self.db, page, pgno.offset(self.page_size))?;
        page.get_mut(read..).unwrap_or_default().fill(0);
        Ok(())
    }

    /// Refuses a size that nothing on the disk stands for.
    pub(crate) fn check_extent(&self, commit: PageCount) -> Result<(), Error> {
        super::extent::check(commit.file_bytes(self.page_size), &[&self.db], &self.path())
    }

    /// The size of the file in pages.
    pub(crate) fn file_pages(&self) -> Result<Option<PageCount>, Error> {
        let facts = self.db.metadata();
        let bytes = facts.map_err(Error::io("stat", self.path()))?.len();
        let pages = bytes.div_ceil(u64::from(self.page_size.get()));
        Ok(u32::try_from(pages).ok().and_then(PageCount::new))
    }

    /// When the file was last written to, and how long ago that is.
    pub(crate) fn last_write(&self) -> Result<(SystemTime, Duration), Error> {
        let facts = self.db.metadata();
        let written = facts.and_then(|facts| facts.modified());
        let written = written.map_err(Error::io("stat", self.path()))?;
        // The file system's own clock is what the file's time is compared with.
        let age = SystemTime::now().duration_since(written);
        Ok((written, age.unwrap_or_default()))
    }

    /// What a journal that outlived its writer says. With the SHARED lock held; `None` when the
    /// file itself shows the last commit.
    ///
    /// SQLite's own rule: a journal is hot if it is there, has not been ended, and nobody holds
    /// RESERVED. In this order: nobody can begin to write to the file meanwhile, so a journal that
    /// began after the second look is that of a transaction that has changed nothing, and to undo
    /// nothing changes nothing.
    pub(crate) fn hot_journal(&self) -> Result<Option<Hot>, Error> {
        let name = self.file.beside("-journal");
        let journal = match open_beneath(&self.volume, &self.file, &name, OFlags::RDONLY) {
            Err(error) if error.is_missing() => return Ok(None),
            other => other?,
        };
        if self.writer()? != Writer::None {
            return Ok(None);
        }
        if checked_stat(&journal, &self.path())?.st_nlink == 0 {
            return Ok(None); // that transaction has ended
        }
        Hot::read(journal, self.page_size, &self.path())
    }
}
