//! Retention: what goes, what never goes, and that every kept instant keeps its road.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use sqlrep_format::TxidRange;

use super::*;
use crate::compact::{compact, pending, snapshot_plan};
use crate::durable::Fs;
use crate::testing::chain::{History, encode, put_bytes, txid};
use crate::testing::{CrashFs, Loss, peer, scratch};
use crate::{Destination, DirStore, Plan, RestoreOptions, restore};

const SECOND: i64 = 1_000;

fn policy() -> Policy {
    Policy {
        l0: Duration::from_secs(20),
        levels: vec![Duration::from_secs(100), Duration::from_secs(400)],
        window: Duration::from_secs(1_000),
        claims: Vec::new(),
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds * SECOND)
}

fn file(level: u8, min: u64, max: u64, seconds: i64) -> ReplicaFile {
    ReplicaFile {
        level: Level::new(level).unwrap(),
        range: TxidRange::new(txid(min), txid(max)).unwrap(),
        bytes: 300,
        modified: at(seconds),
    }
}

fn names(removal: &Removal) -> Vec<String> {
    let expired = removal.expired().iter();
    expired
        .map(|Expired { file, why }| {
            let (min, max) = (file.range.min().get(), file.range.max().get());
            format!("L{} {min}-{max} {why:?}", file.level)
        })
        .collect()
}

fn gone(files: Vec<ReplicaFile>, now: i64) -> Vec<String> {
    names(&retain(&Listing::new(files), &policy(), at(now)).unwrap())
}

#[test]
fn level_0_goes_when_it_is_compacted_and_old_and_not_before() {
    let base = file(9, 1, 1, 1);
    let mut files = vec![base, file(0, 2, 2, 2), file(0, 3, 3, 3), file(0, 4, 4, 4)];
    assert!(gone(files.clone(), 900).is_empty(), "not compacted");
    files.push(file(1, 2, 3, 3));
    assert!(gone(files.clone(), 22).is_empty(), "not old enough");
    let both = ["L0 2-2 Compacted", "L0 3-3 Compacted"];
    assert_eq!(gone(files.clone(), 23), both, "a step goes whole");
    files.push(file(1, 4, 4, 4));
    assert_eq!(
        gone(files, 900),
        both,
        "the newest file of a level always stays"
    );
}

#[test]
fn a_claim_stays_and_keeps_nothing_else_from_going() {
    let mut files = vec![file(9, 1, 1, 1), file(1, 2, 5, 5)];
    files.extend((2..=6).map(|txid| file(0, txid, txid, i64::try_from(txid).unwrap())));
    let policy = Policy {
        claims: vec![txid(3), txid(4)],
        ..policy()
    };
    let listing = Listing::new(files);
    let removal = retain(&listing, &policy, at(900)).unwrap();
    assert_eq!(names(&removal), ["L0 2-2 Compacted", "L0 5-5 Compacted"]);
    // What is left is not due for ever.
    assert_eq!(due(removal.rest(), &policy), None);
    let again = retain(removal.rest(), &policy, at(950)).unwrap();
    assert!(names(&again).is_empty());
    assert_eq!(
        plan(removal.rest(), Point::Latest).unwrap().head(),
        Some(txid(6))
    );
    // Nor does anybody take it for what a stranger left.
    let found: Vec<_> = [3, 4, 6].map(|id| TxidRange::single(txid(id))).to_vec();
    let known = Listing::new(vec![file(9, 1, 1, 1), file(1, 2, 5, 5), file(0, 6, 6, 6)]);
    assert!(names(&strays(&known, &found, &policy).unwrap()).is_empty());
}

#[test]
fn the_oldest_state_of_all_is_not_compacted_away() {
    let files = vec![
        file(0, 1, 1, 1),
        file(0, 2, 2, 2),
        file(1, 1, 2, 2),
        file(0, 3, 3, 3),
    ];
    assert!(
        gone(files.clone(), 900).is_empty(),
        "TXID 1 has no other road"
    );
    let with = [files, vec![file(9, 1, 1, 1)]].concat();
    assert_eq!(gone(with, 900), ["L0 1-1 Compacted", "L0 2-2 Compacted"]);
}

#[test]
fn a_snapshot_of_the_first_state_stands_in_for_its_level_0_file() {
    let files = vec![
        file(0, 1, 1, 1),
        file(9, 1, 1, 1),
        file(0, 2, 2, 2),
        file(1, 2, 2, 2),
        file(0, 3, 3, 3),
    ];
    assert_eq!(gone(files, 900), ["L0 1-1 Compacted", "L0 2-2 Compacted"]);
}

#[test]
fn the_snapshot_that_begins_the_window_stays_and_so_does_the_newest() {
    let files = vec![
        file(9, 1, 10, 100),
        file(9, 1, 20, 200),
        file(9, 1, 30, 300),
        file(0, 31, 31, 301),
    ];
    assert!(gone(files.clone(), 1_199).is_empty());
    assert_eq!(gone(files.clone(), 1_200), ["L9 1-10 OldSnapshot"]);
    assert_eq!(
        gone(files, 99_999),
        ["L9 1-10 OldSnapshot", "L9 1-20 OldSnapshot"]
    );
}

#[test]
fn what_leads_only_to_states_before_the_window_goes() {
    let files = vec![
        file(3, 1, 10, 100),
        file(3, 11, 20, 200),
        file(2, 11, 15, 150),
        file(2, 16, 20, 200),
        file(9, 1, 15, 150),
        file(9, 1, 20, 200),
        file(0, 20, 20, 200),
    ];
    let expected = ["L2 11-15 Compacted", "L3 1-10 BeforeWindow"];
    assert_eq!(gone(files.clone(), 1_150), expected);
    assert_eq!(
        gone(files, 1_200),
        [&expected[..], &["L9 1-15 OldSnapshot"]].concat()
    );
}

#[test]
fn without_a_snapshot_nothing_is_before_the_window() {
    let files = vec![
        file(0, 1, 1, 1),
        file(0, 2, 2, 2),
        file(0, 3, 3, 3),
        file(3, 1, 3, 3),
    ];
    assert!(gone(files, 9_000_000).is_empty());
}

#[test]
fn a_straggler_of_a_fenced_writer_goes_at_once() {
    let files = vec![
        file(1, 1, 10, 10),
        file(0, 4, 4, 900),
        file(0, 9, 9, 9),
        file(0, 10, 10, 10),
        file(0, 11, 11, 11),
    ];
    assert_eq!(gone(files, 11), ["L0 4-4 Straggler"]);
}

#[test]
fn the_owner_knows_what_is_not_its_own() {
    let known = Listing::new(vec![
        file(1, 1, 10, 10),
        file(0, 11, 11, 11),
        file(0, 12, 12, 12),
    ]);
    let found: Vec<TxidRange> = [9, 10, 11, 12, 13]
        .map(|id| TxidRange::single(txid(id)))
        .into();
    let removal = strays(&known, &found, &policy()).unwrap();
    assert_eq!(removal.rest(), &known);
    let expected = ["L0 9-9 Straggler", "L0 10-10 Straggler"];
    assert_eq!(names(&removal), expected, "13 may be on its way");
    // Who does not know how its own head is reached has no business with what others left.
    let known = known.without(&known.files()[0]);
    assert!(strays(&known, &found, &policy()).is_err());
}

#[test]
fn nothing_goes_from_a_replica_with_a_gap() {
    let files = vec![
        file(0, 1, 1, 1),
        file(1, 1, 1, 1),
        file(0, 2, 2, 2),
        file(0, 4, 4, 4),
    ];
    let refused = retain(&Listing::new(files), &policy(), at(900));
    assert!(matches!(refused, Err(Unproven::Broken(_))), "{refused:?}");
}

#[test]
fn a_rule_that_is_wrong_is_caught_by_the_proof() {
    let listing = Listing::new(vec![
        file(9, 1, 10, 10),
        file(0, 11, 11, 11),
        file(0, 12, 12, 12),
        file(0, 13, 13, 13),
    ]);
    let without = |place: usize| listing.without(&listing.files()[place]);
    let window = at(10);
    assert_eq!(prove(&listing, &listing, window), Ok(()));
    assert_eq!(
        prove(&listing, &without(1), window),
        Err(Unproven::Point(txid(13))),
        "a link in the middle"
    );
    assert_eq!(
        prove(&listing, &without(2), window),
        Err(Unproven::Point(txid(13))),
        "the newest state"
    );
    assert_eq!(
        prove(&listing, &without(3), window),
        Err(Unproven::Point(txid(13))),
        "the only base"
    );
    let two = Listing::new(vec![file(9, 1, 10, 10), file(9, 1, 20, 20)]);
    assert_eq!(
        prove(&two, &two.without(&two.files()[0]), at(15)),
        Err(Unproven::Window)
    );
    assert_eq!(prove(&two, &two.without(&two.files()[0]), at(20)), Ok(()));
    let level = Listing::new(vec![file(9, 1, 10, 10), file(1, 1, 10, 10)]);
    assert_eq!(
        prove(&level, &level.without(&level.files()[0]), at(20)),
        Err(Unproven::Newest(Level::new(1).unwrap()))
    );
}

#[test]
fn the_next_time_is_known_and_nothing_goes_before_it() {
    let listing = Listing::new(vec![
        file(0, 1, 1, 1),
        file(0, 2, 2, 2),
        file(1, 2, 2, 2),
        file(9, 1, 1, 1),
    ]);
    let when = due(&listing, &policy()).unwrap();
    assert_eq!(when, at(21));
    let before = Timestamp::from_millis(when.millis() - 1);
    assert!(
        retain(&listing, &policy(), before)
            .unwrap()
            .expired()
            .is_empty()
    );
    let removal = retain(&listing, &policy(), when).unwrap();
    assert_eq!(names(&removal), ["L0 1-1 Compacted"]);
    assert_eq!(due(removal.rest(), &policy()), None, "idle: no timer");
}

/// What may happen to a replica.
#[derive(Clone, Debug)]
enum Event {
    Commits { count: u64, apart: i64 },
    Compact { level: u8 },
    Snapshot,
    Retain,
    Wait { seconds: i64 },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (1..6_u64, 1..9_i64).prop_map(|(count, apart)| Event::Commits { count, apart }),
        4 => (1..4_u8).prop_map(|level| Event::Compact { level }),
        1 => Just(Event::Snapshot),
        3 => Just(Event::Retain),
        2 => (1..400_i64).prop_map(|seconds| Event::Wait { seconds }),
    ]
}

/// How much of a removal was carried out.
#[derive(Clone, Copy)]
enum Exact {
    Partly,
    Wholly,
}

/// A replica as its listing, and when each TXID was captured.
struct Model {
    listing: Listing,
    times: Vec<i64>,
    now: i64,
}

impl Model {
    fn add(&mut self, file: ReplicaFile) {
        let files = self.listing.files().iter().cloned().chain([file]);
        self.listing = Listing::new(files.collect());
    }

    fn happen(&mut self, event: &Event) {
        match event {
            Event::Wait { seconds } => self.now += seconds,
            Event::Commits { count, apart } => {
                for _ in 0..*count {
                    self.now += apart;
                    self.times.push(self.now);
                    let id = self.times.len() as u64;
                    self.add(file(0, id, id, self.now));
                }
            }
            Event::Compact { level } => {
                let run = pending(&self.listing, Level::new(*level).unwrap());
                if let (Some(first), Some(last)) = (run.first(), run.last()) {
                    let range = TxidRange::new(first.range.min(), last.range.max()).unwrap();
                    let modified = last.modified;
                    let level = Level::new(*level).unwrap();
                    self.add(ReplicaFile {
                        level,
                        range,
                        bytes: 300,
                        modified,
                    });
                }
            }
            Event::Snapshot => {
                if let Ok(Some(plan)) = snapshot_plan(&self.listing) {
                    let last = plan.steps.last().unwrap().clone();
                    let range = TxidRange::snapshot(last.range.max());
                    self.add(ReplicaFile {
                        level: Level::SNAPSHOT,
                        range,
                        ..last
                    });
                }
            }
            Event::Retain => self.retain(),
        }
    }

    fn retain(&mut self) {
        let removal = retain(&self.listing, &policy(), at(self.now)).unwrap();
        // A power failure in the middle: any subset of what goes is gone.
        let gone = removal.expired().iter().map(|expired| &expired.file);
        let partly = gone
            .clone()
            .step_by(2)
            .fold(self.listing.clone(), |left, file| left.without(file));
        self.check(&partly, Exact::Partly);
        self.listing = removal.rest().clone();
        self.check(&self.listing, Exact::Wholly);
    }

    /// Every instant of the window has a plan, here and with Litestream, that ends at no later
    /// state than that instant's; the newest state is exact.
    fn check(&self, listing: &Listing, exact: Exact) {
        if self.times.is_empty() {
            return;
        }
        let head = Txid::new(self.times.len() as u64);
        assert_eq!(plan(listing, Point::Latest).unwrap().head(), head);
        assert_eq!(peer::restores(listing, Point::Latest), head);
        let begin = self.now - 1_000;
        for seconds in begin.max(self.times[0])..=self.now {
            let moment = Point::Before(Timestamp::from_millis(seconds * SECOND + 1));
            let state = self.times.partition_point(|time| *time <= seconds) as u64;
            let ours = plan(listing, moment).unwrap().head().unwrap();
            assert!(ours.get() <= state);
            let theirs = peer::restores(listing, moment).unwrap();
            match exact {
                Exact::Wholly => assert_eq!(theirs, ours, "{seconds} s"),
                // We distrust what is left of a step whose other files are gone; Litestream may
                // still use it. Both are right.
                Exact::Partly => assert!(theirs >= ours && theirs.get() <= state, "{seconds} s"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn for_every_kept_instant_a_plan_exists_after_retention(
        events in proptest::collection::vec(event(), 1..60)
    ) {
        let mut model = Model { listing: Listing::default(), times: Vec::new(), now: 1_000_000 };
        for event in &events {
            model.happen(event);
        }
        model.retain();
    }
}

#[test]
fn the_newest_file_of_a_level_may_stay_without_a_road_before_the_window() {
    let (commit, compact) = (Event::Commits { count: 1, apart: 1 }, |level| {
        Event::Compact { level }
    });
    let events = [
        commit.clone(),
        compact(1),
        compact(2),
        compact(3),
        commit.clone(),
        compact(1),
        compact(2),
        commit.clone(),
        compact(1),
        commit,
        Event::Snapshot,
        Event::Wait { seconds: 602 },
        compact(2),
        Event::Wait { seconds: 398 },
    ];
    let mut model = Model {
        listing: Listing::default(),
        times: Vec::new(),
        now: 1_000_000,
    };
    for event in &events {
        model.happen(event);
    }
    model.retain();
}

// ---- on a disk, stopped before each step ----

fn put_at(store: &DirStore, history: &History, id: u64, time: Timestamp) {
    let (mut header, pages) = history.covering(id, id);
    header.timestamp = time;
    let bytes = encode(&header, &pages);
    put_bytes(store, Level::L0, &header, &bytes).unwrap();
}

/// One turn of everything: each level, a snapshot, retention. Errors end it, as they end a stage.
fn turn(store: &DirStore, now: Timestamp) -> Result<(), Box<dyn std::error::Error>> {
    for level in 1..=3 {
        let level = Level::new(level).unwrap();
        if let Some(plan) = Plan::of(pending(&store.list()?, level)) {
            compact(store, &plan, level, &())?;
        }
    }
    if let Some(plan) = snapshot_plan(&store.list()?)? {
        compact(store, &plan, Level::SNAPSHOT, &())?;
    }
    let listing = store.list()?;
    retain(&listing, &policy(), now)?.carry_out(store)?;
    Ok(())
}

/// A replica in the middle of its life, one commit a minute, and the model of its states.
fn grown(dir: &Path) -> (History, Timestamp) {
    let steps: Vec<(u32, Vec<u32>)> = (0..26_u32)
        .map(|n| (3 + n % 4, vec![n % 3 + 1, n % 5 + 1]))
        .collect();
    let history = History::new(&steps);
    let store = DirStore::new(dir);
    for id in 1..=24 {
        let now = at(i64::try_from(id).unwrap() * 60);
        put_at(&store, &history, id, now);
        if id % 4 == 0 && id < 24 {
            turn(&store, now).unwrap();
        }
    }
    (history, at(25 * 60))
}

fn check_points(store: &DirStore, history: &History, kept: &[RestorePoint]) {
    for point in kept {
        let dir = scratch();
        let path = dir.path().join("db");
        let destination = Destination::open(&path).unwrap();
        let wanted = Point::Txid(point.txid);
        let options = RestoreOptions::default();
        restore::restore(store, wanted, &destination, &options, &()).unwrap();
        let found = fs::read(path).unwrap();
        assert_eq!(found, history.file(point.txid.get()), "TXID {}", point.txid);
        let listing = store.list().unwrap();
        let after = Timestamp::from_millis(point.time.millis() + 1);
        let peer = peer::restores(&listing, Point::Before(after));
        assert_eq!(peer, Some(point.txid), "the peer");
    }
}

#[test]
fn a_crash_between_any_two_steps_loses_no_kept_point() {
    // What is kept when all is done, and how many steps that takes.
    let done = scratch();
    let (_, now) = grown(done.path());
    let watch = Arc::new(CrashFs::new(done.path()).unwrap());
    let store = DirStore::with_fs(done.path(), Arc::clone(&watch) as Arc<dyn Fs>);
    turn(&store, now).unwrap();
    let kept = points(&store.list().unwrap());
    let steps = watch.log().len() as u64;
    assert!(
        watch.log().contains(&"unlink") && kept.len() > 3,
        "{kept:?}"
    );

    for step in 0..steps {
        let dir = scratch();
        let (history, now) = grown(dir.path());
        let fs = Arc::new(CrashFs::new(dir.path()).unwrap());
        fs.crash_at(step);
        let store = DirStore::with_fs(dir.path(), Arc::clone(&fs) as Arc<dyn Fs>);
        // Stopped early, or all was done but what does not matter (a temp file that stays).
        let ended = turn(&store, now);
        assert!(fs.fired(), "step {step}: {ended:?}");
        for loss in Loss::EACH {
            let left = scratch();
            fs.after_crash(loss, left.path()).unwrap();
            let store = DirStore::new(left.path());
            check_points(&store, &history, &kept);
            turn(&store, now).unwrap();
            check_points(&store, &history, &kept);
        }
    }
}
