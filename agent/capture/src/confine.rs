//! How far a thread can reach while SQLite works on a pod's files (L13).
//!
//! SQLite opens files by path, and a pod may exchange any part of that path at any moment. So an
//! agent that runs as root calls SQLite only inside [`Confined`]: there the volume is the root
//! directory of the thread, and its file accesses are judged, and its new files owned, as those of
//! the database's owner. The system's root comes back when the guard is dropped; the spool is
//! written outside of it. As an ordinary user the guard does nothing: such an agent can reach no
//! more than its user.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Gid, Mode, OFlags, Uid, openat};
use rustix::process::{chroot, fchdir, geteuid};
use rustix::thread::{self, CapabilitySet, CapabilitySets};

use crate::{Error, ffi};

/// A user and a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

thread_local! {
    /// Whether this thread has a root directory of its own already.
    static OWN_ROOT: Cell<bool> = const { Cell::new(false) };
}

/// From here on, this thread's file accesses are those of `uid` and `gid`. For the threads of a
/// replica's lane (L14). Without the right to do so nothing changes, and the accesses themselves
/// will tell.
pub fn act_as(uid: u32, gid: u32) {
    ffi::set_file_identity(uid, gid);
}

/// This thread becomes a user without further groups, for good. Only root can.
pub(crate) fn become_user(owner: Owner) -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    thread::set_thread_groups(&[])?;
    thread::set_thread_res_gid(gid, gid, gid)?;
    thread::set_thread_res_uid(uid, uid, uid)
}

/// This thread gives up every capability, and the way to new ones, for good.
pub(crate) fn give_up_capabilities() -> rustix::io::Result<()> {
    let none = CapabilitySet::empty();
    let none = CapabilitySets {
        effective: none,
        permitted: none,
        inheritable: none,
    };
    thread::set_capabilities(None, none)?;
    thread::set_no_new_privs(true)
}

/// While it lives, this thread reaches nothing outside of one volume.
#[derive(Debug)]
pub(crate) struct Confined {
    way_back: Option<WayBack>,
}

#[derive(Debug)]
struct WayBack {
    root: OwnedFd,
    cwd: OwnedFd,
    uid: u32,
    gid: u32,
}

impl Confined {
    /// Confines this thread to the volume, as `owner`.
    pub(crate) fn enter(volume: &OwnedFd, path: &Path, owner: Owner) -> Result<Self, Error> {
        if !geteuid().is_root() {
            return Ok(Self { way_back: None });
        }
        let enter = || -> io::Result<WayBack> {
            if !OWN_ROOT.get() {
                ffi::unshare_root()?;
                OWN_ROOT.set(true);
            }
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let root = openat(CWD, "/", flags, Mode::empty())?;
            let cwd = openat(CWD, ".", flags, Mode::empty())?;
            fchdir(volume)?;
            if let Err(error) = chroot(".") {
                fchdir(cwd.as_fd())?;
                return Err(error.into());
            }
            let (uid, gid) = ffi::set_file_identity(owner.uid, owner.gid);
            Ok(WayBack {
                root,
                cwd,
                uid,
                gid,
            })
        };
        let way_back = enter().map_err(|source| Error::Confine {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            way_back: Some(way_back),
        })
    }

    /// The path by which a confined thread knows a file of the volume.
    pub(crate) fn path(volume: &Path, relative: &Path) -> PathBuf {
        if geteuid().is_root() {
            Path::new("/").join(relative)
        } else {
            volume.join(relative)
        }
    }
}

impl Drop for Confined {
    fn drop(&mut self) {
        let Some(WayBack {
            root,
            cwd,
            uid,
            gid,
        }) = self.way_back.take()
        else {
            return;
        };
        ffi::restore_file_identity(uid, gid);
        let back = fchdir(root.as_fd())
            .and_then(|()| chroot("."))
            .and_then(|()| fchdir(&cwd));
        if let Err(error) = back {
            // This thread would write the agent's own files into the pod's volume.
            tracing::error!(%error, "a confined thread found no way back");
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_confined_thread_sees_the_volume_only_and_creates_files_of_the_owner() {
        if !geteuid().is_root() {
            return; // an ordinary user cannot be confined further
        }
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("volume");
        fs::create_dir(&volume).unwrap();
        rustix::fs::chown(
            &volume,
            Some(Uid::from_raw(4711)),
            Some(Gid::from_raw(4712)),
        )
        .unwrap();
        fs::write(dir.path().join("secret"), "x").unwrap();
        std::os::unix::fs::symlink(dir.path().join("secret"), volume.join("link")).unwrap();
        let fd = OwnedFd::from(File::open(&volume).unwrap());
        {
            let owner = Owner {
                uid: 4711,
                gid: 4712,
            };
            let _confined = Confined::enter(&fd, &volume, owner).unwrap();
            assert!(
                fs::read("/link").is_err(),
                "the link leads out of the volume"
            );
            assert!(fs::read(dir.path().join("secret")).is_err());
            assert!(fs::read("/../secret").is_err());
            fs::write("/mine", "x").unwrap();
        }
        let mine = fs::metadata(volume.join("mine")).unwrap();
        assert_eq!((mine.uid(), mine.gid()), (4711, 4712));
        assert!(
            dir.path().join("secret").exists(),
            "the system's root is back"
        );
    }
}
