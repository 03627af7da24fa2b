//! Tests of verification; what it refuses is tested with restores.

use super::*;
use crate::DirStore;
use crate::testing::chain::{History, put, txid};
use crate::testing::scratch;

/// A replica of three states.
fn replica() -> (tempfile::TempDir, DirStore, History) {
    let dir = scratch();
    let history = History::new(&[(3, vec![]), (5, vec![1]), (4, vec![2])]);
    let store = DirStore::new(dir.path());
    for id in 1..=3 {
        let (header, pages) = history.covering(id, id);
        put(&store, 0, &header, &pages).unwrap();
    }
    (dir, store, history)
}

#[test]
fn a_sound_replica_is_proven_with_the_checksum_of_its_pages() {
    let (_dir, store, history) = replica();
    let mut expected = Checksum::EMPTY;
    for (pgno, page) in (1..).filter_map(Pgno::new).zip(&history.images[2]) {
        expected = expected.combine(page_checksum(pgno, page));
    }
    let found = verify(&store, Point::Latest, &()).unwrap();
    assert_eq!((found.txid, found.pages, found.files), (txid(3), 4, 3));
    assert_eq!(found.checksum, expected);
    assert_eq!(
        found.bytes,
        store
            .list()
            .unwrap()
            .files()
            .iter()
            .map(|f| f.bytes)
            .sum::<u64>()
    );
}

#[test]
fn an_empty_replica_is_not_a_sound_one() {
    let dir = scratch();
    let error = verify(&DirStore::new(dir.path()), Point::Latest, &()).unwrap_err();
    assert!(matches!(error, VerifyError::Plan(PlanError::Empty)));
}

#[test]
fn what_is_verified_is_copied_as_a_restore_would_give_it() {
    let (_dir, store, history) = replica();
    let image = history.images[2].concat();
    let file = tempfile::tempfile().unwrap();
    let copy = CopyOut::into(file.try_clone().unwrap(), image.len() as u64);
    for _ in 0..2 {
        verify_copying(&store, Point::Latest, &(), Some(&copy)).unwrap();
    }
    assert_eq!(copy.finish().unwrap(), image.len() as u64);
    let mut found = vec![0; image.len() + 1];
    assert_eq!(file.read_at(&mut found, 0).unwrap(), image.len());
    assert_eq!(found[..image.len()], image);
}

#[test]
fn a_copy_for_which_there_is_no_room_is_none_and_the_replica_is_proven_all_the_same() {
    let (_dir, store, history) = replica();
    let image = history.images[2].concat();
    let file = tempfile::tempfile().unwrap();
    let copy = CopyOut::into(file.try_clone().unwrap(), image.len() as u64 - 1);
    let verified = verify_copying(&store, Point::Latest, &(), Some(&copy)).unwrap();
    assert_eq!(verified.txid, txid(3));
    assert!(matches!(copy.finish(), Err(CopyError::Room { .. })));
    assert_eq!(file.metadata().unwrap().len(), 0);
    // A disk that is full, or fails.
    let full = File::options().write(true).open("/dev/full").unwrap();
    let copy = CopyOut::into(full, u64::MAX);
    verify_copying(&store, Point::Latest, &(), Some(&copy)).unwrap();
    assert!(matches!(copy.finish(), Err(CopyError::Io(_))));
}
