//! What discovery has to say: one enum, carried by one bounded channel.

use std::path::PathBuf;

use crate::identity::PodUid;
use crate::pods::PodRef;

/// An inode as the kernel names it. POSIX locks hang on it, not on a path, so it is what a
/// database is claimed by (L3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeKey {
    /// Device number, `st_dev`.
    pub dev: u64,
    /// Inode number, `st_ino`.
    pub ino: u64,
}

/// The journal mode that a database's own header declares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Write-ahead log: header byte 19 is 2.
    Wal,
    /// Any rollback-journal mode: header byte 19 is 1. An app creates its database in this mode
    /// and then switches, so this is often followed within milliseconds by a change to [`Kind::Wal`].
    Rollback,
}

/// One thing that happened on this node.
///
/// Paths are relative to the volume and may hold any byte but `/` and NUL between their
/// separators. Events say what to look at, never what is true at the moment they are read: the
/// receiver looks for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The source of pods was read once in full: each pod of that read came before this.
    Ready,
    /// A pod of this node opted in. Its volumes are not scanned before
    /// [`Discover::watch_volumes`](crate::Discover::watch_volumes).
    PodAppeared(PodRef),
    /// A known pod changed in any part of its [`PodRef`] other than going away.
    PodChanged(PodRef),
    /// The pod is being deleted or has finished: its volumes go away soon. The volumes stay
    /// watched, for the app may commit until its last breath.
    PodTerminating(PodUid),
    /// The pod is gone, left this node, or opted out.
    PodGone(PodUid),
    /// An annotation (or the opt-in label) has a value that is not accepted; the default holds in
    /// its place and the rest of the pod goes on. Said once for each value.
    BadAnnotation {
        /// Whose it is.
        pod: PodUid,
        /// The whole key, `sqlrep.io/…`.
        key: String,
        /// The value as found, shortened past 120 characters.
        value: String,
        /// What would have been accepted, in words.
        accepted: String,
    },
    /// A pod of the API server opted in and cannot be used. Said once for each reason.
    BadPod {
        /// Which one.
        pod: PodUid,
        /// Why, and what to do.
        reason: String,
    },
    /// A manifest, or the directory of manifests, could not be used. What was known from it
    /// before stays. Said once for each reason.
    BadManifest {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it and what to do.
        reason: String,
    },
    /// A SQLite database was found.
    DatabaseAppeared {
        /// Whose it is.
        pod: PodUid,
        /// The emptyDir it lies in.
        volume: String,
        /// Its path in the volume.
        path: PathBuf,
        /// Its journal mode.
        kind: Kind,
        /// Its inode, to be claimed before anybody opens it for SQLite.
        inode: InodeKey,
    },
    /// A known path holds a database of another kind, or another inode.
    DatabaseChanged {
        /// Whose it is.
        pod: PodUid,
        /// The emptyDir it lies in.
        volume: String,
        /// Its path in the volume.
        path: PathBuf,
        /// Its journal mode now.
        kind: Kind,
        /// Its inode now.
        inode: InodeKey,
    },
    /// A known path holds no database any more, while its volume is still there.
    DatabaseGone {
        /// Whose it was.
        pod: PodUid,
        /// The emptyDir it lay in.
        volume: String,
        /// Its path in the volume.
        path: PathBuf,
    },
    /// The volume's directory vanished or was exchanged, whatever the manifest says. Its
    /// databases are gone with it, without a [`Event::DatabaseGone`] each.
    VolumeGone {
        /// Whose it was.
        pod: PodUid,
        /// The emptyDir.
        volume: String,
    },
    /// A known database, its WAL or its journal was written to. A hint; many writes make one.
    Touched {
        /// Whose it is.
        pod: PodUid,
        /// The emptyDir it lies in.
        volume: String,
        /// The database's path in the volume (also when the WAL was written).
        path: PathBuf,
    },
    /// Something that looks like a database is not looked into. Said once for each reason.
    Refused {
        /// Whose it is.
        pod: PodUid,
        /// The emptyDir it lies in.
        volume: String,
        /// Its path in the volume; empty when the whole volume is meant.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// Change notification does not cover everything (a watch limit, or none at all); the rest is
    /// looked at by a slow timer. Said once.
    WatchesLimited {
        /// Why, and which setting to raise.
        reason: String,
    },
    /// The kernel dropped change notifications: every volume is scanned again, and whoever counts
    /// on [`Event::Touched`] must look at every database once.
    Overflow,
}
