//! Directories named by a path, or by a path below an open directory that nothing leads out of.
//!
//! A path leads elsewhere when a share is unmounted or exchanged, so what was found to be ours is reached
//! from its open directory. The replica root is the administrator's, and a link in it is as good as what
//! he made of it. A volume of a pod is not: whoever writes to it could put a link where a replica is to
//! be (L13). So a place in it is reached part by part, never through a link.

use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, FileType};

use super::Dir;

/// The open top of a replica root or of a volume. Clones share it, so that it can be exchanged or let go
/// of for all of them: while it is open it cannot be unmounted.
#[derive(Clone, Debug)]
pub struct Base(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    links: Links,
    held: Mutex<Held>,
}

/// What becomes of links on the way to a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Links {
    /// They are the administrator's.
    Followed,
    /// They may be anybody's.
    Refused,
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
        Self::with(path.into(), Links::Refused)
    }

    /// The same for one that nobody but the administrator writes to.
    pub fn of_root(path: impl Into<PathBuf>) -> Self {
        Self::with(path.into(), Links::Followed)
    }

    fn with(path: PathBuf, links: Links) -> Self {
        let held = Mutex::new(Held::Not);
        Self(Arc::new(Inner { path, links, held }))
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

    /// Whether it is a replica root or a volume itself.
    pub(super) fn is_top(&self) -> bool {
        let base = self.base.as_ref();
        base.is_some_and(|base| base.path() == self.path)
    }

    /// The directory that holds it, within the volume where it is in one.
    pub(super) fn parent(&self) -> Option<Self> {
        let top = self.base.as_ref().filter(|_| self.is_top());
        if top.is_some_and(|base| base.0.links == Links::Refused) {
            return None;
        }
        let here = Path::new(".");
        let path = match self.path.parent()? {
            parent if !parent.as_os_str().is_empty() => parent,
            _ if self.path == here => return None,
            _ => here,
        };
        Some(Self {
            base: self.base.clone().filter(|_| top.is_none()),
            path: path.to_owned(),
        })
    }

    /// User and group of the directory, or of the nearest one on the way to it that exists; within a
    /// volume only.
    pub fn owner(&self) -> io::Result<(u32, u32)> {
        let in_volume = self.base.as_ref();
        let in_volume = in_volume.filter(|base| base.0.links == Links::Refused);
        let base = in_volume.ok_or(io::ErrorKind::Unsupported)?;
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
        if base.0.links == Links::Followed {
            return dir.open_below(below);
        }
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
    fn what_was_found_in_a_root_stays_there_wherever_its_path_leads() {
        let dir = tempfile::tempdir().unwrap();
        let (root, away) = (dir.path().join("root"), dir.path().join("away"));
        std::fs::create_dir_all(root.join("media/app")).unwrap();
        std::os::unix::fs::symlink("media", root.join("link")).unwrap();
        let base = Base::of_root(&root);
        let place = Place::beneath(&base, "link/app/data.db");
        let early = place.open().unwrap_err().kind();
        assert_eq!(early, io::ErrorKind::NotConnected, "it would look empty");
        base.hold(Dir::open(&root).unwrap());
        rustix::fs::rename(&root, &away).unwrap();
        std::fs::create_dir(&root).unwrap();
        let made = super::super::ensure_dir(&super::super::OsFs, &place).unwrap();
        assert_eq!(made.path(), root.join("link/app/data.db"));
        assert!(away.join("media/app/data.db").is_dir());
        assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0);
        // One that was removed is not made anew.
        std::fs::remove_dir_all(&away).unwrap();
        assert!(super::super::ensure_dir(&super::super::OsFs, &place).is_err());
        assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0);
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
