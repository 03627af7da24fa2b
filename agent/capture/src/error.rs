//! What can go wrong while a live database is followed.

use std::io;
use std::path::PathBuf;

use sqlrep_format::{PageSize, wal};

/// An error of capture. The application's database is untouched by it, and what was read and not
/// yet cut stays pending, unless [`Error::needs_reopen`] says that the session is over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// SQLite is too old to run checkpoints beside other processes.
    #[error("the linked SQLite is {found}, 3.51.3 or later is needed (WAL-reset bug)")]
    SqliteTooOld {
        /// The version linked.
        found: &'static str,
    },
    /// A path that leads, or could lead, out of its volume.
    #[error("{} is refused: {reason}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Which rule it breaks, and what would do.
        reason: &'static str,
    },
    /// This process has a session for the file already.
    #[error(
        "{} is followed by this process already (device {device}, inode {inode}): a second \
         session would drop the locks of the first; end that one first",
        path.display()
    )]
    Held {
        /// The file.
        path: PathBuf,
        /// Its device.
        device: u64,
        /// Its inode.
        inode: u64,
    },
    /// No SQLite database.
    #[error("{} is no SQLite database: {reason}", path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
        /// What its first bytes are instead.
        reason: String,
    },
    /// A database that cannot be followed as it is.
    #[error("{} cannot be followed: journal_mode={mode}; {hint}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// Its journal mode.
        mode: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// Another process holds a lock that we need.
    #[error("{} is busy: {what}", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
        /// Who holds what, and what to do.
        what: &'static str,
    },
    /// SQLite said no.
    #[error("cannot {attempt} {}", path.display())]
    Sqlite {
        /// What was attempted.
        attempt: &'static str,
        /// On which database.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// A file operation failed.
    #[error("cannot {attempt} {}", path.display())]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// On which file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The thread could not be confined to the volume.
    #[error("cannot confine this thread to {}; the agent needs CAP_SYS_CHROOT or an ordinary user", path.display())]
    Confine {
        /// The volume.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The wal-index stays half-written.
    #[error(
        "the wal-index of {} stays half-written: a writer died while it published a commit; \
         SQLite repairs it when the session is opened again",
        path.display()
    )]
    Torn {
        /// The database.
        path: PathBuf,
    },
    /// Its `-wal` or `-shm` was deleted while it was in use. What is committed into the deleted one
    /// is captured all the same; [`crate::Look::Replaced`] follows when somebody made a new one, and
    /// [`crate::Look::Closed`] when nobody has it open any more and nothing is missing in the database file.
    #[error(
        "the -wal or the -shm of {} was deleted while it was in use: processes that have it open \
         go on with the deleted one, and are captured; what they commit is lost to whoever opens \
         it next. Restart the app, and delete these files only while nobody has the database open",
        path.display()
    )]
    Bare {
        /// The database.
        path: PathBuf,
    },
    /// The WAL ends before what was published.
    #[error(
        "the WAL of {} was cut short: {published} frames were committed, {held} are there; \
         something other than SQLite truncated it, check the database with PRAGMA quick_check",
        path.display()
    )]
    WalTruncated {
        /// The database.
        path: PathBuf,
        /// How many frames the wal-index promises.
        published: u32,
        /// How many the file has.
        held: u32,
    },
    /// A committed frame is not what its checksum says.
    #[error(
        "frame {frame} of the WAL of {} is not valid; \
         check the database with PRAGMA quick_check",
        path.display()
    )]
    WalCorrupt {
        /// The database.
        path: PathBuf,
        /// The number of the frame, from 1.
        frame: u32,
        /// What is wrong with it.
        #[source]
        source: wal::Invalid,
    },
    /// The WAL does not agree with the wal-index.
    #[error("the WAL of {} does not agree with its wal-index: {reason}", path.display())]
    WalMismatch {
        /// The database.
        path: PathBuf,
        /// In what.
        reason: String,
    },
    /// What is in the WAL does not follow what was captured.
    #[error(
        "the WAL of {} does not go on where capture stopped: {reason}; \
         the next start compares all pages and ships those that differ",
        path.display()
    )]
    ContinuityLost {
        /// The database.
        path: PathBuf,
        /// What was found.
        reason: &'static str,
    },
    /// A chain of LTX files has one page size.
    #[error("the page size of {} is {found}, that of its chain {chain}; a new chain is needed", path.display())]
    PageSizeChanged {
        /// The database.
        path: PathBuf,
        /// The page size of the chain.
        chain: PageSize,
        /// The page size of the database.
        found: PageSize,
    },
    /// A state that cannot be written over a live database.
    #[error(
        "{} has {now}, the wanted state {wanted}: a live database keeps both, so restore that state \
         to a file instead (-o)",
        path.display()
    )]
    Unfit {
        /// The live database.
        path: PathBuf,
        /// What it is.
        now: String,
        /// What the wanted state is.
        wanted: String,
    },
    /// A call that the state of the session does not allow.
    #[error("the session of {} was not started", path.display())]
    NotStarted {
        /// The database.
        path: PathBuf,
    },
    /// The spool failed.
    #[error("the L0 file of {} was not written", path.display())]
    Spool {
        /// The database.
        path: PathBuf,
        /// What the spool said.
        #[source]
        source: sqlrep_spool::Error,
    },
}

impl Error {
    /// Makes an [`Error::Io`] for `map_err`. The path is put together only when there is an error:
    /// some of these stand in every look.
    pub(crate) fn io<E: Into<io::Error>>(
        attempt: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::Io {
            attempt,
            path: path.into(),
            source: source.into(),
        }
    }

    /// The database will not be followed until a person, or the application, changes something.
    pub fn is_unsupported(&self) -> bool {
        matches!(
            self,
            Self::Unsupported { .. }
                | Self::NotADatabase { .. }
                | Self::Refused { .. }
                | Self::SqliteTooOld { .. }
        )
    }

    /// Bytes of the database or its WAL are not what SQLite wrote.
    pub fn is_corrupt(&self) -> bool {
        match self {
            Self::WalTruncated { .. } | Self::WalCorrupt { .. } | Self::WalMismatch { .. } => true,
            Self::Spool { source, .. } => source.is_corrupt(),
            _ => false,
        }
    }

    /// There is no room for what should be written.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Spool { source, .. } => source.is_full(),
            Self::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ),
            _ => false,
        }
    }

    /// The chain has come to its end, for it has one page size: another one is to begin.
    pub fn ends_chain(&self) -> bool {
        matches!(self, Self::PageSizeChanged { .. })
    }

    /// The file is not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// The same call may succeed later without anything being repaired.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Busy { .. }
            | Self::Torn { .. }
            | Self::Bare { .. }
            | Self::Held { .. }
            | Self::ContinuityLost { .. }
            | Self::Sqlite { .. } => true,
            Self::Spool { source, .. } => source.is_transient(),
            Self::Io { .. } => !self.is_full(),
            _ => false,
        }
    }

    /// The session is over: drop it, open another one and start that.
    pub fn needs_reopen(&self) -> bool {
        match self {
            Self::Torn { .. }
            | Self::WalTruncated { .. }
            | Self::WalCorrupt { .. }
            | Self::WalMismatch { .. }
            | Self::ContinuityLost { .. }
            | Self::PageSizeChanged { .. }
            | Self::NotStarted { .. } => true,
            Self::Spool { source, .. } => source.is_out_of_order(),
            _ => false,
        }
    }
}
