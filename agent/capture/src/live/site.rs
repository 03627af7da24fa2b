//! The live database as a process of its own sees it, which does one thing there and ends.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rustix::fs::OFlags;
use rustix::process::{chroot, fchdir, geteuid};

use super::beneath::{beneath, checked_stat, open_volume};
use super::{LiveFile, link};
use crate::Error;
use crate::confine::{Owner, become_user, give_up_capabilities};

/// Where a database lies, and whose it is.
#[derive(Debug)]
pub(crate) struct Site {
    volume: OwnedFd,
    owner: Owner,
    file: LiveFile,
    /// The volume without links on the way to it.
    root: PathBuf,
}

impl Site {
    /// Refuses what is not a regular file with one name.
    pub(crate) fn of(file: &LiveFile) -> Result<Self, Error> {
        let path = file.full_path();
        let volume = open_volume(file)?;
        // Only named, not opened: that is SQLite's business.
        let db = beneath(&volume, file, file.path(), OFlags::PATH)?;
        let stat = checked_stat(&db.into(), &path)?;
        let root = link::root_of(file).map_err(Error::io("resolve the volume of", &path))?;
        Ok(Self {
            volume,
            owner: Owner {
                uid: stat.st_uid,
                gid: stat.st_gid,
            },
            file: file.clone(),
            root,
        })
    }

    /// For good, and for this whole process if it has one thread: the volume becomes its root
    /// directory, the file's owner its user, and it keeps no right beyond that (L13). Then the
    /// database is opened. An ordinary user stays what it is.
    pub(crate) fn enter(self) -> Result<Connection, Error> {
        let path = if geteuid().is_root() {
            self.give_up_rights().map_err(|source| Error::Confine {
                path: self.file.volume().to_owned(),
                source: source.into(),
            })?;
            Path::new("/").join(self.file.path())
        } else {
            self.root.join(self.file.path())
        };
        let opened = link::connect_to(&path);
        opened.map_err(|source| link::failed("open", self.file.full_path(), source))
    }

    fn give_up_rights(&self) -> rustix::io::Result<()> {
        fchdir(&self.volume)?;
        chroot(".")?;
        become_user(self.owner)?;
        give_up_capabilities()
    }
}
