//! Tests of restores over a long tail of small files: more of them than are opened ahead, and more than
//! one thread takes at once.

use std::fs;
use std::io::Write as _;
use std::time::{Duration, Instant};

use super::*;
use crate::DirStore;
use crate::testing::chain::{header, put, txid};
use crate::testing::faulty::FaultyStore;
use crate::testing::scratch;
use crate::verify::verify;

/// What the files of a chain say, applied one after the other.
struct Tail {
    dir: tempfile::TempDir,
    store: DirStore,
    /// The state after each TXID.
    states: Vec<Vec<Vec<u8>>>,
}

impl Tail {
    /// So many files that grow and shrink a database and change some of its pages, none of which
    /// compresses.
    fn new(rng: &mut fastrand::Rng, files: u64) -> Self {
        let dir = scratch();
        let store = DirStore::new(dir.path());
        let mut states: Vec<Vec<Vec<u8>>> = Vec::new();
        for id in 1..=files {
            let mut state = states.last().cloned().unwrap_or_default();
            let before = state.len();
            let size = match rng.u32(..8) {
                0 => rng.usize(1..120),
                1 => before + rng.usize(..10),
                _ => before,
            };
            state.resize(size.max(1), Vec::new());
            let touched = rng.usize(..=state.len().min(30));
            let mut pages: Vec<usize> = (0..touched).map(|_| rng.usize(..state.len())).collect();
            pages.extend(before..state.len());
            pages.sort_unstable();
            pages.dedup();
            let mut changed = Vec::new();
            for place in pages {
                let page: Vec<u8> = (0..512).map(|_| rng.u8(..)).collect();
                state[place].clone_from(&page);
                changed.push((u32::try_from(place).unwrap() + 1, page));
            }
            let size = u32::try_from(state.len()).unwrap();
            put(&store, 0, &header(id, id, size), &changed).unwrap();
            states.push(state);
        }
        Self { dir, store, states }
    }

    fn file(&self, id: u64) -> Vec<u8> {
        self.states[usize::try_from(id).unwrap() - 1].concat()
    }
}

fn dice() -> Vec<(u64, fastrand::Rng)> {
    let seed = std::env::var("SQLREP_SEED").ok();
    let seeds = match seed.and_then(|seed| seed.parse().ok()) {
        Some(seed) => vec![seed],
        None => (0..4).map(|_| fastrand::u64(..)).collect(),
    };
    let say = |seed| writeln!(io::stderr(), "tail: SQLREP_SEED={seed}").unwrap();
    seeds
        .into_iter()
        .inspect(|seed| say(*seed))
        .map(|seed| (seed, fastrand::Rng::with_seed(seed)))
        .collect()
}

fn restored(store: &dyn Store, point: Point, threads: usize) -> Result<Vec<u8>, RestoreError> {
    let out = scratch();
    let path = out.path().join("db");
    let options = RestoreOptions {
        threads,
        ownership: None,
    };
    let done = restore(
        store,
        point,
        &Destination::open(&path).unwrap(),
        &options,
        &(),
    );
    let left = fs::read_dir(out.path()).unwrap().count();
    assert_eq!(left, usize::from(done.is_ok()), "{done:?}");
    done.map(|_| fs::read(path).unwrap())
}

#[test]
fn a_long_tail_restores_to_what_its_files_say_one_after_the_other() {
    for (seed, mut rng) in dice() {
        let files = rng.u64(1..300);
        let tail = Tail::new(&mut rng, files);
        for (id, threads) in [(files, 1), (files, 3), (rng.u64(1..=files), 2)] {
            let point = Point::Txid(txid(id));
            let found = restored(&tail.store, point, threads).unwrap();
            assert!(found == tail.file(id), "seed {seed}: TXID {id} of {files}");
            let verified = verify(&tail.store, point, &()).unwrap();
            assert_eq!(verified.pages as usize * 512, found.len(), "seed {seed}");
        }
    }
}

#[test]
fn damage_anywhere_in_a_long_tail_is_told_by_the_name_of_its_file() {
    for (seed, mut rng) in dice() {
        let files = rng.u64(1..300);
        let tail = Tail::new(&mut rng, files);
        let listing = tail.store.list().unwrap();
        for _ in 0..8 {
            let bad = &listing.files()[rng.usize(..listing.files().len())];
            let path = tail.store.path(bad);
            let sound = fs::read(&path).unwrap();
            let mut bytes = sound.clone();
            let at = rng.usize(..bytes.len());
            if rng.bool() {
                bytes[at] ^= 1 << rng.u32(..8);
            } else {
                bytes.truncate(at);
            }
            fs::write(&path, bytes).unwrap();
            let context = format!("seed {seed}: byte {at} of {}", path.display());
            let error = restored(&tail.store, Point::Latest, rng.usize(1..4)).expect_err(&context);
            let named = error.to_string().contains(&path.display().to_string());
            assert!(error.is_corrupt() && named, "{context}: {error}");
            assert!(
                verify(&tail.store, Point::Latest, &()).is_err(),
                "{context}"
            );
            fs::write(&path, sound).unwrap();
        }
        assert!(restored(&tail.store, Point::Latest, 2).unwrap() == tail.file(files));
    }
}

#[test]
fn a_small_file_is_opened_once_and_read_once() {
    let mut rng = fastrand::Rng::with_seed(1);
    let tail = Tail::new(&mut rng, 50);
    let store = FaultyStore::new(DirStore::new(tail.dir.path()));
    restored(&store, Point::Latest, 2).unwrap();
    let calls = store.calls();
    let count = |call| calls.iter().filter(|found| **found == call).count();
    assert_eq!((count("list"), count("open"), count("read")), (1, 50, 50));
    assert_eq!(calls.len(), 101, "{calls:?}");
}

#[test]
fn other_files_are_opened_meanwhile_but_not_all_of_them() {
    let mut rng = fastrand::Rng::with_seed(1);
    let tail = Tail::new(&mut rng, 300);
    let store = FaultyStore::new(DirStore::new(tail.dir.path()));
    // The first call lists.
    let hang = store.hang_at(1);
    std::thread::scope(|scope| {
        let restore = scope.spawn(|| restored(&store, Point::Latest, 2));
        assert!(hang.reached());
        let opened = || store.calls().iter().filter(|call| **call == "open").count();
        let end = Instant::now() + Duration::from_secs(20);
        // The one that hangs, and of the seven others two groups of eight each, or three where their turn
        // was before.
        let (least, most) = (1 + 7 * 16, 1 + 7 * 24);
        while opened() < least && Instant::now() < end {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(20));
        let ahead = opened();
        hang.release();
        assert!(restore.join().unwrap().unwrap() == tail.file(300));
        assert!((least..=most).contains(&ahead), "{ahead}");
    });
}
