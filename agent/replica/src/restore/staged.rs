//! A database that is restored, proven and durable, but not published.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::fs::{Gid, Mode, Uid};
use rustix::io::Errno;
use sqlrep_format::ltx::Header;
use sqlrep_format::{Pgno, Txid};

use super::{Destination, Note, RestoreError, RestoreOptions, Restored};
use crate::Ownership;
use crate::durable::Temp;

/// Permission bits; set-id bits make no sense on a database and are not restored.
const MODE_MASK: u32 = 0o777;

/// A database that is restored, proven and durable under a temp name. Dropping it removes it.
#[derive(Debug)]
pub struct Staged {
    temp: Temp<'static>,
    destination: Destination,
    header: Header,
    restored: Restored,
}

impl Staged {
    /// Gives the file its owner and makes it durable.
    pub(super) fn prepare(
        temp: Temp<'static>,
        destination: &Destination,
        options: &RestoreOptions,
        header: Header,
        mut restored: Restored,
    ) -> Result<Self, RestoreError> {
        if let Some(wanted) = options.ownership {
            let mut kept = !give(temp.file(), wanted, &temp.path())?;
            rustix::fs::fchmod(temp.file(), Mode::from_raw_mode(wanted.mode & MODE_MASK))
                .map_err(|error| RestoreError::io("chmod", temp.path())(error.into()))?;
            for dir in &destination.created {
                kept |= !give(dir, wanted, &dir.path().to_path_buf())?;
            }
            if kept {
                restored.notes.push(Note::OwnerKept { wanted });
            }
        }
        temp.fsync()?;
        Ok(Self {
            temp,
            destination: destination.clone(),
            header,
            restored,
        })
    }

    /// The header of the newest file it was made from: size, page size and time of the state.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The TXID of the state.
    pub fn txid(&self) -> Txid {
        self.restored.txid
    }

    /// What publishing will report.
    pub fn restored(&self) -> &Restored {
        &self.restored
    }

    /// The database file.
    pub fn file(&self) -> &File {
        self.temp.file()
    }

    /// One page.
    pub fn page(&self, pgno: Pgno) -> io::Result<Vec<u8>> {
        let mut page = vec![0; self.header.page_size.bytes()];
        self.temp
            .file()
            .read_exact_at(&mut page, pgno.offset(self.header.page_size))?;
        Ok(page)
    }

    /// Gives the database its name, which must still be free.
    pub fn publish(self) -> Result<Restored, RestoreError> {
        // A sidecar that came meanwhile would be applied to the restored database.
        self.destination.check_free()?;
        if self.temp.rename_new(self.destination.name())? {
            Ok(self.restored)
        } else {
            Err(RestoreError::Exists {
                path: self.destination.path(),
            })
        }
    }
}

/// Changes the owner; `false` when only root may.
fn give(file: impl AsFd, wanted: Ownership, path: &PathBuf) -> Result<bool, RestoreError> {
    let (uid, gid) = (Uid::from_raw(wanted.uid), Gid::from_raw(wanted.gid));
    match rustix::fs::fchown(file, Some(uid), Some(gid)) {
        Ok(()) => Ok(true),
        Err(Errno::PERM) if !rustix::process::geteuid().is_root() => Ok(false),
        Err(error) => Err(RestoreError::io("change the owner of", path)(error.into())),
    }
}
