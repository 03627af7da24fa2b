//! Several files of a chain as one: a level from the level below it, and snapshots.
//!
//! What is merged was agreed upon when its level-0 files were linked, so whoever compacts a range
//! gets the same state; a name that is taken is no loss. Memory does not grow with the database.

use std::io::{self, Write};

use sqlrep_format::ltx::{EncodeError, Encoder, Header, Level};
use sqlrep_format::{Checksum, TxidRange, page_checksum};

use crate::merge::{Merge, MergeError};
use crate::{Listing, Plan, Point, Progress, Put, ReplicaFile, Store, StoreError, plan::plan};

/// Files that one merge reads at most (L12): what each needs is a few kilobytes of buffers. More
/// are merged in several goes.
pub const INPUTS_MAX: usize = 1024;

/// A file that was written, or was there already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// The file.
    pub file: ReplicaFile,
    /// Whether it was published now.
    pub put: Put,
    /// The checksum of all pages, as the spool keeps it, when the file holds every page.
    pub checksum: Option<Checksum>,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompactError {
    /// An input cannot be read, is damaged, or lacks pages.
    #[error(transparent)]
    Merge(#[from] MergeError),
    /// The file cannot be published.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A page does not fit the header: the inputs contradict each other.
    #[error("cannot write TXIDs {range} at level {level}")]
    Encode {
        /// The file's level.
        level: Level,
        /// The file's TXIDs.
        range: TxidRange,
        /// What does not fit.
        #[source]
        source: EncodeError,
    },
    /// More files lead to the state than one merge reads.
    #[error(
        "{files} files lead to the state, more than are merged at once; compaction comes first"
    )]
    TooMany {
        /// How many.
        files: usize,
    },
    /// Nobody wants the result any more.
    #[error("the compaction was cancelled")]
    Cancelled,
}

impl CompactError {
    /// The input that is to blame, when one is.
    pub fn damaged(&self) -> Option<&ReplicaFile> {
        match self {
            Self::Merge(MergeError::File { file, cause }) if !cause.is_transient() => Some(file),
            _ => None,
        }
    }

    /// The storage error beneath, when there is one.
    pub fn store(&self) -> Option<&StoreError> {
        match self {
            Self::Merge(MergeError::File { cause, .. }) | Self::Store(cause) => Some(cause),
            _ => None,
        }
    }
}

/// The files of the level below `level` that are not in `level` yet, as far as they follow on one
/// another: what to merge next, oldest first. A hole is never bridged.
///
/// A file that begins at TXID 1 is left out when a snapshot holds the very same: a database is
/// written once as a snapshot, not once more for each level.
pub fn pending(listing: &Listing, level: Level) -> Vec<ReplicaFile> {
    let Some(below) = level.get().checked_sub(1).and_then(Level::new) else {
        return Vec::new();
    };
    let reached = listing.level(level).map(|file| file.range.max()).max();
    let again = |file: &ReplicaFile| {
        let twin = |snapshot: &ReplicaFile| snapshot.range == file.range;
        file.range.is_snapshot() && listing.level(Level::SNAPSHOT).any(twin)
    };
    let mut run: Vec<ReplicaFile> = Vec::new();
    let fresh = listing
        .level(below)
        .filter(|file| reached.is_none_or(|reached| file.range.min() > reached))
        .filter(|file| !again(file));
    for file in fresh {
        match run.last().map(|last| last.range.max()) {
            Some(last) if file.range.max() <= last => {}
            Some(last) if file.range.min() > last.next() => break,
            _ if run.len() >= INPUTS_MAX => break,
            _ => run.push(file.clone()),
        }
    }
    run
}

/// What the first snapshot of a replica is made of: the oldest state that can be restored, so that
/// no compaction takes it away. `None` when there is a snapshot.
pub fn first_snapshot_plan(listing: &Listing) -> Option<Plan> {
    let whole = |file: &&ReplicaFile| file.range.is_snapshot();
    if listing.level(Level::SNAPSHOT).any(|file| whole(&file)) {
        return None;
    }
    let oldest = listing.files().iter().filter(whole);
    let oldest = oldest.min_by_key(|file| (file.range.max(), file.level))?;
    Plan::of(vec![oldest.clone()])
}

/// The files that make a snapshot of the newest state; `None` when a snapshot holds it already.
pub fn snapshot_plan(listing: &Listing) -> Result<Option<Plan>, crate::PlanError> {
    let plan = plan(listing, Point::Latest)?;
    let done = plan.steps.len() == 1
        && plan
            .steps
            .iter()
            .all(|file| file.level == Level::SNAPSHOT && file.range.is_snapshot());
    Ok((!done).then_some(plan))
}

/// Writes the files of a plan as one file of `level`. Every input is proven by its checksums
/// before the result gets its name.
pub fn compact(
    store: &dyn Store,
    plan: &Plan,
    level: Level,
    progress: &dyn Progress,
) -> Result<Compacted, CompactError> {
    if plan.steps.len() > INPUTS_MAX {
        return Err(CompactError::TooMany {
            files: plan.steps.len(),
        });
    }
    progress.planned(plan.steps.len(), plan.bytes());
    write(
        store,
        Merge::open(store, plan)?,
        (level, plan.bytes()),
        progress,
    )
}

/// Writes one file that holds every page, whatever its TXIDs are, as a snapshot of its newest state:
/// a beginning that leans on nothing before it. A file that lacks a page is refused.
pub fn renew(
    store: &dyn Store,
    full: &ReplicaFile,
    progress: &dyn Progress,
) -> Result<Compacted, CompactError> {
    let plan = Plan {
        steps: vec![full.clone()],
        unreached: None,
    };
    let merge = Merge::open(store, &plan)?.made_snapshot();
    write(store, merge, (Level::SNAPSHOT, full.bytes), progress)
}

fn write(
    store: &dyn Store,
    merge: Merge<'_>,
    (level, bytes): (Level, u64),
    progress: &dyn Progress,
) -> Result<Compacted, CompactError> {
    let header = *merge.header();
    let file = ReplicaFile {
        level,
        range: header.range,
        bytes,
        modified: header.timestamp,
    };
    let mut writing = Writing {
        level,
        merge: Some(merge),
        progress,
        written: None,
        failure: None,
    };
    let put = store.put(&file, &mut |out| writing.run(out));
    if let Some(failure) = writing.failure {
        return Err(failure);
    }
    let put = put?;
    let (bytes, checksum) = writing.written.unwrap_or((0, Checksum::EMPTY));
    Ok(Compacted {
        file: ReplicaFile { bytes, ..file },
        put,
        checksum: header.range.is_snapshot().then_some(checksum),
    })
}

/// One attempt: what the store asks to be written.
struct Writing<'a> {
    level: Level,
    merge: Option<Merge<'a>>,
    progress: &'a dyn Progress,
    /// Bytes of the file, and the checksum over its pages.
    written: Option<(u64, Checksum)>,
    failure: Option<CompactError>,
}

impl Writing<'_> {
    /// Errors of the target go to the store, which knows what to say of them; ours wait here.
    fn run(&mut self, out: &mut dyn Write) -> io::Result<()> {
        let Some(merge) = self.merge.take() else {
            return Err(io::Error::other("a merge is written once"));
        };
        match self.write(merge, out) {
            Ok(written) => {
                self.written = Some(written);
                Ok(())
            }
            Err(CompactError::Encode {
                source: EncodeError::Io { source, .. },
                ..
            }) => Err(source),
            Err(error) => {
                self.failure = Some(error);
                Err(io::ErrorKind::InvalidData.into())
            }
        }
    }

    fn write(
        &self,
        mut merge: Merge<'_>,
        out: &mut dyn Write,
    ) -> Result<(u64, Checksum), CompactError> {
        let header: Header = *merge.header();
        let encode = |source| CompactError::Encode {
            level: self.level,
            range: header.range,
            source,
        };
        let mut encoder = Encoder::new(out, &header).map_err(encode)?;
        let mut page = vec![0; header.page_size.bytes()];
        let mut checksum = Checksum::EMPTY;
        while let Some(pgno) = merge.next_page(&mut page)? {
            if self.progress.cancelled() {
                return Err(CompactError::Cancelled);
            }
            checksum = checksum.combine(page_checksum(pgno, &page));
            encoder.copy(pgno, merge.frame(), &page).map_err(encode)?;
            self.progress.read(page.len() as u64);
        }
        // Before the last byte is out, and long before the link: nothing unproven is published.
        merge.finish()?;
        let (_, written) = encoder.finish().map_err(encode)?;
        Ok((written.bytes, checksum))
    }
}

#[cfg(test)]
mod tests;
