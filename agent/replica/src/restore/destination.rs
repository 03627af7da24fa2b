//! Where a restored database goes.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::Mode;
use rustix::io::Errno;
use sqlrep_format::Timestamp;

use super::RestoreError;
use crate::durable::{self, Dir, Fs, OsFs, Temp};

/// What SQLite keeps beside a database. A stale one would be applied to the restored file.
const SIDECARS: [&str; 3] = ["-wal", "-shm", "-journal"];
/// Directories that a restore creates, like those that an app would.
const CREATED_MODE: Mode = Mode::from_raw_mode(0o755);

/// A name in an open directory: what happens to the path meanwhile does not matter.
#[derive(Clone, Debug)]
pub struct Destination {
    fs: Arc<dyn Fs>,
    dir: Dir,
    name: OsString,
    /// Directories that were made on the way; they get the file's owner.
    pub(super) created: Vec<Dir>,
}

impl Destination {
    /// A path of the caller's own; its directory must exist.
    pub fn open(path: &Path) -> Result<Self, RestoreError> {
        let outside = || RestoreError::OutsideVolume {
            path: path.to_owned(),
        };
        let name = path.file_name().ok_or_else(outside)?;
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let dir = Dir::open(parent).map_err(RestoreError::io("open", parent))?;
        Ok(Self::new(dir, name))
    }

    /// A name in a directory that is open already; `path` is the directory's, for messages.
    pub fn beneath(
        dir: impl Into<OwnedFd>,
        path: impl Into<PathBuf>,
        name: &OsStr,
    ) -> Result<Self, RestoreError> {
        let path = path.into();
        let dir = Dir::from_fd(dir.into(), &path).map_err(RestoreError::io("open", &path))?;
        let plain = Path::new(name).components().eq([Component::Normal(name)]);
        if plain {
            Ok(Self::new(dir, name))
        } else {
            Err(RestoreError::OutsideVolume {
                path: path.join(name),
            })
        }
    }

    /// A path inside of a pod's volume, which must not be able to lead elsewhere (L13): every
    /// directory on the way is opened within the one before it, and links are refused. Missing
    /// directories are created.
    pub fn in_volume(volume: &Path, relative: &Path) -> Result<Self, RestoreError> {
        let path = volume.join(relative);
        let outside = || RestoreError::OutsideVolume { path: path.clone() };
        let mut parts: Vec<&OsStr> = Vec::new();
        for part in relative.components() {
            let Component::Normal(part) = part else {
                return Err(outside());
            };
            parts.push(part);
        }
        let Some(name) = parts.pop() else {
            return Err(outside());
        };
        let fs = OsFs;
        let mut dir = match Dir::open_itself(volume) {
            Err(error) if is_no_directory(&error) => return Err(outside()),
            opened => opened.map_err(RestoreError::io("open", volume))?,
        };
        let mut created = Vec::new();
        for part in parts {
            dir = match dir.open_subdir(part) {
                Ok(dir) => dir,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let made = durable::ensure_subdir(&fs, &dir, part)?;
                    rustix::fs::fchmod(&made, CREATED_MODE)
                        .map_err(|error| RestoreError::io("chmod", made.path())(error.into()))?;
                    created.push(made.clone());
                    made
                }
                // A link, or a file where a directory should be.
                Err(error) if is_no_directory(&error) => return Err(outside()),
                Err(error) => return Err(RestoreError::io("open", dir.path().join(part))(error)),
            };
        }
        Ok(Self {
            created,
            ..Self::new(dir, name)
        })
    }

    fn new(dir: Dir, name: &OsStr) -> Self {
        Self {
            fs: Arc::new(OsFs),
            dir,
            name: name.to_owned(),
            created: Vec::new(),
        }
    }

    /// The same over another [`Fs`].
    #[must_use]
    pub fn with_fs(self, fs: Arc<dyn Fs>) -> Self {
        Self { fs, ..self }
    }

    /// The path, for messages.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join(&self.name)
    }

    /// Unlinks temp files beside the destination that nobody touched since `before`; a restore
    /// that was killed left them. Says how many.
    pub fn sweep(&self, before: Timestamp) -> Result<u32, RestoreError> {
        Ok(durable::sweep(self.fs.as_ref(), &self.dir, before)?)
    }

    pub(super) fn name(&self) -> &OsStr {
        &self.name
    }

    /// A temp file beside the destination.
    pub(super) fn temp(&self) -> Result<Temp<'static>, RestoreError> {
        Ok(Temp::create_private(Arc::clone(&self.fs), &self.dir)?)
    }

    /// Refuses when the database or one of its sidecars exists (L7).
    pub(super) fn check_free(&self) -> Result<(), RestoreError> {
        self.check_name(&self.name)?;
        for sidecar in SIDECARS {
            let mut name = self.name.clone();
            name.push(sidecar);
            self.check_name(&name)?;
        }
        Ok(())
    }

    fn check_name(&self, name: &OsStr) -> Result<(), RestoreError> {
        let path = self.dir.path().join(name);
        match self.dir.holds(name) {
            Ok(false) => Ok(()),
            Ok(true) => Err(RestoreError::Exists { path }),
            Err(error) => Err(RestoreError::io("look at", path)(error)),
        }
    }
}

fn is_no_directory(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(code, Some(Errno::NOTDIR | Errno::LOOP))
}
