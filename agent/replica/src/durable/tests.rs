//! Tests of the publish protocol: crash points, faults, races.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Barrier};

use proptest::prelude::*;
use sqlrep_format::ltx::Level;
use sqlrep_format::{Txid, TxidRange};

use super::*;
use crate::testing::{CrashFs, Loss};
use crate::{DirStore, ReplicaFile, Store};

const EIO: i32 = 5;
const EEXIST: i32 = 17;
const ENOSPC: i32 = 28;

fn open(path: &Path) -> Dir {
    Dir::open(path).unwrap()
}

fn put(fs: &dyn Fs, dir: &Path, content: &[u8]) -> Result<Put, Failure> {
    let time = Some(Timestamp::from_millis(1_700_000_000_123));
    let about = About {
        modified: time,
        bytes: content.len() as u64,
    };
    publish(fs, &open(dir), OsStr::new("a"), about, &mut |file| {
        file.write_all(content)
    })
}

fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn a_published_file_has_its_time_and_nothing_stays_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(put(&OsFs, dir.path(), b"one").unwrap(), Put::Published);
    let stat = fs::metadata(dir.path().join("a")).unwrap();
    assert_eq!(
        (stat.mtime(), stat.mtime_nsec()),
        (1_700_000_000, 123_000_000)
    );
    assert_eq!(stat.nlink(), 1);
    assert_eq!(names(dir.path()), BTreeSet::from(["a".to_owned()]));
}

#[test]
fn a_taken_name_keeps_its_content() {
    let dir = tempfile::tempdir().unwrap();
    put(&OsFs, dir.path(), b"one").unwrap();
    assert_eq!(put(&OsFs, dir.path(), b"two").unwrap(), Put::Taken);
    assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"one");
    assert_eq!(names(dir.path()).len(), 1);
}

#[test]
fn a_link_whose_reply_was_lost_is_ours() {
    let dir = tempfile::tempdir().unwrap();
    let faults = CrashFs::new(dir.path()).unwrap();
    faults.fail("link", 0, EEXIST, true);
    assert_eq!(put(&faults, dir.path(), b"one").unwrap(), Put::Published);
    assert!(faults.fired());
    assert_eq!(names(dir.path()).len(), 1);
}

/// Whoever took it may have died before its name was durable; who hears that it is taken goes on.
#[test]
fn a_name_that_was_taken_is_durable_when_that_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let faults = CrashFs::new(dir.path()).unwrap();
    faults.fail("fsync_dir", 0, EIO, false);
    put(&faults, dir.path(), b"one").unwrap_err();
    assert_eq!(put(&faults, dir.path(), b"two").unwrap(), Put::Taken);
    let left = tempfile::tempdir().unwrap();
    faults.after_crash(Loss::All, left.path()).unwrap();
    assert_eq!(fs::read(left.path().join("a")).unwrap(), b"one");
}

#[test]
fn a_failed_fsync_publishes_nothing_and_a_retry_does() {
    for errno in [EIO, ENOSPC] {
        let dir = tempfile::tempdir().unwrap();
        let faults = CrashFs::new(dir.path()).unwrap();
        faults.fail("fsync", 0, errno, true);
        let error = put(&faults, dir.path(), b"one").unwrap_err();
        assert!(faults.fired());
        assert_eq!(error.step, "fsync");
        assert_eq!(error.source.raw_os_error(), Some(errno));
        assert!(
            names(dir.path()).is_empty(),
            "neither a name nor a temp file"
        );
        assert_eq!(put(&faults, dir.path(), b"one").unwrap(), Put::Published);
        // A fsync of the same file would have succeeded the second time, and lied.
        assert_eq!(
            faults
                .log()
                .iter()
                .filter(|step| **step == "create")
                .count(),
            2
        );
    }
}

#[test]
fn every_step_that_fails_is_reported_or_harmless() {
    for step in [
        "create",
        "fsync",
        "set_modified",
        "link",
        "unlink",
        "fsync_dir",
    ] {
        for done in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let faults = CrashFs::new(dir.path()).unwrap();
            faults.fail(step, 0, EIO, done);
            let first = put(&faults, dir.path(), b"one");
            assert!(faults.fired(), "{step}");
            assert_eq!(
                first.is_ok(),
                step == "unlink",
                "{step} done={done}: {first:?}"
            );
            // Whatever became of it, the next attempt ends with the whole file under its name.
            put(&faults, dir.path(), b"one").unwrap();
            assert_eq!(
                fs::read(dir.path().join("a")).unwrap(),
                b"one",
                "{step} done={done}"
            );
        }
    }
}

#[test]
fn of_two_racing_publishers_exactly_one_wins() {
    for round in 0..40 {
        let dir = tempfile::tempdir().unwrap();
        let start = Arc::new(Barrier::new(3));
        let racers: Vec<_> = (0..3_u8)
            .map(|racer| {
                let (path, start) = (dir.path().to_owned(), Arc::clone(&start));
                std::thread::spawn(move || {
                    start.wait();
                    (racer, put(&OsFs, &path, &[racer; 100]).unwrap())
                })
            })
            .collect();
        let ends: Vec<_> = racers
            .into_iter()
            .map(|racer| racer.join().unwrap())
            .collect();
        let won: Vec<u8> = ends
            .iter()
            .filter(|(_, put)| *put == Put::Published)
            .map(|(racer, _)| *racer)
            .collect();
        assert_eq!(won.len(), 1, "round {round}: {ends:?}");
        assert_eq!(fs::read(dir.path().join("a")).unwrap(), vec![won[0]; 100]);
    }
}

/// Runs an operation with a crash before each of its steps in turn, and looks at what is left by
/// each kind of loss. `done` says whether the operation had reported success.
fn each_crash(
    prepare: impl Fn(&Path),
    run: impl Fn(&dyn Fs, &Path) -> bool,
    look: impl Fn(&Path, bool, &str),
) {
    for step in 0..1000 {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        let crash = CrashFs::new(dir.path()).unwrap();
        crash.crash_at(step);
        let done = run(&crash, dir.path());
        for loss in Loss::EACH {
            let left = tempfile::tempdir().unwrap();
            crash.after_crash(loss, left.path()).unwrap();
            look(
                left.path(),
                done,
                &format!("crash at {step} of {:?}, {loss:?}", crash.log()),
            );
        }
        if !crash.fired() {
            assert!(step > 3, "an operation of {step} steps is none");
            return;
        }
    }
    panic!("the operation never ends");
}

#[test]
fn a_publish_that_crashes_leaves_the_whole_file_or_none() {
    let content = vec![42; 10_000];
    each_crash(
        |_| {},
        |fs, dir| put(fs, dir, &content).is_ok(),
        |left, done, at| {
            match fs::read(left.join("a")) {
                Ok(found) => assert_eq!(found, content, "{at}"),
                Err(_) => assert!(!done, "{at}: reported, and lost"),
            }
            let mut others = names(left);
            others.remove("a");
            assert!(
                others.iter().all(|name| is_temp_name(OsStr::new(name))),
                "{at}: {others:?}"
            );
            put(&OsFs, left, &content).unwrap();
            assert_eq!(fs::read(left.join("a")).unwrap(), content, "{at}");
        },
    );
}

#[test]
fn a_publish_into_new_directories_survives_once_it_is_reported() {
    let run = |fs: &dyn Fs, dir: &Path| {
        let made = ensure_dir(fs, dir.join("x/y/z"));
        made.and_then(|made| put(fs, made.path(), b"one")).is_ok()
    };
    each_crash(
        |_| {},
        run,
        |left, done, at| {
            let found = fs::read(left.join("x/y/z/a"));
            assert!(!done || found.is_ok(), "{at}: reported, and lost");
            assert!(found.is_err() || found.unwrap() == b"one", "{at}");
            assert!(run(&OsFs, left), "{at}");
        },
    );
}

/// The first file of a replica, at two levels.
fn first() -> [ReplicaFile; 2] {
    let range = TxidRange::single(Txid::FIRST);
    [Level::L0, Level::SNAPSHOT].map(|level| ReplicaFile {
        level,
        range,
        bytes: 5,
        modified: Timestamp::from_millis(1_700_000_000_123),
    })
}

fn begin_replica(dir: &Path) {
    let write = &mut |out: &mut dyn Write| out.write_all(b"first");
    let put = DirStore::new(dir).put(&first()[0], write);
    assert_eq!(put.unwrap(), Put::Published);
}

#[test]
fn a_second_name_survives_once_it_is_reported_and_the_first_one_anyway() {
    let [shipped, snapshot] = first();
    let promote = |fs: Arc<dyn Fs>, dir: &Path| {
        DirStore::with_fs(dir, fs).put_again(&shipped, Level::SNAPSHOT)
    };
    for step in 0.. {
        let dir = tempfile::tempdir().unwrap();
        begin_replica(dir.path());
        let crash = Arc::new(CrashFs::new(dir.path()).unwrap());
        crash.crash_at(step);
        let done = matches!(promote(Arc::clone(&crash) as _, dir.path()), Ok(Some(_)));
        for loss in Loss::EACH {
            let left = tempfile::tempdir().unwrap();
            crash.after_crash(loss, left.path()).unwrap();
            let at = format!("crash at {step} of {:?}, {loss:?}", crash.log());
            let store = DirStore::new(left.path());
            assert_eq!(fs::read(store.path(&shipped)).unwrap(), b"first", "{at}");
            match fs::read(store.path(&snapshot)) {
                Ok(found) => assert_eq!(found, b"first", "{at}"),
                Err(_) => assert!(!done, "{at}: reported, and lost"),
            }
            let again = promote(Arc::new(OsFs), left.path()).unwrap();
            assert!(again.is_some(), "{at}");
            assert_eq!(fs::read(store.path(&snapshot)).unwrap(), b"first", "{at}");
        }
        if !crash.fired() {
            assert!(step > 2, "an operation of {step} steps is none");
            return;
        }
    }
}

#[test]
fn of_two_names_each_goes_by_itself() {
    let [shipped, snapshot] = first();
    let dir = tempfile::tempdir().unwrap();
    begin_replica(dir.path());
    let store = DirStore::new(dir.path());
    let promote = || store.put_again(&shipped, Level::SNAPSHOT);
    assert_eq!(promote().unwrap(), Some(Put::Published));
    assert_eq!(promote().unwrap(), Some(Put::Taken));
    let listed = store.list().unwrap();
    assert_eq!(listed.files(), [shipped.clone(), snapshot.clone()]);
    store.remove(&shipped).unwrap();
    assert_eq!(
        store.list().unwrap().files(),
        std::slice::from_ref(&snapshot)
    );
    assert!(promote().unwrap_err().is_missing());
    assert_eq!(fs::read(store.path(&snapshot)).unwrap(), b"first");
}

#[test]
fn where_no_second_name_is_to_be_had_nothing_is_done() {
    for errno in [18, 1, 95, 31, ENOSPC, EIO] {
        let dir = tempfile::tempdir().unwrap();
        begin_replica(dir.path());
        let crash = Arc::new(CrashFs::new(dir.path()).unwrap());
        crash.fail("link_into", 0, errno, false);
        let store = DirStore::with_fs(dir.path(), Arc::clone(&crash) as _);
        let put = store.put_again(&first()[0], Level::SNAPSHOT);
        assert_eq!(put.unwrap(), None, "errno {errno}");
        assert!(crash.fired());
        assert_eq!(store.list().unwrap().files(), [first()[0].clone()]);
    }
}

#[test]
fn a_replaced_file_is_the_old_one_or_the_new_one() {
    each_crash(
        |dir| fs::write(dir.join("m"), b"old").unwrap(),
        |fs, dir| replace(fs, &open(dir), OsStr::new("m"), b"newer").is_ok(),
        |left, done, at| {
            let found = fs::read(left.join("m")).unwrap();
            assert!(
                found == b"newer" || (!done && found == b"old"),
                "{at}: {found:?}"
            );
        },
    );
}

#[test]
fn a_temp_file_gets_its_name_whole_or_not_at_all() {
    let run = |fs: &dyn Fs, dir: &Path| {
        let publish = || {
            let temp = Temp::create(fs, &open(dir))?;
            temp.file().write_all(b"database").unwrap();
            temp.fsync()?;
            temp.rename_new(OsStr::new("db"))
        };
        publish().is_ok()
    };
    each_crash(
        |_| {},
        run,
        |left, done, at| match fs::read(left.join("db")) {
            Ok(found) => assert_eq!(found, b"database", "{at}"),
            Err(_) => assert!(!done, "{at}: reported, and lost"),
        },
    );
}

#[test]
fn a_rename_never_replaces() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("db"), b"mine").unwrap();
    let temp = Temp::create(&OsFs, &open(dir.path())).unwrap();
    assert!(!temp.rename_new(OsStr::new("db")).unwrap());
    assert_eq!(fs::read(dir.path().join("db")).unwrap(), b"mine");
    assert_eq!(names(dir.path()).len(), 1);
}

#[test]
fn sweeping_takes_old_temp_files_only() {
    let dir = tempfile::tempdir().unwrap();
    let name = ".sqlrep-0123456789abcdef";
    for other in [
        name,
        "0123456789abcdef",
        ".sqlrep-xyz",
        ".sqlrep-root.json",
        "a.ltx",
    ] {
        fs::write(dir.path().join(other), b"").unwrap();
    }
    // A temp file about to be published carries the time of its header: long ago, and not old.
    let opened = File::open(dir.path().join(name)).unwrap();
    let long_ago = Timestamp::from_millis(1000);
    OsFs.set_modified(&open(dir.path()), OsStr::new(name), &opened, long_ago)
        .unwrap();
    let now = fs::metadata(dir.path().join(name)).unwrap().ctime() * 1000;
    let before = |millis| sweep(&OsFs, &open(dir.path()), Timestamp::from_millis(millis)).unwrap();
    assert_eq!(before(now - 60_000), 0);
    assert_eq!(before(now + 60_000), 1);
    assert_eq!(names(dir.path()).len(), 4);
}

#[test]
fn published_and_replaced_files_of_others() {
    let dir = tempfile::tempdir().unwrap();
    let (temp, to) = (dir.path().join("t"), dir.path().join("out"));
    fs::write(&temp, b"one").unwrap();
    publish_file(&temp, &to).unwrap();
    fs::write(&temp, b"two").unwrap();
    assert_eq!(
        publish_file(&temp, &to).unwrap_err().kind(),
        io::ErrorKind::AlreadyExists
    );
    assert_eq!(
        (fs::read(&temp).unwrap(), fs::read(&to).unwrap()),
        (b"two".into(), b"one".into())
    );
    replace_file(&temp, &to).unwrap();
    assert_eq!(fs::read(&to).unwrap(), b"two");
    assert!(!temp.exists());
}

#[test]
fn directories_are_not_entered_through_links() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("real")).unwrap();
    std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("file")).unwrap();
    let opened = open(dir.path());
    assert!(ensure_subdir(&OsFs, &opened, OsStr::new("link")).is_err());
    assert!(opened.open_file(OsStr::new("file")).is_err());
    assert!(opened.open_beneath(Path::new("link/a")).is_err());
    assert!(opened.open_beneath(Path::new("../x")).is_err());
    assert!(opened.stat_file(OsStr::new("file")).unwrap().is_none());
}

proptest! {
    #[test]
    fn times_are_exact_to_the_millisecond(millis in 0i64..4_000_000_000_000) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f"), b"").unwrap();
        let (opened, time) = (open(dir.path()), Timestamp::from_millis(millis));
        let file = File::open(dir.path().join("f")).unwrap();
        OsFs.set_modified(&opened, OsStr::new("f"), &file, time).unwrap();
        prop_assert_eq!(opened.stat_file(OsStr::new("f")).unwrap(), Some((0, time)));
    }
}
