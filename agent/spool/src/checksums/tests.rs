//! Edits against a plain map of pages.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::testing::{SIZE, pgno};

fn fake(page: u32, version: u32) -> Checksum {
    Checksum::from_crc(u64::from(page) * 1_000_003 + u64::from(version))
}

/// The truth, and the state that edits led to.
struct Run {
    ledger: Arc<Ledger>,
    slot: Slot,
    known: Option<Known>,
    pages: BTreeMap<u32, Checksum>,
}

impl Run {
    fn new(dir: &Path) -> Self {
        let ledger = Arc::new(Ledger::open(&dir.join("ledger")).unwrap());
        let slot = ledger.slot("a");
        Self {
            ledger,
            slot,
            known: None,
            pages: BTreeMap::new(),
        }
    }

    fn edit(&mut self, commit: u32, pages: impl IntoIterator<Item = (u32, u32)>) {
        let count = PageCount::new(commit).unwrap();
        let generation = self.known.map_or(0, |known| known.generation);
        let mut edit = Edit::begin(
            (&self.ledger, self.slot),
            self.known,
            generation,
            (count, SIZE),
        );
        for (page, version) in pages {
            let checksum = fake(page, version);
            edit.page(pgno(page), checksum);
            self.pages.insert(page, checksum);
        }
        self.pages.retain(|page, _| *page <= commit);
        let edited = edit.finish();
        self.ledger.apply(edited.batch).unwrap();
        if edited.generation != generation {
            self.ledger
                .purge_chunks(self.slot, Some(edited.generation))
                .unwrap();
        }
        self.known = edited.known;
    }

    fn check(&self) {
        let known = self.known.expect("checksums are known");
        let all = self
            .pages
            .values()
            .fold(Checksum::EMPTY, |all, page| all.combine(*page));
        assert_eq!(known.checksum, all);
        let proven = PageChecksums::proven(Arc::clone(&self.ledger), self.slot, known, SIZE);
        let mut proven = proven.unwrap().expect("checksums are whole");
        for (page, checksum) in &self.pages {
            assert_eq!(proven.get(pgno(*page)), Some(*checksum), "page {page}");
        }
        assert_eq!(proven.get(known.commit.last().next().unwrap()), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn checksums_follow_every_change_of_pages_and_size(
        steps in prop::collection::vec((1_u32..1200, prop::collection::btree_set(1_u32..1200, 0..20)), 1..12)
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut run = Run::new(dir.path());
        run.edit(700, (1..=700).map(|page| (page, 0)));
        let mut before = 700;
        for (version, (commit, changed)) in (1..).zip(steps) {
            let mut pages: BTreeMap<u32, u32> =
                changed.into_iter().filter(|page| *page <= commit).map(|page| (page, version)).collect();
            pages.extend((before + 1..=commit).map(|page| (page, version)));
            run.edit(commit, pages);
            run.check();
            before = commit;
        }
    }
}

/// More pages, also with one chunk in eleven left out, than an edit holds in memory.
const MANY: u32 = 712 * CHUNK_PAGES;
const _: () = assert!(DIRTY_CHUNKS_MAX + 100 < 712);

#[test]
fn an_edit_of_many_chunks_moves_to_a_new_generation() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = Run::new(dir.path());
    run.edit(MANY, (1..=MANY).map(|page| (page, 0)));
    run.check();
    let first = run.known.unwrap().generation;
    // One page in each chunk but some: the others are carried over.
    let touched = (1..=MANY)
        .step_by(CHUNK_PAGES as usize)
        .filter(|page| page % 11 != 0);
    run.edit(MANY, touched.map(|page| (page, 1)));
    run.check();
    assert_ne!(run.known.unwrap().generation, first);
    // Few chunks again, and smaller; then so much smaller that many chunks go.
    run.edit(MANY - 700, [(5, 2)]);
    run.check();
    run.edit(3, []);
    run.check();
}

#[test]
fn an_edit_that_is_abandoned_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = Run::new(dir.path());
    run.edit(MANY, (1..=MANY).map(|page| (page, 0)));
    let count = PageCount::new(MANY).unwrap();
    let base = run.known;
    let generation = base.unwrap().generation;
    for base in [base, None] {
        let mut edit = Edit::begin((&run.ledger, run.slot), base, generation, (count, SIZE));
        for page in 1..=MANY {
            edit.page(pgno(page), fake(page, 9));
        }
        drop(edit);
        run.check();
    }
}

#[test]
fn without_a_base_only_every_page_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = Run::new(dir.path());
    run.edit(300, (2..=300).map(|page| (page, 0)));
    assert!(run.known.is_none());
    run.pages.clear();
    run.edit(300, (1..=300).map(|page| (page, 0)));
    run.check();
}

#[test]
fn a_lost_or_changed_chunk_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = Run::new(dir.path());
    run.edit(600, (1..=600).map(|page| (page, 0)));
    let known = run.known.unwrap();
    let proven = || PageChecksums::proven(Arc::clone(&run.ledger), run.slot, known, SIZE).unwrap();
    assert!(proven().is_some());
    let mut sums = Vec::new();
    run.ledger
        .chunk(run.slot, known.generation, 1, &mut sums)
        .unwrap();
    sums.swap(3, 4);
    sums[9] ^= 1;
    let mut batch = Batch::default();
    batch.chunk(run.slot, known.generation, 1, &sums);
    run.ledger.apply(batch).unwrap();
    assert!(proven().is_none());
    let mut batch = Batch::default();
    batch.remove_chunk(run.slot, known.generation, 1);
    run.ledger.apply(batch).unwrap();
    assert!(proven().is_none());
    // An edit on top of it does not pretend to know more.
    run.edit(600, [(257, 1)]);
    assert!(run.known.is_none());
}
