//! Who has a volume, on two nodes that share a root and nothing else.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use sqlrep_replica::{OwnerState, tenure};
use tokio::time::{sleep, timeout};

use crate::PodLife;
use crate::prepare::tests::{DRAIN, Node, Root};

fn note(root: &Root) -> PathBuf {
    let volume = root.dir.path().join("nas/media/surmai/data");
    volume.join(".sqlrep").join(tenure::NAME)
}

/// The UID of the pod that the note names.
fn owner(root: &Root) -> Option<String> {
    let note: Value = serde_json::from_slice(&std::fs::read(note(root)).ok()?).unwrap();
    Some(note["owner"]["pod_uid"].as_str().unwrap().to_owned())
}

async fn given_back(root: &Root) {
    becomes("it is given back", || owner(root).is_none()).await;
}

async fn becomes(what: &str, so: impl Fn() -> bool) {
    let waits = async {
        while !so() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(Duration::from_mins(1), waits).await.expect(what);
}

impl Root {
    /// Two nodes; what the second is told of the pod of the first.
    fn nodes(&self, life: PodLife) -> (Node, Node) {
        (self.node("far", PodLife::Alive), self.node("here", life))
    }
}

impl Node {
    async fn begins(&self) -> usize {
        self.prepare().await.unwrap().restored.len()
    }

    async fn ends(&self) {
        self.fleet.release(&self.volume.pod.uid).await;
    }
}

#[tokio::test]
async fn a_pod_before_its_first_file_has_its_volume() {
    let root = Root::empty();
    let (far, here) = root.nodes(PodLife::Alive);
    assert_eq!((far.begins().await, far.begins().await), (0, 0));
    assert_eq!(owner(&root).as_deref(), Some("uid-far"));
    let why = here.waits().await;
    let path = note(&root).display().to_string();
    for part in [
        "pod surmai-far on node far",
        "media/surmai/data,",
        "alive",
        &path,
    ] {
        assert!(why.contains(part), "{part}: {why}");
    }
    assert!(here.fleet.list().is_empty());
    far.ends().await;
    given_back(&root).await;
    assert_eq!(here.begins().await, 0);
    assert_eq!(owner(&root).as_deref(), Some("uid-here"));
}

#[tokio::test]
async fn what_comes_from_it_late_is_restored() {
    let root = Root::empty();
    let (far, here) = root.nodes(PodLife::Alive);
    far.begins().await;
    here.says(PodLife::Terminating);
    here.waits().await;
    // A replica that is there and let go of says nothing of the others of its volume.
    root.fill(OwnerState::Released);
    let why = here.waits().await;
    assert!(why.contains("being deleted"), "{why}");
    let row = here.fleet.list().pop().unwrap();
    assert!(
        row.hint
            .unwrap()
            .contains("takeover media/surmai/data/x.db")
    );
    far.ends().await;
    given_back(&root).await;
    assert_eq!(here.begins().await, 1);
}

#[tokio::test]
async fn one_that_is_gone_is_given_the_drain_time_once() {
    for state in [None, Some(OwnerState::Active)] {
        let root = Root::empty();
        let (far, here) = root.nodes(PodLife::Gone);
        far.begins().await;
        if let Some(state) = state {
            root.fill(state);
        }
        here.waits().await;
        sleep(DRAIN).await;
        assert_eq!(here.begins().await, usize::from(state.is_some()));
        // The one before is late, and takes nothing from its successor.
        far.ends().await;
        sleep(DRAIN).await;
        assert_eq!(owner(&root).as_deref(), Some("uid-here"));
    }
}

#[tokio::test]
async fn one_whose_node_is_off_is_not_waited_for() {
    let root = Root::empty();
    root.node("far", PodLife::Alive).begins().await;
    root.node("here", PodLife::OutOfService).begins().await;
    assert_eq!(owner(&root).as_deref(), Some("uid-here"));
}

#[tokio::test]
async fn one_that_this_node_had_is_not_waited_for_when_it_is_gone() {
    let root = Root::empty();
    let far = root.node("far", PodLife::Alive);
    far.begins().await;
    let next = Node {
        volume: root.pod("other", "uid-next", PodLife::Alive).volume,
        ..far
    };
    next.fleet.register("uid-next");
    let why = next.waits().await;
    assert!(why.contains("on this node"), "{why}");
    next.fleet.shutdown().await;
    // What the agent remembered is lost with its state.
    std::fs::remove_dir_all(root.dir.path().join("state-far")).unwrap();
    let again = root.pod("far", "uid-next", PodLife::Alive);
    again.begins().await;
    assert_eq!(owner(&root).as_deref(), Some("uid-next"));
}

#[tokio::test]
async fn a_person_who_takes_a_replica_takes_its_volume() {
    let root = Root::empty();
    let (far, here) = root.nodes(PodLife::Alive);
    far.begins().await;
    root.fill(OwnerState::Active);
    here.waits().await;
    let id = "media/surmai/data/x.db".parse().unwrap();
    let (taken, ()) = tokio::join!(
        timeout(Duration::from_millis(50), here.fleet.take_over(&id)),
        async { assert_eq!(here.begins().await, 1) }
    );
    taken.expect_err("nobody captures it here");
    assert_eq!(owner(&root).as_deref(), Some("uid-here"));
}

#[tokio::test]
async fn the_next_agent_of_the_node_gives_back_what_this_one_took() {
    let root = Root::empty();
    let far = root.node("far", PodLife::Alive);
    far.begins().await;
    far.fleet.shutdown().await;
    assert_eq!(owner(&root).as_deref(), Some("uid-far"));
    // That pod ended while no agent was there.
    let again = root.pod("far", "uid-next", PodLife::Alive);
    given_back(&root).await;
    let noted = || again.fleet.context.spool.volumes().unwrap();
    becomes("it is forgotten", || noted().is_empty()).await;
}

#[tokio::test]
async fn a_pod_that_goes_away_does_not_keep_a_volume() {
    let root = Root::empty();
    let far = root.node("far", PodLife::Alive);
    far.fleet.ending(&far.volume.pod.uid);
    far.begins().await;
    assert_eq!(owner(&root), None);
}

#[tokio::test]
async fn who_cannot_leave_his_name_does_not_begin() {
    let root = Root::empty();
    let far = root.node("far", PodLife::Alive);
    far.fleet.check_root().await.unwrap();
    let meta = note(&root).parent().unwrap().to_owned();
    std::fs::create_dir_all(meta.parent().unwrap()).unwrap();
    std::fs::write(&meta, "no directory").unwrap();
    let error = far.prepare().await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    assert!(error.text().contains("data/.sqlrep"), "{}", error.text());
    std::fs::remove_file(&meta).unwrap();
    far.begins().await;
}
