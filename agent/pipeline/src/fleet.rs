//! The databases of this node: added when they are found, drained when their pod goes.

pub(crate) mod end;
pub(crate) mod targets;
pub(crate) mod tenure;
mod unread;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlrep_capture::Options;
use sqlrep_format::{Timestamp, Txid};
use sqlrep_replica::owner::WriterId;
use sqlrep_replica::{DbId, Manifest, Owner, OwnerState};
use sqlrep_spool::{Limits, PodNote, Spool, VolumeNote};
use tokio::sync::{oneshot, watch};
use tokio_util::task::TaskTracker;

use crate::database::{Ask, Database, Handle, Origin};
use crate::error::{CommandError, StageError};
use crate::handover::{Patience, PodLookup};
use crate::home::Home;
use crate::inspect::Benches;
use crate::lane::Identity;
use crate::root::{RootHealth, RootMemory, RootWatch};
use crate::stage::capture::{Capture, wall_now};
use crate::status::{Board, DatabaseStatus, State};
use crate::target::TargetMemory;
use crate::timing::{Durations, Histogram, Meter, NfsCalls};
use crate::{Key, PodIdentity, Settings, Volume, limits};

/// What a fleet needs to know to begin.
#[derive(Clone, Debug)]
pub struct FleetConfig {
    /// Name of this node.
    pub node: String,
    /// Where the replicas are.
    pub replica_root: PathBuf,
    /// The node's own state: spool, ledger, lock.
    pub state_dir: PathBuf,
    /// The pace of databases whose pods name none.
    pub defaults: Settings,
    /// Bytes the spool may hold on this node.
    pub spool_bytes_max: u64,
    /// A WAL past this size is checkpointed with the write lock held for milliseconds.
    pub wal_bytes_max: u64,
    /// How long level-0 files are kept once they are compacted.
    pub l0_retention: Duration,
    /// The steps of the compacted levels, finest first.
    pub levels: Vec<Duration>,
    /// How long branches and damaged files are kept beside the chain.
    pub branch_retention: Duration,
    /// How often each replica is read back; `None`: never.
    pub verify_interval: Option<Duration>,
    /// How long a shutdown waits for tails to be shipped.
    pub drain_timeout: Duration,
    /// Who the agent is on the replica share.
    pub replica_owner: Option<Identity>,
    /// UID of the cluster, where there is one.
    pub cluster_uid: Option<String>,
    /// Knows about pods of other nodes.
    pub lookup: Arc<dyn PodLookup>,
    /// Remembers the volumes of pods that hold replicas.
    pub targets: Arc<dyn TargetMemory>,
}

impl FleetConfig {
    /// Where files without a future are made: pending pages, restores on their way to a client.
    pub(crate) fn scratch_dir(&self) -> PathBuf {
        self.state_dir.join("scratch")
    }
}

/// Why a fleet cannot begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The state directory cannot be used.
    #[error(transparent)]
    Spool(#[from] sqlrep_spool::Error),
    /// SQLite cannot be used.
    #[error(transparent)]
    Capture(#[from] sqlrep_capture::Error),
    /// The scratch directory cannot be made.
    #[error("cannot make an empty directory {path}")]
    Scratch {
        /// Which one.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// No threads.
    #[error("cannot start the lanes")]
    Lanes(#[source] std::io::Error),
}

impl StartError {
    /// Whether another agent works on this node.
    pub fn is_locked(&self) -> bool {
        matches!(self, Self::Spool(sqlrep_spool::Error::Locked { .. }))
    }
}

/// What everything in the flow shares.
pub(crate) struct Context {
    pub(crate) config: FleetConfig,
    pub(crate) spool: Arc<Spool>,
    pub(crate) board: Board,
    pub(crate) root: RootWatch,
    /// The root, as a place for replicas.
    pub(crate) home: Home,
    /// Volumes of pods that hold replicas, by the pod's UID.
    targets: Mutex<HashMap<String, Home>>,
    /// Databases whose tail waits in the spool until their app's next pod brings the volume back.
    left: Mutex<HashSet<Key>>,
    pub(crate) tracker: TaskTracker,
    actors: Mutex<HashMap<Key, Handle>>,
    pods: Mutex<HashSet<String>>,
    /// Those of them that terminate.
    endings: Mutex<HashSet<String>>,
    /// Databases that were restored for a pod and have not been found in its volume yet.
    restored: Mutex<HashSet<(String, DbId)>>,
    insisted: Mutex<HashSet<DbId>>,
    patience: Mutex<Patience>,
    unread: unread::Unread,
    /// What replicas there were when a pod came to have a volume.
    entered: Mutex<HashMap<VolumeNote, HashSet<DbId>>>,
    /// Volumes of pods that are gone, on their way back.
    leaving: Mutex<HashMap<VolumeNote, tenure::Leaving>>,
    /// The calls on all replicas.
    pub(crate) nfs: Meter,
    /// The restores that went well.
    pub(crate) restores: Durations,
    /// Since when this process has the node: temp files of restores that are older are nobody's.
    pub(crate) since: Timestamp,
    /// Where databases are looked at.
    pub(crate) benches: Benches,
    ready: watch::Sender<bool>,
}

impl Context {
    pub(crate) fn capture_options(&self, writer: u64) -> Options {
        let mut options = Options::new(writer, self.config.scratch_dir());
        options.wal_hard_bytes = self.config.wal_bytes_max;
        options
    }

    /// Tells the touch path of a capture thread.
    pub(crate) fn attach(&self, key: &Key, capture: Capture) {
        if let Some(handle) = self.actors().get_mut(key) {
            handle.capture = Some(capture);
        }
    }

    pub(crate) fn detach(&self, key: &Key) {
        if let Some(handle) = self.actors().get_mut(key) {
            handle.capture = None;
        }
    }

    /// An actor has ended.
    pub(crate) fn forget(&self, key: &Key) {
        self.actors().remove(key);
        self.board.remove(key);
    }

    /// Whether a pod is known on this node, or its tail is still here.
    pub(crate) fn lives(&self, pod_uid: &str) -> bool {
        self.pods().contains(pod_uid) || self.actors().keys().any(|key| key.pod_uid == pod_uid)
    }

    /// Whether a pod terminates or is gone: nothing is put into its volumes any more (L15).
    pub(crate) fn goes_away(&self, pod_uid: &str) -> bool {
        !self.pods().contains(pod_uid) || lock(&self.endings).contains(pod_uid)
    }

    /// A database was claimed and restored: somebody must release it, found or not.
    pub(crate) fn note_restored(&self, pod_uid: &str, id: &DbId) {
        lock(&self.restored).insert((pod_uid.to_owned(), id.clone()));
    }

    /// Whether that is noted.
    pub(crate) fn was_restored(&self, pod_uid: &str, id: &DbId) -> bool {
        lock(&self.restored).contains(&(pod_uid.to_owned(), id.clone()))
    }

    /// Whether that was still noted.
    pub(crate) fn forget_restored(&self, pod_uid: &str, id: &DbId) -> bool {
        lock(&self.restored).remove(&(pod_uid.to_owned(), id.clone()))
    }

    /// A database of this volume's app that another pod still has on this node, or whose tail is
    /// still on its way, and that pod's UID.
    pub(crate) fn predecessor(&self, volume: &Volume) -> Option<(DbId, String)> {
        let actors = self.actors();
        let others = actors.iter();
        let mut others = others.filter(|(key, _)| key.pod_uid != volume.pod.uid);
        others
            .find(|(_, Handle { id, .. })| volume.holds(id) && !lock(&self.insisted).contains(id))
            .map(|(key, handle)| (handle.id.clone(), key.pod_uid.clone()))
    }

    /// Nothing of this volume waits any more: rows that said so, of databases that did not come
    /// after all, go.
    pub(crate) fn drop_waiting(&self, volume: &Volume) {
        let (uid, name) = (&volume.pod.uid, &volume.name);
        for (key, row) in self.board.rows_with_keys() {
            let of_volume = key.pod_uid == *uid && key.volume == *name;
            if of_volume && row.state == State::Stalled && !self.actors().contains_key(&key) {
                self.board.remove(&key);
            }
        }
    }

    /// Whether a person said to take this replica whoever holds it.
    pub(crate) fn take_insistence(&self, id: &DbId) -> bool {
        lock(&self.insisted).remove(id)
    }

    /// Whether a person said that of a replica of this volume.
    pub(crate) fn is_insisted(&self, volume: &Volume) -> bool {
        lock(&self.insisted).iter().any(|id| volume.holds(id))
    }

    /// Who waits for whom.
    pub(crate) fn patience(&self) -> MutexGuard<'_, Patience> {
        lock(&self.patience)
    }

    /// The id that a pod's files carry.
    pub(crate) fn writer(&self, pod: &PodIdentity) -> WriterId {
        WriterId::new(&self.config.node, &pod.uid)
    }

    /// A pod of this node as the owner of a replica or a volume.
    pub(crate) fn owner(&self, pod: &PodIdentity, state: OwnerState) -> Owner {
        Owner {
            pod: pod.name.clone(),
            pod_uid: pod.uid.clone(),
            node: self.config.node.clone(),
            writer: self.writer(pod),
            state,
            since: wall_now(),
        }
    }

    /// What a pod's agent says of itself under a replica; what it does not know yet is left out.
    pub(crate) fn manifest(&self, id: &DbId, pod: &PodIdentity, state: OwnerState) -> Manifest {
        Manifest {
            version: Manifest::VERSION,
            id: id.clone(),
            cluster_uid: self.config.cluster_uid.clone(),
            namespace_uid: pod.namespace_uid.clone(),
            owner: self.owner(pod, state),
            file: None,
            page_size: None,
            head: None,
            claims: Vec::new(),
        }
    }

    fn actors(&self) -> MutexGuard<'_, HashMap<Key, Handle>> {
        lock(&self.actors)
    }

    fn pods(&self) -> MutexGuard<'_, HashSet<String>> {
        lock(&self.pods)
    }
}

/// A handle on the databases of this node; clones share them.
#[derive(Clone)]
pub struct Fleet {
    pub(crate) context: Arc<Context>,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet")
            .field("config", &self.context.config)
            .finish_non_exhaustive()
    }
}

impl Fleet {
    /// Opens the state directory and starts the lanes. Must be called inside a tokio runtime.
    ///
    /// The replica root is not touched here: a NAS that is away does not keep an agent from
    /// starting.
    pub fn start(config: FleetConfig) -> Result<Self, StartError> {
        sqlrep_capture::init()?;
        let spool = Spool::open(
            &config.state_dir,
            Limits {
                bytes_max: config.spool_bytes_max,
            },
        )?;
        empty_dir(&config.scratch_dir())?;
        let spool = Arc::new(spool);
        let root = RootWatch::new(config.replica_root.clone(), Arc::clone(&spool));
        let nfs = Meter::default();
        let home = Home::root(root.clone(), config.replica_owner, nfs.clone());
        let home = home.map_err(StartError::Lanes)?;
        let context = Context {
            since: wall_now(),
            home,
            targets: Mutex::default(),
            left: Mutex::default(),
            board: Board::new(),
            tracker: TaskTracker::new(),
            actors: Mutex::default(),
            pods: Mutex::default(),
            endings: Mutex::default(),
            restored: Mutex::default(),
            insisted: Mutex::default(),
            patience: Mutex::default(),
            unread: unread::Unread::default(),
            entered: Mutex::default(),
            leaving: Mutex::default(),
            nfs,
            restores: Durations::default(),
            benches: Benches::new(config.scratch_dir()),
            ready: watch::Sender::new(false),
            config,
            spool,
            root,
        };
        Ok(Self {
            context: Arc::new(context),
        })
    }

    /// Says that a pod exists, before anything is done for any pod that was seen with it.
    pub fn register(&self, pod_uid: &str) {
        self.context.pods().insert(pod_uid.to_owned());
    }

    /// Says that every pod of this node has been registered once. Who is not known now is gone:
    /// tails that gone pods left in the spool are shipped, and owners are judged from here on.
    pub fn ready(&self) {
        // The tails first: a restore that does not know of them would leave them out.
        self.ship_orphans();
        self.give_back_volumes(|note| !self.context.pods().contains(&note.pod_uid));
        self.context.ready.send_replace(true);
    }

    /// Waits for [`Fleet::ready`].
    pub(crate) async fn wait_ready(&self) {
        let mut ready = self.context.ready.subscribe();
        // The sender lives as long as the context that we hold.
        drop(ready.wait_for(|ready| *ready).await);
    }

    /// A WAL database was found: captures and ships it from now on. Does nothing for one that is
    /// known.
    pub fn adopt(&self, volume: &Volume, path: &Path) {
        if let Err(error) = self.try_adopt(volume, path) {
            self.unsupported(volume, path, error.text(), error.class().hint().to_owned());
        }
    }

    fn try_adopt(&self, volume: &Volume, path: &Path) -> Result<(), StageError> {
        let id = identity(volume, path)?;
        let key = Key::new(volume, path);
        let mut actors = self.context.actors();
        if let Some(known) = actors.get(&key) {
            // The file is another one, or there again: the thread looks for itself.
            if let Some(capture) = &known.capture {
                capture.touch();
            }
            return Ok(());
        }
        if actors.len() >= limits::DATABASES_MAX {
            let reason = format!(
                "this node follows {} databases already",
                limits::DATABASES_MAX
            );
            return Err(StageError::Refused { reason });
        }
        let home = self.context.home_of(volume)?;
        let spool = self.context.spool.database(&id, &volume.pod.uid)?;
        spool.note_pod(&note(volume))?;
        self.context.forget_restored(&volume.pod.uid, &id);
        self.context.board.put(&key, volume.row(id.clone()));
        let handle = Database::start(
            &self.context,
            volume.clone(),
            (id, spool),
            home,
            Origin::Live,
        );
        actors.insert(key, handle);
        Ok(())
    }

    /// A file was found that cannot be followed: it is listed with the reason, never ignored.
    pub fn unsupported(&self, volume: &Volume, path: &Path, reason: String, hint: String) {
        let Ok(id) = identity(volume, path) else {
            tracing::warn!(path = %path.display(), %reason, "cannot be replicated");
            return;
        };
        let key = Key::new(volume, path);
        let mut row = volume.row(id);
        row.state = State::Unsupported;
        (row.reason, row.hint) = (Some(reason), Some(hint));
        if self.context.actors().contains_key(&key) {
            return; // it is followed; its own actor says what is wrong with it
        }
        self.context.board.put(&key, row);
    }

    /// Something may have been written. Never blocks.
    pub fn touch(&self, pod_uid: &str, volume: &str, path: &Path) {
        let key = Key {
            pod_uid: pod_uid.to_owned(),
            volume: volume.to_owned(),
            path: path.to_path_buf(),
        };
        if let Some(Handle {
            capture: Some(capture),
            ..
        }) = self.context.actors().get(&key)
        {
            capture.touch();
        }
    }

    /// Hints were lost: everything may have been written.
    pub fn touch_all(&self) {
        for handle in self.context.actors().values() {
            if let Some(capture) = &handle.capture {
                capture.touch();
            }
        }
    }

    /// The file is gone while its pod lives. Its descriptors are still held: the capture thread
    /// reads the tail and waits for another file at this path.
    pub fn vanished(&self, pod_uid: &str, volume: &str, path: &Path) {
        self.touch(pod_uid, volume, path);
        let key = Key {
            pod_uid: pod_uid.to_owned(),
            volume: volume.to_owned(),
            path: path.to_path_buf(),
        };
        if !self.context.actors().contains_key(&key) {
            self.context.board.remove(&key);
        }
    }

    /// The pod terminates, and its app may still commit: from now on nothing is created in its
    /// volumes (L15). [`Fleet::release`] follows when they are gone.
    pub fn ending(&self, pod_uid: &str) {
        if !self.context.pods().contains(pod_uid) {
            return;
        }
        lock(&self.context.endings).insert(pod_uid.to_owned());
        for handle in self.handles(|key| key.pod_uid == pod_uid) {
            if let Some(capture) = handle.capture {
                capture.ending();
            }
        }
    }

    /// The pod is going: drains its databases. Returns when all tails are in the spool and every
    /// descriptor is closed; shipping goes on by itself.
    pub async fn release(&self, pod_uid: &str) {
        let of_pod = self.handles(|key| key.pod_uid == pod_uid);
        // Before the pod is forgotten: from then on its app's next pod may be restored.
        self.ship_left_behind(pod_uid);
        self.context.pods().remove(pod_uid);
        lock(&self.context.endings).remove(pod_uid);
        let had = self.context.take_entered(pod_uid);
        drain_all(&of_pod, Ask::Release).await;
        // What had no actor (unsupported, or restored and never opened) has nothing to drain.
        for (key, _) in self.context.board.rows_with_keys() {
            let kept = self.context.actors().contains_key(&key) || self.context.is_left(&key);
            if key.pod_uid == pod_uid && !kept {
                self.context.board.remove(&key);
            }
        }
        // Restored, and gone before it was found: the replica is still to be released.
        let never_found: Vec<_> = lock(&self.context.restored)
            .extract_if(|(uid, _)| uid == pod_uid)
            .collect();
        for (_, id) in never_found {
            self.ship_orphan(&id, pod_uid);
        }
        self.give_back_volumes(|note| note.pod_uid == pod_uid);
        self.let_go_of_target(pod_uid, had);
    }

    fn handles(&self, wanted: impl Fn(&Key) -> bool) -> Vec<Handle> {
        let actors = self.context.actors();
        actors
            .iter()
            .filter(|(key, _)| wanted(key))
            .map(|(_, handle)| handle.clone())
            .collect()
    }

    /// What is known of each database.
    pub fn list(&self) -> Vec<DatabaseStatus> {
        self.context.board.list()
    }

    /// Shows that to `look`, without a copy. Nobody else comes to a row meanwhile: it must be short.
    pub fn look<T>(&self, look: impl FnOnce(&BTreeMap<Key, DatabaseStatus>) -> T) -> T {
        self.context.board.look(look)
    }

    /// Rings when something in [`Fleet::list`] changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.context.board.changes()
    }

    /// Rings when a database of [`Fleet::list`] comes, goes, is another state, has another number of
    /// names, or was found damaged, it or its replica.
    pub fn turns(&self) -> watch::Receiver<u64> {
        self.context.board.turns()
    }

    /// Whether a database has something to ship.
    pub fn is_behind(&self) -> bool {
        self.context.board.is_behind()
    }

    /// What was last seen of the replica root.
    pub fn root(&self) -> RootHealth {
        self.context.root.health()
    }

    /// From now on this is what the cluster remembers of the replica root.
    pub fn remember_root(&self, memory: RootMemory) {
        self.context.root.set_cluster(memory);
    }

    /// Looks at the replica root now.
    pub async fn check_root(&self) -> Result<(), StageError> {
        let home = self.context.home.clone();
        let check = move || home.check();
        let lane = self.context.home.bulk();
        lane.run(limits::LIST_TIMEOUT, check).await?
    }

    /// Tries whether the replica root, which must be usable, can do what a replica needs; the
    /// outcome is in [`Fleet::root`].
    pub async fn probe_root(&self) -> Result<(), StageError> {
        let (root, node) = (self.context.root.clone(), self.context.config.node.clone());
        let identity = self.context.config.replica_owner;
        let probe = move || crate::lane::acting(identity, || root.probe(&node));
        let lane = self.context.home.bulk();
        lane.run(limits::LIST_TIMEOUT, probe).await?;
        Ok(())
    }

    /// The calls on replicas since the start, by operation.
    pub fn nfs_calls(&self) -> Vec<NfsCalls> {
        self.context.nfs.so_far()
    }

    /// How long restores into volumes of pods took, since the start.
    pub fn restore_durations(&self) -> Histogram {
        self.context.restores.so_far()
    }

    /// Bytes in the spool that wait to be shipped.
    pub fn pending_bytes(&self) -> u64 {
        self.context.spool.pending_bytes()
    }

    /// What the fleet was started with.
    pub fn config(&self) -> &FleetConfig {
        &self.context.config
    }

    /// Captures what is committed and waits until it is on the replica (the verb `sync`).
    pub async fn capture_and_ship(&self, id: &DbId) -> Result<Txid, CommandError> {
        let (reply, answer) = oneshot::channel();
        self.ask(id, Ask::Ship(reply)).await?;
        answer.await.unwrap_or_else(|_| Err(gone(id)))
    }

    /// Captures what is committed and writes a snapshot of it (the verb `snapshot`). Gives the TXID
    /// that the newest snapshot holds and its size.
    pub async fn snapshot(&self, id: &DbId) -> Result<(Txid, u64), CommandError> {
        self.capture_and_ship(id).await?;
        let (reply, answer) = oneshot::channel();
        self.ask(id, Ask::Snapshot(reply)).await?;
        answer.await.unwrap_or_else(|_| Err(gone(id)))
    }

    /// Makes this node's database the owner of its replica, whoever owned it (the verbs `adopt`
    /// and `takeover`): a fenced one, or one that waits for its old owner to let go. Gives the
    /// TXID at which everything committed here is on the replica.
    pub async fn take_over(&self, id: &DbId) -> Result<Txid, CommandError> {
        if self.live_handle(id).is_some() {
            let (reply, answer) = oneshot::channel();
            self.ask(id, Ask::Adopt(reply)).await?;
            answer.await.unwrap_or_else(|_| Err(gone(id)))?;
        } else if self.context.board.keys_of(id).is_empty() {
            return Err(gone(id));
        } else if let Some(left) = self.context.left_in_spool(id) {
            return Err(CommandError::Refused(left));
        } else {
            // A pod that waits in prepare() for the old owner looks here at its next try.
            lock(&self.context.insisted).insert(id.clone());
        }
        self.wait_owned(id).await
    }

    async fn wait_owned(&self, id: &DbId) -> Result<Txid, CommandError> {
        let end = tokio::time::Instant::now() + limits::TAKEOVER_TIMEOUT;
        loop {
            match self.capture_and_ship(id).await {
                Ok(txid) => return Ok(txid),
                Err(error) if tokio::time::Instant::now() >= end => {
                    return Err(CommandError::Deadline(format!(
                        "{id} is not taken over yet: {error}"
                    )));
                }
                Err(_) => tokio::time::sleep(limits::RETRY_MIN).await,
            }
        }
    }

    async fn ask(&self, id: &DbId, ask: Ask) -> Result<(), CommandError> {
        let (_, handle) = self.live_handle(id).ok_or_else(|| gone(id))?;
        handle.asks.send(ask).await.map_err(|_| gone(id))
    }

    /// The actor of a database that is live on this node.
    pub(crate) fn live_handle(&self, id: &DbId) -> Option<(Key, Handle)> {
        let keys = self.context.board.keys_of(id);
        let actors = self.context.actors();
        keys.into_iter().find_map(|key| {
            let handle = actors.get(&key)?.clone();
            Some((key, handle))
        })
    }
}

/// Asks all at once, then waits until each has captured its tail and closed its descriptors.
async fn drain_all(handles: &[Handle], ask: fn(oneshot::Sender<()>) -> Ask) {
    let mut drained = Vec::with_capacity(handles.len());
    for handle in handles {
        let (reply, done) = oneshot::channel();
        // An actor that has ended is drained.
        drop(handle.asks.send(ask(reply)).await);
        drained.push(done);
    }
    for done in drained {
        // The same, if it ends while it is asked.
        drop(done.await);
    }
}

/// What the spool remembers of a pod.
pub(crate) fn note(volume: &Volume) -> PodNote {
    let place = volume.target.as_ref().map(|target| &target.place);
    PodNote {
        name: volume.pod.name.clone(),
        namespace_uid: volume.pod.namespace_uid.clone(),
        // One that is not known is no other: what waits is not shipped elsewhere.
        target: place.map(|place| {
            place
                .as_ref()
                .map_or_else(|_| String::new(), |at| at.key.clone())
        }),
    }
}

/// The identity of a path in a volume.
pub(crate) fn identity(volume: &Volume, path: &Path) -> Result<DbId, StageError> {
    let pod = &volume.pod;
    DbId::new(&pod.namespace, &pod.app, &volume.name, path).map_err(|error| StageError::Refused {
        reason: format!("no replica can be named after this file: {error}"),
    })
}

/// Whatever a former run left in the scratch directory is of no use to anybody.
fn empty_dir(path: &Path) -> Result<(), StartError> {
    let removed = match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => std::fs::create_dir_all(path),
    };
    removed.map_err(|source| StartError::Scratch {
        path: path.to_path_buf(),
        source,
    })
}

pub(crate) fn gone(id: &DbId) -> CommandError {
    CommandError::NotFound(format!("no live database {id} on this node"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Maps of handles stay whole when a holder panics between two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
