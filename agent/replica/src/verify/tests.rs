//! Tests of verification; what it refuses is tested with restores.

use super::*;
use crate::DirStore;
use crate::testing::chain::{History, put, txid};
use crate::testing::scratch;

#[test]
fn a_sound_replica_is_proven_with_the_checksum_of_its_pages() {
    let dir = scratch();
    let history = History::new(&[(3, vec![]), (5, vec![1]), (4, vec![2])]);
    let store = DirStore::new(dir.path());
    for id in 1..=3 {
        let (header, pages) = history.covering(id, id);
        put(&store, 0, &header, &pages).unwrap();
    }
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
