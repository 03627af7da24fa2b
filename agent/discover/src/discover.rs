//! The handle: starts the discovery thread, tells it what to watch, ends it.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::claims::Claims;
use crate::cluster::{self, ApiServer};
use crate::engine::Engine;
use crate::error::Error;
use crate::event::Event;
use crate::identity::PodUid;
use crate::manifests::Wanted;
use crate::outbox::Outbox;

/// Where pods are learned from.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PodSource {
    /// A directory of v1/Pod manifests, `.yaml`, `.yml` or `.json`.
    Dir(PathBuf),
    /// The API server of a cluster.
    Kube(ApiServer),
}

/// What discovery needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where pods are learned from.
    pub source: PodSource,
    /// The kubelet's root directory, `/var/lib/kubelet` on most nodes.
    pub kubelet_root: PathBuf,
    /// This node's name: pods of other nodes are passed over.
    pub node_name: String,
    /// Bounds (L12).
    pub limits: Limits,
}

impl Config {
    /// A configuration with the usual limits.
    pub fn new(
        source: PodSource,
        kubelet_root: impl Into<PathBuf>,
        node_name: impl Into<String>,
    ) -> Self {
        let (kubelet_root, node_name) = (kubelet_root.into(), node_name.into());
        Self {
            source,
            kubelet_root,
            node_name,
            limits: Limits::default(),
        }
    }
}

/// The bounds of every scan, watch and wait (L12). The defaults fit a node; tests lower them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many directories deep a volume is scanned.
    pub depth_max: usize,
    /// How many directory entries one scan of a volume looks at.
    pub entries_max: usize,
    /// How many headers (100 bytes each) one scan of a volume reads.
    pub headers_max: usize,
    /// How long one scan of a volume may take.
    pub scan_time_max: Duration,
    /// How many databases of a volume are followed.
    pub databases_max: usize,
    /// How many directories of a volume are watched for changes.
    pub volume_watches_max: usize,
    /// How many directories are watched in all.
    pub watches_max: usize,
    /// How many manifest files are read.
    pub manifests_max: usize,
    /// How large one manifest file may be.
    pub manifest_bytes_max: u64,
    /// How often everything is scanned again although no change was notified: the safety net. Of a
    /// thousand volumes a scan takes a third of a second of a processor.
    pub rescan_interval: Duration,
    /// How often is looked where change notification is not to be had.
    pub poll_interval: Duration,
    /// The rest after each batch of notifications, in which the kernel merges what a busy
    /// writer causes.
    pub batch_pause: Duration,
    /// How many events wait for the receiver before discovery waits.
    pub events_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            depth_max: 8,
            entries_max: 20_000,
            headers_max: 2_000,
            scan_time_max: Duration::from_millis(500),
            databases_max: 1_000,
            volume_watches_max: 1_000,
            // Under the 65,536 that many distributions allow one user, with room for others.
            watches_max: 50_000,
            manifests_max: 1_000,
            manifest_bytes_max: 4 << 20,
            rescan_interval: Duration::from_mins(5),
            poll_interval: Duration::from_secs(10),
            batch_pause: Duration::from_millis(16),
            events_max: 1_024,
        }
    }
}

/// Running discovery. Ends when the token given to [`Discover::start`] is cancelled, when this
/// is dropped, or when the receiver is; the receiver then runs dry.
#[derive(Debug)]
pub struct Discover {
    requests: Arc<Requests>,
    /// Cancels the thread's token on drop.
    _end: DropGuard,
}

impl Discover {
    /// Starts the discovery thread. Must be called within a tokio runtime.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a token is handed over, like a clone"
    )]
    pub fn start(
        config: Config,
        claims: Claims,
        cancel: CancellationToken,
    ) -> Result<(Self, mpsc::Receiver<Event>), Error> {
        let runtime = Handle::try_current().map_err(|_| Error::NoRuntime)?;
        let requests = Arc::new(Requests::new()?);
        // A child: dropping the handle must not cancel what the caller's token covers besides.
        let cancel = cancel.child_token();
        let (sender, receiver) = mpsc::channel(config.limits.events_max);
        let outbox = Outbox::new(sender, cancel.clone());
        let watch = match &config.source {
            PodSource::Kube(server) => Some((server.clone(), config.node_name.clone())),
            PodSource::Dir(_) => None,
        };
        let mut engine = Engine::new(config, claims, outbox, Arc::clone(&requests))?;
        thread::Builder::new()
            .name("discover".into())
            .spawn(move || engine.run())
            .map_err(|source| Error::Thread {
                attempted: "start the discovery thread",
                source,
            })?;
        if let Some((server, node_name)) = watch {
            let (requests, cancel) = (Arc::clone(&requests), cancel.clone());
            runtime.spawn(cluster::run(server, node_name, requests, cancel));
        }
        let (waker, cancelled) = (Arc::clone(&requests), cancel.clone());
        runtime.spawn(async move {
            cancelled.cancelled().await;
            waker.stop();
        });
        Ok((
            Self {
                requests,
                _end: cancel.drop_guard(),
            },
            receiver,
        ))
    }

    /// Begins to scan and watch the volumes of a pod. Call it when restore is done: before that a
    /// scan would see databases half-written by ourselves. Repeated and unknown ones are fine.
    pub fn watch_volumes(&self, pod: &PodUid) {
        self.requests.watch(pod);
    }

    /// Asks for a full scan of every watched volume, soon.
    pub fn rescan(&self) {
        self.requests.change(|asked| asked.rescan = true);
    }
}

/// What the thread was asked for since it last looked: state, not a queue, so nothing is lost
/// and nothing grows past the number of pods.
#[derive(Debug)]
pub(crate) struct Requests {
    asked: Mutex<Asked>,
    waker: OwnedFd,
}

/// See [`Requests`].
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// The pods of this node, if the API server told them anew.
    pub(crate) pods: Option<Wanted>,
    /// Pods whose volumes are to be watched.
    pub(crate) watch: BTreeSet<PodUid>,
    /// Whether everything is to be scanned.
    pub(crate) rescan: bool,
    /// Whether to end.
    pub(crate) stop: bool,
}

impl Requests {
    pub(crate) fn new() -> Result<Self, Error> {
        let waker =
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|errno| {
                Error::Thread {
                    attempted: "make an eventfd to wake the discovery thread",
                    source: errno.into(),
                }
            })?;
        Ok(Self {
            asked: Mutex::default(),
            waker,
        })
    }

    /// See [`Discover::watch_volumes`].
    pub(crate) fn watch(&self, pod: &PodUid) {
        self.change(|asked| {
            asked.watch.insert(pod.clone());
        });
    }

    /// All pods of this node, as the API server has them now.
    pub(crate) fn tell(&self, pods: Wanted) {
        self.change(|asked| asked.pods = Some(pods));
    }

    /// Ends the thread.
    pub(crate) fn stop(&self) {
        self.change(|asked| asked.stop = true);
    }

    fn change(&self, change: impl FnOnce(&mut Asked)) {
        change(&mut self.lock());
        // Any number but zero wakes, in either byte order. The counter refuses only when it would
        // overflow, and then the thread is awake anyway.
        let _already_awake = rustix::io::write(&self.waker, &[1, 0, 0, 0, 0, 0, 0, 0]);
    }

    /// Takes all that was asked; only `stop` stays.
    pub(crate) fn take(&self) -> Asked {
        let mut counter = [0; 8];
        // Nothing to read means nobody woke us; the state below is the truth either way.
        let _not_woken = rustix::io::read(&self.waker, &mut counter);
        let mut asked = self.lock();
        let stop = asked.stop;
        std::mem::replace(
            &mut *asked,
            Asked {
                stop,
                ..Asked::default()
            },
        )
    }

    /// What becomes readable when something was asked.
    pub(crate) fn waker(&self) -> &OwnedFd {
        &self.waker
    }

    fn lock(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
