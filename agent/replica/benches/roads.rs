//! What a restore and a compaction spend apart from bytes: the plan, and the merge of many files.
//!
//! `cargo bench --package sqlrep-replica`; `-- --quick` for a short round.
#![expect(
    missing_docs,
    reason = "criterion's macros make public functions without docs"
)]

use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sqlrep_format::ltx::{Checksums, Encoder, Header, Level, WalSpan};
use sqlrep_format::{PageCount, PageSize, Pgno, Timestamp, Txid, TxidRange};
use sqlrep_replica::{
    Destination, DirStore, Listing, Merge, Plan, Point, ReplicaFile, RestoreOptions, Store as _,
    plan, points, restore,
};

/// Files in the listing of the plan: far more than retention leaves.
const LISTED: u64 = 100_000;

/// Files of one merge: a compaction of half an hour of busy seconds.
const MERGED: u64 = 360;

/// Pages of the database, and of each small file.
const PAGES: u32 = 4096;
const CHANGED: u32 = 64;

fn range(min: u64, max: u64) -> TxidRange {
    let txid = |id| Txid::new(id).expect("numbered from 1");
    TxidRange::new(txid(min), txid(max)).expect("ascending")
}

fn file(level: Level, min: u64, max: u64) -> ReplicaFile {
    ReplicaFile {
        level,
        range: range(min, max),
        bytes: 10_000,
        modified: Timestamp::from_millis(1_000 * i64::try_from(max).expect("small")),
    }
}

/// A snapshot, and behind it a file for each TXID on level 0, each thirty on level 1.
fn listing() -> Listing {
    let steps = LISTED * 30 / 31;
    let mut files = vec![file(Level::SNAPSHOT, 1, 1)];
    files.extend((2..=steps).map(|txid| file(Level::L0, txid, txid)));
    let one = Level::new(1).expect("a level");
    files.extend(
        (2..steps)
            .step_by(30)
            .map(|min| file(one, min, (min + 29).min(steps))),
    );
    Listing::new(files)
}

fn plans(criterion: &mut Criterion) {
    let listing = listing();
    let mut group = criterion.benchmark_group("100,000 files");
    group.throughput(Throughput::Elements(listing.files().len() as u64));
    group.sample_size(10);
    group.bench_function("plan of the latest", |b| {
        b.iter(|| plan::plan(black_box(&listing), Point::Latest).expect("a whole chain"));
    });
    group.bench_function("all points", |b| b.iter(|| points(black_box(&listing))));
    group.finish();
}

/// Puts a level-0 file of pages that half compress and differ from those of every other TXID.
fn put(store: &DirStore, txid: u64, pages: impl Iterator<Item = u32>) {
    let header = Header {
        page_size: PageSize::new(4096).expect("a power of two"),
        commit: PageCount::new(PAGES).expect("not zero"),
        range: range(txid, txid),
        timestamp: Timestamp::from_millis(1_000 * i64::try_from(txid).expect("small")),
        checksums: Checksums::None,
        wal: WalSpan::CLAIM,
        node_id: 1,
    };
    let mut encoder = Encoder::new(Vec::new(), &header).expect("a sound header");
    let mut page = vec![0; 4096];
    for pgno in pages {
        let mut state = u64::from(pgno) << 32 | txid;
        for byte in page.iter_mut().step_by(2) {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            *byte = state.to_be_bytes()[0];
        }
        let pgno = Pgno::new(pgno).expect("from 1");
        encoder.page(pgno, &page).expect("ascending");
    }
    let (bytes, _) = encoder.finish().expect("into memory");
    let file = ReplicaFile {
        level: Level::L0,
        range: header.range,
        bytes: bytes.len() as u64,
        modified: header.timestamp,
    };
    let put = store.put(&file, &mut |out| out.write_all(&bytes));
    put.expect("a free name");
}

/// A whole database, and behind it small files that change some of it.
fn chain(dir: &Path) -> (DirStore, Plan) {
    let store = DirStore::new(dir);
    put(&store, 1, 1..=PAGES);
    for txid in 2..=MERGED {
        let first = u32::try_from(txid * 61 % u64::from(PAGES - CHANGED)).expect("a page") + 1;
        put(&store, txid, first..first + CHANGED);
    }
    let listing = store.list().expect("what was put");
    let plan = plan::plan(&listing, Point::Latest).expect("a whole chain");
    (store, plan)
}

fn merges(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let (store, plan) = chain(dir.path());
    let mut group = criterion.benchmark_group("360 files");
    group.throughput(Throughput::Bytes(plan.bytes()));
    group.sample_size(10);
    group.bench_function("merge", |b| {
        let mut page = vec![0; 4096];
        b.iter(|| {
            let mut merge = Merge::open(&store, &plan).expect("sound files");
            while merge.next_page(&mut page).expect("sound files").is_some() {}
            merge.finish().expect("sound files");
        });
    });
    group.bench_function("restore", |b| {
        let place = |round: u32| dir.path().join(format!("restored-{round}.db"));
        let mut round = 0;
        b.iter(|| {
            round += 1;
            let to = Destination::open(&place(round)).expect("the directory is there");
            let options = RestoreOptions::default();
            restore::restore(&store, Point::Latest, &to, &options, &()).expect("sound files");
            std::fs::remove_file(place(round)).expect("it was restored");
        });
    });
    group.finish();
}

criterion_group!(roads, plans, merges);
criterion_main!(roads);
