//! What can go wrong in the flow, folded into classes that drive the retry policy, the metric
//! label and the answer on the wire.

use std::io;
use std::path::PathBuf;

use sqlrep_format::Txid;
use sqlrep_replica::root::RootError;
use sqlrep_replica::{RestoreError, StoreError};

use crate::lane::LaneError;

/// How a failed stage is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Worth another try by itself: the NAS, a busy database, a full queue.
    Transient,
    /// Space is missing; tried again, but a person should act.
    Full,
    /// The replica root is missing, not mounted or not ours.
    Root,
    /// Bytes are not what they must be.
    Corrupt,
    /// The database is of a kind that cannot be followed.
    Unsupported,
    /// Somebody must decide.
    Refused,
    /// A bug.
    Internal,
}

impl Class {
    /// The label in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Full => "full",
            Self::Root => "root",
            Self::Corrupt => "corrupt",
            Self::Unsupported => "unsupported",
            Self::Refused => "refused",
            Self::Internal => "internal",
        }
    }

    /// What a person can do about it.
    pub const fn hint(self) -> &'static str {
        match self {
            Self::Transient => "tried again by itself; look at the NAS if it stays",
            Self::Full => "free space on the replica share or on the node's state directory",
            Self::Root => {
                "mount the share, or point --replica-root (or sqlrep.io/target-volume) at the right one"
            }
            Self::Corrupt => "run sqlrepctl verify and keep a copy of the replica before anything",
            Self::Unsupported => "see the reason; other databases of the pod are not affected",
            Self::Refused => "decide with sqlrepctl adopt, or move the replica away",
            Self::Internal => "this is a bug: please report it with the agent's log",
        }
    }
}

/// Why a stage of one database failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StageError {
    /// The lane did not answer.
    #[error(transparent)]
    Lane(#[from] LaneError),
    /// The replica root is not usable.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The replica could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The replica could not be restored.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The volume of the pod that holds its replicas cannot be used.
    #[error("target volume {volume}: {reason}")]
    Target {
        /// Its name in the pod.
        volume: String,
        /// Why not.
        reason: String,
    },
    /// The same, before the kubelet has mounted it, or after.
    #[error(
        "target volume {volume} is not mounted: {dir} lies on the node's disk. The kubelet mounts it \
         for a container that mounts it, which the gate must (volumeMounts)", dir = dir.display()
    )]
    TargetNotMounted {
        /// Its name in the pod.
        volume: String,
        /// Its directory.
        dir: PathBuf,
    },
    /// The spool failed.
    #[error(transparent)]
    Spool(#[from] sqlrep_spool::Error),
    /// The live database failed.
    #[error(transparent)]
    Capture(#[from] sqlrep_capture::Error),
    /// The manifest could not be read or written.
    #[error("manifest of {dir}: {text}")]
    Manifest {
        /// The replica's directory.
        dir: PathBuf,
        /// What failed.
        text: String,
    },
    /// A file operation outside the replica failed.
    #[error("cannot {action} {path}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The replica belongs to somebody else.
    #[error("{reason}")]
    Refused {
        /// Why.
        reason: String,
    },
    /// Compaction, a snapshot, or retention could not be carried out.
    #[error("upkeep of the replica: {reason}")]
    Upkeep {
        /// Why.
        reason: String,
    },
    /// The listing of a replica ends before what is known to be in it.
    #[error(
        "the listing of {dir} ends at TXID {seen}, but {wanted} is in it: the share shows an old \
         listing; looked at again until it is whole"
    )]
    Behind {
        /// The replica's directory.
        dir: PathBuf,
        /// The newest TXID that was seen.
        seen: Txid,
        /// One that must be there.
        wanted: Txid,
    },
    /// A replica whose chain was retired and whose next chain has no file yet.
    #[error(
        "{dir} holds no chain: the one before was moved to branch {branch}, and its owner publishes \
         the next one; if that owner is lost, move .sqlrep/branches/{branch}/ltx back there"
    )]
    BetweenChains {
        /// The replica's directory.
        dir: PathBuf,
        /// Where the chain before is.
        branch: String,
    },
    /// Another pod claimed the replica first.
    #[error("writer {by:016x} claimed {dir} a moment before: its owner is looked at again")]
    Overtaken {
        /// The replica's directory.
        dir: PathBuf,
        /// The other writer's id.
        by: u64,
    },
    /// The capture thread ended without being told to.
    #[error("the capture thread of this database ended: {reason}")]
    Ended {
        /// What it left behind.
        reason: String,
    },
}

impl StageError {
    /// The class; the only place that decides it.
    pub fn class(&self) -> Class {
        match self {
            Self::Lane(LaneError::Panicked { .. }) | Self::Ended { .. } => Class::Internal,
            Self::Lane(_)
            | Self::Io { .. }
            | Self::Manifest { .. }
            | Self::Behind { .. }
            | Self::BetweenChains { .. }
            | Self::Overtaken { .. } => Class::Transient,
            Self::Root(_) | Self::Target { .. } | Self::TargetNotMounted { .. } => Class::Root,
            Self::Store(error) => storage(error.is_full(), error.is_corrupt()),
            Self::Restore(error) => storage(error.is_full(), error.is_corrupt()),
            Self::Spool(error) => storage(error.is_full(), error.is_corrupt()),
            Self::Capture(error) if error.is_unsupported() => Class::Unsupported,
            Self::Capture(error) => storage(error.is_full(), error.is_corrupt()),
            Self::Refused { .. } => Class::Refused,
            Self::Upkeep { .. } => Class::Corrupt,
        }
    }

    /// What a person can do about it.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::Target { .. } | Self::TargetNotMounted { .. } => {
                "what the app commits waits in the spool of this node meanwhile; put right what the \
                 reason names, and all of it follows by itself"
            }
            other => other.class().hint(),
        }
    }

    /// The whole chain of causes in one line.
    pub fn text(&self) -> String {
        chain(self)
    }
}

fn storage(full: bool, corrupt: bool) -> Class {
    match (full, corrupt) {
        (true, _) => Class::Full,
        (false, true) => Class::Corrupt,
        (false, false) => Class::Transient,
    }
}

/// An error and its sources, separated by colons.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // `transparent` errors show their source already.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// Why a command of a person was not carried out. Each maps to one exit code (DESIGN §4.4).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// No database by that name.
    #[error("{0}")]
    NotFound(String),
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// It would do harm, or is not ours to do.
    #[error("{0}")]
    Refused(String),
    /// The NAS or the database does not answer now.
    #[error("{0}")]
    Unavailable(String),
    /// The deadline passed.
    #[error("{0}")]
    Deadline(String),
    /// It was tried and failed.
    #[error("{0}")]
    Failed(String),
}

impl From<StageError> for CommandError {
    fn from(error: StageError) -> Self {
        let text = error.text();
        match error.class() {
            Class::Transient | Class::Root => Self::Unavailable(text),
            Class::Refused | Class::Unsupported => Self::Refused(text),
            Class::Full | Class::Corrupt | Class::Internal => Self::Failed(text),
        }
    }
}

/// Why a volume is not ready for its app.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// The last owner of the replica may still write.
    #[error("waiting for pod {pod} on node {node} to release {id}, {why}; since {since}")]
    WaitingForHandover {
        /// Identity of the replica.
        id: String,
        /// The owner's pod.
        pod: String,
        /// The owner's node.
        node: String,
        /// Whether that is this node: then its end is seen at once, and costs no request.
        here: bool,
        /// Why it is waited for.
        why: String,
        /// Since when, RFC 3339.
        since: Box<str>,
    },
    /// The replica root is missing, not mounted or not ours.
    #[error("the replica root cannot be used")]
    Root(#[source] Box<StageError>),
    /// The volume of the pod that holds its replicas cannot be used.
    #[error("sqlrep.io/target-volume")]
    Target(#[source] Box<StageError>),
    /// The kubelet makes the directory of a volume in memory first and mounts it later: what is put
    /// into the directory before that is not what the app finds.
    #[error("volume {volume} (medium Memory) is not mounted yet: {dir} lies on the node's disk")]
    NotMounted {
        /// The volume.
        volume: String,
        /// Its directory.
        dir: PathBuf,
    },
    /// What the replica holds would get the pod evicted, restored, and evicted again.
    #[error(
        "volume {volume} may hold {limit} bytes, and its replica restores to {needed}: raise the \
         emptyDir's sizeLimit (and the ephemeral-storage limits of the pod's containers)"
    )]
    VolumeTooSmall {
        /// The volume.
        volume: String,
        /// What the restore needs.
        needed: u64,
        /// What the volume may hold.
        limit: u64,
    },
    /// `sqlrep.io/restore: required`, and there is no replica.
    #[error("no replica of volume {volume} under {dir}, and the pod requires one")]
    NoReplica {
        /// The volume.
        volume: String,
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// The replica was kept in another place until now, and a newer state is there.
    #[error("{id} would start without its newest state: {why}")]
    Elsewhere {
        /// Identity of the replica.
        id: String,
        /// Where it is, and what a person can do.
        why: String,
    },
    /// A replica is there and could not be put back.
    #[error("cannot restore {id}")]
    Failed {
        /// Identity of the replica.
        id: String,
        /// Why not.
        #[source]
        source: Box<StageError>,
    },
}

impl PrepareError {
    /// Whether waiting helps: the caller tries again by itself.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::WaitingForHandover { .. }
            | Self::Root(_)
            | Self::Target(_)
            | Self::NotMounted { .. } => true,
            Self::NoReplica { .. } | Self::VolumeTooSmall { .. } | Self::Elsewhere { .. } => false,
            Self::Failed { source, .. } => {
                matches!(source.class(), Class::Transient | Class::Root | Class::Full)
            }
        }
    }

    /// The whole chain of causes in one line.
    pub fn text(&self) -> String {
        chain(self)
    }
}
