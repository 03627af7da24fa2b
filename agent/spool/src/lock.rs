//! One agent per state directory: an flock on `lock`, with the holder's pid in it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::FlockOperation;

use crate::Error;

/// Enough for a pid; more is not ours.
const PID_BYTES_MAX: u64 = 32;

/// Holds the state directory until dropped; the kernel lets go of it when the process dies.
#[derive(Debug)]
pub(crate) struct StateLock {
    _file: File,
}

impl StateLock {
    /// Takes the lock, or says who has it.
    pub(crate) fn take(state_dir: &Path) -> Result<Self, Error> {
        let path = state_dir.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(Error::io("open the lock file", &path))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(Error::Locked {
                    path: state_dir.to_owned(),
                    holder: read_pid(&file),
                });
            }
            Err(errno) => return Err(Error::io("lock", &path)(errno.into())),
        }
        write_pid(&mut file).map_err(Error::io("write the pid to", &path))?;
        Ok(Self { _file: file })
    }
}

/// The holder's pid, when it wrote a sensible one.
fn read_pid(file: &File) -> Option<u32> {
    let mut text = String::new();
    file.take(PID_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Says who holds the lock. Not durable: after a crash of the machine nobody does.
fn write_pid(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}
