//! Where a restored file lands: what must not be there, and how it takes its place.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::process::{Flock, FlockOffsetType, FlockType, fcntl_getlk};
use sqlrep_replica::durable::{Dir, Fs, OsFs, Temp};

use crate::database::Ownership;
use crate::failure::{Failure, Result};

/// Files that SQLite takes for part of the database: it plays a log or a journal that it finds
/// into whatever stands beside it (<https://www.sqlite.org/howtocorrupt.html>).
const SIDECARS: [&str; 3] = ["-wal", "-journal", "-shm"];
/// Where SQLite takes its locks on a database, and how many bytes
/// (<https://www.sqlite.org/fileformat.html#the_lock_byte_page>).
const LOCK_BYTES: (u64, u64) = (0x4000_0000, 512);

/// Whether a file that exists may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existing {
    /// It stays; the restore is refused.
    Keep,
    /// The user said so.
    Replace,
}

/// A place for a database file, looked at and found fit.
#[derive(Debug)]
pub(crate) struct Landing {
    dir: Dir,
    name: OsString,
    existing: Existing,
}

impl Landing {
    /// Looks at the place; nothing is changed yet.
    pub(crate) fn prepare(path: &Path, existing: Existing) -> Result<Self> {
        let Some(name) = path.file_name().filter(|_| !path.as_os_str().is_empty()) else {
            return Err(Failure::usage(format!(
                "{} is not the name of a file",
                path.display()
            )));
        };
        if path == Path::new("-") {
            return Err(
                Failure::usage("a database cannot be restored to standard output")
                    .hint("name a file: it is written whole or not at all"),
            );
        }
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let dir = Dir::open(parent).map_err(|error| {
            Failure::failed(format!("cannot open the directory {}", parent.display()))
                .caused_by(error)
        })?;
        let landing = Self {
            dir,
            name: name.to_owned(),
            existing,
        };
        landing.inspect()?;
        Ok(landing)
    }

    /// The file's path.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join(&self.name)
    }

    /// Its directory.
    pub(crate) fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Whether a file that exists may go.
    pub(crate) fn existing(&self) -> Existing {
        self.existing
    }

    fn beside(&self, suffix: &str) -> OsString {
        let mut name = self.name.clone();
        name.push(suffix);
        name
    }

    /// Refuses what would lose data.
    fn inspect(&self) -> Result<()> {
        let path = self.path();
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(
                    Failure::failed(format!("cannot look at {}", path.display())).caused_by(error),
                );
            }
            Ok(found) if !found.is_file() => {
                return Err(Failure::refused(format!(
                    "{} exists and is not a regular file",
                    path.display()
                ))
                .hint("name another file"));
            }
            Ok(_) if self.existing == Existing::Keep => return Err(self.exists()),
            Ok(_) => refuse_in_use(&path)?,
        }
        if self.existing == Existing::Replace {
            return Ok(());
        }
        for sidecar in SIDECARS.map(|suffix| self.dir.path().join(self.beside(suffix))) {
            if fs::symlink_metadata(&sidecar).is_ok() {
                return Err(Failure::refused(format!(
                    "{} lies there: SQLite would take it for part of the restored database",
                    sidecar.display()
                ))
                .hint("move it away, or remove it with --force"));
            }
        }
        Ok(())
    }

    fn exists(&self) -> Failure {
        Failure::refused(format!(
            "{} exists and was left alone",
            self.path().display()
        ))
        .hint("name another file, or overwrite it with --force")
    }

    /// A temp file in the same directory; gone unless it lands.
    pub(crate) fn temp(&self) -> Result<Temp<'static>> {
        Temp::create_private(Arc::new(OsFs), &self.dir)
            .map_err(|error| Failure::failed("cannot begin the restored file").caused_by(error))
    }

    /// A name in the same directory that nobody has.
    pub(crate) fn aside(&self) -> Result<OsString> {
        let temp = self.temp()?;
        Ok(temp.name().to_owned())
    }

    /// Gives a complete and proven temp file its name, durably.
    pub(crate) fn land(&self, temp: Temp<'static>) -> Result<()> {
        temp.fsync().map_err(cannot_publish)?;
        match self.existing {
            Existing::Keep => match temp.rename_new(&self.name) {
                Ok(true) => Ok(()),
                // It came into being while we worked.
                Ok(false) => Err(self.exists()),
                Err(error) => Err(cannot_publish(error)),
            },
            // Dropping the temp file afterwards finds its name gone, and leaves it at that.
            Existing::Replace => self.replace_by(temp.name()),
        }
    }

    /// Throws a file of this directory away that did not come to be.
    pub(crate) fn discard(&self, name: &OsStr) {
        // What stays is a file of ours that hurts nobody; the failure that led here is told.
        let _ = OsFs.unlink(&self.dir, name);
    }

    /// Puts a complete, proven and durable file of this directory in the place of what is there.
    ///
    /// The old logs go first: a crash in between leaves the old database without its newest
    /// commits, which the user gave up, and never a new one that an old log is played into.
    pub(crate) fn replace_by(&self, name: &OsStr) -> Result<()> {
        // Looked at again: minutes may have passed since.
        self.inspect()?;
        let fs = OsFs;
        for sidecar in SIDECARS.map(|suffix| self.beside(suffix)) {
            match fs.unlink(&self.dir, &sidecar) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    let path = self.dir.path().join(sidecar);
                    return Err(Failure::failed(format!("cannot remove {}", path.display()))
                        .caused_by(error));
                }
                _ => {}
            }
        }
        fs.fsync_dir(&self.dir)
            .and_then(|()| fs.rename(&self.dir, name, &self.name))
            .and_then(|()| fs.fsync_dir(&self.dir))
            .map_err(cannot_publish)
    }
}

fn cannot_publish(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Failure {
    Failure::failed("cannot give the restored file its name").caused_by(error)
}

/// Whoever has the database open would go on writing to the file that is no longer there.
fn refuse_in_use(path: &Path) -> Result<()> {
    // A file that cannot be opened cannot be asked; to replace it needs no permission on it.
    let Ok(file) = File::open(path) else {
        return Ok(());
    };
    let (start, length) = LOCK_BYTES;
    let write = Flock {
        start,
        length,
        pid: None,
        typ: FlockType::WriteLock,
        offset_type: FlockOffsetType::Set,
    };
    // Where locks cannot be asked for, there are none.
    match fcntl_getlk(&file, &write) {
        Ok(Some(lock)) => {
            let who = lock.pid.map_or_else(
                || "a process".to_owned(),
                |pid| format!("process {}", pid.as_raw_nonzero()),
            );
            Err(
                Failure::refused(format!("{} is in use by {who}", path.display()))
                    .hint("stop it first: what it wrote from now on would be lost"),
            )
        }
        _ => Ok(()),
    }
}

/// What is said when the file stays with the user who restored it.
pub(crate) fn not_given(uid: u32, gid: u32) -> String {
    format!("the file belongs to you: only root may give it to {uid}:{gid}, who had it")
}

/// Sets mode and owner as the live file had them. `Ok(false)`: this user may not give files away.
pub(crate) fn own(file: &File, ownership: Ownership) -> Result<bool> {
    let Ownership { uid, gid, mode } = ownership;
    let given = std::os::unix::fs::fchown(file, Some(uid), Some(gid));
    // After the owner, since a change of owner may take bits away.
    file.set_permissions(Permissions::from_mode(mode & 0o777))
        .map_err(|error| {
            Failure::failed("cannot set the mode of the restored file").caused_by(error)
        })?;
    match given {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(false),
        Err(error) => {
            Err(Failure::failed("cannot set the owner of the restored file").caused_by(error))
        }
    }
}

#[cfg(test)]
mod tests;
