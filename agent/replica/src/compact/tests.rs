//! Compaction against a model of every state.

use std::fs;

use sqlrep_format::Timestamp;

use super::*;
use crate::merge::MergeError;
use crate::testing::chain::{History, put, time, txid};
use crate::testing::scratch;
use crate::verify::verify;
use crate::{Destination, DirStore, RestoreOptions, restore};

fn level(level: u8) -> Level {
    Level::new(level).unwrap()
}

/// A database that grows, shrinks and grows again.
fn history(count: u32) -> History {
    let steps: Vec<(u32, Vec<u32>)> = (0..count)
        .map(|n| (3 + (n * 7) % 5, vec![n % 3 + 1, n % 7 + 1]))
        .collect();
    History::new(&steps)
}

fn put_l0(store: &DirStore, history: &History, range: std::ops::RangeInclusive<u64>) {
    for id in range {
        let (header, pages) = history.covering(id, id);
        put(store, 0, &header, &pages).unwrap();
    }
}

/// Compacts what is pending into a level; says how many files went in.
fn compact_level(store: &DirStore, to: u8) -> usize {
    let files = pending(&store.list().unwrap(), level(to));
    let count = files.len();
    if let Some(plan) = Plan::of(files) {
        assert_eq!(
            compact(store, &plan, level(to), &()).unwrap().put,
            Put::Published
        );
    }
    count
}

fn restored(store: &dyn Store, point: Point) -> Vec<u8> {
    let dir = scratch();
    let path = dir.path().join("db");
    let destination = Destination::open(&path).unwrap();
    restore::restore(store, point, &destination, &RestoreOptions::default(), &()).unwrap();
    fs::read(path).unwrap()
}

#[test]
fn a_level_holds_what_the_files_below_it_held() {
    let (dir, history) = (scratch(), history(30));
    let store = DirStore::new(dir.path());
    put_l0(&store, &history, 1..=10);
    assert_eq!(compact_level(&store, 1), 10);
    put_l0(&store, &history, 11..=20);
    assert_eq!(compact_level(&store, 1), 10);
    put_l0(&store, &history, 21..=30);
    assert_eq!(compact_level(&store, 1), 10);
    assert_eq!(compact_level(&store, 1), 0, "nothing is new");
    assert_eq!(compact_level(&store, 2), 3);
    for file in store.list_level(Level::L0).unwrap() {
        store.remove(&file).unwrap();
    }
    for head in [10, 20, 30] {
        assert_eq!(
            restored(&store, Point::Txid(txid(head))),
            history.file(head)
        );
    }
    let files = store.list_level(level(2)).unwrap();
    assert_eq!(files.len(), 1);
    assert_eq!(files[0].range.max(), txid(30));
    assert_eq!(files[0].modified, time(30), "the time of the last input");
}

#[test]
fn the_size_that_is_told_is_that_of_the_file() {
    let (dir, history) = (scratch(), history(4));
    let store = DirStore::new(dir.path());
    put_l0(&store, &history, 1..=4);
    let plan = Plan::of(pending(&store.list().unwrap(), level(1))).unwrap();
    let told = compact(&store, &plan, level(1), &()).unwrap();
    assert_eq!(vec![told.file], store.list_level(level(1)).unwrap());
    let again = compact(&store, &plan, level(1), &()).unwrap();
    assert_eq!(again.put, Put::Taken, "a name that is taken is no loss");
}

#[test]
fn a_hole_is_never_bridged() {
    let (dir, history) = (scratch(), history(9));
    let store = DirStore::new(dir.path());
    put_l0(&store, &history, 1..=4);
    put_l0(&store, &history, 6..=9);
    assert_eq!(compact_level(&store, 1), 4);
    assert_eq!(compact_level(&store, 1), 4);
    let ranges: Vec<String> = store
        .list_level(level(1))
        .unwrap()
        .iter()
        .map(|file| format!("{}-{}", file.range.min().get(), file.range.max().get()))
        .collect();
    assert_eq!(ranges, ["1-4", "6-9"]);
}

#[test]
fn a_database_is_written_once_and_not_once_for_each_level() {
    let (dir, history) = (scratch(), history(5));
    let store = DirStore::new(dir.path());
    put_l0(&store, &history, 1..=1);
    let plan = snapshot_plan(&store.list().unwrap()).unwrap().unwrap();
    compact(&store, &plan, Level::SNAPSHOT, &()).unwrap();
    assert_eq!(snapshot_plan(&store.list().unwrap()), Ok(None));
    assert_eq!(compact_level(&store, 1), 0);
    put_l0(&store, &history, 2..=5);
    assert_eq!(compact_level(&store, 1), 4);
    assert_eq!(restored(&store, Point::Latest), history.file(5));
}

#[test]
fn a_snapshot_has_the_checksum_that_a_verification_finds() {
    let (dir, history) = (scratch(), history(12));
    let store = DirStore::new(dir.path());
    put_l0(&store, &history, 1..=12);
    let found = verify(&store, Point::Latest, &()).unwrap();
    let plan = snapshot_plan(&store.list().unwrap()).unwrap().unwrap();
    let snapshot = compact(&store, &plan, Level::SNAPSHOT, &()).unwrap();
    assert_eq!(snapshot.checksum, Some(found.checksum));
    let increment = Plan::of(store.list_level(Level::L0).unwrap().split_off(3)).unwrap();
    let increment = compact(&store, &increment, level(1), &()).unwrap();
    assert_eq!(increment.checksum, None, "not every page is in it");
}

#[test]
fn what_is_damaged_is_not_compacted() {
    let (dir, history) = (scratch(), history(6));
    let store = DirStore::new(dir.path());
    put_l0(&store, &history, 1..=6);
    let plan = Plan::of(pending(&store.list().unwrap(), level(1))).unwrap();
    let victim = plan.steps[3].clone();
    let path = store.path(&victim);
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len() - 1;
    bytes[end] ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = compact(&store, &plan, level(1), &()).unwrap_err();
    assert_eq!(error.damaged(), Some(&victim), "{error}");
    assert!(matches!(
        error,
        CompactError::Merge(MergeError::File { .. })
    ));
    assert!(store.list_level(level(1)).unwrap().is_empty());
}

#[test]
fn a_long_level_is_merged_in_several_goes() {
    let file = |id: u64| ReplicaFile {
        level: Level::L0,
        range: TxidRange::single(txid(id)),
        bytes: 200,
        modified: Timestamp::from_millis(i64::try_from(id).unwrap()),
    };
    let count = INPUTS_MAX as u64 + 10;
    let listing = Listing::new((1..=count).map(file).collect());
    assert_eq!(pending(&listing, level(1)).len(), INPUTS_MAX);
}
