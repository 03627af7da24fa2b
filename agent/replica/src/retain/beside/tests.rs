//! Branches and damaged files go by their own age: time is an argument.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::durable::OsFs;
use crate::owner::{branch, retire_chain};
use crate::testing::chain::{header, page, put, time};
use crate::testing::{CrashFs, Loss, scratch};
use crate::{DirStore, Store as _};

const KEEP: Duration = Duration::from_secs(100);

/// A replica with a chain of one file, which was retired at `retired` if that is given, and
/// with the tail of a fenced writer, written at 7 and 8 s.
fn replica(dir: &Path, retired: Option<u64>) -> String {
    let main = DirStore::new(dir);
    put(&main, 0, &header(1, 1, 1), &[(1, page(1, 1))]).unwrap();
    if let Some(at) = retired {
        retire_chain(dir, "page-size", time(at)).unwrap();
    }
    let (name, tail) = branch(dir, "surmai-0", time(7)).unwrap();
    for id in [7, 8] {
        put(&tail, 0, &header(id, id, 1), &[(1, page(id, 1))]).unwrap();
    }
    name
}

fn look(dir: &Path, now: u64) -> Beside {
    let main = DirStore::new(dir).list().unwrap();
    Beside::look(dir, &main, KEEP, time(now)).unwrap()
}

#[test]
fn a_branch_goes_when_nothing_was_written_to_it_for_its_own_age() {
    let dir = scratch();
    let name = replica(dir.path(), None);
    let young = look(dir.path(), 107);
    assert_eq!((young.branches(), young.next()), (&[][..], Some(time(108))));
    young.carry_out(dir.path(), &OsFs).unwrap();
    assert_eq!(list_branches(dir.path()).unwrap().len(), 1);
    let old = look(dir.path(), 108);
    assert_eq!((old.branches(), old.next()), (&[name][..], None));
    old.carry_out(dir.path(), &OsFs).unwrap();
    assert!(list_branches(dir.path()).unwrap().is_empty());
    let left = fs::read_dir(dir.path().join(".sqlrep/branches")).unwrap();
    assert_eq!(left.count(), 0, "nothing is left of it");
    assert_eq!(DirStore::new(dir.path()).list().unwrap().files().len(), 1);
}

#[test]
fn the_last_whole_chain_stays_while_the_replica_has_none() {
    let dir = scratch();
    replica(dir.path(), Some(2));
    let old = look(dir.path(), 10_000);
    assert_eq!(old.branches().len(), 1, "the tail alone: {old:?}");
    old.carry_out(dir.path(), &OsFs).unwrap();
    let left = list_branches(dir.path()).unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].label, "page-size");
    // The next chain has begun.
    put(
        &DirStore::new(dir.path()),
        0,
        &header(1, 1, 1),
        &[(1, page(9, 1))],
    )
    .unwrap();
    look(dir.path(), 10_000)
        .carry_out(dir.path(), &OsFs)
        .unwrap();
    assert!(list_branches(dir.path()).unwrap().is_empty());
}

#[test]
fn a_damaged_file_goes_by_when_it_was_set_aside() {
    let dir = scratch();
    replica(dir.path(), None);
    let store = DirStore::new(dir.path());
    let file = store.list().unwrap().files()[0].clone();
    store.set_aside(&file, time(50)).unwrap();
    store.set_aside(&file, time(51)).unwrap(); // it is gone from the chain: no error
    let aside = || {
        fs::read_dir(dir.path().join(".sqlrep/damaged"))
            .unwrap()
            .count()
    };
    assert_eq!((aside(), store.list().unwrap().files().len()), (1, 0));
    look(dir.path(), 149).carry_out(dir.path(), &OsFs).unwrap();
    assert_eq!(aside(), 1);
    look(dir.path(), 150).carry_out(dir.path(), &OsFs).unwrap();
    assert_eq!(aside(), 0);
}

#[test]
fn a_crash_at_any_step_leaves_a_branch_whole_or_none() {
    let steps = {
        let dir = scratch();
        replica(dir.path(), Some(2));
        let watch = CrashFs::new(dir.path()).unwrap();
        look(dir.path(), 10_000)
            .carry_out(dir.path(), &watch)
            .unwrap();
        watch.log().len() as u64
    };
    assert!(steps > 6, "{steps}");
    for step in 0..steps {
        let dir = scratch();
        replica(dir.path(), Some(2));
        let fs = Arc::new(CrashFs::new(dir.path()).unwrap());
        fs.crash_at(step);
        let ended = look(dir.path(), 10_000).carry_out(dir.path(), fs.as_ref());
        assert!(fs.fired() && ended.is_err(), "step {step}: {ended:?}");
        for loss in Loss::EACH {
            let left = scratch();
            fs.after_crash(loss, left.path()).unwrap();
            for branch in list_branches(left.path()).unwrap() {
                let files = if branch.label == "page-size" { 1 } else { 2 };
                assert_eq!(branch.files, files, "step {step}, {loss:?}: {branch:?}");
            }
            look(left.path(), 10_000)
                .carry_out(left.path(), &OsFs)
                .unwrap();
            let left = fs::read_dir(left.path().join(".sqlrep/branches")).unwrap();
            assert_eq!(left.count(), 1, "step {step}, {loss:?}");
        }
    }
}
