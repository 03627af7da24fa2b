//! The diff, against a receiver that believes every word of it.

use proptest::prelude::*;

use super::*;
use crate::pods::Phase;
use crate::policy::Policy;

fn known(kind: u8, ino: u64) -> Known {
    let kind = if kind == 0 { Kind::Wal } else { Kind::Rollback };
    Known {
        kind,
        inode: InodeKey { dev: 1, ino },
    }
}

fn see(inventory: &mut Inventory, seen: &[(&str, Sighting)], claimed: &[u64]) -> Vec<Change> {
    let seen = seen
        .iter()
        .map(|(path, sighting)| (PathBuf::from(path), *sighting))
        .collect();
    inventory.see(&seen, |inode| claimed.contains(&inode.ino))
}

#[test]
fn each_change_is_told_once() {
    let mut inventory = Inventory::default();
    let (wal, rollback) = (known(0, 1), known(1, 1));
    let database = Sighting::Database;
    assert_eq!(
        see(&mut inventory, &[("a", database(rollback))], &[]),
        [Change::Appeared("a".into(), rollback)]
    );
    assert_eq!(see(&mut inventory, &[("a", database(rollback))], &[]), []);
    assert_eq!(
        see(&mut inventory, &[("a", database(wal))], &[]),
        [Change::Changed("a".into(), wal)]
    );
    assert_eq!(
        see(&mut inventory, &[], &[]),
        [],
        "what was not looked at stays"
    );
    assert_eq!(
        see(&mut inventory, &[("a", Sighting::Claimed(wal.inode))], &[1]),
        []
    );
    assert_eq!(
        see(&mut inventory, &[("a", Sighting::Nothing)], &[]),
        [Change::Gone("a".into())]
    );
    assert_eq!(see(&mut inventory, &[("a", Sighting::Nothing)], &[]), []);
}

#[test]
fn claimed_inode_is_followed_to_its_new_path_even_across_two_looks() {
    let mut inventory = Inventory::default();
    let wal = known(0, 1);
    see(&mut inventory, &[("a", Sighting::Database(wal))], &[]);
    assert_eq!(
        see(&mut inventory, &[("a", Sighting::Nothing)], &[1]),
        [Change::Gone("a".into())]
    );
    assert_eq!(
        see(&mut inventory, &[("b", Sighting::Claimed(wal.inode))], &[1]),
        [Change::Appeared("b".into(), wal)]
    );
    assert_eq!(
        see(&mut inventory, &[("c", Sighting::Claimed(wal.inode))], &[1]),
        [],
        "a link"
    );
    see(&mut inventory, &[("b", Sighting::Nothing)], &[]);
    assert_eq!(
        see(&mut inventory, &[("d", Sighting::Claimed(wal.inode))], &[1]),
        [],
        "released meanwhile: the number may be another file's"
    );
}

#[test]
fn second_name_is_told_from_a_database_that_moved() {
    let mut inventory = Inventory::default();
    let (one, other) = (known(0, 1), known(0, 2));
    let at = |path: &str, sighting| (PathBuf::from(path), sighting);
    let databases = [
        at("a", Sighting::Database(one)),
        at("b", Sighting::Database(other)),
    ];
    inventory.see(&BTreeMap::from(databases), |_| false);
    let seen = BTreeMap::from([
        at("a", Sighting::Claimed(one.inode)),
        at("moved", Sighting::Claimed(other.inode)),
        at("b", Sighting::Nothing),
        at("copy", Sighting::Claimed(one.inode)),
    ]);
    inventory.see(&seen, |_| true);
    let names = inventory.second_names(&seen);
    assert_eq!(names, BTreeMap::from([("copy".into(), "a".into())]));
}

proptest! {
    #[test]
    fn receiver_of_the_changes_knows_what_was_seen(
        looks in prop::collection::vec(
            prop::collection::btree_map("[a-d]", prop::option::of((0_u8..2, 0_u64..5)), 0..5),
            0..20,
        )
    ) {
        let mut inventory = Inventory::default();
        let mut truth: BTreeMap<PathBuf, Known> = BTreeMap::new();
        let mut receiver = BTreeMap::new();
        for look in looks {
            let mut seen = BTreeMap::new();
            for (path, file) in look {
                let path = PathBuf::from(path);
                let file = file.map(|(kind, ino)| known(kind, ino));
                seen.insert(path.clone(), file.map_or(Sighting::Nothing, Sighting::Database));
                truth.remove(&path);
                truth.extend(file.map(|file| (path, file)));
            }
            let changes = inventory.see(&seen, |_| false);
            for change in changes {
                match change {
                    Change::Appeared(path, now) => prop_assert!(receiver.insert(path, now).is_none()),
                    Change::Changed(path, now) => {
                        let before = receiver.insert(path, now);
                        prop_assert!(before.is_some_and(|before| before != now));
                    }
                    Change::Gone(path) => prop_assert!(receiver.remove(&path).is_some()),
                }
            }
            prop_assert_eq!(&receiver, &truth);
            prop_assert_eq!(inventory.see(&seen, |_| false), vec![]);
        }
    }
}

fn pod(uid: &str, app: &str, phase: Phase) -> (PodUid, PodRef) {
    let uid = PodUid::new(uid).unwrap();
    let pod = PodRef {
        uid: uid.clone(),
        name: "p".into(),
        namespace: "n".into(),
        namespace_uid: None,
        app: app.into(),
        node: None,
        volumes: vec![],
        target: None,
        ephemeral_limit: None,
        policy: Policy::default(),
        phase,
        gate: None,
        started: false,
        wrong: vec![],
    };
    (uid, pod)
}

fn diff(known: &[(PodUid, PodRef)], wanted: &[(PodUid, PodRef)]) -> Vec<PodChange> {
    let known: BTreeMap<_, _> = known.iter().cloned().collect();
    let wanted = wanted.iter().cloned().collect();
    diff_pods(|uid| known.get(uid), known.keys(), &wanted)
}

#[test]
fn pods_go_before_others_come() {
    let (a, b) = (pod("a", "x", Phase::Running), pod("b", "x", Phase::Pending));
    assert_eq!(
        diff(std::slice::from_ref(&a), std::slice::from_ref(&b)),
        [PodChange::Gone(a.0.clone()), PodChange::Appeared(b.1)]
    );
    assert_eq!(diff(std::slice::from_ref(&a), std::slice::from_ref(&a)), []);
}

#[test]
fn pod_that_ends_is_told_once_also_when_it_is_first_seen_so() {
    let running = pod("a", "x", Phase::Running);
    for phase in [Phase::Terminating, Phase::Finished] {
        let ending = pod("a", "x", phase);
        let told = [PodChange::Terminating(ending.0.clone())];
        assert_eq!(
            diff(
                std::slice::from_ref(&running),
                std::slice::from_ref(&ending)
            ),
            told
        );
        assert_eq!(
            diff(std::slice::from_ref(&ending), std::slice::from_ref(&ending)),
            []
        );
        assert_eq!(
            diff(&[], std::slice::from_ref(&ending)),
            [
                PodChange::Appeared(ending.1.clone()),
                PodChange::Terminating(ending.0.clone())
            ]
        );
    }
    let finished = pod("a", "x", Phase::Finished);
    let terminating = pod("a", "x", Phase::Terminating);
    let changed = diff(
        std::slice::from_ref(&terminating),
        std::slice::from_ref(&finished),
    );
    assert_eq!(changed, [PodChange::Changed(finished.1)]);
}
