//! What can go wrong in the spool.

use std::io;
use std::path::PathBuf;

use sqlrep_format::{PageSize, Timestamp, Txid, ltx};
use sqlrep_replica::{MergeError, PlanError, StoreError};

/// An error of the spool. Whatever it is, nothing that was captured is lost by it: a failed
/// append changes nothing, and the caller keeps its pages.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another process uses the state directory.
    #[error(
        "state directory {} is in use by {}; stop that agent, or give this one a --state-dir of its own",
        path.display(),
        holder.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    )]
    Locked {
        /// The state directory.
        path: PathBuf,
        /// The process that holds it, as far as it said so.
        holder: Option<u32>,
    },
    /// The spool holds as much as it may.
    #[error(
        "the spool holds {pending} bytes that are not shipped, its limit is {limit}; \
         make the replica's target reachable, or raise --spool-limit"
    )]
    Full {
        /// Bytes that wait to be shipped.
        pending: u64,
        /// The limit over all databases.
        limit: u64,
    },
    /// What waits was being folded, and the shipper came to it meanwhile. Draft again.
    #[error("{database}: what was to be folded is being shipped")]
    Overtaken {
        /// The database.
        database: String,
    },
    /// A draft does not follow the position.
    #[error("{database}: the next L0 file is {expected}, not {found}; read the position again")]
    OutOfOrder {
        /// The database.
        database: String,
        /// The only TXID that may follow.
        expected: Txid,
        /// The TXID of the draft.
        found: Txid,
    },
    /// A draft is not later than the position.
    #[error(
        "{database}: the timestamp {} of {txid} is not after the last one, {}",
        found.millis(),
        last.millis()
    )]
    TimeStandsStill {
        /// The database.
        database: String,
        /// The TXID of the draft.
        txid: Txid,
        /// The time of the position.
        last: Timestamp,
        /// The time of the draft.
        found: Timestamp,
    },
    /// A chain has one page size.
    #[error(
        "{database}: the page size is {found}, that of the chain {expected}; \
         a database that changed its page size starts a new chain"
    )]
    PageSizeChanged {
        /// The database.
        database: String,
        /// The page size of the chain.
        expected: PageSize,
        /// The page size of the draft.
        found: PageSize,
    },
    /// The database grew and the draft lacks some of the new pages (DESIGN §9 item 13).
    #[error(
        "{database}: {txid} lacks {missing} of the pages it must hold; read them from the database"
    )]
    MissingPages {
        /// The database.
        database: String,
        /// The TXID of the draft.
        txid: Txid,
        /// How many pages are missing.
        missing: u32,
    },
    /// A seed or a restart failed half way.
    #[error("{database}: a seed was begun and not ended; seed it again")]
    Interrupted {
        /// The database.
        database: String,
    },
    /// Files that were not shipped must be shipped or branched, and acked, first.
    #[error(
        "{database}: {files} files from {first} on are not shipped; \
         ship them or keep them as a branch, ack them, then try again"
    )]
    Unshipped {
        /// The database.
        database: String,
        /// How many files wait.
        files: usize,
        /// The first of them.
        first: Txid,
    },
    /// An ack or a reject of a file that the spool does not hold.
    #[error("{database}: {txid} is not in the spool, which ends at {}", text(*newest))]
    Unknown {
        /// The database.
        database: String,
        /// The TXID that was named.
        txid: Txid,
        /// The newest TXID of the spool.
        newest: Option<Txid>,
    },
    /// The replica is not where a rebuild of the ledger needs it.
    #[error("{database}: page checksums cannot be rebuilt: {reason}")]
    NoRebuild {
        /// The database.
        database: String,
        /// Why not, and what would do.
        reason: String,
    },
    /// A name that cannot be a directory.
    #[error("pod uid {uid:?} is no file name of 1 to 128 letters, digits, '-', '_' and '.'")]
    BadPodUid {
        /// What was given.
        uid: String,
    },
    /// The page source failed; the draft is not written.
    #[error("pages for {} could not be read", path.display())]
    Pages {
        /// The file that was to be written.
        path: PathBuf,
        /// What the page source said.
        #[source]
        source: io::Error,
    },
    /// The pages do not make an LTX file.
    #[error("{} cannot be encoded", path.display())]
    Encode {
        /// The file that was to be written.
        path: PathBuf,
        /// The rule that the pages break.
        #[source]
        source: ltx::EncodeError,
    },
    /// An LTX file is damaged.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where, and how.
        #[source]
        source: ltx::DecodeError,
    },
    /// A file of ours does not say what it must.
    #[error("{} is not usable: {reason}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The store under the spool or the replica failed.
    #[error("{attempt} failed")]
    Store {
        /// What was attempted.
        attempt: &'static str,
        /// The cause.
        #[source]
        source: StoreError,
    },
    /// No chain leads to the wanted state.
    #[error("{database}: the replica has no chain to rebuild page checksums from")]
    Plan {
        /// The database.
        database: String,
        /// Why not.
        #[source]
        source: PlanError,
    },
    /// A file of the replica's chain cannot be opened.
    #[error("{database}: the replica's chain cannot be read")]
    Merge {
        /// The database.
        database: String,
        /// Which file, and why.
        #[source]
        source: Box<MergeError>,
    },
    /// A file operation failed.
    #[error("cannot {attempt} {}", path.display())]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// On which path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The ledger cannot be opened, not even an empty one.
    #[error("the ledger {} cannot be opened", path.display())]
    Ledger {
        /// The ledger's directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A TXID, or that there is none.
fn text(txid: Option<Txid>) -> String {
    txid.map_or_else(|| "nothing".to_owned(), |txid| txid.to_string())
}

impl Error {
    /// Makes an [`Error::Io`] for `map_err`.
    pub(crate) fn io(
        attempt: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            attempt,
            path,
            source,
        }
    }

    /// Makes an [`Error::Store`] for `map_err`.
    pub(crate) fn store(attempt: &'static str) -> impl FnOnce(StoreError) -> Self {
        move |source| Self::Store { attempt, source }
    }

    /// No room: the limit of the spool is reached, or the disk is full. Ship, then try again.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Full { .. } => true,
            Self::Store { source, .. } => source.is_full(),
            Self::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ),
            _ => false,
        }
    }

    /// The same call may succeed later without anything being repaired.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Locked { .. } | Self::Overtaken { .. } => true,
            Self::Store { source, .. } => source.is_transient() || source.is_full(),
            Self::Io { .. } => !self.is_corrupt(),
            _ => self.is_full(),
        }
    }

    /// Bytes on the disk are not what they must be.
    pub fn is_corrupt(&self) -> bool {
        match self {
            Self::Damaged { .. } | Self::Corrupt { .. } => true,
            Self::Store { source, .. } => source.is_corrupt(),
            _ => false,
        }
    }

    /// The file is not there.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Store { source, .. } if source.is_missing())
    }

    /// The position is not what the caller takes it for: read it again, then resync.
    pub fn is_out_of_order(&self) -> bool {
        matches!(self, Self::OutOfOrder { .. })
    }
}
