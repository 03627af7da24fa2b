//! Writes `status.json` into the gate's volume of a pod.
//!
//! The volume is reached beneath the kubelet's root without following any link, the file is
//! replaced by rename, and no descriptor stays open. Writing happens on one thread of its own: a
//! slow disk must not hold up the agent's workers.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::gate::status::{FILE_NAME, Status};

/// Status files that wait to be written; a node has about a hundred pods.
const QUEUE: usize = 256;

/// Readable by the gate, whatever its uid.
const FILE_MODE: Mode = Mode::RUSR
    .union(Mode::WUSR)
    .union(Mode::RGRP)
    .union(Mode::ROTH);

/// One file to write.
#[derive(Debug)]
struct Order {
    place: GatePlace,
    status: Status,
    /// Cancelled as soon as the pod terminates: nothing is created in its volumes after that (L15).
    alive: CancellationToken,
    done: oneshot::Sender<io::Result<()>>,
}

/// Where a pod's gate looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GatePlace {
    /// The kubelet's directory.
    pub(crate) kubelet_root: PathBuf,
    /// The gate's volume, relative to it.
    pub(crate) volume: PathBuf,
}

/// The handle on the writing thread, which ends with the last clone.
#[derive(Clone, Debug)]
pub(crate) struct Signals {
    orders: mpsc::Sender<Order>,
}

impl Signals {
    /// Starts the thread.
    pub(crate) fn start() -> io::Result<Self> {
        let (orders, mut queue) = mpsc::channel::<Order>(QUEUE);
        std::thread::Builder::new()
            .name("gate-status".to_owned())
            .spawn(move || {
                while let Some(order) = queue.blocking_recv() {
                    let written = if order.alive.is_cancelled() {
                        Ok(())
                    } else {
                        write(&order.place, &order.status)
                    };
                    // Whoever gave up waiting wants no answer.
                    drop(order.done.send(written));
                }
            })?;
        Ok(Self { orders })
    }

    /// Writes one status file and waits until it is there.
    pub(crate) async fn write(
        &self,
        place: &GatePlace,
        status: Status,
        alive: &CancellationToken,
    ) -> io::Result<()> {
        let (done, written) = oneshot::channel();
        let order = Order {
            place: place.clone(),
            status,
            alive: alive.clone(),
            done,
        };
        let gone = || io::Error::other("the thread that writes status files ended");
        self.orders.send(order).await.map_err(|_| gone())?;
        written.await.map_err(|_| gone())?
    }
}

/// Writes the file: temporary name, then rename.
fn write(place: &GatePlace, status: &Status) -> io::Result<()> {
    let volume = open_volume(place)?;
    let name = format!(".status-{}", uuid::Uuid::new_v4().simple());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&volume, &name, flags, FILE_MODE)?;
    let written = fill(file, status)
        .and_then(|()| Ok(rustix::fs::renameat(&volume, &name, &volume, FILE_NAME)?));
    if written.is_err() {
        // The error that is returned matters more than the leftover.
        let _leftover = rustix::fs::unlinkat(&volume, &name, AtFlags::empty());
    }
    written
}

fn fill(file: OwnedFd, status: &Status) -> io::Result<()> {
    // The umask took part in creating it.
    rustix::fs::fchmod(&file, FILE_MODE)?;
    let mut text = serde_json::to_vec(status)?;
    text.push(b'\n');
    File::from(file).write_all(&text)
}

/// The volume's directory, reached without following anything a pod could have made.
fn open_volume(place: &GatePlace) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&place.kubelet_root, flags, Mode::empty())?;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let relative: &Path = &place.volume;
    Ok(rustix::fs::openat2(
        &root,
        relative,
        flags | OFlags::NOFOLLOW,
        Mode::empty(),
        beneath,
    )?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;
    use crate::gate::status::{Phase, Reading, VERSION, read};

    fn status(phase: Phase) -> Status {
        Status {
            v: VERSION,
            pod_uid: "u".to_owned(),
            boot_id: "b".to_owned(),
            phase,
            databases: Vec::new(),
            message: String::new(),
        }
    }

    fn place(root: &Path) -> GatePlace {
        std::fs::create_dir_all(root.join("pods/u/gate")).unwrap();
        GatePlace {
            kubelet_root: root.to_path_buf(),
            volume: "pods/u/gate".into(),
        }
    }

    #[tokio::test]
    async fn the_gate_reads_what_the_agent_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let (place, signals) = (place(dir.path()), Signals::start().unwrap());
        let alive = CancellationToken::new();
        for phase in [Phase::Restoring, Phase::Ready] {
            signals.write(&place, status(phase), &alive).await.unwrap();
            let file = dir.path().join("pods/u/gate/status.json");
            let bytes = std::fs::read(&file).unwrap();
            assert_eq!(read(&bytes, "u", "b"), Reading::Ours(status(phase)));
            assert_eq!(
                std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
                0o644
            );
        }
        let names = std::fs::read_dir(dir.path().join("pods/u/gate"))
            .unwrap()
            .count();
        assert_eq!(names, 1, "a temporary file was left behind");
    }

    #[tokio::test]
    async fn nothing_is_made_once_the_pod_terminates() {
        let dir = tempfile::tempdir().unwrap();
        let (place, signals) = (place(dir.path()), Signals::start().unwrap());
        let alive = CancellationToken::new();
        alive.cancel();
        signals
            .write(&place, status(Phase::Ready), &alive)
            .await
            .unwrap();
        assert!(!dir.path().join("pods/u/gate/status.json").exists());
    }

    #[tokio::test]
    async fn links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        let root = dir.path().join("kubelet");
        let gate = place(&root);
        let signals = Signals::start().unwrap();
        let alive = CancellationToken::new();
        // A link where the file goes is replaced, not written through.
        symlink(outside.join("target"), root.join("pods/u/gate/status.json")).unwrap();
        signals
            .write(&gate, status(Phase::Ready), &alive)
            .await
            .unwrap();
        assert!(!outside.join("target").exists());
        assert!(
            root.join("pods/u/gate/status.json")
                .symlink_metadata()
                .unwrap()
                .is_file()
        );
        // A link where the volume should be is refused.
        symlink(&outside, root.join("pods/u/link")).unwrap();
        let linked = GatePlace {
            volume: "pods/u/link".into(),
            ..gate.clone()
        };
        assert!(
            signals
                .write(&linked, status(Phase::Ready), &alive)
                .await
                .is_err()
        );
        // So is a way out.
        let up = GatePlace {
            volume: "pods/../../outside".into(),
            ..gate
        };
        assert!(
            signals
                .write(&up, status(Phase::Ready), &alive)
                .await
                .is_err()
        );
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    }
}
