//! What a power failure takes, and what it must not.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use sqlrep_replica::testing::{CrashFs, Loss};

use super::*;
use crate::testing::{LIMITS, POD, append, assert_checksums, copy, decode, id, snapshot, txid};
use crate::{PodNote, Spool};

/// A spool whose files are lost as [`CrashFs`] says.
struct Node {
    dir: tempfile::TempDir,
    fs: Arc<CrashFs>,
    spool: Spool,
    database: DatabaseSpool,
    /// Steps that it took to open it.
    begun: usize,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .unwrap();
        Self::over(dir)
    }

    fn over(dir: tempfile::TempDir) -> Self {
        let spooled = dir.path().join("spool");
        std::fs::create_dir_all(&spooled).unwrap();
        let fs = Arc::new(CrashFs::new(&spooled).unwrap());
        let spool = Spool::open_with(dir.path(), LIMITS, Arc::clone(&fs) as Arc<_>).unwrap();
        let database = spool.database(&id(), POD).unwrap();
        Self {
            dir,
            begun: fs.log().len(),
            fs,
            spool,
            database,
        }
    }

    /// What is there after a crash; the ledger as it lies on the disk.
    fn crashed(&self, loss: Loss) -> Self {
        self.crashed_with(loss, |to| copy(&self.dir.path().join("ledger"), to))
    }

    fn crashed_with(&self, loss: Loss, ledger: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir_in(self.dir.path().parent().unwrap()).unwrap();
        let spooled = dir.path().join("spool");
        std::fs::create_dir(&spooled).unwrap();
        self.fs.after_crash(loss, &spooled).unwrap();
        ledger(&dir.path().join("ledger"));
        Self::over(dir)
    }

    fn fsyncs(&self) -> usize {
        let log = self.fs.log().split_off(self.begun);
        log.iter().filter(|step| step.starts_with("fsync")).count()
    }
}

fn position(database: &DatabaseSpool) -> u64 {
    database.position().map_or(0, |at| at.txid.get())
}

fn note() -> PodNote {
    PodNote {
        name: "surmai-0".to_owned(),
        namespace_uid: None,
        target: None,
    }
}

#[test]
fn what_is_shipped_soon_costs_no_fsync_here() {
    let node = Node::new();
    node.database.note_pod(&note()).unwrap();
    snapshot(&node.database, 3);
    assert!(!node.database.is_settled());
    node.database.ack(txid(1)).unwrap();
    assert!(node.database.is_settled());
    node.database.settle().unwrap();
    append(&node.database, 3, [(2, 2)]).unwrap();
    node.database.ack(txid(2)).unwrap();
    assert_eq!(node.fsyncs(), 0);
}

#[test]
fn what_something_follows_on_survives_whatever_is_lost() {
    for loss in [Loss::Data, Loss::All] {
        let node = Node::new();
        node.database.note_pod(&note()).unwrap();
        snapshot(&node.database, 3);
        append(&node.database, 3, [(2, 2)]).unwrap();
        let after = node.crashed(loss);
        assert_eq!(position(&after.database), 1, "{loss:?}");
        assert_eq!(after.database.pod_note(), Some(note()));
        assert!(!after.database.must_be_full(), "it goes on from there");
        append(&after.database, 3, [(2, 3)]).unwrap();
    }
}

#[test]
fn what_was_settled_survives_and_so_does_the_last_of_a_pod() {
    for ending in [false, true] {
        for loss in [Loss::Data, Loss::All] {
            let node = Node::new();
            node.database.note_pod(&note()).unwrap();
            if ending {
                node.database.ending();
            }
            snapshot(&node.database, 3);
            if !ending {
                node.database.settle().unwrap();
            }
            assert!(node.database.is_settled());
            let after = node.crashed(loss);
            assert_eq!(position(&after.database), 1, "{loss:?} {ending}");
            assert_eq!(after.database.pod_note(), Some(note()));
        }
    }
}

#[test]
fn a_file_that_a_killed_agent_left_is_durable_before_anything_follows() {
    let node = Node::new();
    node.database.note_pod(&note()).unwrap();
    snapshot(&node.database, 3);
    let after = node.crashed(Loss::Process);
    assert!(!after.database.is_settled());
    assert_eq!(after.fsyncs(), 0);
    append(&after.database, 3, [(1, 2)]).unwrap();
    // CrashFs takes what it finds for durable: the fsyncs say that it was made so.
    assert!(after.fsyncs() > 4, "{:?}", after.fs.log());
}

#[test]
fn shipped_files_that_are_lost_take_nothing_with_them() {
    let node = Node::new();
    snapshot(&node.database, 3);
    append(&node.database, 3, [(1, 2)]).unwrap();
    node.database.ack(txid(2)).unwrap();
    append(&node.database, 3, [(2, 2)]).unwrap();
    node.database.settle().unwrap();
    let after = node.crashed(Loss::Data);
    drop(after.spool);
    drop(after.database);
    std::fs::remove_dir_all(after.dir.path().join("ledger")).unwrap();
    let after = Node::over(after.dir);
    assert_eq!(position(&after.database), 3);
    assert!(
        after
            .database
            .pending()
            .iter()
            .any(|entry| entry.txid == txid(3))
    );
}

#[test]
fn a_file_that_cannot_be_made_durable_is_written_anew() {
    let node = Node::new();
    snapshot(&node.database, 3);
    node.fs.fail("fsync", 0, 5, false);
    node.database.settle().unwrap();
    assert!(node.fs.fired());
    let after = node.crashed(Loss::All);
    assert_eq!(position(&after.database), 1);
    append(&after.database, 3, [(1, 2)]).unwrap();
}

#[test]
fn what_cannot_be_made_durable_at_all_is_tried_again() {
    let node = Node::new();
    snapshot(&node.database, 3);
    // Both the fsync of the file and that of its copy.
    let steps = node.fs.log().len() as u64;
    node.fs.crash_at(steps);
    assert!(append(&node.database, 3, [(1, 2)]).is_err());
    assert!(!node.database.is_settled());
    assert_eq!(position(&node.database), 1, "nothing changed");
    node.fs.crash_at(u64::MAX);
    append(&node.database, 3, [(1, 2)]).unwrap();
    assert_eq!(position(&node.crashed(Loss::All).database), 1);
}

#[test]
fn the_last_of_a_pod_that_cannot_be_made_durable_is_there_all_the_same() {
    let node = Node::new();
    snapshot(&node.database, 3);
    node.database.settle().unwrap();
    node.database.ending();
    // It is created, gets its time and its name, and the temp name goes; then nothing works.
    node.fs.crash_at(node.fs.log().len() as u64 + 4);
    append(&node.database, 3, [(1, 2)]).unwrap();
    assert!(node.fs.fired() && !node.database.is_settled());
    assert_eq!(position(&node.database), 2);
    assert_eq!(node.database.pending().len(), 2, "it is to be shipped");
}

#[test]
fn a_file_whose_content_is_lost_ends_the_chain_before_it() {
    let node = Node::new();
    snapshot(&node.database, 3);
    let appended = append(&node.database, 3, [(1, 2)]).unwrap();
    node.fs.fail("fsync", 1, 5, false);
    crate::testing::damage(&appended.entry.path);
    assert!(node.database.settle().is_err());
    assert!(node.fs.fired());
    assert_eq!(position(&node.database), 1);
    append(&node.database, 3, [(1, 3)]).unwrap();
}

/// Histories that stop at each of their steps in turn, with each kind of loss and each state of the
/// ledger: nothing that is durable here is lost, and what comes back is the state after some file, with its
/// own checksums or none.
#[test]
#[expect(
    clippy::print_stderr,
    reason = "the seed that replays a failure, and the figures"
)]
fn whatever_step_is_the_last_what_was_durable_comes_back() {
    let seed = std::env::var("SQLREP_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seeds = seed.map_or_else(
        || (0..4).map(|_| fastrand::u64(..)).collect(),
        |seed| vec![seed],
    );
    let (mut taken, mut crashes) = (0, 0);
    for seed in seeds {
        eprintln!("SQLREP_SEED={seed}");
        let mut last = 0;
        while let Some(history) = History::until(seed, last) {
            for loss in Loss::EACH {
                for ledger in [Found::AsItIs, Found::Older, Found::Gone] {
                    taken += history.crash(loss, ledger);
                    crashes += 1;
                }
            }
            last += 1;
        }
    }
    eprintln!("crashes: {crashes}, files that a power failure took: {taken}");
    assert!(crashes > 100 && taken > 20, "{crashes} {taken}");
}

/// How the ledger is found after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    AsItIs,
    Older,
    Gone,
}

/// What was done until the world stopped.
struct History {
    node: Node,
    /// A copy of the ledger from before.
    older: tempfile::TempDir,
    states: Vec<BTreeMap<u32, u8>>,
    /// The newest TXID that is durable here for sure, and the newest that was appended.
    durable: u64,
    appended: u64,
}

impl History {
    /// Stops before the step of this number; `None`: it has fewer.
    fn until(seed: u64, last: u64) -> Option<Self> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let node = Node::new();
        node.fs.crash_at(node.begun as u64 + last);
        let mut history = Self {
            older: tempfile::tempdir_in(node.dir.path().parent().unwrap()).unwrap(),
            node,
            states: vec![BTreeMap::new()],
            durable: 0,
            appended: 0,
        };
        if history.node.database.note_pod(&note()).is_ok() {
            let copied = rng.u32(0..10);
            for step in 0..10 {
                if step == copied {
                    let ledger = history.node.dir.path().join("ledger");
                    copy(&ledger, history.older.path());
                }
                history.act(&mut rng, step);
            }
        }
        history.node.fs.fired().then_some(history)
    }

    fn act(&mut self, rng: &mut fastrand::Rng, step: u32) {
        let database = &self.node.database;
        let newest = position(database);
        match rng.u32(0..5) {
            0 if newest > 0 => drop(database.ack(txid(rng.u64(1..=newest)))),
            1 if database.settle().is_ok() => {
                let waits = database.pending().last().map(|entry| entry.txid.get());
                self.durable = waits.unwrap_or(self.durable).max(self.durable);
            }
            2 => drop(self.node.spool.flush()),
            _ => self.append(rng, step),
        }
    }

    fn append(&mut self, rng: &mut fastrand::Rng, step: u32) {
        let database = &self.node.database;
        let (before, waits) = (position(database), !database.pending().is_empty());
        let pages: BTreeMap<u32, u8> = match before {
            0 => (1..=4).map(|page| (page, 1)).collect(),
            _ => [(rng.u32(1..=4), u8::try_from(step).unwrap() + 2)].into(),
        };
        if append(database, 4, pages.clone()).is_ok() {
            self.appended = before + 1;
            self.states
                .truncate(usize::try_from(self.appended).unwrap());
            let mut state = self.states.last().unwrap().clone();
            state.extend(pages);
            self.states.push(state);
            self.durable = if waits { before } else { self.durable };
        }
    }

    /// How many files a crash takes.
    fn crash(&self, loss: Loss, ledger: Found) -> u64 {
        let after = self.node.crashed_with(loss, |to| match ledger {
            Found::AsItIs => copy(&self.node.dir.path().join("ledger"), to),
            Found::Older => copy(self.older.path(), to),
            Found::Gone => {}
        });
        let database = &after.database;
        let (found, appended) = (position(database), self.appended);
        // What was shipped may be gone from here as soon as a ledger on the disk says so; a ledger that
        // is not that one says less, and whoever ships asks the replica.
        let shipped = self.node.database.shipped().map_or(0, Txid::get);
        let least = match (loss, ledger) {
            (Loss::Process, _) => appended,
            (_, Found::Older | Found::Gone) if self.durable <= shipped => 0,
            _ => self.durable,
        };
        let at = format!("{loss:?}, ledger {ledger:?}: {least} {found} {appended}");
        assert!((least..=appended).contains(&found), "{at}");
        for entry in database.pending() {
            assert!(entry.txid.get() <= found, "{at}");
            decode(&entry.path);
        }
        if database.page_checksums().is_known() {
            assert_checksums(database, &self.states[usize::try_from(found).unwrap()]);
        }
        let pages = if database.must_be_full() {
            1..=4
        } else {
            2..=2
        };
        append(database, 4, pages.map(|page| (page, 99))).unwrap();
        appended - found
    }
}
