//! The whole table of who waits for whom.

use sqlrep_replica::Owner;

use super::*;

const MY_NODE: &str = "here";

fn me() -> PodIdentity {
    PodIdentity {
        namespace: "media".to_owned(),
        app: "surmai".to_owned(),
        name: "surmai-new".to_owned(),
        uid: "new".to_owned(),
        namespace_uid: None,
    }
}

fn manifest(uid: &str, node: &str, state: OwnerState) -> Manifest {
    Manifest {
        version: Manifest::VERSION,
        id: ID.parse().unwrap(),
        cluster_uid: None,
        namespace_uid: None,
        owner: Owner {
            pod: format!("surmai-{uid}"),
            pod_uid: uid.to_owned(),
            node: node.to_owned(),
            writer: WriterId::new(node, uid),
            state,
            since: Timestamp::from_millis(1),
        },
        file: None,
        page_size: None,
        head: None,
        claims: Vec::new(),
    }
}

const ID: &str = "media/surmai/data/x.db";

fn handle(uid: &str, node: &str) -> PodHandle {
    PodHandle {
        namespace: "media".to_owned(),
        name: format!("surmai-{uid}"),
        uid: uid.to_owned(),
        node: node.to_owned(),
    }
}

/// Judges a replica whose newest file is by `writer`, seen from a node where "living" lives.
fn judge(manifest: Option<&Manifest>, writer: Option<u64>) -> Holder {
    let me = me();
    let facts = Facts {
        manifest,
        head_writer: writer,
        me: &me,
        my_node: MY_NODE,
        my_writer: WriterId::new(MY_NODE, &me.uid),
    };
    holder(&facts, |uid| uid == "living")
}

/// The same when the newest file is by the owner that the manifest names.
fn judge_owned(manifest: &Manifest) -> Holder {
    judge(Some(manifest), Some(manifest.owner.writer.get()))
}

#[test]
fn a_replica_without_an_owner_is_nobodys() {
    assert_eq!(judge(None, None), Holder::Nobody);
    assert_eq!(
        judge(None, Some(0)),
        Holder::Nobody,
        "Litestream wrote it, and no manifest"
    );
}

#[test]
fn who_released_it_holds_it_no_more_wherever_he_was() {
    for node in [MY_NODE, "far"] {
        let released = manifest("living", node, OwnerState::Released);
        assert_eq!(judge_owned(&released), Holder::Nobody);
    }
}

#[test]
fn my_own_replica_is_mine_after_a_restart_and_after_a_reboot() {
    for node in [MY_NODE, "far"] {
        assert_eq!(
            judge_owned(&manifest("new", node, OwnerState::Active)),
            Holder::Nobody
        );
    }
}

#[test]
fn an_owner_of_this_node_holds_it_while_it_lives_here() {
    let living = manifest("living", MY_NODE, OwnerState::Active);
    assert_eq!(
        judge_owned(&living),
        Holder::Here(handle("living", MY_NODE))
    );
    let gone = manifest("gone", MY_NODE, OwnerState::Active);
    assert_eq!(judge_owned(&gone), Holder::Nobody, "its volume is gone too");
}

#[test]
fn of_an_owner_elsewhere_the_cluster_must_be_asked() {
    // Whether a pod of that UID is known *here* says nothing: it may be a stale manifest's.
    for uid in ["living", "gone"] {
        let away = manifest(uid, "far", OwnerState::Active);
        assert_eq!(judge_owned(&away), Holder::Elsewhere(handle(uid, "far")));
    }
}

#[test]
fn a_claim_whose_claimer_has_not_said_who_he_is_is_held() {
    let claimer = WriterId::new("third", "quick").get();
    for state in [OwnerState::Released, OwnerState::Active] {
        for node in [MY_NODE, "far"] {
            let old = manifest("gone", node, state);
            assert_eq!(judge(Some(&old), Some(claimer)), Holder::Unnamed(claimer));
        }
    }
    assert_eq!(judge(None, Some(claimer)), Holder::Unnamed(claimer));
    // My own claim before I wrote the manifest, and a file that Litestream added.
    let old = manifest("gone", "far", OwnerState::Released);
    let mine = WriterId::new(MY_NODE, "new").get();
    assert_eq!(judge(Some(&old), Some(mine)), Holder::Nobody);
    assert_eq!(judge(Some(&old), Some(0)), Holder::Nobody);
}

#[test]
fn only_what_is_surely_over_is_not_waited_for() {
    let reason = || "NotReady".to_owned();
    for life in [
        PodLife::Alive,
        PodLife::Terminating,
        PodLife::NodeLost { reason: reason() },
        PodLife::Unknown { reason: reason() },
    ] {
        assert!(
            matches!(verdict(&life, "far"), Verdict::Wait(_)),
            "{life:?}"
        );
    }
    assert!(matches!(
        verdict(&PodLife::Gone, "far"),
        Verdict::AfterDrain(_)
    ));
    // Who waits for a pod that nobody deletes is told why it never comes to an end.
    for why in [
        why_here(false, "late"),
        format!("{:?}", verdict(&PodLife::Alive, "far")),
    ] {
        assert!(why.contains("strategy: {type: Recreate}"), "{why}");
    }
    for why in [
        why_here(true, "late"),
        format!("{:?}", verdict(&PodLife::Terminating, "far")),
    ] {
        assert!(!why.contains("Recreate"), "{why}");
    }
    assert_eq!(verdict(&PodLife::OutOfService, "far"), Verdict::Go);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_answer_is_not_known() {
    #[derive(Debug)]
    struct Deaf;
    impl PodLookup for Deaf {
        fn life(&self, _: PodHandle) -> PodAnswer {
            Box::pin(std::future::pending())
        }
    }
    let life = ask(&Deaf, handle("gone", "far")).await;
    assert!(matches!(life, PodLife::Unknown { .. }), "{life:?}");
    let life = ask(&NoLookup, handle("gone", "far")).await;
    assert!(matches!(life, PodLife::Unknown { .. }), "{life:?}");
}

#[test]
fn the_drain_time_begins_anew_with_each_file_and_each_sign_of_life() {
    let (start, time) = (Instant::now(), Timestamp::from_millis(5));
    let at = |seconds| (time, start + Duration::from_secs(seconds));
    let head = |id| Some(Txid::new(id).unwrap());
    let mut patience = Patience::default();
    let silent = |patience: &mut Patience, who: &str, head, seconds| {
        patience.silent(ID, who, head, at(seconds)).as_secs()
    };
    assert_eq!(silent(&mut patience, "old", head(4), 0), 0);
    assert_eq!(silent(&mut patience, "old", head(4), 20), 20);
    assert_eq!(silent(&mut patience, "old", head(5), 25), 0, "a file came");
    assert_eq!(silent(&mut patience, "old", head(5), 50), 25);
    patience.heard(ID);
    assert_eq!(silent(&mut patience, "old", head(5), 60), 0, "it was alive");
    assert_eq!(
        silent(&mut patience, "other", head(5), 70),
        0,
        "somebody else"
    );
    assert_eq!(silent(&mut patience, "other", head(5), 99), 29);
    patience.forget(ID);
    assert_eq!(silent(&mut patience, "other", head(5), 100), 0);
}

#[test]
fn since_when_is_waited_is_said_for_each_holder() {
    let mut patience = Patience::default();
    let time = Timestamp::from_millis;
    assert_eq!(patience.waits(ID, "old", time(7)), time(7));
    assert_eq!(patience.waits(ID, "old", time(9)), time(7));
    assert_eq!(patience.waits(ID, "other", time(11)), time(11));
}

#[test]
fn what_is_remembered_of_waits_is_bounded() {
    let mut patience = Patience::default();
    for number in 0..=limits::DATABASES_MAX {
        let id = format!("media/surmai/data/{number}.db");
        patience.waits(&id, "old", Timestamp::from_millis(0));
    }
    assert!(patience.waits.len() <= limits::DATABASES_MAX);
}
