//! A volume is prepared on a real directory, with a cluster that says what it is told to say.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use sqlrep_format::Timestamp;
use sqlrep_replica::testing::chain::{History, NODE, put};
use sqlrep_replica::{DirStore, Manifest, Owner, manifest};
use tempfile::TempDir;

use super::*;
use crate::{
    FleetConfig, JournalPolicy, Medium, PodAnswer, PodHandle, PodLife, PodLookup, Settings,
};

pub(super) const DRAIN: Duration = Duration::from_millis(200);

/// Says of every pod what it was told.
#[derive(Debug)]
pub(super) struct Said(Mutex<PodLife>);

impl PodLookup for Said {
    fn life(&self, _: PodHandle) -> PodAnswer {
        Box::pin(std::future::ready(self.0.lock().unwrap().clone()))
    }
}

/// A root with one replica of three TXIDs.
pub(super) struct Root {
    pub(super) dir: TempDir,
    history: History,
}

impl Root {
    pub(super) fn empty() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("nas")).unwrap();
        let history = History::new(&[(3, vec![1]), (3, vec![2]), (4, vec![1]), (4, vec![3])]);
        Self { dir, history }
    }

    pub(super) fn new(state: OwnerState) -> Self {
        let root = Self::empty();
        root.fill(state);
        root
    }

    pub(super) fn fill(&self, state: OwnerState) {
        for txid in 1..=3 {
            self.publish(txid);
        }
        let owner = Owner {
            pod: "surmai-old".to_owned(),
            pod_uid: "old".to_owned(),
            node: "far".to_owned(),
            writer: format!("{NODE:016x}").parse().unwrap(),
            state,
            since: Timestamp::from_millis(1),
        };
        let manifest = Manifest {
            version: Manifest::VERSION,
            id: "media/surmai/data/x.db".parse().unwrap(),
            cluster_uid: None,
            namespace_uid: None,
            owner,
            file: None,
            page_size: None,
            head: Txid::new(3),
            claims: Vec::new(),
        };
        manifest::save(self.replica(), &manifest).unwrap();
    }

    fn replica(&self) -> PathBuf {
        self.dir.path().join("nas/media/surmai/data/x.db")
    }

    fn publish(&self, txid: u64) {
        let (header, pages) = self.history.covering(txid, txid);
        let store = DirStore::new(self.replica());
        put(&store, 0, &header, &pages).unwrap();
    }

    fn manifest(&self) -> Manifest {
        manifest::load(self.replica()).unwrap().unwrap()
    }

    /// An agent of its own, and the volume of a pod on it.
    pub(super) fn node(&self, node: &str, life: PodLife) -> Node {
        self.pod(node, &format!("uid-{node}"), life)
    }

    /// The agent of a node, and the volume of that pod, which is the only one on it.
    pub(super) fn pod(&self, node: &str, uid: &str, life: PodLife) -> Node {
        let said = Arc::new(Said(Mutex::new(life)));
        let settings = Settings {
            sync_interval: Duration::from_secs(1),
            snapshot_interval: Duration::from_hours(1),
            retention: Duration::from_hours(1),
        };
        let fleet = Fleet::start(FleetConfig {
            node: node.to_owned(),
            replica_root: self.dir.path().join("nas"),
            state_dir: self.dir.path().join(format!("state-{node}")),
            defaults: settings,
            spool_bytes_max: 1 << 30,
            wal_bytes_max: 1 << 28,
            l0_retention: Duration::from_mins(5),
            branch_retention: Duration::from_hours(720),
            levels: Vec::new(),
            verify_interval: None,
            drain_timeout: DRAIN,
            replica_owner: None,
            cluster_uid: None,
            lookup: Arc::clone(&said) as Arc<dyn PodLookup>,
            targets: Arc::new(crate::NodeMemory),
        });
        let dir = self.dir.path().join(format!("volume-{node}"));
        std::fs::create_dir_all(&dir).unwrap();
        let volume = Volume {
            pod: PodIdentity {
                namespace: "media".to_owned(),
                app: "surmai".to_owned(),
                name: format!("surmai-{node}"),
                uid: uid.to_owned(),
                namespace_uid: None,
            },
            name: "data".to_owned(),
            dir,
            medium: Medium::Disk,
            settings,
            bytes_max: None,
            restore: RestorePolicy::Auto,
            journal: JournalPolicy::Keep,
            user: None,
            target: None,
        };
        let fleet = fleet.unwrap();
        fleet.register(&volume.pod.uid);
        fleet.ready();
        Node {
            fleet,
            volume,
            said,
        }
    }
}

pub(super) struct Node {
    pub(super) fleet: Fleet,
    pub(super) volume: Volume,
    pub(super) said: Arc<Said>,
}

impl Node {
    pub(super) async fn prepare(&self) -> Result<Prepared, PrepareError> {
        self.fleet.prepare(&self.volume).await
    }

    /// Why it waits; panics when it does not.
    pub(super) async fn waits(&self) -> String {
        let error = self.prepare().await.unwrap_err();
        assert!(
            matches!(error, PrepareError::WaitingForHandover { .. }),
            "{error:?}"
        );
        assert!(!self.file().exists(), "restored while it waits");
        error.text()
    }

    pub(super) fn says(&self, life: PodLife) {
        *self.said.0.lock().unwrap() = life;
    }

    pub(super) fn file(&self) -> PathBuf {
        self.volume.dir.join("x.db")
    }
}

#[tokio::test]
async fn an_owner_that_is_gone_has_the_drain_time_and_anew_with_each_file() {
    let root = Root::new(OwnerState::Active);
    let node = root.node("here", PodLife::Alive);
    let why = node.waits().await;
    assert!(why.contains("pod surmai-old on node far") && why.contains("alive"));
    node.says(PodLife::Gone);
    node.waits().await;
    // The time passes, but a file has come.
    tokio::time::sleep(DRAIN).await;
    root.publish(4);
    node.waits().await;
    tokio::time::sleep(DRAIN).await;
    let prepared = node.prepare().await.unwrap();
    assert_eq!(prepared.restored.len(), 1);
    assert_eq!(std::fs::read(node.file()).unwrap(), root.history.file(4));
    let (found, claim) = (root.manifest(), Txid::new(5).unwrap());
    assert_eq!(found.owner.pod_uid, node.volume.pod.uid);
    assert_eq!(found.owner.state, OwnerState::Active);
    assert_eq!((found.head, found.claims), (Some(claim), vec![claim]));
}

#[tokio::test]
async fn an_owner_whose_node_is_off_or_who_let_go_is_not_waited_for() {
    for (state, life) in [
        (OwnerState::Active, PodLife::OutOfService),
        (OwnerState::Released, PodLife::Alive),
    ] {
        let root = Root::new(state);
        let node = root.node("here", life);
        assert_eq!(node.prepare().await.unwrap().restored.len(), 1);
    }
}

#[tokio::test]
async fn of_two_that_take_a_free_replica_at_once_one_waits_for_the_other() {
    let root = Root::new(OwnerState::Released);
    let nodes = [
        root.node("one", PodLife::Alive),
        root.node("two", PodLife::Alive),
    ];
    let (one, two) = tokio::join!(nodes[0].prepare(), nodes[1].prepare());
    let won = [one.is_ok(), two.is_ok()];
    assert_eq!(won.iter().filter(|won| **won).count(), 1, "{one:?} {two:?}");
    let lost = one.err().or(two.err()).unwrap();
    assert!(lost.is_transient(), "{lost:?}");
    let loser = if won[0] { &nodes[1] } else { &nodes[0] };
    loser.waits().await;
    let winner = if won[0] { &nodes[0] } else { &nodes[1] };
    assert_eq!(root.manifest().owner.pod_uid, winner.volume.pod.uid);
}

#[tokio::test]
async fn a_pod_that_goes_away_takes_nothing_and_gets_nothing() {
    let root = Root::new(OwnerState::Released);
    let node = root.node("here", PodLife::Gone);
    node.fleet.ending(&node.volume.pod.uid);
    let error = node.prepare().await.unwrap_err();
    assert!(matches!(error, PrepareError::Failed { .. }), "{error:?}");
    assert_eq!(std::fs::read_dir(&node.volume.dir).unwrap().count(), 0);
    assert_eq!(root.manifest().owner.pod_uid, "old");
    assert_eq!(
        DirStore::new(root.replica()).list().unwrap().head(),
        Txid::new(3)
    );
}

#[tokio::test]
async fn a_pod_that_goes_before_its_database_was_found_releases_it() {
    let root = Root::new(OwnerState::Released);
    let node = root.node("here", PodLife::Gone);
    node.prepare().await.unwrap();
    node.fleet.release(&node.volume.pod.uid).await;
    let released = async {
        while root.manifest().owner.state != OwnerState::Released {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), released)
        .await
        .expect("it is released");
    assert_eq!(root.manifest().owner.pod_uid, node.volume.pod.uid);
    assert_eq!(root.manifest().head, Txid::new(4));
}

#[tokio::test]
async fn what_was_released_above_the_listing_is_waited_for() {
    let root = Root::new(OwnerState::Released);
    let mut manifest = root.manifest();
    manifest.head = Txid::new(4);
    manifest::save(root.replica(), &manifest).unwrap();
    let node = root.node("here", PodLife::Gone);
    let error = node.prepare().await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    assert!(error.text().contains("old listing"), "{}", error.text());
    assert!(!node.file().exists());
    root.publish(4);
    node.prepare().await.unwrap();
    assert_eq!(std::fs::read(node.file()).unwrap(), root.history.file(4));
}

#[tokio::test]
async fn a_replica_that_cannot_be_listed_lets_nobody_begin_empty() {
    let root = Root::new(OwnerState::Released);
    let level = root.replica().join("ltx/0");
    let aside = root.dir.path().join("aside");
    rustix::fs::rename(&level, &aside).unwrap();
    std::fs::write(&level, "no directory").unwrap();
    let node = root.node("here", PodLife::Gone);
    let error = node.prepare().await.unwrap_err();
    assert!(error.text().contains("x.db"), "{}", error.text());
    assert!(!node.file().exists());
    std::fs::remove_file(&level).unwrap();
    rustix::fs::rename(&aside, &level).unwrap();
    assert_eq!(node.prepare().await.unwrap().restored.len(), 1);
}
