//! Tests of replicas in directories.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;

use super::*;
use crate::testing::chain::{self, header, page, txid};
use crate::testing::scratch;
use crate::testing::{CrashFs, Loss};

fn one(commit: u32) -> Vec<(u32, Vec<u8>)> {
    (1..=commit).map(|pgno| (pgno, page(1, pgno))).collect()
}

#[test]
fn a_replica_that_does_not_exist_is_empty_and_nothing_is_created() {
    let dir = scratch();
    let store = DirStore::new(dir.path().join("a/b"));
    assert!(store.list().unwrap().is_empty());
    assert_eq!(store.sweep(Timestamp::from_millis(i64::MAX)).unwrap(), 0);
    assert!(!dir.path().join("a").exists());
}

#[test]
fn a_replica_that_cannot_be_read_is_not_empty() {
    let dir = scratch();
    fs::write(dir.path().join("ltx"), b"").unwrap();
    assert!(DirStore::new(dir.path()).list().is_err());
    fs::remove_file(dir.path().join("ltx")).unwrap();
    fs::create_dir(dir.path().join("ltx")).unwrap();
    fs::write(dir.path().join("ltx/0"), b"").unwrap();
    assert!(DirStore::new(dir.path()).list().is_err());
}

#[test]
fn what_is_put_is_listed_and_opened() {
    let dir = scratch();
    let store = DirStore::new(dir.path().join("r"));
    let wanted = header(1, 1, 2);
    assert_eq!(
        chain::put(&store, 0, &wanted, &one(2)).unwrap(),
        Put::Published
    );
    assert_eq!(chain::put(&store, 0, &wanted, &one(2)).unwrap(), Put::Taken);
    chain::put(&store, 9, &header(1, 1, 2), &one(2)).unwrap();
    let listing = store.list().unwrap();
    assert_eq!(store.ranges(Level::L0).unwrap(), [wanted.range]);
    assert!(store.ranges(Level::new(3).unwrap()).unwrap().is_empty());
    let levels: Vec<u8> = listing
        .files()
        .iter()
        .map(|file| file.level.get())
        .collect();
    assert_eq!(levels, [0, 9]);
    let file = listing.files()[0].clone();
    assert_eq!(
        (file.range, file.modified),
        (wanted.range, wanted.timestamp)
    );
    assert_eq!(
        file.bytes,
        store.open(&file).unwrap().metadata().unwrap().len()
    );
    assert!(
        dir.path()
            .join("r/ltx/0/0000000000000001-0000000000000001.ltx")
            .exists()
    );
    store.remove(&file).unwrap();
    store.remove(&file).unwrap();
    assert!(store.open(&file).unwrap_err().is_missing());
    assert_eq!(store.list().unwrap().files().len(), 1);
}

#[test]
fn other_files_are_left_alone() {
    let dir = scratch();
    let store = DirStore::new(dir.path());
    chain::put(&store, 0, &header(1, 1, 1), &one(1)).unwrap();
    let level = dir.path().join("ltx/0");
    let real = level.join("0000000000000001-0000000000000001.ltx");
    for name in [
        "x.tmp",
        ".nfs0001",
        "000000000000000A-000000000000000A.ltx",
        "1-1.ltx",
    ] {
        fs::write(level.join(name), b"").unwrap();
    }
    std::os::unix::fs::symlink(&real, level.join("0000000000000002-0000000000000002.ltx")).unwrap();
    fs::create_dir(level.join("0000000000000003-0000000000000003.ltx")).unwrap();
    fs::create_dir(dir.path().join("ltx/10")).unwrap();
    fs::create_dir(dir.path().join("ltx/foo")).unwrap();
    let listing = store.list().unwrap();
    assert_eq!(listing.files().len(), 1);
    assert_eq!(listing.head(), Some(txid(1)));
}

#[test]
fn a_pipe_in_a_replica_hangs_nobody() {
    let dir = scratch();
    let store = DirStore::new(dir.path());
    chain::put(&store, 0, &header(1, 1, 1), &one(1)).unwrap();
    let file = store.list().unwrap().files()[0].clone();
    fs::remove_file(store.path(&file)).unwrap();
    let made = std::process::Command::new("mkfifo")
        .arg(store.path(&file))
        .status()
        .unwrap();
    assert!(made.success());
    assert!(store.list().unwrap().is_empty());
    assert!(store.open(&file).is_err());
}

#[test]
fn a_put_that_crashes_leaves_a_valid_replica() {
    let whole = chain::encode(&header(1, 1, 3), &one(3));
    for step in 0..1000 {
        let dir = scratch();
        let crash = Arc::new(CrashFs::new(dir.path()).unwrap());
        crash.crash_at(step);
        let store = DirStore::with_fs(dir.path().join("n/a/v/p"), crash.clone());
        let done = chain::put(&store, 0, &header(1, 1, 3), &one(3)).is_ok();
        for loss in Loss::EACH {
            let left = scratch();
            crash.after_crash(loss, left.path()).unwrap();
            let store = DirStore::new(left.path().join("n/a/v/p"));
            let listing = store.list().unwrap();
            assert!(
                !done || listing.head() == Some(txid(1)),
                "step {step} {loss:?}: lost"
            );
            for file in listing.files() {
                assert_eq!(
                    fs::read(store.path(file)).unwrap(),
                    whole,
                    "step {step} {loss:?}"
                );
                assert_eq!(
                    file.modified,
                    header(1, 1, 3).timestamp,
                    "step {step} {loss:?}"
                );
            }
            chain::put(&store, 0, &header(1, 1, 3), &one(3)).unwrap();
            assert_eq!(store.list().unwrap().files().len(), 1);
            store.sweep(Timestamp::from_millis(i64::MAX)).unwrap();
            assert_eq!(
                fs::read_dir(left.path().join("n/a/v/p/ltx/0"))
                    .unwrap()
                    .count(),
                1
            );
        }
        if !crash.fired() {
            return;
        }
    }
    panic!("the put never ends");
}

#[test]
fn directories_that_a_predecessor_left_are_made_durable() {
    let dir = scratch();
    let crash = Arc::new(CrashFs::new(dir.path()).unwrap());
    // Somebody made them and died before any fsync.
    fs::create_dir_all(dir.path().join("n/p/ltx/0")).unwrap();
    let store = DirStore::with_fs(dir.path().join("n/p"), crash.clone());
    chain::put(&store, 0, &header(1, 1, 1), &one(1)).unwrap();
    let left = scratch();
    crash.after_crash(Loss::All, left.path()).unwrap();
    assert_eq!(
        DirStore::new(left.path().join("n/p"))
            .list()
            .unwrap()
            .head(),
        Some(txid(1))
    );
}

#[test]
fn errors_say_what_a_caller_may_conclude() {
    for (errno, full, transient) in [(28, true, false), (5, false, true), (116, false, true)] {
        let dir = scratch();
        let faults = Arc::new(CrashFs::new(dir.path()).unwrap());
        faults.fail("fsync", 0, errno, false);
        let store = DirStore::with_fs(dir.path().join("r"), faults.clone());
        let error = chain::put(&store, 0, &header(1, 1, 1), &one(1)).unwrap_err();
        assert!(faults.fired());
        assert_eq!(
            (error.is_full(), error.is_transient()),
            (full, transient),
            "{error:?}"
        );
        assert!(error.to_string().contains("/r/ltx/0/"), "{error}");
    }
}

/// Names beside the chain may be anybody's; a listing that hangs over them hangs a restore.
#[test]
fn names_beside_the_chain_that_anybody_made_hold_up_no_listing() {
    let last = TxidRange::single(txid(u64::MAX));
    let chain = |ids: &[u64]| {
        let single = |id: &u64| ReplicaFile {
            level: Level::L0,
            range: TxidRange::single(txid(*id)),
            bytes: 1,
            modified: Timestamp::from_millis(0),
        };
        Listing::new(ids.iter().map(single).collect())
    };
    let (said, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // The last name of all follows on itself.
        let hole = chain(&[5, u64::MAX]).beside([last]).after_hole();
        said.send(hole).unwrap();
        // As many as a directory may hold: of each its neighbour is asked for.
        let many = (6..1_000_006).map(|id| TxidRange::single(txid(id)));
        let hole = chain(&[5, 1_000_006]).beside(many).after_hole();
        said.send(hole).unwrap();
    });
    let patience = std::time::Duration::from_secs(20);
    let hole = heard.recv_timeout(patience).expect("it ends");
    assert_eq!(hole, Some(txid(u64::MAX)), "the hole is there");
    let hole = heard.recv_timeout(patience).expect("it ends soon");
    assert_eq!(hole, None, "all of it is explained");
}

#[test]
fn what_is_no_name_of_a_damaged_file_explains_no_hole() {
    let dir = scratch();
    let store = DirStore::new(dir.path());
    for id in [1, 2, 4] {
        chain::put(&store, 0, &header(id, id, 2), &one(2)).unwrap();
    }
    let aside = dir.path().join(".sqlrep/damaged");
    fs::create_dir_all(&aside).unwrap();
    let three = "0000000000000003-0000000000000003.ltx";
    for name in [
        three.to_owned(),
        format!("-0{three}"),
        format!("x-1-{three}"),
        format!("x-00-{three}"),
        format!("x-0-{three}.tmp"),
        "x-0-0000000000000003-0000000000000002.ltx".to_owned(),
        "x-0-0000000000000000-0000000000000003.ltx".to_owned(),
        "x-0-".to_owned(),
        "--\n".to_owned(),
    ] {
        fs::write(aside.join(name), b"").unwrap();
    }
    fs::write(aside.join(OsStr::from_bytes(b"\xff-0-\xff")), b"").unwrap();
    let hole = Some(txid(4));
    assert_eq!(store.list().unwrap().after_hole(), hole);
    fs::write(aside.join(format!("x-0-{three}")), b"").unwrap();
    assert_eq!(store.list().unwrap().after_hole(), None);
    // What cannot be looked at is not the same as nothing.
    fs::remove_dir_all(&aside).unwrap();
    fs::write(&aside, b"").unwrap();
    assert!(store.list().is_err());
}
