//! Tests of merges against a model.

use std::fs;

use proptest::prelude::*;

use super::*;
use crate::testing::chain::{History, header, page, put, txid};
use crate::testing::scratch;
use crate::{DirStore, Point};

fn level0(history: &History, dir: &std::path::Path) -> DirStore {
    let store = DirStore::new(dir);
    for id in 1..=history.head() {
        let (header, pages) = history.covering(id, id);
        put(&store, 0, &header, &pages).unwrap();
    }
    store
}

/// A file's header and pages.
type Content = (Header, Vec<(u32, Vec<u8>)>);

fn read(store: &DirStore, plan: &Plan) -> Result<Content, MergeError> {
    let mut merge = Merge::open(store, plan)?;
    let header = *merge.header();
    let mut pages = Vec::new();
    let mut page = vec![0; header.page_size.bytes()];
    while let Some(pgno) = merge.next_page(&mut page)? {
        let mut decoder = PageDecoder::new(header.page_size);
        let mut copy = vec![0; page.len()];
        let found = decoder.decode(merge.frame(), &mut copy, &mut Crc64::new());
        assert_eq!((found.unwrap(), &copy), (pgno, &page));
        pages.push((pgno.get(), page.clone()));
    }
    merge.finish()?;
    Ok((header, pages))
}

fn files(store: &DirStore, min: u64, max: u64) -> Plan {
    let within = |f: &&ReplicaFile| f.range.min() >= txid(min) && f.range.max() <= txid(max);
    Plan::of(
        store
            .list()
            .unwrap()
            .files()
            .iter()
            .filter(within)
            .cloned()
            .collect(),
    )
    .unwrap()
}

#[test]
fn a_merge_that_was_not_read_to_its_end_proves_nothing() {
    let dir = scratch();
    let store = level0(&History::new(&[(3, vec![]), (3, vec![1])]), dir.path());
    let merge = Merge::open(&store, &files(&store, 1, 2)).unwrap();
    assert!(matches!(merge.finish(), Err(MergeError::Unread)));
}

#[test]
fn damage_in_a_page_that_nobody_wants_is_noticed() {
    let dir = scratch();
    let store = level0(
        &History::new(&[(3, vec![]), (3, vec![1, 2, 3])]),
        dir.path(),
    );
    let plan = files(&store, 1, 2);
    let path = store.path(&plan.steps[0]);
    let whole = fs::read(&path).unwrap();
    let sound = read(&store, &plan).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
        // The file checksum covers what is decompressed, and some other bytes decompress to the
        // same (a match one period farther back): then nothing is lost.
        if let Ok(found) = read(&store, &plan) {
            assert!((100..whole.len() - 40).contains(&at), "byte {at}");
            assert_eq!(found, sound, "byte {at}");
        }
    }
}

#[test]
fn a_merge_from_the_first_txid_misses_no_page() {
    let dir = scratch();
    let store = level0(&History::new(&[(3, vec![])]), dir.path());
    put(&store, 0, &header(2, 2, 5), &[(5, page(2, 5))]).unwrap();
    let error = read(&store, &files(&store, 1, 2)).unwrap_err();
    assert!(
        matches!(error, MergeError::Missing { pgno, .. } if pgno.get() == 4),
        "{error}"
    );
}

#[test]
fn more_files_than_stay_open_are_merged_all_the_same() {
    let dir = scratch();
    let steps: Vec<(u32, Vec<u32>)> = (0..150_u32)
        .map(|n| (3 + n / 50, vec![n % 5 + 1]))
        .collect();
    let history = History::new(&steps);
    let store = level0(&history, dir.path());
    let plan = files(&store, 1, history.head());
    assert!(plan.steps.len() > OPEN_FILES_MAX);
    assert_eq!(read(&store, &plan).unwrap(), {
        let (header, pages) = history.covering(1, history.head());
        (
            Header {
                wal: WalSpan::NONE,
                ..header
            },
            pages,
        )
    });
}

#[test]
fn large_files_are_read_through_windows() {
    // Pages that do not compress, so that the files outgrow their windows.
    let dir = scratch();
    let store = DirStore::new(dir.path());
    let mut random = fastrand::Rng::with_seed(7);
    let mut expected = Vec::new();
    for id in 1..=3_u8 {
        let pages: Vec<(u32, Vec<u8>)> = (1..=1500_u32)
            .filter(|pgno| id == 1 || pgno % (u32::from(id) + 1) == 0)
            .map(|pgno| {
                (
                    pgno,
                    std::iter::repeat_with(|| random.u8(..)).take(512).collect(),
                )
            })
            .collect();
        put(&store, 0, &header(id.into(), id.into(), 1500), &pages).unwrap();
        if id == 1 {
            expected = pages;
        } else {
            for (pgno, bytes) in pages {
                expected[pgno as usize - 1].1 = bytes;
            }
        }
    }
    let plan = crate::plan::plan(&store.list().unwrap(), Point::Latest).unwrap();
    assert!(plan.bytes() > 2 * BUFFER_BYTES_MAX as u64);
    assert_eq!(read(&store, &plan).unwrap().1, expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_merge_equals_the_model(
        steps in proptest::collection::vec((1u32..12, proptest::collection::vec(1u32..12, 0..5)), 1..10),
        min in 1u64..10,
        more in 0u64..9,
    ) {
        let dir = scratch();
        let history = History::new(&steps);
        let min = min.min(history.head());
        let max = (min + more).min(history.head());
        let store = level0(&history, dir.path());
        let (found, pages) = read(&store, &files(&store, min, max)).unwrap();
        let (expected, model) = history.covering(min, max);
        prop_assert_eq!(found, Header { wal: WalSpan::NONE, ..expected });
        prop_assert_eq!(pages, model);
    }

    #[test]
    fn merging_is_associative(
        steps in proptest::collection::vec((1u32..12, proptest::collection::vec(1u32..12, 0..5)), 3..10),
        cut in 1u64..9,
    ) {
        let dir = scratch();
        let history = History::new(&steps);
        let head = history.head();
        let cut = cut.min(head - 1);
        let store = level0(&history, dir.path());
        let whole = read(&store, &files(&store, 1, head)).unwrap();
        for (min, max) in [(1, cut), (cut + 1, head)] {
            let (header, pages) = read(&store, &files(&store, min, max)).unwrap();
            put(&store, 2, &header, &pages).unwrap();
        }
        let halves: Vec<_> = store.list().unwrap().files().iter().filter(|f| f.level.get() == 2).cloned().collect();
        prop_assert_eq!(read(&store, &Plan::of(halves).unwrap()).unwrap(), whole);
    }
}
