//! Reads a replica back: every file on the way to a point, every byte, every checksum.

use std::io;
use std::sync::{Mutex, PoisonError};

use sqlrep_format::ltx::Header;
use sqlrep_format::{Checksum, PageSize, Pgno, Timestamp, Txid, page_checksum};

use crate::plan::plan;
use crate::scan::{ScanError, Sink, scan};
use crate::{Listing, PlanError, Point, Progress, ReplicaFile, Store, StoreError};

/// A verification has time; the lane's thread that runs it may take one more for decoding.
const THREADS: usize = 1;

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

/// The same of a part of the files.
pub fn verify_listing(
    store: &dyn Store,
    listing: &Listing,
    point: Point,
    progress: &dyn Progress,
) -> Result<Verified, VerifyError> {
    let plan = plan(listing, point)?;
    progress.planned(plan.steps.len(), plan.bytes());
    let sink = Sum(Mutex::new(Checksum::EMPTY));
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
        checksum: sink.0.into_inner().unwrap_or_else(PoisonError::into_inner),
    })
}

/// Adds the checksums of all pages.
struct Sum(Mutex<Checksum>);

impl Sink for Sum {
    fn begin(&self, _: &Header) -> io::Result<()> {
        Ok(())
    }

    fn pages(&self, first: Pgno, page_size: PageSize, bytes: &[u8]) -> io::Result<()> {
        let mut sum = Checksum::EMPTY;
        let numbers = (first.get()..).filter_map(Pgno::new);
        for (pgno, page) in numbers.zip(bytes.chunks_exact(page_size.bytes())) {
            sum = sum.combine(page_checksum(pgno, page));
        }
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *all = all.combine(sum);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
