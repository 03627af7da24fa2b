//! Tests of restores: against a model, with damage, at the destination.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use sqlrep_format::PageSize;

use super::*;
use crate::DirStore;
use crate::testing::chain::{self, History, header, page, put, time, txid};
use crate::testing::scratch;
use crate::testing::{CrashFs, Loss};
use crate::verify::verify;

fn small() -> History {
    History::new(&[
        (3, vec![]),
        (5, vec![1]),
        (5, vec![2, 5]),
        (2, vec![1]),
        (4, vec![]),
    ])
}

/// All of level 0.
fn level0(history: &History, dir: &Path) -> DirStore {
    let store = DirStore::new(dir);
    for id in 1..=history.head() {
        let (header, pages) = history.covering(id, id);
        put(&store, 0, &header, &pages).unwrap();
    }
    store
}

fn to(dir: &Path) -> Destination {
    Destination::open(&dir.join("db")).unwrap()
}

fn options(threads: usize) -> RestoreOptions {
    RestoreOptions {
        threads,
        ownership: None,
    }
}

fn damage(store: &DirStore, level: u8, min: u64, max: u64) -> ReplicaFile {
    let wanted = header(min, max, 1).range;
    let listing = store.list().unwrap();
    let file = listing
        .files()
        .iter()
        .find(|f| f.level.get() == level && f.range == wanted)
        .unwrap();
    let path = store.path(file);
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.len() / 3;
    bytes[at] ^= 0x40;
    fs::write(&path, bytes).unwrap();
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_modified(system(file.modified))
        .unwrap();
    file.clone()
}

fn system(time: Timestamp) -> std::time::SystemTime {
    std::time::UNIX_EPOCH + std::time::Duration::from_millis(time.millis().unsigned_abs())
}

#[test]
fn every_point_restores_to_its_state() {
    let (dir, out) = (scratch(), scratch());
    let history = small();
    let store = level0(&history, dir.path());
    for id in 1..=history.head() {
        for point in [
            Point::Txid(txid(id)),
            Point::Before(Timestamp::from_millis(time(id).millis() + 1)),
        ] {
            let destination = Destination::open(&out.path().join("db")).unwrap();
            let done = restore(&store, point, &destination, &options(2), &()).unwrap();
            assert_eq!((done.txid, done.timestamp), (txid(id), time(id)));
            assert_eq!(done.notes, []);
            assert_eq!(
                fs::read(out.path().join("db")).unwrap(),
                history.file(id),
                "{point:?}"
            );
            fs::remove_file(out.path().join("db")).unwrap();
        }
    }
}

#[test]
fn pages_cut_off_and_added_again_are_the_new_ones() {
    // Page 3 of TXID 1 is cut off by TXID 2 and must not come back with TXID 3's size.
    let (dir, out) = (scratch(), scratch());
    let store = DirStore::new(dir.path());
    let pages = |id, range: std::ops::RangeInclusive<u32>| {
        range.map(|p| (p, page(id, p))).collect::<Vec<_>>()
    };
    put(&store, 0, &header(1, 1, 3), &pages(1, 1..=3)).unwrap();
    put(&store, 0, &header(2, 2, 2), &pages(2, 1..=1)).unwrap();
    put(&store, 0, &header(3, 3, 3), &pages(3, 1..=1)).unwrap();
    let error = restore(&store, Point::Latest, &to(out.path()), &options(1), &()).unwrap_err();
    assert!(error.is_corrupt(), "{error}");
    let said = error.to_string();
    assert!(
        said.contains("0000000000000003.ltx") && said.contains("page 3 "),
        "{said}"
    );
    assert!(verify(&store, Point::Latest, &()).is_err());
    assert!(!out.path().join("db").exists());
}

#[test]
fn a_restore_never_overwrites() {
    let (dir, out) = (scratch(), scratch());
    let store = level0(&small(), dir.path());
    for name in ["db", "db-wal", "db-shm", "db-journal"] {
        let path = out.path().join(name);
        fs::write(&path, b"mine").unwrap();
        let error = restore(&store, Point::Latest, &to(out.path()), &options(1), &()).unwrap_err();
        assert!(
            error.is_refused() && error.to_string().contains(name),
            "{error}"
        );
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        fs::remove_file(&path).unwrap();
    }
    symlink("nowhere", out.path().join("db")).unwrap();
    assert!(restore(&store, Point::Latest, &to(out.path()), &options(1), &()).is_err());
    fs::remove_file(out.path().join("db")).unwrap();
    // Also when the app was faster than we: created after the staging.
    let staged = stage(&store, Point::Latest, &to(out.path()), &options(1), &()).unwrap();
    fs::write(out.path().join("db"), b"mine").unwrap();
    assert!(staged.publish().unwrap_err().is_refused());
    assert_eq!(fs::read(out.path().join("db")).unwrap(), b"mine");
    assert_eq!(
        fs::read_dir(out.path()).unwrap().count(),
        1,
        "the temp file is gone"
    );
}

#[test]
fn a_staged_database_is_not_visible_and_reads_page_by_page() {
    let (dir, out) = (scratch(), scratch());
    let history = small();
    let store = level0(&history, dir.path());
    let staged = stage(&store, Point::Latest, &to(out.path()), &options(1), &()).unwrap();
    assert!(!out.path().join("db").exists());
    assert_eq!(staged.txid(), txid(5));
    assert_eq!(staged.header().commit.get(), 4);
    assert_eq!(staged.page(Pgno::FIRST).unwrap(), page(4, 1));
    assert!(staged.page(Pgno::new(5).unwrap()).is_err());
    drop(staged);
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
}

#[test]
fn a_damaged_file_is_planned_around_when_there_is_a_road() {
    let history = small();
    for (level, min, max) in [(9, 1, 4), (1, 2, 5)] {
        let (dir, out) = (scratch(), scratch());
        let store = level0(&history, dir.path());
        let (header, pages) = history.covering(min, max);
        put(&store, level, &header, &pages).unwrap();
        let bad = damage(&store, level, min, max);
        let done = restore(&store, Point::Latest, &to(out.path()), &options(2), &()).unwrap();
        assert_eq!(fs::read(out.path().join("db")).unwrap(), history.file(5));
        assert_eq!(done.replanned.len(), 1);
        assert_eq!(done.replanned[0].file.range, bad.range);
        assert!(
            done.replanned[0]
                .reason
                .contains(&store.path(&bad).display().to_string())
        );
        // A verification reports the damage although a restore would get by.
        assert!(verify(&store, Point::Latest, &()).is_err());
    }
}

#[test]
fn damage_without_another_road_is_an_error_and_never_an_older_state() {
    let history = small();
    for point in [
        Point::Latest,
        Point::Txid(txid(5)),
        Point::Before(Timestamp::from_millis(i64::MAX)),
    ] {
        let (dir, out) = (scratch(), scratch());
        let store = level0(&history, dir.path());
        damage(&store, 0, 5, 5);
        let error = restore(&store, point, &to(out.path()), &options(1), &()).unwrap_err();
        assert!(error.is_corrupt(), "{error}");
        assert!(
            error.to_string().contains("TXID 0000000000000004"),
            "{error}"
        );
        assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
    }
}

/// Removes a file at the moment it is wanted, as retention does.
#[derive(Debug)]
struct Retention {
    store: DirStore,
    opened: AtomicUsize,
}

impl Store for Retention {
    fn list(&self) -> Result<Listing, StoreError> {
        self.store.list()
    }
    fn list_level(&self, level: sqlrep_format::ltx::Level) -> Result<Vec<ReplicaFile>, StoreError> {
        self.store.list_level(level)
    }
    fn open(&self, file: &ReplicaFile) -> Result<File, StoreError> {
        if self.opened.fetch_add(1, Ordering::Relaxed) == 0 {
            // Compacted: level 0 below goes, one file takes its place.
            let history = small();
            let (header, pages) = history.covering(2, 5);
            put(&self.store, 1, &header, &pages).unwrap();
            let level0 = sqlrep_format::ltx::Level::L0;
            for file in self
                .store
                .list_level(level0)
                .unwrap()
                .iter()
                .filter(|f| !f.range.is_snapshot())
            {
                self.store.remove(file)?;
            }
        }
        self.store.open(file)
    }
    fn put(
        &self,
        file: &ReplicaFile,
        write: &mut dyn FnMut(&mut dyn io::Write) -> io::Result<()>,
    ) -> Result<crate::Put, StoreError> {
        self.store.put(file, write)
    }
    fn remove(&self, file: &ReplicaFile) -> Result<(), StoreError> {
        self.store.remove(file)
    }
    fn set_aside(&self, file: &ReplicaFile, now: Timestamp) -> Result<(), StoreError> {
        self.store.set_aside(file, now)
    }
    fn path(&self, file: &ReplicaFile) -> std::path::PathBuf {
        self.store.path(file)
    }
    fn dir(&self) -> &Path {
        self.store.dir()
    }
}

#[test]
fn files_that_retention_takes_meanwhile_are_listed_anew() {
    let (dir, out) = (scratch(), scratch());
    let history = small();
    let store = Retention {
        store: level0(&history, dir.path()),
        opened: AtomicUsize::new(0),
    };
    let done = restore(&store, Point::Latest, &to(out.path()), &options(1), &()).unwrap();
    assert_eq!((done.txid, done.files), (txid(5), 2));
    assert_eq!(fs::read(out.path().join("db")).unwrap(), history.file(5));
}

#[test]
fn a_header_that_disagrees_with_the_name_is_refused() {
    let (dir, out) = (scratch(), scratch());
    let store = level0(&small(), dir.path());
    // A file of another place, under a name where it would fit.
    let level = dir.path().join("ltx/0");
    fs::copy(
        level.join("0000000000000003-0000000000000003.ltx"),
        level.join("0000000000000006-0000000000000006.ltx"),
    )
    .unwrap();
    let error = restore(&store, Point::Latest, &to(out.path()), &options(1), &()).unwrap_err();
    assert!(error.to_string().contains("its name says"), "{error}");
}

#[test]
fn files_of_another_page_size_are_refused() {
    let (dir, out) = (scratch(), scratch());
    let store = level0(&small(), dir.path());
    let other = Header {
        page_size: PageSize::new(1024).unwrap(),
        ..header(6, 6, 4)
    };
    put(&store, 0, &other, &[(1, vec![1; 1024])]).unwrap();
    let error = restore(&store, Point::Latest, &to(out.path()), &options(1), &()).unwrap_err();
    assert!(
        error.to_string().contains("512") && error.to_string().contains("1024"),
        "{error}"
    );
}

#[test]
fn a_header_that_claims_a_huge_database_is_refused() {
    let (dir, out) = (scratch(), scratch());
    let store = level0(&small(), dir.path());
    put(&store, 0, &header(6, 6, u32::MAX), &[(1, page(6, 1))]).unwrap();
    let error = restore(&store, Point::Latest, &to(out.path()), &options(1), &()).unwrap_err();
    assert!(
        error.to_string().contains("more than all files can hold"),
        "{error}"
    );
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
}

#[test]
fn a_full_disk_leaves_nothing_behind() {
    let history = small();
    for errno in [28, 5] {
        let (dir, out) = (scratch(), scratch());
        let store = level0(&history, dir.path());
        let faults = Arc::new(CrashFs::new(out.path()).unwrap());
        faults.fail("fsync", 0, errno, true);
        let destination = to(out.path()).with_fs(faults.clone());
        let error = restore(&store, Point::Latest, &destination, &options(1), &()).unwrap_err();
        assert!(faults.fired());
        assert_eq!(error.is_full(), errno == 28, "{error:?}");
        assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
        restore(&store, Point::Latest, &destination, &options(1), &()).unwrap();
        assert_eq!(fs::read(out.path().join("db")).unwrap(), history.file(5));
    }
}

#[test]
fn a_restore_that_crashes_leaves_the_whole_database_or_none() {
    let dir = scratch();
    let history = small();
    let store = level0(&history, dir.path());
    for step in 0..100 {
        let out = scratch();
        let crash = Arc::new(CrashFs::new(out.path()).unwrap());
        crash.crash_at(step);
        let destination = to(out.path()).with_fs(crash.clone());
        let done = restore(&store, Point::Latest, &destination, &options(1), &()).is_ok();
        for loss in Loss::EACH {
            let left = scratch();
            crash.after_crash(loss, left.path()).unwrap();
            if left.path().join("db").exists() {
                assert_eq!(fs::read(left.path().join("db")).unwrap(), history.file(5));
            } else {
                assert!(!done, "step {step} {loss:?}: reported, and lost");
                restore(&store, Point::Latest, &to(left.path()), &options(1), &()).unwrap();
            }
            to(left.path())
                .sweep(Timestamp::from_millis(i64::MAX))
                .unwrap();
            assert_eq!(
                fs::read_dir(left.path()).unwrap().count(),
                1,
                "step {step} {loss:?}"
            );
        }
        if !crash.fired() {
            return;
        }
    }
    panic!("the restore never ends");
}

#[test]
fn owner_and_mode_are_given() {
    let (dir, out) = (scratch(), scratch());
    let store = level0(&small(), dir.path());
    restore(&store, Point::Latest, &to(out.path()), &options(1), &()).unwrap();
    let stat = fs::metadata(out.path().join("db")).unwrap();
    assert_eq!(
        stat.permissions().mode() & 0o7777,
        0o600,
        "private unless told otherwise"
    );
    fs::remove_file(out.path().join("db")).unwrap();

    let root = rustix::process::geteuid().is_root();
    let wanted = Ownership {
        uid: 1234,
        gid: 4321,
        mode: 0o104_664,
    };
    let owned = RestoreOptions {
        threads: 1,
        ownership: Some(wanted),
    };
    let destination = Destination::in_volume(out.path(), Path::new("a/b/db")).unwrap();
    let done = restore(&store, Point::Latest, &destination, &owned, &()).unwrap();
    let stat = fs::metadata(out.path().join("a/b/db")).unwrap();
    assert_eq!(stat.permissions().mode() & 0o7777, 0o664, "no set-id bits");
    let parent = fs::metadata(out.path().join("a/b")).unwrap();
    assert_eq!(parent.permissions().mode() & 0o7777, 0o755);
    if root {
        assert_eq!((stat.uid(), stat.gid()), (1234, 4321));
        assert_eq!((parent.uid(), parent.gid()), (1234, 4321));
        assert!(done.notes.is_empty());
    } else {
        assert_eq!(done.notes, [Note::OwnerKept { wanted }]);
    }
}

#[test]
fn a_volume_cannot_lead_a_restore_elsewhere() {
    let (volume, other) = (scratch(), scratch());
    symlink(other.path(), volume.path().join("link")).unwrap();
    fs::write(volume.path().join("file"), b"").unwrap();
    for bad in ["link/db", "../db", "/db", "", "a/../../db", "file/db", "."] {
        let error = Destination::in_volume(volume.path(), Path::new(bad)).unwrap_err();
        assert!(error.is_refused(), "{bad}: {error:?}");
    }
    // a link in the place of the volume itself
    let error = Destination::in_volume(&volume.path().join("link"), Path::new("db")).unwrap_err();
    assert!(error.is_refused(), "{error:?}");
    assert_eq!(fs::read_dir(other.path()).unwrap().count(), 0);
    let opened = File::open(volume.path()).unwrap();
    for bad in ["../db", "a/b", "..", ""] {
        let opened = opened.try_clone().unwrap();
        assert!(
            Destination::beneath(opened, volume.path(), bad.as_ref()).is_err(),
            "{bad}"
        );
    }
    assert!(Destination::beneath(opened, volume.path(), "db".as_ref()).is_ok());
}

#[test]
fn the_first_page_comes_from_the_newest_file_that_has_it() {
    let dir = scratch();
    let history = small();
    let store = level0(&history, dir.path());
    let (head, first) = first_page(&store, Point::Latest).unwrap();
    assert_eq!((head.range.max(), head.commit.get()), (txid(5), 4));
    assert_eq!(first, page(4, 1));
    damage(&store, 0, 4, 4);
    assert!(first_page(&store, Point::Latest).unwrap_err().is_corrupt());
}

#[test]
fn a_file_without_pages_is_a_step_like_any_other() {
    let (dir, out) = (scratch(), scratch());
    let history = small();
    let store = level0(&history, dir.path());
    put(&store, 0, &header(6, 6, 4), &[]).unwrap();
    let done = restore(&store, Point::Latest, &to(out.path()), &options(1), &()).unwrap();
    assert_eq!(done.txid, txid(6));
    assert_eq!(fs::read(out.path().join("db")).unwrap(), history.file(5));
}

/// Gives up after some bytes.
struct Impatient(AtomicUsize);

impl Progress for Impatient {
    fn cancelled(&self) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed) > 2
    }
}

#[test]
fn a_restore_can_be_cancelled() {
    let (dir, out) = (scratch(), scratch());
    let store = level0(&small(), dir.path());
    let impatient = Impatient(AtomicUsize::new(0));
    let error = restore(
        &store,
        Point::Latest,
        &to(out.path()),
        &options(2),
        &impatient,
    )
    .unwrap_err();
    assert!(matches!(error, RestoreError::Cancelled), "{error:?}");
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
}

/// A database just past the lock page, which no page size puts below a gigabyte: 16386 pages of
/// 64 KiB, nearly all zeros.
fn beyond_the_lock_page(dir: &Path) -> (DirStore, u32) {
    let store = DirStore::new(dir);
    let size = PageSize::MAX;
    let (lock, last) = (size.lock_page().get(), size.lock_page().get() + 1);
    let first = Header {
        page_size: size,
        ..header(1, 1, last)
    };
    let zeros = vec![0; size.bytes()];
    let pages = (1..=last)
        .filter(|pgno| *pgno != lock)
        .map(|pgno| (pgno, zeros.clone()));
    let mut encoder = sqlrep_format::ltx::Encoder::new(Vec::new(), &first).unwrap();
    for (pgno, bytes) in pages {
        encoder.page(Pgno::new(pgno).unwrap(), &bytes).unwrap();
    }
    let (bytes, _) = encoder.finish().unwrap();
    let level = sqlrep_format::ltx::Level::L0;
    chain::put_bytes(&store, level, &first, &bytes).unwrap();
    let second = Header {
        page_size: size,
        ..header(2, 2, last)
    };
    put(&store, 0, &second, &[(last, vec![9; size.bytes()])]).unwrap();
    (store, last)
}

#[test]
fn the_lock_page_is_not_missed() {
    let dir = scratch();
    let (store, last) = beyond_the_lock_page(dir.path());
    assert_eq!(verify(&store, Point::Latest, &()).unwrap().pages, last - 1);
}

#[test]
#[ignore = "writes a gigabyte"]
fn the_lock_page_stays_empty() {
    let (dir, out) = (scratch(), tempfile::tempdir().unwrap());
    let (store, last) = beyond_the_lock_page(dir.path());
    let size = PageSize::MAX;
    let done = restore(&store, Point::Latest, &to(out.path()), &options(2), &()).unwrap();
    assert_eq!(done.bytes, u64::from(last) * 65_536);
    let file = File::open(out.path().join("db")).unwrap();
    let mut page = vec![1; size.bytes()];
    file.read_exact_at(&mut page, size.lock_page().offset(size))
        .unwrap();
    assert_eq!(page, vec![0; size.bytes()]);
    file.read_exact_at(&mut page, Pgno::new(last).unwrap().offset(size))
        .unwrap();
    assert_eq!(page, vec![9; size.bytes()]);
}

/// Sizes and touched pages of some TXIDs, and ranges that are compacted besides.
fn chains() -> impl Strategy<Value = (History, Vec<(u64, u64)>)> {
    let step = (1u32..12, proptest::collection::vec(1u32..12, 0..5));
    (
        proptest::collection::vec(step, 1..10),
        proptest::collection::vec((1u64..10, 0u64..9), 0..4),
    )
        .prop_map(|(steps, ranges)| {
            let history = History::new(&steps);
            let head = history.head();
            let ranges = ranges
                .into_iter()
                .map(|(min, more)| (min.min(head), (min + more).min(head)))
                .filter(|(min, max)| min <= max)
                .collect();
            (history, ranges)
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_restore_equals_the_files_applied_one_by_one(
        (history, ranges) in chains(),
        threads in 1usize..4,
    ) {
        let (dir, out) = (scratch(), scratch());
        let store = level0(&history, dir.path());
        for (min, max) in ranges {
            let (header, pages) = history.covering(min, max);
            let level = if min == 1 { 9 } else { 1 };
            put(&store, level, &header, &pages).unwrap();
        }
        for id in 1..=history.head() {
            let point = Point::Txid(txid(id));
            let done = restore(&store, point, &to(out.path()), &options(threads), &()).unwrap();
            let path = out.path().join("db");
            prop_assert_eq!(fs::read(&path).unwrap(), history.file(id));
            prop_assert!(done.replanned.is_empty());
            fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn damage_anywhere_is_noticed_or_planned_around((history, ranges) in chains(), pick in any::<proptest::sample::Index>(), at in any::<proptest::sample::Index>(), bit in 0u8..8) {
        let (dir, out) = (scratch(), scratch());
        let store = level0(&history, dir.path());
        for (min, max) in ranges {
            let (header, pages) = history.covering(min, max);
            put(&store, if min == 1 { 9 } else { 1 }, &header, &pages).unwrap();
        }
        let listing = store.list().unwrap();
        let steps = plan(&listing, Point::Latest).unwrap().steps;
        let bad = pick.get(&steps);
        let mut bytes = fs::read(store.path(bad)).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        fs::write(store.path(bad), bytes).unwrap();
        match restore(&store, Point::Latest, &to(out.path()), &options(2), &()) {
            Ok(done) => {
                prop_assert_eq!(fs::read(out.path().join("db")).unwrap(), history.file(history.head()));
                // Some other bytes decompress to the same page: then all checksums hold.
                prop_assert_eq!(done.replanned.is_empty(), verify(&store, Point::Latest, &()).is_ok());
            }
            Err(error) => {
                let path = store.path(bad).display().to_string();
                prop_assert!(error.to_string().contains(&path), "{}", error);
                prop_assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
                prop_assert!(verify(&store, Point::Latest, &()).is_err());
            }
        }
    }
}

#[test]
fn the_model_itself_is_right() {
    let history = small();
    let (header, pages) = history.covering(2, 5);
    assert_eq!(header.commit.get(), 4);
    // Pages 3 and 4 were cut off by TXID 4 and added again by TXID 5; 5 is gone.
    let found: Vec<_> = pages
        .iter()
        .map(|(pgno, bytes)| (*pgno, bytes.clone()))
        .collect();
    let expected = vec![
        (1, page(4, 1)),
        (2, page(3, 2)),
        (3, page(5, 3)),
        (4, page(5, 4)),
    ];
    assert_eq!(found, expected);
    assert_eq!(chain::NODE, header.node_id);
}
