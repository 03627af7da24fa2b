//! Why a restore did not come about.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;
use sqlrep_format::Txid;

use crate::durable::Failure;
use crate::{PlanError, ReplicaFile, StoreError};

/// Why a restore did not come about. Nothing was published, nothing that existed was touched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// No files lead to the wanted point.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The replica cannot be listed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// One file cannot be used, and no other files lead to the same state.
    #[error("{}; no other files lead to the same state{}", cause.text(), intact_text(*intact))]
    File {
        /// The file.
        file: Box<ReplicaFile>,
        /// The newest state below the wanted one that still has files leading to it.
        intact: Option<Txid>,
        /// What is wrong with the file; names its path.
        cause: StoreError,
    },
    /// Something has the name already.
    #[error("{} exists, and a restore never overwrites: move it away or choose another name", path.display())]
    Exists {
        /// What exists.
        path: PathBuf,
    },
    /// The path of the database leads out of the volume, or through a link.
    #[error("cannot restore to {}: not a plain path inside of the volume", path.display())]
    OutsideVolume {
        /// The path.
        path: PathBuf,
    },
    /// The destination cannot be written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The caller gave up.
    #[error("the restore was cancelled")]
    Cancelled,
}

impl RestoreError {
    pub(super) fn file(file: ReplicaFile, cause: StoreError, intact: Option<Txid>) -> Self {
        Self::File {
            file: Box::new(file),
            intact,
            cause,
        }
    }

    /// For `map_err`: names the action and the path.
    pub(super) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    /// It may work the next time without anybody's doing.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Store(cause) => cause.is_transient(),
            Self::File { cause, .. } => cause.is_transient() || cause.is_missing(),
            _ => false,
        }
    }

    /// The destination's file system or quota is full.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => [Errno::NOSPC, Errno::DQUOT]
                .iter()
                .any(|code| source.raw_os_error() == Some(code.raw_os_error())),
            _ => false,
        }
    }

    /// The replica is damaged or has lost files.
    pub fn is_corrupt(&self) -> bool {
        match self {
            Self::Plan(error) => matches!(error, PlanError::Gap { .. } | PlanError::NoStart { .. }),
            Self::File { cause, .. } => cause.is_corrupt(),
            _ => false,
        }
    }

    /// There is no replica, as far as one can see.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Plan(PlanError::Empty))
    }

    /// The replica is fine; what was asked for is not there.
    pub fn is_out_of_range(&self) -> bool {
        matches!(self, Self::Plan(error) if error.is_out_of_range())
    }

    /// Something is in the way, and a person must decide.
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Exists { .. } | Self::OutsideVolume { .. })
    }
}

impl From<Failure> for RestoreError {
    fn from(Failure { step, path, source }: Failure) -> Self {
        Self::Io {
            action: step,
            path,
            source,
        }
    }
}

fn intact_text(intact: Option<Txid>) -> String {
    intact.map_or_else(String::new, |txid| {
        format!(" (the newest state below it with all its files is TXID {txid})")
    })
}
