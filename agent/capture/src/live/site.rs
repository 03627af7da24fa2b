//! The live database as a process of its own sees it, which does one thing there and ends.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rustix::fs::{Gid, OFlags, Uid};
use rustix::process::{chroot, fchdir, geteuid};
use rustix::thread::{self, CapabilitySet, CapabilitySets};

use super::beneath::{beneath, checked_stat, open_volume};
use super::{LiveFile, link};
use crate::Error;
use crate::confine::Owner;

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
        let (uid, gid) = (Uid::from_raw(self.owner.uid), Gid::from_raw(self.owner.gid));
        fchdir(&self.volume)?;
        chroot(".")?;
        thread::set_thread_groups(&[])?;
        thread::set_thread_res_gid(gid, gid, gid)?;
        thread::set_thread_res_uid(uid, uid, uid)?;
        let none = CapabilitySet::empty();
        let none = CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        };
        thread::set_capabilities(None, none)?;
        thread::set_no_new_privs(true)
    }
}
