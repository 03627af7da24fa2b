//! Discovery's events become fleet calls: the only place that knows both.
//!
//! The rules, each with its reason:
//!
//! - A pod's volumes are restored, then scanned, then its gate opens.
//! - An inode is claimed before anything opens it for SQLite, and freed when the last descriptor
//!   is closed (L3).
//! - A pod that terminates may commit until its last breath: its databases drain when a volume is
//!   gone (the kubelet takes volumes away after the last container ended), or shortly after the
//!   pod is. Only a pod with a memory-medium volume is drained earlier, when it has written nothing
//!   for a while, because our descriptors would keep that volume mounted (L15).

mod flow;
mod held;
mod notes;
mod prepare;
mod signal;
mod volume;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sqlrep_discover::{Claims, Event, InodeKey, Kind, PodRef, PodUid};
use sqlrep_pipeline::{JournalPolicy, Medium, Settings, State, Volume};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

pub(crate) use flow::Flow;
use held::{Found, Held, Place};
pub(crate) use notes::Notes;
use prepare::Preparation;
pub(crate) use signal::Signals;

use crate::events::{Notices, Reason};
use crate::health::Pulse;

/// How often the loop shows that it is alive.
const PULSE: Duration = Duration::from_secs(5);

/// How often is looked whether a place that waits for its predecessor's tail is free.
const WAITING_LOOK: Duration = Duration::from_millis(200);

/// After its pod is gone a volume usually follows within half a second (a forced deletion); where
/// it stays (a manifest that was taken away) the drain begins after this.
const LINGER_DISK: Duration = Duration::from_secs(3);

/// The same where our descriptors keep the volume from going.
const LINGER_MEMORY: Duration = Duration::from_secs(1);

/// How often is looked whether the volume is gone.
const LINGER_LOOK: Duration = Duration::from_millis(50);

/// Silence after which a terminating pod with a memory-medium volume is drained; L15 allows 5 s.
const MEMORY_QUIET: Duration = Duration::from_secs(4);

/// A database in rollback-journal mode is left alone for as long: most apps change it to WAL mode
/// right after they made it, and must not find it locked then.
const SETTLE: Duration = Duration::from_secs(1);

/// What adoption knows besides pods.
pub(crate) struct Context {
    /// The kubelet's directory.
    pub(crate) kubelet_root: PathBuf,
    /// The pace where the pod says nothing.
    pub(crate) defaults: Settings,
    /// Which boot of the node this is.
    pub(crate) boot_id: String,
    /// Writes status files.
    pub(crate) signals: Signals,
    /// Begins to scan a pod's volumes ([`sqlrep_discover::Discover::watch_volumes`]).
    pub(crate) watch: Box<dyn Fn(&PodUid) + Send + Sync>,
    /// Scans everything again ([`sqlrep_discover::Discover::rescan`]).
    pub(crate) rescan: Box<dyn Fn() + Send + Sync>,
    /// What is wrong with pods' annotations.
    pub(crate) notes: Notes,
    /// What is told on pods.
    pub(crate) notices: Notices,
    /// Shows that the loop lives.
    pub(crate) pulse: Pulse,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("kubelet_root", &self.kubelet_root)
            .finish_non_exhaustive()
    }
}

/// A pod that opted in.
#[derive(Debug)]
struct Known {
    pod: PodRef,
    volumes: Vec<Volume>,
    /// Ends its preparation.
    alive: CancellationToken,
    ending: bool,
    /// When it is drained unless it writes again.
    quiet_at: Option<Instant>,
    /// Databases that were drained because nothing was written for a while.
    rested: BTreeMap<Place, Kind>,
}

/// What a task of a pod came to.
#[derive(Debug)]
enum TaskEnd {
    /// Its preparation ended.
    Prepared,
    /// It is gone, and so are its volumes, or they stay.
    Lingered(PodUid),
    /// Its databases have been let go of.
    Released(PodUid),
}

impl Known {
    fn volume(&self, name: &str) -> Option<&Volume> {
        self.volumes.iter().find(|volume| volume.name == name)
    }

    fn has_memory(&self) -> bool {
        self.volumes
            .iter()
            .any(|volume| volume.medium == Medium::Memory)
    }
}

/// The loop that turns events into calls.
#[derive(Debug)]
pub(crate) struct Adoption<F> {
    flow: F,
    context: Arc<Context>,
    pods: BTreeMap<PodUid, Known>,
    held: Held,
    /// Preparations and releases; at most two for each pod.
    tasks: JoinSet<TaskEnd>,
    /// Found while the tail of the one before, at the same place, is still on its way.
    waiting: BTreeMap<Place, Found>,
    /// Since when a database in rollback-journal mode is known that is not followed yet.
    unsettled: BTreeMap<Place, (InodeKey, Instant)>,
    look_at: Option<Instant>,
    /// Pods whose databases are letting go: what is claimed for them now is freed by that.
    releasing: BTreeSet<PodUid>,
}

impl<F: Flow> Adoption<F> {
    /// Nothing is known yet.
    pub(crate) fn new(flow: F, context: Arc<Context>, claims: Claims) -> Self {
        Self {
            flow,
            context,
            pods: BTreeMap::new(),
            held: Held::new(claims),
            tasks: JoinSet::new(),
            waiting: BTreeMap::new(),
            unsettled: BTreeMap::new(),
            look_at: None,
            releasing: BTreeSet::new(),
        }
    }

    /// Works until it is told to stop. `false`: discovery ended by itself, which is a bug.
    pub(crate) async fn run(
        mut self,
        mut events: mpsc::Receiver<Event>,
        stop: CancellationToken,
    ) -> bool {
        let mut pulse = interval(PULSE);
        pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut timer = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return true,
                event = events.recv() => match event {
                    Some(event) => self.handle(event),
                    None => return stop.is_cancelled(),
                },
                Some(done) = self.tasks.join_next() => self.task_ended(done),
                () = sleep_until(timer.unwrap_or_else(Instant::now)), if timer.is_some() => {
                    self.timers(Instant::now());
                }
                _ = pulse.tick() => {
                    self.context.pulse.beat();
                    sqlrep_pipeline::give_back_memory();
                    continue; // nothing is due at another time for that
                }
            }
            timer = self.next_timer();
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::PodAppeared(pod) | Event::PodChanged(pod) => self.pod_seen(pod),
            Event::PodTerminating(uid) => self.pod_terminating(&uid),
            Event::PodGone(uid) => self.pod_gone(&uid),
            Event::DatabaseAppeared {
                pod,
                volume,
                path,
                kind,
                inode,
            }
            | Event::DatabaseChanged {
                pod,
                volume,
                path,
                kind,
                inode,
            } => {
                let place = Place {
                    pod_uid: pod.to_string(),
                    volume,
                    path,
                };
                self.database_seen(&pod, &place, Found { kind, inode });
            }
            Event::DatabaseGone { pod, volume, path } => {
                let place = Place {
                    pod_uid: pod.to_string(),
                    volume: volume.clone(),
                    path: path.clone(),
                };
                self.waiting.remove(&place);
                self.unsettled.remove(&place);
                self.flow.vanished(pod.as_str(), &volume, &path);
            }
            Event::VolumeGone { pod, volume } => self.volume_gone(pod, &volume),
            Event::Touched { pod, volume, path } => self.touched(&pod, &volume, &path),
            Event::Overflow => self.flow.touch_all(),
            Event::Ready => {
                self.context.pulse.pods_were_read();
                self.flow.ready();
            }
            other => self.complain(other),
        }
    }

    /// What a person should mend.
    fn complain(&self, event: Event) {
        match event {
            Event::BadAnnotation {
                pod,
                key,
                value,
                accepted,
            } => {
                tracing::warn!(pod = %pod, key, value, accepted, "annotation is not accepted");
                let note = format!("{key} is {value:?}; accepted: {accepted}");
                self.say(&pod, Reason::BadAnnotation, note);
            }
            Event::BadPod { pod, reason } => {
                tracing::warn!(pod = %pod, reason, "pod cannot be used");
            }
            Event::BadManifest { path, reason } => {
                tracing::warn!(path = %path.display(), reason, "manifest cannot be used");
            }
            Event::Refused {
                pod,
                volume,
                path,
                reason,
            } => {
                tracing::warn!(pod = %pod, volume, path = %path.display(), reason, "not looked into");
            }
            Event::WatchesLimited { reason } => tracing::warn!(reason, "slow change detection"),
            other => tracing::debug!(event = ?other, "event is not known here"),
        }
    }

    fn say(&self, uid: &PodUid, reason: Reason, note: String) {
        // A pod with a wrong label is no pod of ours, and its name is not known: the log has it.
        if let Some(known) = self.pods.get(uid) {
            self.context.notices.say(&known.pod, reason, note);
        }
    }

    // ---- pods ----

    fn pod_seen(&mut self, pod: PodRef) {
        self.context.notes.set(&pod);
        self.flow.register(pod.uid.as_str());
        let known = self.pods.get_mut(&pod.uid);
        if let Some(known) = known {
            let same_plan = known.pod.volumes == pod.volumes
                && known.pod.policy == pod.policy
                && known.pod.wrong == pod.wrong
                && known.pod.app == pod.app
                && known.pod.gate == pod.gate
                && known.pod.target == pod.target;
            if same_plan || known.ending {
                known.pod = pod;
                return;
            }
            known.alive.cancel();
        }
        let volumes: Vec<_> = pod
            .volumes
            .iter()
            .map(|dir| volume::volume(&pod, dir, &self.context.kubelet_root, self.context.defaults))
            .collect();
        let (uid, ending) = (pod.uid.clone(), pod.phase.is_ending());
        let entry = Known {
            pod,
            volumes,
            alive: CancellationToken::new(),
            ending,
            quiet_at: None,
            rested: BTreeMap::new(),
        };
        if ending {
            // Too late to restore; what the app still commits is followed.
            entry.alive.cancel();
            (self.context.watch)(&uid);
        } else {
            self.prepare(&entry);
        }
        self.pods.insert(uid, entry);
    }

    fn prepare(&mut self, entry: &Known) {
        let preparation = Preparation {
            flow: self.flow.clone(),
            context: Arc::clone(&self.context),
            pod: entry.pod.clone(),
            volumes: entry.volumes.clone(),
            alive: entry.alive.clone(),
        };
        self.tasks.spawn(async move {
            preparation.run().await;
            TaskEnd::Prepared
        });
    }

    fn pod_terminating(&mut self, uid: &PodUid) {
        let Some(pod) = self.pods.get_mut(uid) else {
            return;
        };
        tracing::info!(pod = %pod.pod.name, ns = %pod.pod.namespace, "pod terminates");
        pod.ending = true;
        pod.alive.cancel();
        self.flow.ending(uid.as_str());
        if pod.has_memory() {
            pod.quiet_at = Some(Instant::now() + MEMORY_QUIET);
        }
    }

    fn pod_gone(&mut self, uid: &PodUid) {
        let Some(pod) = self.pods.remove(uid) else {
            return;
        };
        pod.alive.cancel();
        self.context.notes.remove(uid.as_str());
        let most = if pod.has_memory() {
            LINGER_MEMORY
        } else {
            LINGER_DISK
        };
        let uid = uid.clone();
        self.tasks.spawn(async move {
            linger(&pod.volumes, most).await;
            TaskEnd::Lingered(uid)
        });
    }

    fn task_ended(&mut self, end: Result<TaskEnd, JoinError>) {
        match end {
            Ok(TaskEnd::Prepared) => {}
            Ok(TaskEnd::Lingered(uid)) => self.release(uid),
            Ok(TaskEnd::Released(uid)) => {
                self.releasing.remove(&uid);
                if self.pods.get(&uid).is_some_and(|pod| !pod.ending) {
                    // What comes into its volumes now is followed again.
                    self.flow.register(uid.as_str());
                }
                if self.held.free_pod(uid.as_str()) > 0 {
                    // A file that got the number of a claimed inode has not been looked into.
                    (self.context.rescan)();
                }
            }
            Err(error) => tracing::error!(err = %error, "a task of a pod panicked: a bug"),
        }
    }

    /// A volume is gone, or another one is in its place. The kubelet mounts memory over a directory
    /// that was seen already: a pod that lives and has nothing there has nothing to drain.
    fn volume_gone(&mut self, uid: PodUid, volume: &str) {
        let lives = self.pods.get(&uid).is_some_and(|pod| !pod.ending);
        let mut held = self.held.of_pod(uid.as_str());
        let empty = !held.any(|(place, _)| place.volume == volume);
        drop(held);
        tracing::debug!(pod = %uid, volume, lives, empty, "volume is gone");
        if !(lives && empty) {
            self.release(uid);
        }
    }

    /// Drains the databases of a pod: its files are gone, or will not be written any more.
    fn release(&mut self, uid: PodUid) {
        if !self.releasing.insert(uid.clone()) {
            return;
        }
        let flow = self.flow.clone();
        self.tasks.spawn(async move {
            flow.release(uid.as_str()).await;
            TaskEnd::Released(uid)
        });
    }

    // ---- databases ----

    fn database_seen(&mut self, uid: &PodUid, place: &Place, found: Found) {
        let Some(pod) = self.pods.get(uid) else {
            self.unsettled.remove(place);
            return;
        };
        let Some(volume) = pod.volume(&place.volume).cloned() else {
            return;
        };
        let ending = pod.ending;
        if self.held.inode(place) == Some(found.inode) {
            self.held.note_kind(place, found.kind);
            self.flow.touch(&place.pod_uid, &place.volume, &place.path);
        } else if self.releasing.contains(uid)
            || self.is_draining(place)
            || (!ending && !self.is_settled(&volume, place, found))
        {
            self.waiting.insert(place.clone(), found);
            self.look_at = Some(Instant::now() + WAITING_LOOK);
        } else {
            self.follow(ending, &volume, place, found);
        }
    }

    /// Whether the tail of an earlier database at this place is still on its way.
    fn is_draining(&self, place: &Place) -> bool {
        self.flow.list().iter().any(|row| {
            matches!(row.state, State::Draining | State::Gone)
                && row.pod_uid == place.pod_uid
                && row.id.volume() == place.volume
                && row.id.path() == place.path
        })
    }

    /// Whether the journal mode is the one that stays, as far as can be told.
    fn is_settled(&mut self, volume: &Volume, place: &Place, found: Found) -> bool {
        if found.kind == Kind::Wal || volume.journal == JournalPolicy::Wal {
            return true;
        }
        let now = Instant::now();
        let since = self.unsettled.entry(place.clone());
        let (inode, since) = since.or_insert((found.inode, now));
        if *inode != found.inode {
            (*inode, *since) = (found.inode, now);
        }
        now >= *since + SETTLE
    }

    fn follow(&mut self, ending: bool, volume: &Volume, place: &Place, found: Found) {
        // SQLite would make the files that are missing, and the kubelet could not remove them.
        if ending && found.kind == Kind::Wal && !volume::has_wal(volume, &place.path) {
            tracing::warn!(
                pod = %volume.pod.name, path = %place.path.display(),
                "found while its pod goes away, and closed: not followed"
            );
            return;
        }
        self.unsettled.remove(place);
        self.held.claim(place, found, Instant::now());
        self.flow.adopt(volume, &place.path);
        if ending {
            self.flow.ending(&place.pod_uid);
        }
    }

    fn touched(&mut self, uid: &PodUid, volume: &str, path: &Path) {
        self.flow.touch(uid.as_str(), volume, path);
        let Some(pod) = self
            .pods
            .get_mut(uid)
            .filter(|pod| pod.ending && pod.has_memory())
        else {
            return;
        };
        pod.quiet_at = Some(Instant::now() + MEMORY_QUIET);
        let place = Place {
            pod_uid: uid.to_string(),
            volume: volume.to_owned(),
            path: path.to_path_buf(),
        };
        // Let go of already, and written to again: followed once more.
        let rested = pod.rested.remove(&place);
        let file = pod.volume(volume).map(|volume| volume.dir.join(path));
        if let (Some(kind), Some(Ok(meta))) = (rested, file.map(std::fs::symlink_metadata)) {
            let inode = InodeKey {
                dev: meta.dev(),
                ino: meta.ino(),
            };
            self.database_seen(uid, &place, Found { kind, inode });
        }
    }

    // ---- time ----

    fn next_timer(&self) -> Option<Instant> {
        let quiet = self.pods.values().filter_map(|pod| pod.quiet_at);
        quiet.chain(self.look_at).chain(self.held.next_end()).min()
    }

    fn timers(&mut self, now: Instant) {
        if self.held.free_replaced(now) > 0 {
            (self.context.rescan)();
        }
        if self.look_at.is_some_and(|at| at <= now) {
            self.look_at = None;
            for (place, found) in std::mem::take(&mut self.waiting) {
                if let Some(uid) = PodUid::new(&place.pod_uid) {
                    self.database_seen(&uid, &place, found);
                }
            }
        }
        self.rest(now);
    }

    /// Drains terminating pods with memory-medium volumes in which nothing moves any more.
    fn rest(&mut self, now: Instant) {
        let mut quiet = Vec::new();
        for (uid, pod) in &mut self.pods {
            if pod.quiet_at.is_some_and(|at| at <= now) {
                pod.quiet_at = None;
                let held = self.held.of_pod(uid.as_str());
                pod.rested
                    .extend(held.map(|(place, kind)| (place.clone(), kind)));
                quiet.push(uid.clone());
            }
        }
        for uid in quiet {
            self.release(uid);
        }
    }
}

/// Waits until the volumes of a pod that is gone are gone too, for a while.
async fn linger(volumes: &[Volume], most: Duration) {
    let until = Instant::now() + most;
    while Instant::now() < until && volumes.iter().any(|volume| volume.dir.exists()) {
        tokio::time::sleep(LINGER_LOOK).await;
    }
}

#[cfg(test)]
mod tests;
