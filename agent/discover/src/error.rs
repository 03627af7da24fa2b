//! Why discovery could not start.

use std::io;
use std::path::PathBuf;

/// The reasons for which [`Discover::start`](crate::Discover::start) fails. Once started,
/// troubles are [`Event`](crate::Event)s: discovery goes on with what it can see.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kubelet's root directory cannot be opened.
    #[error(
        "cannot open the kubelet root {path:?}; name the kubelet's --root-dir with --kubelet-root"
    )]
    KubeletRoot {
        /// The directory that was tried.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The directory of pod manifests cannot be read.
    #[error(
        "cannot read the pod manifests in {path:?}; create the directory or correct --pods dir:PATH"
    )]
    Manifests {
        /// The directory that was tried.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The discovery thread could not be set up.
    #[error("cannot {attempted}")]
    Thread {
        /// What was attempted.
        attempted: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// `start` was called outside of a tokio runtime, which carries the cancellation.
    #[error("discovery must be started within a tokio runtime")]
    NoRuntime,
}
