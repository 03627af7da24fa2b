//! What a file is, and what can be done about it.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use sqlrep_format::{DatabaseHeader, HeaderError, JournalMode, PageSize};

use super::beneath::{checked_stat, inode_at, open_beneath, open_volume};
use super::registry::Claim;
use super::{Inode, LiveFile, link, read_full};
use crate::Error;
use crate::confine::Owner;

/// What a file is, by its first bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Probe {
    /// A database in WAL mode.
    Wal {
        /// The size of its pages.
        page_size: PageSize,
    },
    /// A database with a rollback journal.
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

/// What the file is; only for one that is not held (its descriptor is closed again, which would
/// drop the locks of a session in this process).
pub fn probe(file: &LiveFile) -> Result<Probe, Error> {
    let volume = open_volume(file)?;
    let _claim = Claim::take(inode_at(&volume, file)?, &file.full_path())?;
    let db = open_beneath(&volume, file, file.path(), OFlags::RDONLY)?;
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
    let db = open_beneath(&volume, file, file.path(), OFlags::RDONLY)?;
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

pub(super) fn not_wal(path: PathBuf, probe: Probe) -> Error {
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

/// What an open file is, by its first bytes.
pub(crate) fn read_header(db: &File, path: &Path) -> Result<Probe, Error> {
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
