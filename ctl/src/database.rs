//! What the client knows of a database, free of the wire's types.

use std::time::Duration;

use serde::Serialize;
use sqlrep_format::{Timestamp, Txid};

use crate::client::QuickCheck;
use crate::reference::Named;

/// Which database, with the path percent-encoded as on the replica.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Id {
    /// Namespace of the pod.
    pub(crate) namespace: String,
    /// The app part of the identity.
    pub(crate) app: String,
    /// The volume that holds the file.
    pub(crate) volume: String,
    /// The file relative to the volume.
    pub(crate) path: String,
}

impl Named for Id {
    fn name(&self) -> String {
        format!(
            "{}/{}/{}/{}",
            self.namespace, self.app, self.volume, self.path
        )
    }
}

/// Where a database stands on its way to the replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// Seen, nothing done yet.
    Found,
    /// Being put back.
    Restoring,
    /// The first copy is being written.
    Snapshotting,
    /// Commits are shipped as they come.
    Following,
    /// The last frames are shipped.
    Draining,
    /// All shipped, all let go.
    Gone,
    /// Stopped by something that may pass.
    Stalled,
    /// Somebody else owns the replica.
    Fenced,
    /// Cannot be captured as it is.
    Unsupported,
    /// A state that this client is too old to know.
    Unknown,
}

impl State {
    /// The word for it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::Restoring => "restoring",
            Self::Snapshotting => "snapshotting",
            Self::Following => "following",
            Self::Draining => "draining",
            Self::Gone => "gone",
            Self::Stalled => "stalled",
            Self::Fenced => "fenced",
            Self::Unsupported => "unsupported",
            Self::Unknown => "unknown",
        }
    }
}

/// A database and how far its replica is.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    /// Which one.
    pub(crate) id: Id,
    /// Node of its pod.
    pub(crate) node: String,
    /// Its pod.
    pub(crate) pod: String,
    /// UID of its pod.
    pub(crate) pod_uid: String,
    /// Where it stands.
    pub(crate) state: State,
    /// Since when.
    pub(crate) since: Option<Timestamp>,
    /// Why it stands there; may be empty.
    pub(crate) reason: String,
    /// What to do about it; may be empty.
    pub(crate) hint: String,
    /// Size of the database.
    pub(crate) size_bytes: u64,
    /// Size of its WAL.
    pub(crate) wal_bytes: u64,
    /// Last TXID captured.
    pub(crate) txid: Option<Txid>,
    /// Last TXID on the replica.
    pub(crate) shipped: Option<Txid>,
    /// Age of the oldest commit that is not on the replica.
    pub(crate) lag: Duration,
    /// Captured bytes that are not on the replica.
    pub(crate) pending_bytes: u64,
    /// The last failure; may be empty.
    pub(crate) last_error: String,
    /// When that was.
    pub(crate) last_error_at: Option<Timestamp>,
    /// When a commit was last captured.
    pub(crate) captured_at: Option<Timestamp>,
    /// When a file was last shipped.
    pub(crate) shipped_at: Option<Timestamp>,
    /// When a snapshot was last shipped.
    pub(crate) snapshot_at: Option<Timestamp>,
    /// When the replica was last read back and found whole.
    pub(crate) verified_at: Option<Timestamp>,
    /// What SQLite said of what it restores to.
    pub(crate) check: Option<QuickCheck>,
    /// When it said something.
    pub(crate) checked_at: Option<Timestamp>,
}

impl Database {
    /// The state, with the reason where there is one.
    pub(crate) fn state_text(&self) -> String {
        if self.reason.is_empty() {
            self.state.word().to_owned()
        } else {
            format!("{} ({})", self.state.word(), self.reason)
        }
    }
}

impl Named for Database {
    fn name(&self) -> String {
        self.id.name()
    }
}

/// A replica that belongs to no pod, or that was found without an agent.
#[derive(Clone, Debug)]
pub(crate) struct Replica {
    /// Its whole name: the path below the root.
    pub(crate) name: String,
    /// The pod that wrote it; empty when unknown.
    pub(crate) owner_pod: String,
    /// The node of that pod; empty when unknown.
    pub(crate) owner_node: String,
    /// Whether that pod let go of it.
    pub(crate) released: bool,
    /// The last TXID on it.
    pub(crate) txid: Option<Txid>,
    /// When that was captured.
    pub(crate) time: Option<Timestamp>,
    /// Files in it.
    pub(crate) files: u64,
    /// Bytes in it.
    pub(crate) bytes: u64,
    /// What makes it unusable; may be empty.
    pub(crate) problem: String,
}

impl Named for Replica {
    fn name(&self) -> String {
        self.name.clone()
    }
}

/// The state of a database that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The newest.
    Latest,
    /// The one after exactly this TXID.
    Txid(Txid),
    /// The last one strictly before this time.
    Before(Timestamp),
}

/// Owner and mode of a database file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Ownership {
    /// User id.
    pub(crate) uid: u32,
    /// Group id.
    pub(crate) gid: u32,
    /// Permission bits.
    pub(crate) mode: u32,
}

/// A TXID without leading zeros, for people.
pub(crate) fn short(txid: Txid) -> String {
    format!("{:x}", txid.get())
}
