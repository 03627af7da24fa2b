//! What waits is folded; nothing is lost by it, whenever it stops.

use std::collections::BTreeMap;
use std::fs;

use sqlrep_format::Timestamp;
use sqlrep_replica::{Destination, DirStore, Point, RestoreOptions, restore};

use super::*;
use crate::testing::{
    POD, append, assert_checksums, copy, damage, decode, id, open, pgno, ship, snapshot, txid,
};
use crate::{Limits, Spool};

/// Half of it is one fold's reason.
const LIMIT: u64 = 4 << 20;
/// Pages of the database.
const PAGES: u32 = 600;

fn small(dir: &std::path::Path) -> (Spool, DatabaseSpool) {
    let spool = Spool::open(dir, Limits { bytes_max: LIMIT }).unwrap();
    let database = spool.database(&id(), POD).unwrap();
    (spool, database)
}

/// Pages that do not compress, made from a number.
#[derive(Debug)]
struct Noise {
    pages: Vec<(u32, u64)>,
    next: usize,
}

fn noise(seed: u64, page: &mut [u8]) {
    let mut dice = fastrand::Rng::with_seed(seed);
    dice.fill(page);
}

impl Noise {
    fn of(pages: impl IntoIterator<Item = (u32, u64)>) -> Self {
        let pages = pages.into_iter().collect();
        Self { pages, next: 0 }
    }
}

impl PageSource for Noise {
    fn next(&mut self, page: &mut [u8]) -> io::Result<Option<Pgno>> {
        let next = self.pages.get(self.next).copied();
        self.next += 1;
        Ok(next.map(|(number, seed)| {
            noise(seed, page);
            pgno(number)
        }))
    }
}

/// A database whose pages are known, and the spool that it is captured into.
struct Bench {
    database: DatabaseSpool,
    model: BTreeMap<u32, u64>,
    dice: fastrand::Rng,
}

impl Bench {
    fn new(database: DatabaseSpool, seed: u64) -> Self {
        let model: BTreeMap<u32, u64> = (1..=PAGES).map(|page| (page, u64::from(page))).collect();
        let draft = crate::testing::draft(&database, PAGES);
        let mut source = Noise::of(model.clone());
        database.append(&draft, &mut source).unwrap();
        Self {
            database,
            model,
            dice: fastrand::Rng::with_seed(seed),
        }
    }

    /// One second of an app: some pages change, now and then the database grows or shrinks.
    fn second(&mut self) -> Result<Appended, Error> {
        let before = u32::try_from(self.model.len()).unwrap();
        let commit = match self.dice.u32(..40) {
            0 => before.saturating_sub(self.dice.u32(1..50)).max(PAGES / 2),
            1..=3 => (before + self.dice.u32(1..20)).min(PAGES * 2),
            _ => before,
        };
        let mut changed: BTreeMap<u32, u64> = (before + 1..=commit)
            .map(|page| (page, self.dice.u64(..)))
            .collect();
        for _ in 0..self.dice.u32(1..60) {
            changed.insert(self.dice.u32(1..=commit), self.dice.u64(..));
        }
        let draft = crate::testing::draft(&self.database, commit);
        let appended = self
            .database
            .append(&draft, &mut Noise::of(changed.clone()))?;
        self.model.retain(|page, _| *page <= commit);
        self.model.extend(changed);
        Ok(appended)
    }

    /// The newest state of a replica must be the model.
    fn prove(&self, replica: &DirStore, dir: &std::path::Path) {
        let out = dir.join(format!("restored-{}", fastrand::u64(..)));
        let to = Destination::open(&out).unwrap();
        restore::restore(replica, Point::Latest, &to, &RestoreOptions::default(), &()).unwrap();
        let restored = fs::read(&out).unwrap();
        let mut whole = Vec::new();
        for seed in self.model.values() {
            let mut page = vec![0; crate::testing::SIZE.bytes()];
            noise(*seed, &mut page);
            whole.extend(page);
        }
        assert!(whole == restored, "the replica restores to another state");
    }
}

#[test]
#[expect(
    clippy::print_stderr,
    reason = "the seed of a failing run, and the figures"
)]
fn a_share_that_is_away_for_an_hour_costs_less_than_the_limit_and_no_commit() {
    let seed = std::env::var("SQLREP_SEED")
        .map_or_else(|_| fastrand::u64(..), |text| text.parse().unwrap());
    eprintln!("SQLREP_SEED={seed}");
    let dir = tempfile::tempdir().unwrap();
    let (spool, database) = small(&dir.path().join("state"));
    let replica = DirStore::new(dir.path().join("replica"));
    let mut bench = Bench::new(database.clone(), seed);
    for _ in 0..5 {
        bench.second().unwrap();
    }
    ship(&database, &replica);
    let head = database.shipped().unwrap();
    let mut written = 0;
    let mut most = 0;
    for _ in 0..3600 {
        written += bench.second().unwrap().entry.bytes;
        most = most.max(spool.pending_bytes());
        assert!(
            spool.pending_bytes() < LIMIT,
            "{} wait",
            spool.pending_bytes()
        );
    }
    let waits = database.pending();
    eprintln!(
        "written {} MiB in 3600 files, at most {} KiB waited, {} files at last",
        written >> 20,
        most >> 10,
        waits.len()
    );
    assert!(written > 8 * LIMIT, "nothing had to be folded");
    // No snapshot: what follows is on the chain that the replica has.
    assert_eq!(waits[0].txid, head.next());
    for pair in waits.windows(2) {
        assert_eq!(pair[0].txid.next(), pair[1].txid);
        assert!(pair[0].timestamp < pair[1].timestamp);
    }
    ship(&database, &replica);
    bench.prove(&replica, dir.path());
    for _ in 0..20 {
        bench.second().unwrap();
    }
    ship(&database, &replica);
    bench.prove(&replica, dir.path());
}

#[test]
fn what_the_shipper_may_have_linked_is_never_folded() {
    let dir = tempfile::tempdir().unwrap();
    let (_spool, database) = small(dir.path());
    let mut bench = Bench::new(database.clone(), 1);
    let first = database.first_pending().unwrap();
    let bytes = fs::read(&first.path).unwrap();
    while database.next_txid() > txid(3) || database.pending().len() < 10 {
        let before = database.next_txid();
        bench.second().unwrap();
        if database.next_txid() < before {
            break; // folded
        }
    }
    assert_eq!(database.first_pending(), Some(first.clone()));
    assert_eq!(fs::read(&first.path).unwrap(), bytes);
    assert_eq!(database.position().unwrap().txid, txid(2));
    // The one that is next to be shipped now is not folded again.
    database.ack(txid(1)).unwrap();
    let folded = database.first_pending().unwrap();
    for _ in 0..300 {
        bench.second().unwrap();
    }
    assert_eq!(database.first_pending(), Some(folded));
}

#[test]
fn what_an_earlier_process_left_is_not_folded() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, database) = small(dir.path());
    let mut bench = Bench::new(database, 2);
    for _ in 0..20 {
        bench.second().unwrap();
    }
    let found = bench.database.pending();
    let model = bench.model.clone();
    drop((bench, spool));
    let (_spool, database) = small(dir.path());
    let mut bench = Bench {
        database: database.clone(),
        model,
        dice: fastrand::Rng::with_seed(3),
    };
    for _ in 0..300 {
        bench.second().unwrap();
    }
    let waits = database.pending();
    for (was, is) in found.iter().zip(&waits) {
        assert_eq!((was.txid, was.digest), (is.txid, is.digest));
    }
    assert!(waits.len() < 300, "nothing was folded");
}

#[test]
fn a_txid_that_was_told_to_somebody_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (_spool, database) = small(dir.path());
    let mut bench = Bench::new(database.clone(), 4);
    for _ in 0..5 {
        bench.second().unwrap();
    }
    let told = database.pending().pop().unwrap();
    database.promise(told.txid);
    for _ in 0..300 {
        bench.second().unwrap();
    }
    let waits = database.pending();
    assert!(waits.len() < 300, "nothing was folded");
    assert!(waits.contains(&told));
}

#[test]
fn a_fold_that_the_shipper_overtakes_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, database) = small(dir.path());
    let mut bench = Bench::new(database.clone(), 5);
    for _ in 0..5 {
        bench.second().unwrap();
    }
    let fold = Fold {
        files: lock(&database.inner.state)
            .pending()
            .skip(1)
            .copied()
            .collect(),
    };
    let dir = dir.path().join("l0");
    fs::create_dir(&dir).unwrap();
    let dir = Dir::open(&dir).unwrap();
    let (waits, bytes) = (database.pending(), spool.pending_bytes());
    for acked in 1..=2 {
        let temp = Temp::create(database.inner.files.fs(), &dir).unwrap();
        database.ack(txid(acked)).unwrap();
        let done = database
            .inner
            .exchange((&fold, &dir), temp, |_| panic!("it was done"));
        assert!(!done.unwrap());
    }
    assert_eq!(database.pending(), waits[2..]);
    assert!(spool.pending_bytes() < bytes);
}

#[test]
fn a_fold_that_is_cut_short_is_ended_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let (_spool, database) = small(&dir.path().join("state"));
    let mut bench = Bench::new(database.clone(), 6);
    let crashed = dir.path().join("crashed");
    // The state directory before and after a fold.
    loop {
        let _ = fs::remove_dir_all(&crashed);
        copy(&dir.path().join("state"), &crashed);
        let before = database.next_txid();
        bench.second().unwrap();
        if database.next_txid() < before {
            break;
        }
    }
    let folded = database.pending().pop().unwrap();
    let files = |state: &std::path::Path| {
        let database = state.join("spool").join(id().replica_path()).join(POD);
        database.join("ltx/0")
    };
    let left: Vec<_> = fs::read_dir(files(&crashed))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(left.len() > 3);
    let name = folded.path.file_name().unwrap();
    // After the rename, and after each of the removals, from the end.
    fs::copy(&folded.path, files(&crashed).join(name)).unwrap();
    let mut left: Vec<_> = left
        .into_iter()
        .filter(|path| path.file_name() > Some(name))
        .collect();
    left.sort();
    loop {
        let state = dir.path().join(format!("state-{}", left.len()));
        copy(&crashed, &state);
        let (_spool, database) = small(&state);
        assert_eq!(database.position().unwrap().txid, folded.txid);
        let waits: Vec<_> = database
            .pending()
            .iter()
            .map(|entry| entry.txid.get())
            .collect();
        assert_eq!(waits, [1, 2]);
        let replica = DirStore::new(dir.path().join(format!("replica-{}", left.len())));
        ship(&database, &replica);
        bench.prove(&replica, dir.path());
        let Some(last) = left.pop() else { break };
        fs::remove_file(last).unwrap();
    }
}

#[test]
fn a_damaged_file_stops_the_folding_and_not_the_capture() {
    let dir = tempfile::tempdir().unwrap();
    let (_spool, database) = small(dir.path());
    let mut bench = Bench::new(database.clone(), 7);
    for _ in 0..5 {
        bench.second().unwrap();
    }
    damage(&database.pending()[3].path);
    let mut refused = 0;
    for _ in 0..200 {
        match bench.second() {
            Ok(_) => {}
            Err(error) if error.is_full() => break,
            Err(_) => refused += 1,
        }
    }
    assert!(refused <= 1, "{refused} appends failed");
    assert!(lock(&database.inner.state).unfoldable);
}

#[test]
fn the_last_file_of_a_pod_is_taken_in_over_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, database) = open(dir.path());
    drop((spool, database));
    let spool = Spool::open(dir.path(), Limits { bytes_max: 1 }).unwrap();
    let database = spool.database(&id(), POD).unwrap();
    snapshot(&database, 4);
    assert!(append(&database, 4, [(2, 2)]).unwrap_err().is_full());
    database.ending();
    let last = append(&database, 4, [(2, 2)]).unwrap();
    assert_eq!(decode(&last.entry.path), (4, [(2, 2)].into()));
    assert_checksums(&database, &[(1, 1), (2, 2), (3, 1), (4, 1)].into());
    assert!(last.entry.timestamp > Timestamp::from_millis(0));
}
