//! Directories named by a path, or by a path below an open directory that nothing leads out of.
//!
//! The replica root is the administrator's, and a path is as good as what he made of it. A volume of
//! a pod is not: whoever writes to it could put a link where a replica is to be (L13). So a place in
//! it is reached part by part from its open directory, never through a link.

use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, FileType};

use super::Dir;

/// The open top of a volume. Clones share it, so that it can be let go of for all of them: while it
/// is open the volume cannot be unmounted.
#[derive(Clone, Debug)]
pub struct Base(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    held: Mutex<Held>,
}

/// How it stands with a [`Base`].
#[derive(Debug)]
enum Held {
    /// It has not been opened yet.
    Not,
    /// It is open.
    Open(Dir),
    /// It was let go of, for good.
    LetGo,
}

impl Base {
    /// One that is not open yet; `path` is for messages.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(Arc::new(Inner {
            path: path.into(),
            held: Mutex::new(Held::Not),
        }))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Holds this directory from now on, unless it was let go of.
    pub fn hold(&self, dir: Dir) {
        let mut held = self.held();
        if !matches!(*held, Held::LetGo) {
            *held = Held::Open(dir);
        }
    }

    /// Closes it, for good. Calls that are under way end with their own descriptors.
    pub fn let_go(&self) {
        *self.held() = Held::LetGo;
    }

    /// Whether it was let go of.
    pub fn is_let_go(&self) -> bool {
        matches!(*self.held(), Held::LetGo)
    }

    /// The open directory. One that is not open is never taken for one that is not there: that would
    /// be an empty replica.
    pub fn dir(&self) -> io::Result<Dir> {
        match &*self.held() {
            Held::Open(dir) => Ok(dir.clone()),
            Held::Not => Err(closed("it is not open yet")),
            Held::LetGo => Err(closed("it was let go of, so that it can be unmounted")),
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Each change is one assignment: a panic elsewhere leaves it whole.
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn closed(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, why)
}

/// A directory that need not exist.
#[derive(Clone, Debug)]
pub struct Place {
    base: Option<Base>,
    path: PathBuf,
}

impl Place {
    /// A directory beneath an open one, or that one itself (`below` is empty then).
    pub fn beneath(base: &Base, below: impl AsRef<Path>) -> Self {
        let below = below.as_ref();
        let path = if below.as_os_str().is_empty() {
            base.path().to_owned()
        } else {
            base.path().join(below)
        };
        let base = Some(base.clone());
        Self { base, path }
    }

    /// Its path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A directory in it.
    #[must_use]
    pub fn join(&self, below: impl AsRef<Path>) -> Self {
        Self {
            base: self.base.clone(),
            path: self.path.join(below),
        }
    }

    /// The directory that holds it, within the volume where it is in one.
    pub(super) fn parent(&self) -> Option<Self> {
        if self
            .base
            .as_ref()
            .is_some_and(|base| base.path() == self.path)
        {
            return None;
        }
        let here = Path::new(".");
        let path = match self.path.parent()? {
            parent if !parent.as_os_str().is_empty() => parent,
            _ if self.path == here => return None,
            _ => here,
        };
        Some(Self {
            base: self.base.clone(),
            path: path.to_owned(),
        })
    }

    /// User and group of the directory, or of the nearest one on the way to it that exists; within a
    /// volume only.
    pub fn owner(&self) -> io::Result<(u32, u32)> {
        let base = self.base.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        let mut dir = base.dir()?;
        let top = rustix::fs::fstat(&dir)?;
        let mut owner = (top.st_uid, top.st_gid);
        for part in self.path.strip_prefix(base.path()).unwrap_or(&self.path) {
            let Ok(stat) = rustix::fs::statat(&dir, part, AtFlags::SYMLINK_NOFOLLOW) else {
                break;
            };
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                break;
            }
            owner = (stat.st_uid, stat.st_gid);
            match dir.open_subdir(part) {
                Ok(inner) => dir = inner,
                Err(_) => break,
            }
        }
        Ok(owner)
    }

    /// Opens it.
    pub fn open(&self) -> io::Result<Dir> {
        let Some(base) = &self.base else {
            return Dir::open(&self.path);
        };
        let outside = || io::Error::from(io::ErrorKind::InvalidInput);
        let below = self.path.strip_prefix(base.path()).map_err(|_| outside())?;
        let mut dir = base.dir()?;
        for part in below.components() {
            let Component::Normal(name) = part else {
                return Err(outside());
            };
            dir = dir.open_subdir(name)?;
        }
        Ok(dir)
    }
}

impl From<&Path> for Place {
    fn from(path: &Path) -> Self {
        path.to_owned().into()
    }
}

impl From<&PathBuf> for Place {
    fn from(path: &PathBuf) -> Self {
        path.clone().into()
    }
}

impl From<PathBuf> for Place {
    fn from(path: PathBuf) -> Self {
        Self { base: None, path }
    }
}

impl From<&Self> for Place {
    fn from(place: &Self) -> Self {
        place.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> (tempfile::TempDir, Base) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("volume/data.db/ltx")).unwrap();
        std::fs::create_dir_all(dir.path().join("elsewhere/ltx")).unwrap();
        let base = Base::new(dir.path().join("volume"));
        base.hold(Dir::open(base.path()).unwrap());
        (dir, base)
    }

    #[test]
    fn no_link_leads_out_of_a_volume() {
        let (dir, base) = base();
        let volume = dir.path().join("volume");
        std::os::unix::fs::symlink("../elsewhere", volume.join("link.db")).unwrap();
        assert!(Place::beneath(&base, "data.db/ltx").open().is_ok());
        let linked = Place::beneath(&base, "link.db").join("ltx");
        let refused = linked.open().unwrap_err();
        assert_ne!(
            refused.kind(),
            io::ErrorKind::NotFound,
            "it would look empty"
        );
        for out in ["..", "data.db/../../elsewhere", "/"] {
            assert!(Place::beneath(&base, out).open().is_err(), "{out}");
        }
    }

    #[test]
    fn what_was_let_go_of_stays_closed_and_does_not_look_empty() {
        let (_dir, base) = base();
        let place = Place::beneath(&base, "data.db");
        base.let_go();
        base.hold(Dir::open(base.path()).unwrap());
        assert!(base.is_let_go());
        let error = place.open().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotConnected);
        let store = crate::DirStore::new(place);
        assert!(crate::Store::list(&store).is_err());
    }
}
