//! An open directory: all names are looked up in it, whatever happens to the path meanwhile.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use sqlrep_format::Timestamp;

/// Most names that are read from one directory (L12): a level with a file a second, never
/// compacted, reaches it after twelve days.
const ENTRIES_MAX: usize = 1 << 20;

/// An open directory and the path it was opened by; clones share the descriptor.
#[derive(Clone, Debug)]
pub struct Dir(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    file: File,
}

impl Dir {
    /// Opens a directory by its path.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Self::from_fd(rustix::fs::open(path, flags, Mode::empty())?, path)
    }

    /// Opens a directory by its path, whose last part must not be a link.
    pub fn open_itself(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Self::from_fd(rustix::fs::open(path, flags, Mode::empty())?, path)
    }

    /// Takes a directory that is open already; `path` is for messages.
    pub fn from_fd(fd: OwnedFd, path: impl Into<PathBuf>) -> io::Result<Self> {
        let file = File::from(fd);
        if !file.metadata()?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Self(Arc::new(Inner {
            path: path.into(),
            file,
        })))
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Opens a directory within this one; a symbolic link is refused.
    pub fn open_subdir(&self, name: &OsStr) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(self, name, flags, Mode::empty())?;
        Self::from_fd(fd, self.path().join(name))
    }

    /// Opens a directory some way below this one; links are followed.
    pub(super) fn open_below(&self, below: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path = if below.as_os_str().is_empty() {
            Path::new(".")
        } else {
            below
        };
        let fd = rustix::fs::openat(self, path, flags, Mode::empty())?;
        Self::from_fd(fd, self.path().join(below))
    }

    /// Opens a regular file for reading; links, pipes and devices are refused.
    pub fn open_file(&self, name: &OsStr) -> io::Result<File> {
        // NONBLOCK: to open a pipe must not wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        regular(File::from(rustix::fs::openat(
            self,
            name,
            flags,
            Mode::empty(),
        )?))
    }

    /// Size and modification time of a regular file; `None` when the name is something else.
    pub fn stat_file(&self, name: &OsStr) -> io::Result<Option<(u64, Timestamp)>> {
        let stat = rustix::fs::statat(self, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(None);
        }
        let bytes = u64::try_from(stat.st_size).unwrap_or(0);
        Ok(Some((
            bytes,
            millis(
                stat.st_mtime,
                i64::try_from(stat.st_mtime_nsec).unwrap_or(0),
            ),
        )))
    }

    /// Whether anything has this name, a dangling link included.
    pub fn holds(&self, name: &OsStr) -> io::Result<bool> {
        match rustix::fs::statat(self, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// When the inode behind a name last changed (ctime).
    pub(super) fn changed(&self, name: &OsStr) -> io::Result<Timestamp> {
        let stat = rustix::fs::statat(self, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(millis(
            stat.st_ctime,
            i64::try_from(stat.st_ctime_nsec).unwrap_or(0),
        ))
    }

    /// Opens a regular file below this directory; links are refused on the whole way.
    pub fn open_beneath(&self, path: &Path) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        match rustix::fs::openat2(self, path, flags, Mode::empty(), resolve) {
            Ok(fd) => regular(File::from(fd)),
            // Kernels before 5.6, and some sandboxes: step by step.
            Err(Errno::NOSYS) => {
                let mut dir = self.clone();
                let (parent, name) = (path.parent(), path.file_name());
                for part in parent.unwrap_or(Path::new("")) {
                    dir = dir.open_subdir(part)?;
                }
                dir.open_file(name.ok_or(io::ErrorKind::InvalidInput)?)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// All names but `.` and `..`, in no order.
    pub fn entries(&self) -> io::Result<Vec<OsString>> {
        let names = self.typed_entries()?;
        Ok(names.into_iter().map(|(name, _)| name).collect())
    }

    /// The names of the directories in it; a link to one is none.
    pub fn subdirs(&self) -> io::Result<Vec<OsString>> {
        let mut found = Vec::new();
        for (name, kind) in self.typed_entries()? {
            let is_dir = match kind {
                // Some file systems do not say.
                FileType::Unknown => self.open_subdir(&name).is_ok(),
                kind => kind.is_dir(),
            };
            if is_dir {
                found.push(name);
            }
        }
        Ok(found)
    }

    fn typed_entries(&self) -> io::Result<Vec<(OsString, FileType)>> {
        // A second open: a directory stream moves the offset of its descriptor.
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(self)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if names.len() >= ENTRIES_MAX {
                let text = format!("more than {ENTRIES_MAX} names in one directory");
                return Err(io::Error::other(text));
            }
            if name != b"." && name != b".." {
                names.push((OsStr::from_bytes(name).to_owned(), entry.file_type()));
            }
        }
        Ok(names)
    }

    /// When it last changed, by its own word.
    pub(super) fn modified(&self) -> io::Result<Timestamp> {
        let metadata = self.0.file.metadata()?;
        Ok(millis(metadata.mtime(), metadata.mtime_nsec()))
    }

    /// The file system it lies on.
    pub(super) fn device(&self) -> io::Result<u64> {
        Ok(self.0.file.metadata()?.dev())
    }

    /// The open directory as a file, for fsync.
    pub(super) fn file(&self) -> &File {
        &self.0.file
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.file.as_fd()
    }
}

fn regular(file: File) -> io::Result<File> {
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        ))
    }
}

/// Whole milliseconds, rounded down, as in an LTX header.
fn millis(seconds: i64, nanos: i64) -> Timestamp {
    Timestamp::from_millis(
        seconds
            .saturating_mul(1000)
            .saturating_add(nanos.div_euclid(1_000_000)),
    )
}
