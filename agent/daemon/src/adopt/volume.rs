//! Discovery's pod, in the words of the flow.

use std::path::{Path, PathBuf};

use sqlrep_discover::{EmptyDir, Journal, Medium as Found, PodRef, PodUid, Restore, volume_dir};
use sqlrep_pipeline::{
    JournalPolicy, Medium, PodIdentity, RestorePolicy, Settings, TargetPlace, TargetVolume, Volume,
};

/// One selected emptyDir of a pod, with the agent's flags where the pod says nothing.
pub(crate) fn volume(
    pod: &PodRef,
    dir: &EmptyDir,
    kubelet_root: &Path,
    defaults: Settings,
) -> Volume {
    let policy = &pod.policy;
    Volume {
        pod: PodIdentity {
            namespace: pod.namespace.clone(),
            app: pod.app.clone(),
            name: pod.name.clone(),
            uid: pod.uid.to_string(),
            namespace_uid: pod.namespace_uid.clone(),
        },
        name: dir.name.clone(),
        dir: volume_dir(kubelet_root, &pod.uid, &dir.name),
        medium: match dir.medium {
            Found::Disk => Medium::Disk,
            Found::Memory => Medium::Memory,
        },
        settings: Settings {
            sync_interval: policy.sync_interval.unwrap_or(defaults.sync_interval),
            snapshot_interval: policy
                .snapshot_interval
                .unwrap_or(defaults.snapshot_interval),
            retention: policy.retention.unwrap_or(defaults.retention),
        },
        bytes_max: bytes_max(pod, dir),
        restore: match policy.restore {
            Restore::Auto => RestorePolicy::Auto,
            Restore::Never => RestorePolicy::Never,
            Restore::Required => RestorePolicy::Required,
        },
        journal: match policy.journal {
            Journal::Keep => JournalPolicy::Keep,
            Journal::Wal => JournalPolicy::Wal,
        },
        user: dir.user,
        target: pod.target.as_ref().map(|target| TargetVolume {
            name: target.volume.clone(),
            kubelet_root: kubelet_root.to_owned(),
            place: target.place.clone().map(|place| TargetPlace {
                below: place.below,
                key: place.key,
                persistent: place.persistent,
            }),
        }),
    }
}

/// What may lie in the volume before the kubelet evicts the pod. Memory does not count as the
/// node's disk.
fn bytes_max(pod: &PodRef, dir: &EmptyDir) -> Option<u64> {
    let disk = pod.ephemeral_limit.filter(|_| dir.medium == Found::Disk);
    [dir.size_limit, disk].into_iter().flatten().min()
}

/// Whether a live database has a WAL file now. Only its name is looked at (L3).
pub(crate) fn has_wal(volume: &Volume, path: &Path) -> bool {
    let mut name = volume.dir.join(path).into_os_string();
    name.push("-wal");
    std::fs::symlink_metadata(PathBuf::from(name)).is_ok()
}

/// The directory of a pod's emptyDir, relative to the kubelet's root.
pub(crate) fn below_root(pod: &PodUid, name: &str) -> PathBuf {
    volume_dir(Path::new(""), pod, name)
}
