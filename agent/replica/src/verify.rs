//! Reads a replica back: every file on the way to a point, every byte, every checksum.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use sqlrep_format::ltx::Header;
use sqlrep_format::{Checksum, PageSize, Pgno, Timestamp, Txid, page_checksum};

use crate::durable::begin_writeback;
use crate::plan::plan;
use crate::scan::{ScanError, Sink, scan};
use crate::{Listing, PlanError, Point, Progress, ReplicaFile, Store, StoreError};

/// A verification has time; the lane's thread that runs it may take one more for decoding.
const THREADS: usize = 1;

/// Runs of pages from this length on go to the disk at once, and not all together at last.
const EARLY_BYTES: usize = 256 * 1024;

/// What a replica was proven to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The TXID of the state.
    pub txid: Txid,
    /// When that state was captured.
    pub timestamp: Timestamp,
    /// The files read.
    pub files: usize,
    /// The pages of the state.
    pub pages: u32,
    /// The bytes read.
    pub bytes: u64,
    /// The checksum of all pages of the state, as the spool keeps it.
    pub checksum: Checksum,
}

/// A file into which a verification writes the database that it reads. Whatever becomes of the copy,
/// the verification goes on.
#[derive(Debug)]
pub struct CopyOut {
    file: File,
    room_bytes: u64,
    state: Mutex<Result<u64, CopyError>>,
}

/// Why a copy is not the database.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// It would take more room than it may.
    #[error("the database has {needed} bytes, and {room} may be taken")]
    Room {
        /// Its size.
        needed: u64,
        /// What it may take.
        room: u64,
    },
    /// It could not be written.
    #[error("it cannot be written")]
    Io(#[from] io::Error),
}

impl CopyOut {
    /// Into this file, which nobody else uses, and of which at most so many bytes are written. It
    /// is not made durable.
    pub fn into(file: File, room_bytes: u64) -> Self {
        Self {
            file,
            room_bytes,
            state: Mutex::new(Ok(0)),
        }
    }

    /// The size of the database that is in the file now, provided that it was proven.
    pub fn finish(self) -> Result<u64, CopyError> {
        self.state
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, head: &Header) {
        *self.state() = self.make_room(head.commit.file_bytes(head.page_size));
    }

    fn make_room(&self, needed: u64) -> Result<u64, CopyError> {
        // An attempt before this one may have left something.
        self.file.set_len(0)?;
        let room = self.room_bytes;
        if needed > room {
            return Err(CopyError::Room { needed, room });
        }
        self.file.set_len(needed)?;
        Ok(needed)
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        if self.state().is_err() {
            return;
        }
        if let Err(error) = self.file.write_all_at(bytes, offset) {
            // The room that it took is wanted elsewhere. The first error is the one that counts.
            let emptied = self.file.set_len(0);
            let mut state = self.state();
            if state.is_ok() {
                *state = Err(emptied.err().unwrap_or(error).into());
            }
        } else if bytes.len() >= EARLY_BYTES {
            begin_writeback(&self.file, offset, bytes.len() as u64);
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, Result<u64, CopyError>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a replica is not proven.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// There is no chain of files to the point.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The replica cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// One of its files cannot be read, or is damaged.
    #[error("{}", cause.text())]
    File {
        /// The file.
        file: Box<ReplicaFile>,
        /// What is wrong with it; names its path.
        cause: StoreError,
    },
    /// The caller gave up.
    #[error("the verification was cancelled")]
    Cancelled,
}

/// Reads every file of the plan for `point` and proves the chain, the files, and that every page
/// of the state is there. Nothing is written, and no way around a damaged file is looked for.
pub fn verify(
    store: &dyn Store,
    point: Point,
    progress: &dyn Progress,
) -> Result<Verified, VerifyError> {
    verify_listing(store, &store.list()?, point, progress)
}

/// The same, and every page of the state goes into a copy.
pub fn verify_copying(
    store: &dyn Store,
    point: Point,
    progress: &dyn Progress,
    copy: Option<&CopyOut>,
) -> Result<Verified, VerifyError> {
    read_back(store, &store.list()?, point, progress, copy)
}

/// The same of a part of the files.
pub fn verify_listing(
    store: &dyn Store,
    listing: &Listing,
    point: Point,
    progress: &dyn Progress,
) -> Result<Verified, VerifyError> {
    read_back(store, listing, point, progress, None)
}

fn read_back(
    store: &dyn Store,
    listing: &Listing,
    point: Point,
    progress: &dyn Progress,
    copy: Option<&CopyOut>,
) -> Result<Verified, VerifyError> {
    let plan = plan(listing, point)?;
    progress.planned(plan.steps.len(), plan.bytes());
    let sink = Sum {
        all: Mutex::new(Checksum::EMPTY),
        copy,
    };
    let scanned = scan(store, &plan, THREADS, &sink, progress).map_err(|error| match error {
        ScanError::File { file, cause } => VerifyError::File {
            file: Box::new(file),
            cause,
        },
        ScanError::Cancelled | ScanError::Sink(_) => VerifyError::Cancelled,
        ScanError::Nothing => VerifyError::Plan(PlanError::Empty),
    })?;
    Ok(Verified {
        txid: scanned.head.range.max(),
        timestamp: scanned.head.timestamp,
        files: plan.steps.len(),
        pages: scanned.pages,
        bytes: scanned.bytes,
        checksum: sink
            .all
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner),
    })
}

/// Adds the checksums of all pages, and copies them.
struct Sum<'a> {
    all: Mutex<Checksum>,
    copy: Option<&'a CopyOut>,
}

impl Sink for Sum<'_> {
    fn begin(&self, head: &Header) -> io::Result<()> {
        if let Some(copy) = self.copy {
            copy.begin(head);
        }
        Ok(())
    }

    fn pages(&self, first: Pgno, page_size: PageSize, bytes: &[u8]) -> io::Result<()> {
        let mut sum = Checksum::EMPTY;
        let numbers = (first.get()..).filter_map(Pgno::new);
        for (pgno, page) in numbers.zip(bytes.chunks_exact(page_size.bytes())) {
            sum = sum.combine(page_checksum(pgno, page));
        }
        {
            let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
            *all = all.combine(sum);
        }
        if let Some(copy) = self.copy {
            copy.write(first.offset(page_size), bytes);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
