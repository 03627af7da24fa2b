//! What can go wrong with a store, and what a caller may conclude from it.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::durable::Failure;

/// A store that could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file system refused.
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
    /// A file that is not what it should be; nothing was published.
    #[error("{} is corrupt: {reason}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file that is sound, but not of a kind that a replica may hold.
    #[error("{} cannot be used: {reason}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it is.
        reason: String,
    },
}

impl StoreError {
    /// For `map_err`: names the action and the path.
    pub(crate) fn io(
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

    /// For `map_err`: the file and what is wrong with it.
    pub(crate) fn corrupt<E: ToString>(path: impl Into<PathBuf>) -> impl FnOnce(E) -> Self {
        let path = path.into();
        move |reason| Self::Corrupt {
            path,
            reason: reason.to_string(),
        }
    }

    /// The place knows no such call, now or later.
    pub fn is_unknown_there(&self) -> bool {
        self.is(&[Errno::NOSYS, Errno::NOTSUP, Errno::INVAL])
    }

    /// It may work the next time without anybody's doing: a NAS that is away or overloaded.
    pub fn is_transient(&self) -> bool {
        const PASSING: [Errno; 17] = [
            Errno::IO,
            Errno::STALE,
            Errno::TIMEDOUT,
            Errno::AGAIN,
            Errno::INTR,
            Errno::BUSY,
            Errno::NETDOWN,
            Errno::NETUNREACH,
            Errno::HOSTDOWN,
            Errno::HOSTUNREACH,
            Errno::CONNREFUSED,
            Errno::CONNRESET,
            Errno::CONNABORTED,
            Errno::NOTCONN,
            Errno::REMOTEIO,
            Errno::NFILE,
            Errno::MFILE,
        ];
        self.is(&PASSING)
    }

    /// The file system or the quota is full.
    pub fn is_full(&self) -> bool {
        self.is(&[Errno::NOSPC, Errno::DQUOT])
    }

    /// The file system is mounted read-only.
    pub fn is_read_only(&self) -> bool {
        self.is(&[Errno::ROFS])
    }

    /// The file or directory is not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// The bytes are wrong, and will be the next time.
    pub fn is_corrupt(&self) -> bool {
        matches!(self, Self::Corrupt { .. })
    }

    /// The error with its cause, for errors that show it within a sentence.
    pub(crate) fn text(&self) -> String {
        match self.source() {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }

    /// The disk or the server cannot read the file, or we may not.
    pub(crate) fn is_unreadable(&self) -> bool {
        matches!(self, Self::Unsupported { .. })
            || self.is(&[Errno::IO, Errno::ACCESS, Errno::LOOP])
    }

    fn is(&self, codes: &[Errno]) -> bool {
        match self {
            Self::Io { source, .. } => codes
                .iter()
                .any(|code| source.raw_os_error() == Some(code.raw_os_error())),
            Self::Corrupt { .. } | Self::Unsupported { .. } => false,
        }
    }
}

impl From<Failure> for StoreError {
    fn from(Failure { step, path, source }: Failure) -> Self {
        Self::Io {
            action: step,
            path,
            source,
        }
    }
}
