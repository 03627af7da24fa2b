//! What the flow is told of a pod's volume.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlrep_replica::DbId;

use crate::status::DatabaseStatus;

/// The pod that a database belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodIdentity {
    /// Namespace of the pod: the first part of the replica's identity.
    pub namespace: String,
    /// The app part of the identity (DESIGN §4.1).
    pub app: String,
    /// Name of the pod.
    pub name: String,
    /// UID of the pod.
    pub uid: String,
    /// UID of the namespace, where a cluster told it.
    pub namespace_uid: Option<String>,
}

/// Where the volume's bytes live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// A directory on the node's disk.
    Disk,
    /// A tmpfs: an open descriptor blocks its unmount (L15).
    Memory,
}

/// What happens to an empty volume whose replica has data (`sqlrep.io/restore`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestorePolicy {
    /// Restore what the replica has.
    Auto,
    /// Leave the volume as it is.
    Never,
    /// Restore, and fail where there is no replica.
    Required,
}

/// Whether a rollback-journal database is converted (`sqlrep.io/journal-mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalPolicy {
    /// Leave the journal mode alone.
    Keep,
    /// Convert to WAL.
    Wal,
}

/// The pace of one database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// At most this long passes between two L0 files under load.
    pub sync_interval: Duration,
    /// How often a snapshot is due.
    pub snapshot_interval: Duration,
    /// How far back the history reaches.
    pub retention: Duration,
}

/// One selected emptyDir of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The pod.
    pub pod: PodIdentity,
    /// Name of the volume: the third part of the identity.
    pub name: String,
    /// The directory on the node, absolute.
    pub dir: PathBuf,
    /// Disk or memory.
    pub medium: Medium,
    /// The pace.
    pub settings: Settings,
    /// What may lie in it before the kubelet evicts its pod.
    pub bytes_max: Option<u64>,
    /// Restore policy.
    pub restore: RestorePolicy,
    /// Journal policy.
    pub journal: JournalPolicy,
    /// User and group of its app, where the pod says it: a replica that Litestream wrote does not.
    pub user: Option<(u32, u32)>,
    /// The volume of the pod that holds its replicas; `None`: the agent's root does.
    pub target: Option<TargetVolume>,
}

impl Volume {
    /// What is known of a database in it that was just seen.
    pub(crate) fn row(&self, id: DbId) -> DatabaseStatus {
        let mut row = DatabaseStatus::new(id, &self.pod.name, &self.pod.uid);
        row.in_volume = self.target.is_some();
        row
    }

    /// Whether a database is one of this volume, whatever pod of its app it was written by.
    pub(crate) fn holds(&self, id: &DbId) -> bool {
        let pod = &self.pod;
        (id.namespace(), id.app(), id.volume()) == (&*pod.namespace, &*pod.app, &*self.name)
    }
}

/// A volume of a pod that holds its replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetVolume {
    /// Its name in the pod.
    pub name: String,
    /// The kubelet's directory, absolute.
    pub kubelet_root: PathBuf,
    /// Where it is; or why that is not known.
    pub place: Result<TargetPlace, String>,
}

/// Where a volume of a pod is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetPlace {
    /// Its directory, relative to the kubelet's.
    pub below: PathBuf,
    /// What the volume is known by, whatever pod mounts it.
    pub key: String,
    /// The PersistentVolume, where there is one: its name and UID.
    pub persistent: Option<(String, String)>,
}

/// A live database: a pod, one of its volumes, and a path in it.
///
/// Two pods of one app may be on a node at once (one draining), so the pod's UID is part of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// UID of the pod.
    pub pod_uid: String,
    /// Name of the volume.
    pub volume: String,
    /// Path in the volume, relative.
    pub path: PathBuf,
}

impl Key {
    /// The key of a path in a volume.
    pub fn new(volume: &Volume, path: &Path) -> Self {
        Self {
            pod_uid: volume.pod.uid.clone(),
            volume: volume.name.clone(),
            path: path.to_path_buf(),
        }
    }
}
