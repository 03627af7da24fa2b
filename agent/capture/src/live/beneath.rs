//! Where a live database lies, and opening files there and nowhere else.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};

use super::Inode;
use crate::Error;

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
    pub(super) fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = OsString::from(self.path.as_os_str());
        name.push(suffix);
        name.into()
    }
}

pub(super) fn open_volume(file: &LiveFile) -> Result<OwnedFd, Error> {
    // The volume itself, and not what a link in its place leads to.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(&file.volume, flags, Mode::empty())
        .map_err(Error::io("open the volume", &file.volume))
}

/// The inode that the database's path leads to, without opening it: closing a descriptor would
/// drop the locks of a session in this process. (One opened with O_PATH does not.)
pub(super) fn inode_at(volume: &OwnedFd, file: &LiveFile) -> Result<Inode, Error> {
    let fd = beneath(volume, file, &file.path, OFlags::PATH)?;
    let stat = rustix::fs::fstat(&fd).map_err(Error::io("stat", file.full_path()))?;
    Ok(Inode::of(&stat))
}

pub(super) fn open_beneath(
    volume: &OwnedFd,
    file: &LiveFile,
    path: &Path,
    access: OFlags,
) -> Result<File, Error> {
    // NONBLOCK: a FIFO of that name must not hang us.
    Ok(beneath(volume, file, path, access | OFlags::NONBLOCK)?.into())
}

pub(super) fn beneath(
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
pub(super) fn checked_stat(file: &File, path: &Path) -> Result<Stat, Error> {
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
