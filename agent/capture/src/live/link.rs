//! The connection to SQLite: it creates and repairs the `-shm`, marks a state for reading, and
//! runs checkpoints. It never reads a page of content and never parses the schema.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::LiveFile;
use crate::Error;
use crate::confine::{Confined, Owner};
use crate::ffi;

/// What a checkpoint reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backfill {
    /// Frames in the WAL.
    pub(crate) log: u32,
    /// Frames of them that are in the database file.
    pub(crate) done: u32,
}

/// A connection, and where it must be used from.
#[derive(Debug)]
pub(crate) struct Link {
    connection: Connection,
    volume: OwnedFd,
    file: LiveFile,
    owner: Owner,
}

impl Link {
    pub(super) fn open(volume: &OwnedFd, file: &LiveFile, owner: Owner) -> Result<Self, Error> {
        let path = file.full_path();
        let volume = volume
            .as_fd()
            .try_clone_to_owned()
            .map_err(Error::io("keep the volume of", &path))?;
        let connection = connect(&volume, file, owner)?;
        let link = Self {
            connection,
            volume,
            file: file.clone(),
            owner,
        };
        // The first transaction opens the -wal and the -shm, or creates and recovers them.
        link.begin()?;
        link.end()?;
        Ok(link)
    }

    /// Begins a read transaction: what is published now stays readable, in the WAL as in the
    /// database file, until [`Link::end`].
    pub(crate) fn begin(&self) -> Result<(), Error> {
        self.confined("begin reading", |connection| {
            connection.execute_batch("BEGIN")?;
            // A header field: reads page 1 and nothing else, which takes the read mark.
            let read = connection.query_row("PRAGMA user_version", [], |_| Ok(()));
            if read.is_err() {
                connection.execute_batch("ROLLBACK")?;
            }
            read
        })
    }

    /// Ends the read transaction.
    pub(crate) fn end(&self) -> Result<(), Error> {
        self.confined("end reading", |connection| {
            connection.execute_batch("ROLLBACK")
        })
    }

    /// Takes the write lock: until [`Link::end`] nobody commits. `false`: a writer has it.
    pub(crate) fn lock_writers(&self) -> Result<bool, Error> {
        self.confined("take the write lock of", |connection| {
            match connection.execute_batch("BEGIN IMMEDIATE") {
                Err(error) if is_busy(&error) => Ok(false),
                other => other.map(|()| true),
            }
        })
    }

    /// Copies frames into the database file, beside the writers. `None`: somebody else is at it.
    pub(crate) fn checkpoint(&self) -> Result<Option<Backfill>, Error> {
        let result = self.confined("checkpoint", |connection| {
            match ffi::checkpoint(connection) {
                Err(error) if is_busy(&error) => Ok(None),
                other => other.map(Some),
            }
        })?;
        let count = |frames: i32| u32::try_from(frames).unwrap_or(0);
        Ok(result.map(|(log, done)| Backfill {
            log: count(log),
            done: count(done),
        }))
    }

    fn confined<T>(
        &self,
        attempt: &'static str,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, Error> {
        let path = self.file.full_path();
        let _confined = Confined::enter(&self.volume, self.file.volume(), self.owner)?;
        work(&self.connection).map_err(|source| failed(attempt, path, source))
    }
}

/// Changes the journal mode to WAL.
pub(super) fn convert(volume: &OwnedFd, file: &LiveFile, owner: Owner) -> Result<(), Error> {
    let path = file.full_path();
    let connection = connect(volume, file, owner)?;
    let _confined = Confined::enter(volume, file.volume(), owner)?;
    connection
        .query_row("PRAGMA journal_mode=wal", [], |_| Ok(()))
        .map_err(|source| failed("change the journal mode of", path, source))?;
    drop(connection); // inside: closing may touch files
    Ok(())
}

fn connect(volume: &OwnedFd, file: &LiveFile, owner: Owner) -> Result<Connection, Error> {
    let path = file.full_path();
    let root = root_of(file).map_err(Error::io("resolve the volume of", &path))?;
    let _confined = Confined::enter(volume, file.volume(), owner)?;
    let opened = connect_to(&Confined::path(&root, file.path()));
    opened.map_err(|source| failed("open", path, source))
}

/// A connection that waits for nobody and does nothing by itself.
pub(super) fn connect_to(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(std::time::Duration::ZERO)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_prepared_statement_cache_capacity(0);
    // wal_autocheckpoint: a read transaction never triggers it; said for those who look.
    connection.execute_batch("PRAGMA mmap_size=0; PRAGMA wal_autocheckpoint=0")?;
    Ok(connection)
}

/// The volume without symbolic links on the way to it, which SQLite would refuse. The node's
/// administrator may use some; what lies beneath is not resolved.
pub(super) fn root_of(file: &LiveFile) -> std::io::Result<PathBuf> {
    Path::canonicalize(file.volume())
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
}

pub(super) fn failed(attempt: &'static str, path: PathBuf, source: rusqlite::Error) -> Error {
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Error::Busy {
            path,
            what: "SQLite could not get a lock: another process recovers it, changes it or \
                   holds it exclusively",
        },
        Some(ErrorCode::NotADatabase) => Error::NotADatabase {
            path,
            reason: "SQLite does not know it; it may be encrypted, which is not supported".into(),
        },
        _ => Error::Sqlite {
            attempt,
            path,
            source,
        },
    }
}
