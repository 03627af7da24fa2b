//! Random histories of one database against a model: appends, acks, crashes, clean restarts, and
//! a ledger that is deleted or damaged at any time.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::testing::{LIMITS, append, assert_checksums, copy, decode, id, open, txid};

#[test]
fn the_root_is_remembered_outside_the_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let root: RootId = root();
    let spool = Spool::open(dir.path(), LIMITS).unwrap();
    assert_eq!(spool.remembered_root().unwrap(), None);
    spool.remember_root(&root).unwrap();
    drop(spool);
    fs::remove_dir_all(dir.path().join("ledger")).unwrap();
    let spool = Spool::open(dir.path(), LIMITS).unwrap();
    assert_eq!(spool.remembered_root().unwrap(), Some(root));
    // What cannot be read must not pass for a node that never saw a root (G3).
    fs::write(dir.path().join("root.json"), b"").unwrap();
    assert!(spool.remembered_root().unwrap_err().is_corrupt());
}

fn root() -> RootId {
    serde_json::from_str("\"6ecb1d2f91b94ac5a8a953f9d3bdd3f4\"").unwrap()
}

#[derive(Clone, Debug)]
enum Op {
    /// Pages of the file, and by how much the database grows or shrinks.
    Append(Vec<(u32, u8)>, i32),
    /// How many of the waiting files.
    Ack(usize),
    Flush,
    Restart,
    Crash,
    /// The crash found the ledger as it was some operations ago.
    DeleteLedger,
    /// Where bytes are changed, and to what.
    DamageLedger(Vec<(u16, u8)>),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let pages = || prop::collection::vec((1_u32..600, 2_u8..255), 1..6);
    let op = prop_oneof![
        8 => (pages(), -40_i32..60).prop_map(|(pages, grow)| Op::Append(pages, grow)),
        4 => (1_usize..4).prop_map(Op::Ack),
        1 => Just(Op::Flush),
        2 => Just(Op::Restart),
        3 => Just(Op::Crash),
        1 => Just(Op::DeleteLedger),
        1 => prop::collection::vec((any::<u16>(), any::<u8>()), 1..8).prop_map(Op::DamageLedger),
    ];
    prop::collection::vec(op, 1..24)
}

/// The truth.
#[derive(Default)]
struct Model {
    pages: BTreeMap<u32, u8>,
    /// What each TXID held when its file was written.
    history: BTreeMap<u64, (u32, BTreeMap<u32, u8>)>,
    acked: u64,
    /// Whether the ledger may have forgotten.
    lost: bool,
}

/// A spool that runs, dies and comes back.
struct Run {
    root: PathBuf,
    life: u32,
    open: Option<(Spool, DatabaseSpool)>,
    model: Model,
}

impl Run {
    fn new(root: &Path) -> Self {
        let mut run = Self {
            root: root.to_owned(),
            life: 0,
            open: None,
            model: Model::default(),
        };
        run.start();
        run
    }

    fn dir(&self) -> PathBuf {
        self.root.join(self.life.to_string())
    }

    fn start(&mut self) {
        self.open = Some(open(&self.dir()));
    }

    fn database(&self) -> &DatabaseSpool {
        &self.open.as_ref().unwrap().1
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Append(pages, grow) => self.append(pages, grow),
            Op::Ack(count) => {
                let pending = self.database().pending();
                if let Some(last) = pending.iter().take(count).next_back() {
                    self.database().ack(last.txid).unwrap();
                    self.model.acked = self.model.acked.max(last.txid.get());
                }
            }
            Op::Flush => self.open.as_ref().unwrap().0.flush().unwrap(),
            Op::Restart => {
                self.open = None;
                self.start();
            }
            Op::Crash => {
                let from = self.dir();
                self.life += 1;
                for part in ["ledger", "spool"] {
                    copy(&from.join(part), &self.dir().join(part));
                }
                self.open = None;
                self.start();
            }
            Op::DeleteLedger => {
                self.open = None;
                fs::remove_dir_all(self.dir().join("ledger")).unwrap();
                self.model.lost = true;
                self.start();
            }
            Op::DamageLedger(changes) => {
                self.open = None;
                self.damage(&changes);
                self.model.lost = true;
                self.start();
            }
        }
    }

    /// Changes bytes all over the part of the ledger's file that is in use.
    fn damage(&self, changes: &[(u16, u8)]) {
        let path = self.dir().join("ledger/db");
        let mut bytes = fs::read(&path).unwrap();
        let used = bytes
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(1, |last| last + 1);
        for (at, value) in changes {
            bytes[usize::from(*at) * used / 65_536] ^= value;
        }
        fs::write(&path, bytes).unwrap();
    }

    fn append(&mut self, pages: Vec<(u32, u8)>, grow: i32) {
        let before = u32::try_from(self.model.pages.len()).unwrap();
        let full = before == 0;
        let commit = if full {
            300
        } else {
            before.saturating_add_signed(grow).max(1)
        };
        let mut draft: BTreeMap<u32, u8> = pages
            .into_iter()
            .filter(|(page, _)| *page <= commit)
            .collect();
        for page in before + 1..=commit {
            draft.entry(page).or_insert(1);
        }
        append(self.database(), commit, draft.clone()).unwrap();
        let txid = self.database().position().unwrap().txid.get();
        self.model.pages.extend(draft.clone());
        self.model.pages.retain(|page, _| *page <= commit);
        let reused = self.model.history.insert(txid, (commit, draft));
        assert!(reused.is_none(), "TXID {txid} is used a second time");
    }

    /// What holds after every step.
    fn check(&mut self) {
        let database = self.database();
        let head = self.model.history.keys().last().copied().unwrap_or(0);
        assert_eq!(database.next_txid(), txid(head + 1));
        let pending: Vec<u64> = database
            .pending()
            .iter()
            .map(|entry| entry.txid.get())
            .collect();
        let first = pending.first().copied().unwrap_or(head + 1);
        assert_eq!(pending, (first..=head).collect::<Vec<_>>(), "a gap");
        assert!(
            first <= self.model.acked + 1,
            "{first} waits, {} is shipped",
            self.model.acked
        );
        for entry in database.pending() {
            assert_eq!(decode(&entry.path), self.model.history[&entry.txid.get()]);
        }
        let known = database.position().is_some_and(|at| at.checksum.is_some());
        assert!(
            known || self.model.lost || head == 0,
            "checksums were forgotten"
        );
        if known {
            assert_checksums(database, &self.model.pages);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn no_gap_no_second_use_and_true_checksums_whatever_happens(ops in ops()) {
        let dir = tempfile::tempdir().unwrap();
        let mut run = Run::new(dir.path());
        for op in ops {
            run.step(op);
            run.check();
        }
        prop_assert_eq!(run.database().id(), &id());
    }
}
