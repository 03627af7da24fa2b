//! What the tests of this crate share: a kubelet's tree, manifests, database heads, and a
//! running discovery to wait on. No sleeps: everything waits for an event, with a deadline.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::mpsc::Receiver;
use tokio_util::sync::CancellationToken;

use crate::{Claims, Config, Discover, Event, Limits, PodSource, PodUid, volume_dir};

/// Longer than any event may take, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long nothing must happen to count as silence.
const SILENCE: Duration = Duration::from_millis(300);

/// The first page of a database in rollback (1) or WAL (2) mode.
pub(crate) fn database(read_version: u8) -> Vec<u8> {
    let mut page = b"SQLite format 3\0\x10\x00".to_vec();
    page.extend([read_version, read_version]);
    page.resize(4096, 0);
    page
}

/// A pod that opted in, with one emptyDir `data`; `extra` goes under `metadata`.
pub(crate) fn manifest(uid: &str, extra: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {uid}\n  namespace: media\n  uid: {uid}\n  \
         labels: {{sqlrep.io/replicate: \"true\"}}\n{extra}spec:\n  nodeName: node-a\n  volumes:\n  \
         - {{name: data, emptyDir: {{}}}}\n"
    )
}

/// A node on disk.
#[derive(Debug)]
pub(crate) struct World {
    temp: TempDir,
    pub(crate) limits: Limits,
    pub(crate) claims: Claims,
}

impl World {
    pub(crate) fn new() -> Self {
        let world = Self {
            temp: tempfile::tempdir().unwrap(),
            limits: Limits::default(),
            claims: Claims::new(),
        };
        fs::create_dir(world.kubelet()).unwrap();
        fs::create_dir(world.manifests()).unwrap();
        world
    }

    /// A node with the pod `p` and its volume.
    pub(crate) fn with_pod() -> Self {
        let world = Self::new();
        world.write_manifest("p.yaml", &manifest("p", ""));
        fs::create_dir_all(world.volume("p")).unwrap();
        world
    }

    pub(crate) fn kubelet(&self) -> PathBuf {
        self.temp.path().join("kubelet")
    }

    pub(crate) fn manifests(&self) -> PathBuf {
        self.temp.path().join("manifests")
    }

    /// Somewhere outside of every volume.
    pub(crate) fn outside(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    pub(crate) fn volume(&self, uid: &str) -> PathBuf {
        volume_dir(&self.kubelet(), &pod(uid), "data")
    }

    pub(crate) fn write_manifest(&self, name: &str, text: &str) {
        fs::write(self.manifests().join(name), text).unwrap();
    }

    pub(crate) fn start(&self) -> Running {
        let source = PodSource::Dir(self.manifests());
        let mut config = Config::new(source, self.kubelet(), "node-a");
        config.limits = self.limits.clone();
        let cancel = CancellationToken::new();
        let (discover, events) =
            Discover::start(config, self.claims.clone(), cancel.clone()).unwrap();
        Running {
            discover,
            events,
            cancel,
        }
    }

    /// Started, and the pod `p` watched.
    pub(crate) async fn watching(&self) -> Running {
        let mut running = self.start();
        running
            .until("pod appears", |event| {
                matches!(event, Event::PodAppeared(_))
            })
            .await;
        running.discover.watch_volumes(&pod("p"));
        running
    }
}

/// A running discovery.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) discover: Discover,
    pub(crate) events: Receiver<Event>,
    pub(crate) cancel: CancellationToken,
}

impl Running {
    /// The next event that is one of these; others are passed over.
    pub(crate) async fn until(&mut self, what: &str, is: impl Fn(&Event) -> bool) -> Event {
        let mut others = Vec::new();
        loop {
            match tokio::time::timeout(PATIENCE, self.events.recv()).await {
                Ok(Some(event)) if is(&event) => return event,
                Ok(Some(event)) => others.push(event),
                Ok(None) => panic!("discovery ended before: {what}; seen {others:#?}"),
                Err(late) => panic!("{what}: {late} of {PATIENCE:?}; seen {others:#?}"),
            }
        }
    }

    /// All events up to a silence.
    pub(crate) async fn rest(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Ok(Some(event)) = tokio::time::timeout(SILENCE, self.events.recv()).await {
            events.push(event);
        }
        events
    }

    pub(crate) async fn appeared(&mut self, path: impl AsRef<Path>) -> Event {
        let wanted = path.as_ref();
        let is =
            |event: &Event| matches!(event, Event::DatabaseAppeared { path, .. } if path == wanted);
        self.until(&format!("{} appears", wanted.display()), is)
            .await
    }

    pub(crate) async fn changed(&mut self, path: impl AsRef<Path>) -> Event {
        let wanted = path.as_ref();
        let is =
            |event: &Event| matches!(event, Event::DatabaseChanged { path, .. } if path == wanted);
        self.until(&format!("{} changes", wanted.display()), is)
            .await
    }

    pub(crate) async fn gone(&mut self, path: impl AsRef<Path>) -> Event {
        let wanted = path.as_ref();
        let is =
            |event: &Event| matches!(event, Event::DatabaseGone { path, .. } if path == wanted);
        self.until(&format!("{} goes", wanted.display()), is).await
    }

    pub(crate) async fn touched(&mut self, path: impl AsRef<Path>) -> Event {
        let wanted = path.as_ref();
        let is = |event: &Event| matches!(event, Event::Touched { path, .. } if path == wanted);
        self.until(&format!("{} is touched", wanted.display()), is)
            .await
    }

    pub(crate) async fn refused(&mut self, path: impl AsRef<Path>) -> String {
        let wanted = path.as_ref();
        let is = |event: &Event| matches!(event, Event::Refused { path, .. } if path == wanted);
        match self
            .until(&format!("{} is refused", wanted.display()), is)
            .await
        {
            Event::Refused { reason, .. } => reason,
            _ => unreachable!(),
        }
    }
}

pub(crate) fn pod(uid: &str) -> PodUid {
    PodUid::new(uid).unwrap()
}
