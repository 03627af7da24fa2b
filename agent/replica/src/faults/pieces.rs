//! Files that are too large to be read at once: one read in the middle of one goes wrong.

use std::sync::LazyLock;

use sqlrep_format::PageSize;

use super::hangs::{Then, while_hung};
use super::*;
use crate::testing::chain::{header, put_bytes};

/// Pages of the database: with content that does not compress, more than twice what is read at once.
const PAGES: u32 = 2_600;

/// A page that LZ4 finds nothing in.
fn noise(txid: u64, pgno: u32) -> Vec<u8> {
    let mut dice = fastrand::Rng::with_seed(txid << 32 | u64::from(pgno));
    std::iter::repeat_with(|| dice.u8(..))
        .take(PageSize::MIN.bytes())
        .collect()
}

/// A snapshot of everything, a file that changes every fourth page, and what they come to.
struct Large {
    all: Vec<u8>,
    some: Vec<u8>,
    content: Vec<u8>,
}

static LARGE: LazyLock<Large> = LazyLock::new(|| {
    let all: Vec<_> = (1..=PAGES).map(|pgno| (pgno, noise(1, pgno))).collect();
    let some = (1..=PAGES).step_by(4);
    let some: Vec<_> = some.map(|pgno| (pgno, noise(2, pgno))).collect();
    let page = |pgno: u32| noise(if pgno % 4 == 1 { 2 } else { 1 }, pgno);
    Large {
        all: encode(&header(1, 1, PAGES), &all),
        some: encode(&header(2, 2, PAGES), &some),
        content: (1..=PAGES).flat_map(page).collect(),
    }
});

fn begin_large(dir: &Path) {
    let store = replica(dir);
    for (level, id, bytes) in [
        (Level::SNAPSHOT, 1, &LARGE.all),
        (Level::L0, 2, &LARGE.some),
    ] {
        let header = header(id, id, PAGES);
        put_bytes(&store, level, &header, bytes).unwrap();
    }
    fs::create_dir(dir.join("out")).unwrap();
}

fn operations() -> Vec<(&'static str, Reading)> {
    vec![
        ("restore", |store, dir| {
            let path = dir.join("out/app.db");
            let destination = Destination::open(&path)?;
            let options = RestoreOptions::default();
            restore::restore(store, Point::Latest, &destination, &options, &())?;
            let right = fs::read(&path)? == LARGE.content;
            fs::remove_file(path)?;
            assert!(right, "something wrong was restored");
            Ok(())
        }),
        ("verify", |store, _| {
            Ok(verify(store, Point::Latest, &()).map(drop)?)
        }),
        ("snapshot", snapshots),
        ("claim", claims),
    ]
}

/// The newest state is what it was.
fn whole(dir: &Path, context: &str) {
    let out = scratch();
    let path = out.path().join("db");
    let destination = Destination::open(&path).unwrap();
    let options = RestoreOptions::default();
    restore::restore(&replica(dir), Point::Latest, &destination, &options, &()).unwrap();
    assert!(
        fs::read(path).unwrap() == LARGE.content,
        "{context}: it changed"
    );
}

fn large() -> (tempfile::TempDir, FaultyStore) {
    let dir = scratch();
    begin_large(dir.path());
    let store = FaultyStore::new(replica(dir.path()));
    (dir, store)
}

/// The numbers of the reads among the calls of an operation.
fn reads(run: Reading) -> Vec<usize> {
    let (dir, store) = large();
    run(&store, dir.path()).unwrap();
    let calls = store.calls();
    let reads = calls
        .iter()
        .enumerate()
        .filter(|(_, name)| **name == "read");
    reads.map(|(number, _)| number).collect()
}

#[test]
fn one_read_in_the_middle_of_a_file_that_goes_wrong_is_an_error_and_never_a_state() {
    let (mut tried, mut most) = (0, 0);
    for (name, run) in operations() {
        let reads = reads(run);
        most = most.max(reads.len());
        for call in reads {
            for wrong in [Wrong::Errno(EIO), Wrong::Short, Wrong::Flipped] {
                let (dir, store) = large();
                let context = format!("{name}: call {call}, {wrong:?}");
                store.fail(call, wrong);
                let outcome = run(&store, dir.path());
                assert!(store.fired(), "{context}: {outcome:?}");
                if let Err(error) = outcome {
                    let text = text(error.as_ref());
                    let place = dir.path().display().to_string();
                    assert!(text.contains(&place), "{context}: no place: {text}");
                    // Files are opened beside one another: the call may have become another one.
                    let reading = store.calls().get(call) == Some(&"read");
                    assert!(tells(&text, wrong, reading), "{context}: no reason: {text}");
                }
                let left = fs::read_dir(dir.path().join("out")).unwrap().count();
                assert_eq!(left, 0, "{context}: something is left in the volume");
                whole(dir.path(), &context);
                run(&FaultyStore::new(replica(dir.path())), dir.path()).unwrap();
                whole(dir.path(), &context);
                tried += 1;
            }
        }
    }
    say(&format!(
        "reads in files: {tried} faults, {most} reads at most"
    ));
}

#[test]
fn one_read_in_the_middle_of_a_file_that_hangs_is_waited_for_by_nobody_else() {
    let mut tried = 0;
    for (name, run) in operations() {
        for call in reads(run) {
            let (dir, store) = large();
            while_hung(
                store.hang_at(call),
                Then::Late,
                &format!("{name}: call {call} hangs"),
                || run(&store, dir.path()),
                || run(&FaultyStore::new(replica(dir.path())), dir.path()),
                |context| whole(dir.path(), context),
            );
            tried += 1;
        }
    }
    say(&format!("hanging reads in files: {tried}"));
}
