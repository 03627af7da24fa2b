//! A share that hangs, as a mount whose server is away: every thread that may touch it waits in it. And one
//! that goes away beneath what was begun on it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use sqlrep_replica::{Destination, DirStore, Point, RestoreOptions, restore};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::*;
use crate::{JournalPolicy, Medium, NoLookup, NodeMemory, RestorePolicy, demo};

const DRAIN: Duration = Duration::from_secs(2);

/// Nothing takes longer, unless it never comes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whoever asks the agent something gets an answer within so long, however slow the machine is.
const ANSWER: Duration = Duration::from_secs(1);

const UID: &str = "uid-1";

fn settings() -> Settings {
    Settings {
        sync_interval: Duration::from_millis(100),
        snapshot_interval: Duration::from_hours(1),
        retention: Duration::from_hours(2),
    }
}

fn start(dir: &Path) -> Result<Fleet, StartError> {
    Fleet::start(FleetConfig {
        node: "node-1".to_owned(),
        replica_root: dir.join("nas"),
        state_dir: dir.join("state"),
        defaults: settings(),
        spool_bytes_max: 1 << 30,
        wal_bytes_max: 1 << 28,
        l0_retention: Duration::from_mins(5),
        levels: vec![Duration::from_secs(30)],
        branch_retention: Duration::from_hours(720),
        verify_interval: None,
        drain_timeout: DRAIN,
        replica_owner: None,
        cluster_uid: None,
        lookup: Arc::new(NoLookup),
        targets: Arc::new(NodeMemory),
    })
}

fn volume(dir: &Path) -> Volume {
    Volume {
        pod: PodIdentity {
            namespace: "media".to_owned(),
            app: "surmai".to_owned(),
            name: "surmai-1".to_owned(),
            uid: UID.to_owned(),
            namespace_uid: None,
        },
        name: "sqlite".to_owned(),
        dir: dir.join("volume"),
        medium: Medium::Disk,
        settings: settings(),
        bytes_max: None,
        restore: RestorePolicy::Auto,
        journal: JournalPolicy::Keep,
        user: None,
        target: None,
    }
}

async fn wait(what: &str, holds: impl Fn() -> bool) {
    let held = timeout(PATIENCE, async {
        while !holds() {
            sleep(Duration::from_millis(10)).await;
        }
    });
    held.await
        .unwrap_or_else(|_| panic!("{what}: it never came"));
}

/// A fleet that follows the database of the app.
async fn follow(dir: &Path, fleet: &Fleet) -> DbId {
    let (volume, path) = (volume(dir), Path::new("app.db"));
    fleet.register(UID);
    fleet.ready();
    fleet.check_root().await.unwrap();
    fleet.adopt(&volume, path);
    wait("it is followed", || {
        fleet.list().iter().any(|row| row.state == State::Following)
    })
    .await;
    identity(&volume, path).unwrap()
}

/// An app that writes until it is told to stop; then it says how many rows it wrote.
struct App {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<u64>,
}

impl App {
    fn start(path: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || demo::write(&path, 100, &told).unwrap());
        Self { stop, thread }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Every thread of the lanes of the root waits in a call, until this is dropped.
struct Hung {
    _let_go: Vec<std::sync::mpsc::Sender<()>>,
}

impl Hung {
    async fn begin(fleet: &Fleet) -> Self {
        let (home, entered) = (&fleet.context.home, Arc::new(AtomicUsize::new(0)));
        let lanes = [
            (home.ship(), limits::SHIP_THREADS),
            (home.bulk(), limits::BULK_THREADS),
            (home.upkeep(), limits::UPKEEP_THREADS),
        ];
        let mut let_go = Vec::new();
        let mut threads = 0;
        for (lane, count) in lanes {
            for _ in 0..count {
                let (sender, hangs) = std::sync::mpsc::channel::<()>();
                let (lane, entered) = (lane.clone(), Arc::clone(&entered));
                let _caller: JoinHandle<_> = tokio::spawn(async move {
                    let job = move || {
                        entered.fetch_add(1, Ordering::Relaxed);
                        let _let_go = hangs.recv();
                    };
                    lane.run(PATIENCE * 10, job).await
                });
                let_go.push(sender);
                threads += 1;
            }
        }
        wait("all threads hang", || {
            entered.load(Ordering::Relaxed) == threads
        })
        .await;
        Self { _let_go: let_go }
    }
}

/// What people and Prometheus ask is answered at once.
fn answers(fleet: &Fleet) -> Vec<DatabaseStatus> {
    let begun = Instant::now();
    let rows = fleet.list();
    let (_, _, _) = (fleet.nfs_calls(), fleet.pending_bytes(), fleet.root());
    assert!(begun.elapsed() < ANSWER, "{:?}", begun.elapsed());
    rows
}

/// An app that has begun to write, beside an empty share.
async fn begun(dir: &Path) -> (App, PathBuf) {
    for made in ["nas", "volume"] {
        std::fs::create_dir(dir.join(made)).unwrap();
    }
    let db = dir.join("volume/app.db");
    let app = App::start(db.clone());
    wait("the app has begun", || demo::digest(&db).is_ok()).await;
    (app, db)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_that_hangs_stops_neither_capture_nor_answers_nor_the_end() {
    let dir = TempDir::new().unwrap();
    let (app, db) = begun(dir.path()).await;
    let fleet = start(dir.path()).unwrap();
    let id = follow(dir.path(), &fleet).await;
    timeout(PATIENCE, fleet.capture_and_ship(&id))
        .await
        .unwrap()
        .unwrap();

    let hung = Hung::begin(&fleet).await;
    let before = fleet.pending_bytes();
    let asked = fleet.clone();
    let of = id.clone();
    let sync = tokio::spawn(async move { asked.capture_and_ship(&of).await });
    wait("it is captured on", || {
        answers(&fleet);
        fleet.pending_bytes() > before + 100_000
    })
    .await;
    wait("it is told", || {
        answers(&fleet)
            .iter()
            .any(|row| row.state == State::Stalled)
    })
    .await;
    assert!(!sync.is_finished(), "it says that it is on the share");

    // The agent ends, and so does the app.
    let begun = Instant::now();
    fleet.settle(Duration::ZERO).await;
    let rows = app.stop();
    let report = fleet.shutdown().await;
    let took = begun.elapsed();
    assert!(
        took < limits::SHUTDOWN_SHIP + limits::SHUTDOWN_TAIL + 2 * DRAIN + ANSWER,
        "{took:?}"
    );
    assert_eq!(report.left, [id], "its tail is left to the next one");
    sync.abort();
    drop(hung);

    // The next one ships what this one captured: all of it, though the app writes no more.
    let mut next = start(dir.path());
    let over = Instant::now() + PATIENCE;
    while next.as_ref().is_err_and(StartError::is_locked) && Instant::now() < over {
        sleep(Duration::from_millis(50)).await;
        next = start(dir.path());
    }
    let fleet = next.unwrap();
    let id = follow(dir.path(), &fleet).await;
    timeout(PATIENCE, fleet.capture_and_ship(&id))
        .await
        .unwrap()
        .unwrap();
    let store = DirStore::new(dir.path().join("nas").join(id.replica_path()));
    let restored = dir.path().join("restored.db");
    let destination = Destination::open(&restored).unwrap();
    restore::restore(
        &store,
        Point::Latest,
        &destination,
        &RestoreOptions::default(),
        &(),
    )
    .unwrap();
    let (there, here) = (demo::digest(&restored).unwrap(), demo::digest(&db).unwrap());
    assert_eq!((there, here.rows), (here, rows));
    fleet.shutdown().await;
}

#[tokio::test]
async fn the_first_file_counts_among_the_bytes_that_were_captured() {
    let dir = TempDir::new().unwrap();
    let (app, _) = begun(dir.path()).await;
    app.stop();
    let fleet = start(dir.path()).unwrap();
    let id = follow(dir.path(), &fleet).await;
    timeout(PATIENCE, fleet.capture_and_ship(&id))
        .await
        .unwrap()
        .unwrap();
    let level = dir.path().join("nas").join(id.replica_path()).join("ltx/0");
    let files = std::fs::read_dir(level).unwrap();
    let sizes: Vec<u64> = files
        .map(|file| file.unwrap().metadata().unwrap().len())
        .collect();
    let counters = fleet.list()[0].counters;
    assert_eq!(counters.captured_files, sizes.len() as u64);
    assert_eq!(counters.captured_bytes, sizes.iter().sum::<u64>());
    fleet.shutdown().await;
}

/// A call that hung goes on when the share is unmounted: its path leads to the directory beneath.
#[tokio::test]
async fn what_was_begun_on_a_root_is_never_written_to_what_stands_in_its_place() {
    let dir = TempDir::new().unwrap();
    let (nas, away) = (dir.path().join("nas"), dir.path().join("away"));
    std::fs::create_dir(&nas).unwrap();
    let fleet = start(dir.path()).unwrap();
    let volume = volume(dir.path());
    let id = identity(&volume, Path::new("app.db")).unwrap();
    let remote = fleet.context.home.remote(&id);
    let manifest = fleet.context.manifest(&id, &volume.pod, OwnerState::Active);
    let early = remote.save_manifest(&manifest);
    assert!(early.is_err(), "before it was looked at: {early:?}");
    fleet.check_root().await.unwrap();
    rustix::fs::rename(&nas, &away).unwrap();
    // What is tried is tried on it too, wherever it is.
    fleet.probe_root().await.unwrap();
    let probe = fleet.root().probe;
    assert!(matches!(probe, Some(Ok(_))), "{probe:?}");
    let listed = fleet.replicas().await;
    assert!(listed.is_err(), "{listed:?}: it was not checked");
    std::fs::create_dir(&nas).unwrap();
    remote.save_manifest(&manifest).unwrap();
    assert!(remote.load_manifest().unwrap().is_some());
    assert_eq!(std::fs::read_dir(&nas).unwrap().count(), 0);
    assert!(away.join(id.replica_path()).is_dir());
    fleet.check_root().await.unwrap_err();
    // What came instead is not believed; the right one is, where it is now.
    remote.save_manifest(&manifest).unwrap();
    assert_eq!(std::fs::read_dir(&nas).unwrap().count(), 0);
    std::fs::remove_dir(&nas).unwrap();
    rustix::fs::rename(&away, &nas).unwrap();
    fleet.check_root().await.unwrap();
    fleet.shutdown().await;
}
