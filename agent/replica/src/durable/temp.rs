//! Temp files: named so that a crash's leftovers are known, gone when dropped.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::{Dir, Failure, Fs};

/// How a temp file's name begins; 16 hex digits follow. Litestream ignores such names in a
/// replica (LITESTREAM.md §2.3), discovery ignores them in a volume.
const PREFIX: &str = ".sqlrep-";
/// Hex digits after the prefix.
const RANDOM_DIGITS: usize = 16;
/// Attempts to find a free name; with 64 random bits the second is never needed.
const ATTEMPTS_MAX: u32 = 8;
/// Until its owner is known, a restored database is nobody else's to read. The same serves
/// replicas: a directory's mode says who else may read.
const MODE: u32 = 0o640;

/// A temp file; dropping it unlinks it.
#[derive(Debug)]
pub struct Temp<'fs> {
    fs: Held<'fs>,
    dir: Dir,
    name: OsString,
    file: File,
    armed: bool,
}

/// Borrowed for a publish, owned for a restore that is staged and published later.
#[derive(Debug)]
enum Held<'fs> {
    Borrowed(&'fs dyn Fs),
    Owned(std::sync::Arc<dyn Fs>),
}

impl Held<'_> {
    fn get(&self) -> &dyn Fs {
        match self {
            Self::Borrowed(fs) => *fs,
            Self::Owned(fs) => fs.as_ref(),
        }
    }
}

impl<'fs> Temp<'fs> {
    /// Creates a temp file in `dir`.
    pub fn create(fs: &'fs dyn Fs, dir: &Dir) -> Result<Self, Failure> {
        Self::new(Held::Borrowed(fs), dir, MODE)
    }

    fn new(fs: Held<'fs>, dir: &Dir, mode: u32) -> Result<Self, Failure> {
        let mut attempt = 1;
        loop {
            let name = OsString::from(format!("{PREFIX}{:016x}", fastrand::u64(..)));
            match fs.get().create(dir, &name, mode) {
                Ok(file) => {
                    return Ok(Self {
                        fs,
                        dir: dir.clone(),
                        name,
                        file,
                        armed: true,
                    });
                }
                Err(error)
                    if error.kind() == io::ErrorKind::AlreadyExists && attempt < ATTEMPTS_MAX =>
                {
                    attempt += 1;
                }
                Err(error) => return Err(Failure::at("create", dir.path().join(name))(error)),
            }
        }
    }

    /// Its name in the directory.
    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// Its path, for messages.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join(&self.name)
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Makes its content durable.
    pub fn fsync(&self) -> Result<(), Failure> {
        self.fs
            .get()
            .fsync(&self.dir, &self.name, &self.file)
            .map_err(Failure::at("fsync", self.path()))
    }

    /// Gives it its name, which must be free, and makes that durable.
    ///
    /// `Ok(false)`: the name is taken; nothing was changed and the temp file is gone.
    pub fn rename_new(mut self, to: &OsStr) -> Result<bool, Failure> {
        let path = self.dir.path().join(to);
        match self.fs.get().rename_new(&self.dir, &self.name, to) {
            Ok(()) => self.disarm(),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(error) => return Err(Failure::at("rename to", path)(error)),
        }
        let fsynced = self.fs.get().fsync_dir(&self.dir);
        fsynced.map_err(Failure::at("fsync", self.dir.path()))?;
        Ok(true)
    }

    /// Gives it a name that another file has, which is gone then. Durable when the directory is.
    pub fn rename_over(mut self, to: &OsStr) -> Result<(), Failure> {
        let renamed = self.fs.get().rename(&self.dir, &self.name, to);
        renamed.map_err(Failure::at("rename to", self.dir.path().join(to)))?;
        self.disarm();
        Ok(())
    }

    /// The name is no longer a temp file's: dropping must not unlink it.
    pub(super) fn disarm(&mut self) {
        self.armed = false;
    }
}

impl Temp<'static> {
    /// Creates a temp file that only its owner may read, and that may outlive the caller.
    pub fn create_private(fs: std::sync::Arc<dyn Fs>, dir: &Dir) -> Result<Self, Failure> {
        Self::new(Held::Owned(fs), dir, 0o600)
    }
}

impl Drop for Temp<'_> {
    fn drop(&mut self) {
        if self.armed
            && let Err(error) = self.fs.get().unlink(&self.dir, &self.name)
            && error.kind() != io::ErrorKind::NotFound
        {
            // Nothing is wrong yet: the next sweep takes it.
            tracing::debug!(path = %self.path().display(), err = %error, "temp file stays");
        }
    }
}

/// Whether a name is that of a temp file of ours.
pub fn is_temp_name(name: &OsStr) -> bool {
    name.as_bytes()
        .strip_prefix(PREFIX.as_bytes())
        .is_some_and(|random| {
            random.len() == RANDOM_DIGITS
                && random
                    .iter()
                    .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        })
}
