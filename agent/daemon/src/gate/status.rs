//! `status.json`: what the agent tells the gate of a pod.
//!
//! It lies in an emptyDir that only the gate mounts. It is bound to the pod's UID and to the boot
//! of the node: a disk-backed emptyDir survives a reboot that a tmpfs database does not, so an old
//! `ready` would start the app empty.

use serde::{Deserialize, Serialize};

/// Version of the format.
pub(crate) const VERSION: u32 = 1;

/// Name of the file in the gate's volume.
pub(crate) const FILE_NAME: &str = "status.json";

/// Where the kernel tells which boot this is.
pub(crate) const BOOT_ID_FILE: &str = "/proc/sys/kernel/random/boot_id";

/// A longer file is not ours: four thousand databases with long names fit.
pub(crate) const STATUS_BYTES_MAX: u64 = 1 << 20;

/// What the pod waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Phase {
    /// The last owner of a replica may still write.
    WaitingHandover,
    /// Databases are being put back, or the replica cannot be reached yet.
    Restoring,
    /// The app may start.
    Ready,
    /// The app must not start; a person has to act.
    Failed,
}

impl Phase {
    /// The word in the file.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::WaitingHandover => "waiting-handover",
            Self::Restoring => "restoring",
            Self::Ready => "ready",
            Self::Failed => "failed",
        }
    }
}

/// One database that was put back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RestoredDatabase {
    /// Identity of its replica.
    pub(crate) replica: String,
    /// The state that it has now.
    pub(crate) txid: u64,
}

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// Version of the format, [`VERSION`].
    pub(crate) v: u32,
    /// UID of the pod that is meant.
    pub(crate) pod_uid: String,
    /// The boot of the node that it was written in.
    pub(crate) boot_id: String,
    /// What the pod waits for.
    pub(crate) phase: Phase,
    /// Databases that were put back.
    #[serde(default)]
    pub(crate) databases: Vec<RestoredDatabase>,
    /// For people: one line.
    #[serde(default)]
    pub(crate) message: String,
}

/// What a reader makes of the bytes of a status file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// It is meant for this pod, in this boot.
    Ours(Status),
    /// It says nothing about this pod: waiting goes on.
    NotOurs(String),
}

/// Reads a status file for the pod `pod_uid` in the boot `boot_id`.
pub(crate) fn read(bytes: &[u8], pod_uid: &str, boot_id: &str) -> Reading {
    let status: Status = match serde_json::from_slice(bytes) {
        Ok(status) => status,
        Err(error) => return Reading::NotOurs(format!("status file is not readable: {error}")),
    };
    if status.v != VERSION {
        let reason = format!(
            "status file has version {}, this gate reads {VERSION}",
            status.v
        );
        return Reading::NotOurs(reason);
    }
    if status.pod_uid != pod_uid {
        return Reading::NotOurs("status file is of another pod".to_owned());
    }
    if status.boot_id != boot_id {
        return Reading::NotOurs("status file is from before the node was restarted".to_owned());
    }
    Reading::Ours(status)
}
