//! The real file system.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_NOW};
use rustix::io::Errno;
use sqlrep_format::Timestamp;

use super::{Dir, Fs};

/// Directories of a replica: the group may look, others may not.
const DIR_MODE: Mode = Mode::from_raw_mode(0o750);
/// Nanoseconds in a millisecond.
const NANOS: i64 = 1_000_000;

/// The real file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsFs;

impl Fs for OsFs {
    fn make_dir(&self, dir: &Dir, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(dir, name, DIR_MODE)?)
    }

    fn create(&self, dir: &Dir, name: &OsStr, mode: u32) -> io::Result<File> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(
            dir,
            name,
            flags,
            Mode::from_raw_mode(mode),
        )?))
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that fsyncs (L5)"
    )]
    fn fsync(&self, _: &Dir, _: &OsStr, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn set_modified(&self, _: &Dir, _: &OsStr, file: &File, to: Timestamp) -> io::Result<()> {
        let time = Timespec {
            tv_sec: to.millis().div_euclid(1000),
            tv_nsec: to.millis().rem_euclid(1000) * NANOS,
        };
        Ok(rustix::fs::futimens(
            file,
            &Timestamps {
                last_access: time,
                last_modification: time,
            },
        )?)
    }

    fn link(&self, dir: &Dir, from: &OsStr, to: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::linkat(dir, from, dir, to, AtFlags::empty())?)
    }

    fn link_into(&self, from: &Dir, name: &OsStr, to: &Dir) -> io::Result<()> {
        Ok(rustix::fs::linkat(from, name, to, name, AtFlags::empty())?)
    }

    fn links(&self, dir: &Dir, name: &OsStr) -> io::Result<u64> {
        // Opening makes an NFS client ask the server (close-to-open consistency); a stat of the
        // descriptor that we hold may be answered from attributes cached before the link.
        Ok(dir.open_file(name)?.metadata()?.nlink())
    }

    fn rename(&self, dir: &Dir, from: &OsStr, to: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::renameat(dir, from, dir, to)?)
    }

    fn rename_new(&self, dir: &Dir, from: &OsStr, to: &OsStr) -> io::Result<()> {
        match rustix::fs::renameat_with(dir, from, dir, to, RenameFlags::NOREPLACE) {
            // NFS and some others cannot. A link refuses an existing name just as well.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                match self.link(dir, from, to) {
                    // Our own link, whose reply was lost.
                    Err(error)
                        if error.kind() == io::ErrorKind::AlreadyExists
                            && self.links(dir, from)? > 1 => {}
                    linked => linked?,
                }
                self.unlink(dir, from)
            }
            renamed => Ok(renamed?),
        }
    }

    fn move_dir(&self, from: &Dir, name: &OsStr, to: &Dir, new: &OsStr) -> io::Result<()> {
        // Without NOREPLACE too: a directory never replaces one that holds anything.
        Ok(rustix::fs::renameat(from, name, to, new)?)
    }

    fn unlink(&self, dir: &Dir, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(dir, name, AtFlags::empty())?)
    }

    fn remove_dir(&self, dir: &Dir, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that fsyncs (L5)"
    )]
    fn fsync_dir(&self, dir: &Dir) -> io::Result<()> {
        match dir.file().sync_all() {
            // Some FUSE and network file systems have no fsync of directories; they write
            // names through.
            Err(error)
                if [Errno::INVAL, Errno::NOTSUP]
                    .iter()
                    .any(|code| error.raw_os_error() == Some(code.raw_os_error())) =>
            {
                Ok(())
            }
            fsynced => fsynced,
        }
    }

    fn now_at(&self, dir: &Dir) -> io::Result<Timestamp> {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_NOW,
        };
        let times = Timestamps {
            last_access: now,
            last_modification: now,
        };
        rustix::fs::futimens(dir, &times)?;
        dir.modified()
    }
}
