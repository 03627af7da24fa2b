//! From a replica back to a database file: staged beside its place, proven, then published by a
//! rename that never replaces anything (L7).

mod destination;
mod error;
mod staged;
mod times;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use sqlrep_format::ltx::Header;
use sqlrep_format::{PageSize, Pgno, Timestamp, Txid};

use crate::durable::{Temp, begin_writeback};
use crate::merge::{Merge, MergeError};
use crate::plan::{plan, points};
use crate::scan::{ScanError, Sink, scan};
use crate::{Listing, Ownership, Plan, PlanError, Point, Progress, ReplicaFile, Store, StoreError};

pub use destination::Destination;
pub use error::RestoreError;
pub use staged::Staged;

/// Runs of pages from this length on go to the disk at once, while others are decoded.
const EARLY_BYTES: usize = 256 * 1024;

/// Damaged files that one restore plans around (L12).
const REPLANS_MAX: usize = 16;

/// How to restore.
#[derive(Clone, Copy, Debug)]
pub struct RestoreOptions {
    /// Threads that decode, at least one.
    pub threads: usize,
    /// Whom the file is given to; without it, it stays the caller's, readable by nobody else.
    pub ownership: Option<Ownership>,
}

impl Default for RestoreOptions {
    fn default() -> Self {
        Self {
            threads: 2,
            ownership: None,
        }
    }
}

/// What a restore did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The TXID of the state.
    pub txid: Txid,
    /// When that state was captured.
    pub timestamp: Timestamp,
    /// The pages of the database.
    pub pages: u32,
    /// The bytes of the database file.
    pub bytes: u64,
    /// The LTX files it was made from.
    pub files: usize,
    /// Damaged files that the plan goes around. The result is whole all the same.
    pub replanned: Vec<Replanned>,
    /// What somebody should know of.
    pub notes: Vec<Note>,
}

/// A file that could not be used, and was not needed in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replanned {
    /// The file.
    pub file: ReplicaFile,
    /// What is wrong with it; names its path.
    pub reason: String,
}

/// Something about a restore that somebody should know of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Note {
    /// The files' modification times are not those of their headers (a copy lost them); the times
    /// in the headers were used.
    TimesFromHeaders,
    /// A newer TXID was captured before the wanted time, but its files were compacted into a
    /// later step: the state is the last one before it that can be restored.
    Unreached(Txid),
    /// The file could not be given to its owner, because the caller is not root.
    OwnerKept {
        /// The owner it should have.
        wanted: Ownership,
    },
}

/// Restores a state to a file that must not exist. [`stage`] and [`Staged::publish`] in one.
pub fn restore(
    store: &dyn Store,
    point: Point,
    destination: &Destination,
    options: &RestoreOptions,
    progress: &dyn Progress,
) -> Result<Restored, RestoreError> {
    stage(store, point, destination, options, progress)?.publish()
}

/// Restores a state to a temp file beside its place, proves it, and makes it durable; nothing is
/// visible under the final name. Dropping the result removes the temp file.
///
/// A damaged file is planned around when other files lead to the same TXID; never does a restore
/// end at an older state than a sound replica would have given.
pub fn stage(
    store: &dyn Store,
    point: Point,
    destination: &Destination,
    options: &RestoreOptions,
    progress: &dyn Progress,
) -> Result<Staged, RestoreError> {
    destination.check_free()?;
    let mut road = Road::find(store, point)?;
    loop {
        progress.planned(road.plan.steps.len(), road.plan.bytes());
        let temp = destination.temp()?;
        match write(store, &road.plan, options.threads, &temp, progress) {
            Ok(scanned) => {
                let restored = road.restored(&scanned);
                return Staged::prepare(temp, destination, options, scanned.head, restored);
            }
            Err(ScanError::File { file, cause }) => {
                drop(temp);
                progress.replanned(&file, &cause);
                road.around(store, point, file, cause)?;
            }
            Err(ScanError::Sink(source)) => {
                let path = temp.path();
                return Err(RestoreError::Io {
                    action: "write",
                    path,
                    source,
                });
            }
            Err(ScanError::Cancelled) => return Err(RestoreError::Cancelled),
            Err(ScanError::Nothing) => return Err(PlanError::Empty.into()),
        }
    }
}

/// The first page of a state and the header of the state's newest file: what a claim needs.
pub fn first_page(store: &dyn Store, point: Point) -> Result<(Header, Vec<u8>), RestoreError> {
    let road = Road::find(store, point)?;
    let mut head = None;
    for file in road.plan.steps.iter().rev() {
        // Each file is read to its end: a page is worth what the file's checksum is worth.
        let single = Plan {
            steps: vec![file.clone()],
            unreached: None,
        };
        let failed = |error| match error {
            MergeError::File { file, cause } => RestoreError::file(*file, cause, None),
            other => RestoreError::file(
                file.clone(),
                StoreError::corrupt(store.path(file))(other),
                None,
            ),
        };
        let mut merge = Merge::open(store, &single).map_err(failed)?;
        let head = *head.get_or_insert(*merge.header());
        let mut page = vec![0; merge.header().page_size.bytes()];
        if merge.next_page(&mut page).map_err(failed)? == Some(Pgno::FIRST) {
            let mut rest = page.clone();
            while merge.next_page(&mut rest).map_err(failed)?.is_some() {}
            merge.finish().map_err(failed)?;
            return Ok((head, page));
        }
    }
    Err(PlanError::Empty.into())
}

/// The plan in use and what was learnt on the way to it.
struct Road {
    listing: Listing,
    plan: Plan,
    /// The TXID that the first plan led to: no later plan may lead to less.
    goal: Option<Txid>,
    times_from_headers: bool,
    replanned: Vec<Replanned>,
}

impl Road {
    fn find(store: &dyn Store, point: Point) -> Result<Self, RestoreError> {
        let (listing, times_from_headers) = times::listing(store, point)?;
        let plan = plan(&listing, point)?;
        let goal = plan.head();
        Ok(Self {
            listing,
            plan,
            goal,
            times_from_headers,
            replanned: Vec::new(),
        })
    }

    /// Plans again without a file; the file's own error when there is no other road.
    fn around(
        &mut self,
        store: &dyn Store,
        point: Point,
        file: ReplicaFile,
        cause: StoreError,
    ) -> Result<(), RestoreError> {
        let avoidable = cause.is_corrupt() || cause.is_missing() || cause.is_unreadable();
        if !avoidable || self.replanned.len() >= REPLANS_MAX {
            return Err(RestoreError::file(file, cause, None));
        }
        if cause.is_missing() {
            // Compaction and retention go on while we read: what replaced it is in a new listing.
            let (listing, from_headers) = times::listing(store, point)?;
            self.times_from_headers |= from_headers;
            let known = self.replanned.iter().map(|replanned| &replanned.file);
            self.listing = known.fold(listing, |listing, bad| listing.without(bad));
        }
        let listing = self.listing.without(&file);
        match plan(&listing, point) {
            Ok(plan) if plan.head() >= self.goal => {
                self.replanned.push(Replanned {
                    file,
                    reason: cause.text(),
                });
                self.listing = listing;
                self.plan = plan;
                Ok(())
            }
            _ => {
                let goal = self.goal;
                let below = |txid: &Txid| goal.is_none_or(|goal| *txid < goal);
                let intact = points(&listing).iter().map(|point| point.txid).rfind(below);
                Err(RestoreError::file(file, cause, intact))
            }
        }
    }

    fn restored(&mut self, scanned: &crate::scan::Scanned) -> Restored {
        let mut notes = Vec::new();
        if self.times_from_headers {
            notes.push(Note::TimesFromHeaders);
        }
        notes.extend(self.plan.unreached.map(Note::Unreached));
        let head = &scanned.head;
        Restored {
            txid: head.range.max(),
            timestamp: head.timestamp,
            pages: head.commit.get(),
            bytes: head.commit.file_bytes(head.page_size),
            files: self.plan.steps.len(),
            replanned: std::mem::take(&mut self.replanned),
            notes,
        }
    }
}

fn write(
    store: &dyn Store,
    plan: &Plan,
    threads: usize,
    temp: &Temp<'_>,
    progress: &dyn Progress,
) -> Result<crate::scan::Scanned, ScanError> {
    scan(store, plan, threads, &InPlace(temp.file()), progress)
}

/// Writes pages to where they belong; the lock page stays a hole of zeros.
struct InPlace<'a>(&'a File);

impl Sink for InPlace<'_> {
    fn begin(&self, head: &Header) -> io::Result<()> {
        self.0.set_len(head.commit.file_bytes(head.page_size))
    }

    fn pages(&self, first: Pgno, page_size: PageSize, bytes: &[u8]) -> io::Result<()> {
        let offset = first.offset(page_size);
        self.0.write_all_at(bytes, offset)?;
        if bytes.len() >= EARLY_BYTES {
            begin_writeback(self.0, offset, bytes.len() as u64);
        }
        Ok(())
    }
}

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tail;
#[cfg(test)]
mod tests;
