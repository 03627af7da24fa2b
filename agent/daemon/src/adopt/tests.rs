//! Events in, fleet calls out, with a fleet that only remembers.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Mutex;

use sqlrep_discover::{EmptyDir, Journal, Medium as Found_, Phase as PodPhase, Policy};
use sqlrep_pipeline::{DatabaseStatus, DbId, PrepareError, Prepared};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;
use crate::events::Notice;
use crate::gate::status::{Phase, Reading, Status, read};

const WAIT: Duration = Duration::from_mins(1);

/// A moment of paused time, and a shorter one of real time: status files are written by a thread.
async fn pause() {
    std::thread::sleep(Duration::from_micros(200));
    tokio::time::sleep(Duration::from_millis(5)).await;
}

/// Looks until it finds something, a minute of real time at most: paused time runs ahead of the threads
/// that write files, and of a disk that is busy with other tests. Says what is missing otherwise.
async fn wait_for<T>(mut look: impl FnMut() -> Result<T, String>) -> T {
    let begun = std::time::Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(missing) => assert!(begun.elapsed() < WAIT, "{missing}"),
        }
        pause().await;
    }
}

/// Remembers every call, as text; prepares as it was told.
#[derive(Clone, Debug, Default)]
struct Recorder {
    calls: Arc<Mutex<Vec<String>>>,
    prepares: Arc<Mutex<VecDeque<PrepareError>>>,
    rows: Arc<Mutex<Vec<DatabaseStatus>>>,
    /// Held while releases must not come to an end.
    releases: Arc<tokio::sync::Mutex<()>>,
}

impl Recorder {
    fn call(&self, text: String) {
        self.calls.lock().unwrap().push(text);
    }

    fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    fn count(&self, call: &str) -> usize {
        self.calls().iter().filter(|found| *found == call).count()
    }

    /// Waits until the call was made so many times.
    async fn until(&self, call: &str, times: usize) {
        let missing = || format!("{times} × {call:?} in {:?}", self.calls());
        wait_for(|| {
            (self.count(call) >= times)
                .then_some(())
                .ok_or_else(missing)
        })
        .await;
    }
}

impl Flow for Recorder {
    fn register(&self, pod_uid: &str) {
        self.call(format!("register {pod_uid}"));
    }

    fn ready(&self) {
        self.call("ready".to_owned());
    }

    async fn prepare(&self, volume: &Volume) -> Result<Prepared, PrepareError> {
        self.call(format!("prepare {}", volume.name));
        let next = self.prepares.lock().unwrap().pop_front();
        next.map_or_else(|| Ok(Prepared::default()), Err)
    }

    fn adopt(&self, volume: &Volume, path: &Path) {
        self.call(format!("adopt {}/{}", volume.name, path.display()));
    }

    fn touch(&self, _: &str, volume: &str, path: &Path) {
        self.call(format!("touch {volume}/{}", path.display()));
    }

    fn touch_all(&self) {
        self.call("touch all".to_owned());
    }

    fn vanished(&self, _: &str, volume: &str, path: &Path) {
        self.call(format!("vanished {volume}/{}", path.display()));
    }

    fn ending(&self, pod_uid: &str) {
        self.call(format!("ending {pod_uid}"));
    }

    async fn release(&self, pod_uid: &str) {
        self.call(format!("release {pod_uid}"));
        drop(self.releases.lock().await);
        self.call(format!("released {pod_uid}"));
    }

    fn list(&self) -> Vec<DatabaseStatus> {
        self.rows.lock().unwrap().clone()
    }
}

/// A running adoption over a temporary kubelet's tree.
struct Stage {
    dir: TempDir,
    flow: Recorder,
    claims: Claims,
    events: mpsc::Sender<Event>,
    notices: mpsc::Receiver<Notice>,
    stop: CancellationToken,
    task: JoinHandle<bool>,
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (flow, claims) = (Recorder::default(), Claims::new());
        let (watching, scanning) = (flow.clone(), flow.clone());
        let (say, notices) = Notices::new();
        let context = Context {
            kubelet_root: dir.path().to_path_buf(),
            defaults: Settings {
                sync_interval: Duration::from_secs(1),
                snapshot_interval: Duration::from_hours(1),
                retention: Duration::from_hours(2),
            },
            boot_id: "boot".to_owned(),
            signals: Signals::start().unwrap(),
            watch: Box::new(move |pod| watching.call(format!("watch {pod}"))),
            rescan: Box::new(move || scanning.call("rescan".to_owned())),
            notes: Notes::default(),
            notices: say,
            pulse: Pulse::new(),
        };
        let (events, queue) = mpsc::channel(16);
        let stop = CancellationToken::new();
        let adoption = Adoption::new(flow.clone(), Arc::new(context), claims.clone());
        let task = tokio::spawn(adoption.run(queue, stop.clone()));
        Self {
            dir,
            flow,
            claims,
            events,
            notices,
            stop,
            task,
        }
    }

    async fn send(&self, event: Event) {
        self.events.send(event).await.unwrap();
    }

    fn volume_dir(&self, name: &str) -> PathBuf {
        self.dir
            .path()
            .join("pods/u/volumes/kubernetes.io~empty-dir")
            .join(name)
    }

    /// A pod whose gate and data volumes exist.
    async fn pod(&self, change: impl FnOnce(&mut PodRef)) -> PodRef {
        for name in ["data", "sqlrep-gate"] {
            std::fs::create_dir_all(self.volume_dir(name)).unwrap();
        }
        let mut pod = pod();
        change(&mut pod);
        self.send(Event::PodAppeared(pod.clone())).await;
        pod
    }

    fn status(&self) -> Option<Status> {
        let bytes = std::fs::read(self.volume_dir("sqlrep-gate").join("status.json")).ok()?;
        match read(&bytes, "u", "boot") {
            Reading::Ours(status) => Some(status),
            Reading::NotOurs(reason) => panic!("{reason}"),
        }
    }

    async fn until_phase(&self, phase: Phase) -> Status {
        wait_for(|| match self.status() {
            Some(status) if status.phase == phase => Ok(status),
            status => Err(format!("{phase:?} never came; {status:?}")),
        })
        .await
    }

    async fn end(self) {
        self.stop.cancel();
        assert!(self.task.await.unwrap(), "ended by itself");
    }
}

fn uid() -> PodUid {
    PodUid::new("u").unwrap()
}

fn pod() -> PodRef {
    PodRef {
        uid: uid(),
        name: "surmai-1".to_owned(),
        namespace: "media".to_owned(),
        namespace_uid: None,
        app: "surmai".to_owned(),
        node: None,
        target: None,
        ephemeral_limit: None,
        volumes: vec![EmptyDir {
            name: "data".to_owned(),
            medium: Found_::Disk,
            size_limit: None,
            user: None,
        }],
        policy: Policy::default(),
        phase: PodPhase::Pending,
        gate: Some("sqlrep-gate".to_owned()),
        started: false,
        wrong: Vec::new(),
    }
}

fn found(kind: Kind, ino: u64) -> Event {
    Event::DatabaseAppeared {
        pod: uid(),
        volume: "data".to_owned(),
        path: "x.db".into(),
        kind,
        inode: InodeKey { dev: 1, ino },
    }
}

fn claimed(stage: &Stage, ino: u64) -> bool {
    stage.claims.is_claimed(InodeKey { dev: 1, ino })
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_scanned_at_once_and_its_gate_opens_after_the_restore() {
    let stage = Stage::new();
    stage
        .flow
        .prepares
        .lock()
        .unwrap()
        .push_back(waiting(false));
    stage.pod(|_| {}).await;
    let status = stage.until_phase(Phase::WaitingHandover).await;
    assert!(
        status.message.contains("pod old on node far"),
        "{}",
        status.message
    );
    assert_eq!(
        stage.flow.count("watch u"),
        1,
        "what is there already waits for nobody"
    );
    stage.until_phase(Phase::Ready).await;
    let calls = stage.flow.calls();
    assert_eq!(
        calls,
        ["register u", "watch u", "prepare data", "prepare data"]
    );
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_pod_on_this_node_is_noticed_soon_however_long_it_took() {
    let stage = Stage::new();
    // As often as an app with thirty seconds of grace is waited for.
    for _ in 0..300 {
        stage.flow.prepares.lock().unwrap().push_back(waiting(true));
    }
    let begun = Instant::now();
    stage.pod(|_| {}).await;
    stage.until_phase(Phase::Ready).await;
    assert!(begun.elapsed() < Duration::from_secs(40), "paused time");
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_handover_is_a_warning_only_when_it_takes_longer_than_a_move() {
    let mut stage = Stage::new();
    for _ in 0..18 {
        let mut prepares = stage.flow.prepares.lock().unwrap();
        prepares.push_back(waiting(false));
    }
    stage.pod(|_| {}).await;
    stage.until_phase(Phase::WaitingHandover).await;
    tokio::time::sleep(Duration::from_secs(50)).await;
    stage.until_phase(Phase::Ready).await;
    let mut said = Vec::new();
    while let Ok(notice) = stage.notices.try_recv() {
        said.push(notice.reason);
    }
    said.dedup();
    assert_eq!(said, [Reason::WaitingForHandover, Reason::HandoverOverdue]);
    let alarms: Vec<bool> = said.iter().map(|reason| reason.is_warning()).collect();
    assert_eq!(alarms, [false, true], "an ordinary move alarms nobody");
    stage.end().await;
}

/// An owner that is waited for.
fn waiting(here: bool) -> PrepareError {
    PrepareError::WaitingForHandover {
        id: "media/surmai/data/x.db".to_owned(),
        pod: "old".to_owned(),
        node: if here { "here" } else { "far" }.to_owned(),
        here,
        why: "which has not ended yet".to_owned(),
        since: "2026-11-24T12:00:00.000Z".into(),
    }
}

#[tokio::test(start_paused = true)]
async fn what_only_a_person_can_mend_shuts_the_gate_and_is_tried_again() {
    let stage = Stage::new();
    let missing = || PrepareError::NoReplica {
        volume: "data".to_owned(),
        dir: "/r".into(),
    };
    stage
        .flow
        .prepares
        .lock()
        .unwrap()
        .extend([missing(), missing()]);
    stage.pod(|_| {}).await;
    stage.until_phase(Phase::Failed).await;
    stage.until_phase(Phase::Ready).await;
    assert_eq!(stage.flow.count("prepare data"), 3);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_annotation_that_leaves_the_replica_uncertain_keeps_the_gate_shut() {
    let stage = Stage::new();
    let wrong = sqlrep_discover::BadValue {
        key: "sqlrep.io/app".to_owned(),
        value: "My_App".to_owned(),
        accepted: "a DNS-1123 name".to_owned(),
    };
    let pod = stage.pod(|pod| pod.wrong.push(wrong)).await;
    let status = stage.until_phase(Phase::Failed).await;
    assert!(status.message.contains("sqlrep.io/app") && status.message.contains("My_App"));
    tokio::time::sleep(WAIT).await;
    assert_eq!(
        stage.flow.count("prepare data") + stage.flow.count("watch u"),
        0
    );
    // Corrected, it goes on.
    stage
        .send(Event::PodChanged(PodRef {
            wrong: Vec::new(),
            ..pod
        }))
        .await;
    stage.until_phase(Phase::Ready).await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_without_gate_that_runs_already_is_followed_and_not_restored() {
    let stage = Stage::new();
    stage
        .pod(|pod| {
            pod.gate = None;
            pod.started = true;
        })
        .await;
    stage.flow.until("watch u", 1).await;
    assert_eq!(stage.flow.count("prepare data"), 0);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_inode_is_claimed_before_adoption_and_freed_when_the_pod_has_let_go() {
    let stage = Stage::new();
    stage.pod(|_| {}).await;
    stage.send(found(Kind::Wal, 7)).await;
    stage.flow.until("adopt data/x.db", 1).await;
    assert!(claimed(&stage, 7));
    // Seen again: no second adoption, only a look.
    stage.send(found(Kind::Wal, 7)).await;
    stage.flow.until("touch data/x.db", 1).await;
    let hold = Arc::clone(&stage.flow.releases).lock_owned().await;
    stage
        .send(Event::VolumeGone {
            pod: uid(),
            volume: "data".to_owned(),
        })
        .await;
    stage.flow.until("release u", 1).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(claimed(&stage, 7), "freed while descriptors are open");
    drop(hold);
    stage.flow.until("rescan", 1).await;
    assert!(!claimed(&stage, 7));
    assert_eq!(stage.flow.count("adopt data/x.db"), 1);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_living_pod_with_nothing_in_a_volume_is_not_released_for_it() {
    let stage = Stage::new();
    let gone = |volume: &str| Event::VolumeGone {
        pod: uid(),
        volume: volume.to_owned(),
    };
    stage.pod(|_| {}).await;
    stage.send(found(Kind::Wal, 7)).await;
    stage.flow.until("adopt data/x.db", 1).await;
    // The kubelet mounts memory over a directory that was seen already.
    stage.send(gone("cache")).await;
    tokio::time::sleep(WAIT).await;
    assert_eq!(stage.flow.count("release u"), 0);
    let known = stage.flow.count("register u");
    stage.send(gone("data")).await;
    stage.flow.until("released u", 1).await;
    // It is there still: what it makes now is followed, and it may be restored.
    stage.flow.until("register u", known + 1).await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_terminating_pod_is_followed_until_its_volume_is_gone() {
    let stage = Stage::new();
    stage.pod(|_| {}).await;
    stage.send(found(Kind::Wal, 7)).await;
    stage.send(Event::PodTerminating(uid())).await;
    tokio::time::sleep(WAIT).await;
    assert_eq!(stage.flow.count("release u"), 0, "the app may still commit");
    // Gone from the API first, as a forced deletion does; the directory stays a moment.
    stage.send(Event::PodGone(uid())).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(stage.flow.count("release u"), 0, "the app may still commit");
    std::fs::remove_dir_all(stage.volume_dir("data")).unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(stage.flow.count("release u"), 1);
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_memory_volume_is_let_go_of_when_nothing_moves_and_no_earlier() {
    let stage = Stage::new();
    stage
        .pod(|pod| pod.volumes[0].medium = Found_::Memory)
        .await;
    stage.send(found(Kind::Wal, 7)).await;
    stage.send(Event::PodTerminating(uid())).await;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(3)).await;
        stage
            .send(Event::Touched {
                pod: uid(),
                volume: "data".to_owned(),
                path: "x.db".into(),
            })
            .await;
    }
    assert_eq!(stage.flow.count("release u"), 0);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(stage.flow.count("release u"), 1);
    // It was not the end after all: the app writes again.
    std::fs::write(stage.volume_dir("data").join("x.db"), "").unwrap();
    std::fs::write(stage.volume_dir("data").join("x.db-wal"), "").unwrap();
    let touched = || Event::Touched {
        pod: uid(),
        volume: "data".to_owned(),
        path: "x.db".into(),
    };
    stage.send(touched()).await;
    stage.flow.until("adopt data/x.db", 2).await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_rollback_database_is_followed_once_its_mode_has_settled() {
    let stage = Stage::new();
    let pod = stage.pod(|_| {}).await;
    stage.send(found(Kind::Rollback, 7)).await;
    tokio::time::sleep(SETTLE / 2).await;
    assert!(!claimed(&stage, 7), "the app may be about to change it");
    // It changes to WAL a moment later, and is followed at once.
    stage.send(found(Kind::Wal, 7)).await;
    stage.flow.until("adopt data/x.db", 1).await;
    // Another one stays as it is.
    stage.send(found(Kind::Rollback, 8)).await;
    tokio::time::sleep(SETTLE / 2).await;
    assert!(!claimed(&stage, 8));
    stage.flow.until("adopt data/x.db", 2).await;
    assert!(claimed(&stage, 8));
    // Where it is to be converted nothing is waited for.
    let policy = Policy {
        journal: Journal::Wal,
        ..Policy::default()
    };
    stage
        .send(Event::PodChanged(PodRef { policy, ..pod }))
        .await;
    stage.send(found(Kind::Rollback, 9)).await;
    stage.flow.until("adopt data/x.db", 3).await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_rollback_database_of_a_pod_that_ends_is_followed_at_once() {
    let stage = Stage::new();
    stage.pod(|_| {}).await;
    stage.send(Event::PodTerminating(uid())).await;
    stage.send(found(Kind::Rollback, 7)).await;
    stage.flow.until("adopt data/x.db", 1).await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_inode_of_a_replaced_file_stays_claimed_for_a_while() {
    let stage = Stage::new();
    stage.pod(|_| {}).await;
    stage.send(found(Kind::Wal, 7)).await;
    stage.send(found(Kind::Wal, 8)).await;
    stage.flow.until("adopt data/x.db", 2).await;
    assert!(claimed(&stage, 7) && claimed(&stage, 8));
    stage.flow.until("rescan", 1).await;
    assert!(!claimed(&stage, 7) && claimed(&stage, 8));
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_database_waits_for_the_tail_of_the_one_before() {
    let stage = Stage::new();
    stage.pod(|_| {}).await;
    let id = DbId::new("media", "surmai", "data", "x.db").unwrap();
    let mut row = DatabaseStatus::new(id, "surmai-1", "u");
    row.state = State::Draining;
    stage.flow.rows.lock().unwrap().push(row);
    stage.send(found(Kind::Wal, 7)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(stage.flow.count("adopt data/x.db"), 0);
    stage.flow.rows.lock().unwrap().clear();
    stage.flow.until("adopt data/x.db", 1).await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_terminating_pod_gets_no_new_files_from_us() {
    let stage = Stage::new();
    stage.pod(|pod| pod.phase = PodPhase::Terminating).await;
    stage.flow.until("watch u", 1).await;
    stage.send(found(Kind::Wal, 7)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        stage.flow.count("adopt data/x.db"),
        0,
        "its -wal and -shm are not there"
    );
    assert_eq!(
        stage.status(),
        None,
        "a status file was made in a volume that goes away"
    );
    std::fs::write(stage.volume_dir("data").join("x.db-wal"), "").unwrap();
    stage.send(found(Kind::Wal, 7)).await;
    stage.flow.until("adopt data/x.db", 1).await;
    stage.flow.until("ending u", 1).await;
    stage.end().await;
}

#[tokio::test(start_paused = true)]
async fn lost_notifications_touch_everything_and_the_end_of_discovery_is_noticed() {
    let stage = Stage::new();
    stage.send(Event::Overflow).await;
    stage.flow.until("touch all", 1).await;
    drop(stage.events);
    assert!(!stage.task.await.unwrap());
}
