//! The life of a replica, day by day, against a model of every state: the real spool, the real
//! replica, the real schedule; only the clock is an argument.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlrep_format::ltx::WalSpan;
use sqlrep_format::{PageCount, PageSize, Pgno};
use sqlrep_replica::owner::{Publish, SpoolFile, publish_l0};
use sqlrep_replica::testing::CrashFs;
use sqlrep_replica::{Destination, DirStore, Point, RestoreOptions, points, restore};
use sqlrep_spool::{Draft, Entry, Limits, PageSource, Spool};

use super::*;
use crate::clock::{ChainClock, Reading};
use crate::remote::Whose;
use crate::root::RootWatch;
use crate::stage::ship::{End, Target};
use crate::timing::Meter;
use crate::upkeep::{Rhythm, Upkeep};

const EROFS: i32 = 30;

const PAGE: PageSize = PageSize::MIN;
const MINUTE: i64 = 60_000;
const DAY: i64 = 24 * 60 * MINUTE;

/// A state of the database: of each page, the TXID that wrote it last.
type State = Vec<u64>;

fn page(txid: u64, pgno: usize) -> Vec<u8> {
    let text = format!("page {pgno} of {txid} ");
    let bytes = text.bytes().cycle();
    bytes.take(PAGE.bytes()).collect()
}

fn image(state: &State) -> Vec<u8> {
    let pages = state.iter().enumerate();
    pages.flat_map(|(at, txid)| page(*txid, at + 1)).collect()
}

/// The pages that a commit changed.
struct Changed(u64, std::vec::IntoIter<usize>);

impl PageSource for Changed {
    fn next(&mut self, out: &mut [u8]) -> io::Result<Option<Pgno>> {
        let Some(pgno) = self.1.next() else {
            return Ok(None);
        };
        out.copy_from_slice(&page(self.0, pgno));
        Ok(Pgno::new(u32::try_from(pgno).unwrap()))
    }
}

struct Life {
    dir: tempfile::TempDir,
    spool: Arc<Spool>,
    tend: Tend,
    rhythm: Rhythm,
    upkeep: Upkeep,
    dice: fastrand::Rng,
    now: i64,
    states: Vec<State>,
    times: Vec<i64>,
    files_max: usize,
    bytes_max: u64,
    /// What the clocks say, where one may be set.
    reading: Option<Reading>,
    /// Whether the share says what time it is there.
    read_only: bool,
}

/// In memory where there is such a place: nothing here is about fsync.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}

impl Life {
    fn new(seed: u64, retention: Duration) -> Self {
        let dir = scratch();
        let spool = Spool::open(&dir.path().join("state"), Limits { bytes_max: 1 << 30 }).unwrap();
        let spool = Arc::new(spool);
        let root = dir.path().join("root");
        std::fs::create_dir(&root).unwrap();
        let settings = crate::Settings {
            sync_interval: Duration::from_secs(1),
            snapshot_interval: Duration::from_hours(24),
            retention,
        };
        let levels = [30, 300, 3600].map(Duration::from_secs);
        let verify = Some(Duration::from_hours(24));
        let rhythm = Rhythm::new(settings, &levels, Duration::from_mins(5), verify);
        let id = "shop/app/data/app.db".parse().unwrap();
        let tend = Tend {
            store: Remote::new(
                root.join("shop/app/data/app.db"),
                Whose::Given(None),
                Meter::default(),
            ),
            spool: spool.database(&id, "uid").unwrap(),
            home: Home::root(
                RootWatch::new(root, Arc::clone(&spool)),
                None,
                Meter::default(),
            )
            .unwrap(),
            writer: WriterId::new("node", "uid"),
            policy: rhythm.policy.clone(),
            keep_beside: Duration::from_hours(720),
            full: None,
            checked: None,
            bench: None,
            known: Listing::default(),
            jumps: Jumps::default(),
            compared: true,
        };
        let now = 20_000 * DAY;
        tend.spool.keep_above(Some(Txid::FIRST));
        Self {
            dir,
            spool,
            tend,
            rhythm: rhythm.clone(),
            upkeep: Upkeep::new(rhythm, 0.3, Timestamp::from_millis(now)),
            dice: fastrand::Rng::with_seed(seed),
            now,
            states: Vec::new(),
            times: Vec::new(),
            files_max: 0,
            bytes_max: 0,
            reading: None,
            read_only: false,
        }
    }

    /// A commit of a few pages, captured and shipped.
    fn commit(&mut self) {
        let before = self.states.last().cloned().unwrap_or_default();
        let state = self.change(before);
        self.ship(state);
    }

    /// Every page of the database, captured and shipped.
    fn commit_all(&mut self) {
        let txid = self.states.len() as u64 + 1;
        let size = self.states.last().map_or(6, Vec::len);
        self.ship(vec![txid; size]);
    }

    fn change(&mut self, before: State) -> State {
        let txid = self.states.len() as u64 + 1;
        let size = match self.dice.u32(0..20) {
            _ if before.is_empty() => 6,
            0 => before.len().saturating_sub(2).max(3),
            1 | 2 => (before.len() + 1).min(24),
            _ => before.len(),
        };
        let mut state = before;
        state.resize(size, txid);
        for _ in 0..self.dice.usize(1..4) {
            let at = self.dice.usize(0..size);
            state[at] = txid;
        }
        state
    }

    /// Captures a state.
    fn append(&self, state: &State) -> Entry {
        let (txid, size) = (self.states.len() as u64 + 1, state.len());
        let changed: Vec<usize> = (1..=size).filter(|pgno| state[pgno - 1] == txid).collect();
        let draft = Draft {
            txid: Txid::new(txid).unwrap(),
            timestamp: Timestamp::from_millis(self.now),
            page_size: PAGE,
            commit: PageCount::new(u32::try_from(size).unwrap()).unwrap(),
            wal: WalSpan::CLAIM,
            place: None,
            node_id: 7,
        };
        let spool = &self.tend.spool;
        let entry = spool.append(&draft, &mut Changed(txid, changed.into_iter()));
        entry.unwrap().entry
    }

    fn ship(&mut self, state: State) {
        let entry = self.append(&state);
        let spool = &self.tend.spool;
        let file = SpoolFile {
            txid: entry.txid,
            timestamp: entry.timestamp,
            path: entry.path,
            digest: Some(entry.digest),
            content: entry.content,
        };
        let writer = WriterId::new("node", "uid");
        let published = publish_l0(&self.tend.store, writer, &file).unwrap();
        assert_eq!(published, Publish::Done);
        spool.ack(entry.txid).unwrap();
        let listed = ReplicaFile {
            level: Level::L0,
            range: TxidRange::single(entry.txid),
            bytes: entry.bytes,
            modified: entry.timestamp,
        };
        self.states.push(state);
        self.times.push(self.now);
        if let Some(reading) = self.reading {
            self.upkeep.holds(std::slice::from_ref(&listed), reading);
        }
        self.upkeep
            .shipped(&[listed], Timestamp::from_millis(self.now));
    }

    /// Does what is due, at the time that it is.
    fn work(&mut self) -> usize {
        let (now, mut chores) = (Timestamp::from_millis(self.now), 0);
        while let Some((at, chore)) = self.upkeep.next()
            && at <= now
        {
            self.tend.known = self.upkeep.listing().cloned().unwrap_or_default();
            self.tend.jumps = self.upkeep.jumps().clone();
            self.tend.compared = self.upkeep.compared();
            match self.tend.run(chore, now) {
                Ok(tended) => self.take_in(chore, tended),
                Err(_) if self.read_only => drop(self.upkeep.failed(chore, now)),
                Err(error) => panic!("{chore:?}: {error}"),
            }
            chores += 1;
            assert!(chores < 10_000, "chores end by themselves");
        }
        chores
    }

    /// Lets time pass; each chore is done when it is due.
    fn pass(&mut self, millis: i64) {
        let end = self.now + millis;
        let mut chores = 0;
        while let Some((at, chore)) = self.upkeep.next()
            && at.millis() <= end
        {
            self.now = self.now.max(at.millis());
            self.tend.known = self.upkeep.listing().cloned().unwrap_or_default();
            let tended = self
                .tend
                .run(chore, at.max(Timestamp::from_millis(self.now)));
            self.take_in(chore, tended.unwrap());
            chores += 1;
            assert!(chores < 100_000, "chores end by themselves");
        }
        self.now = end;
        let files = self.upkeep.listing().map_or(&[][..], Listing::files);
        self.files_max = self.files_max.max(files.len());
        let bytes = files.iter().map(|file| file.bytes).sum();
        self.bytes_max = self.bytes_max.max(bytes);
    }

    fn take_in(&mut self, chore: Chore, tended: Tended) {
        match tended {
            Tended::Listed(found) => {
                let Listed {
                    listing,
                    claims,
                    doubt,
                    prune_at,
                    there,
                } = found;
                assert_eq!(doubt, None);
                if let Some(reading) = self.reading {
                    self.upkeep.holds(listing.files(), reading);
                    if let Some(there) = there {
                        self.upkeep.compare(there, reading);
                    }
                    assert!(there.is_some() || self.read_only);
                }
                self.upkeep.listed(listing, claims, prune_at);
            }
            Tended::Wrote(file) => {
                if file.level == Level::new(1).unwrap() {
                    self.tend.spool.keep_above(Some(file.range.max()));
                }
                self.upkeep.wrote(file);
            }
            Tended::Removed(files) => self.upkeep.removed(&files),
            Tended::Verified(..) => self.upkeep.verified(Timestamp::from_millis(self.now)),
            Tended::Pruned(next) => self.upkeep.pruned(next),
            Tended::Heard(there) => {
                self.upkeep.compare(there, self.reading.unwrap());
                self.upkeep.heard();
            }
            other => panic!("{chore:?}: {other:?}"),
        }
    }

    /// How exact a point in time is that long ago (the table in the README of replica), with a
    /// step more for what is compacted at this moment.
    fn exact_to(age: i64) -> i64 {
        match age {
            ..300_000 => 0,
            300_000..=DAY => 30_000,
            _ if age <= 10 * DAY => 5 * MINUTE,
            _ => 60 * MINUTE,
        }
    }

    /// Restores a random kept instant, or the newest state, and compares it with the model.
    fn check(&mut self, window: i64) {
        let begin = (self.now - window).max(self.times[0]);
        let moment = self.dice.i64(begin..=self.now);
        let state = self.times.partition_point(|time| *time <= moment);
        let (point, latest) = if self.dice.u32(0..8) == 0 {
            (Point::Latest, self.states.len())
        } else {
            (Point::Before(Timestamp::from_millis(moment + 1)), state)
        };
        let dir = scratch();
        let path = dir.path().join("db");
        let destination = Destination::open(&path).unwrap();
        let options = RestoreOptions::default();
        let restored = restore::restore(&self.tend.store, point, &destination, &options, &());
        let restored = restored.unwrap();
        let txid = usize::try_from(restored.txid.get()).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), image(&self.states[txid - 1]));
        if point == Point::Latest {
            assert_eq!(txid, latest);
        } else {
            // The state of some instant that lies at most so far back.
            let exact = Self::exact_to(self.now - moment);
            let from = self.times.partition_point(|time| *time <= moment - exact);
            assert!(
                (from..=latest).contains(&txid),
                "{} s ago: TXID {txid}, not {from} to {latest}",
                (self.now - moment) / 1000
            );
        }
    }
}

fn say(text: &str) {
    writeln!(io::stderr(), "{text}").unwrap();
}

#[test]
fn a_month_of_commits_stays_bounded_and_every_kept_instant_restores() {
    let days = std::env::var("SQLREP_HISTORY_DAYS").map_or(1, |days| days.parse().unwrap());
    let seed = std::env::var("SQLREP_SEED")
        .map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    say(&format!(
        "history: SQLREP_SEED={seed} SQLREP_HISTORY_DAYS={days}"
    ));
    // One day shows what thirty do when the window is as many times shorter.
    let window = (days * DAY / 4).min(7 * DAY);
    let retention = Duration::from_millis(window.unsigned_abs());
    let mut life = Life::new(seed, retention);
    let mut commits = 0_u64;
    for minute in 0..days * 24 * 60 {
        life.commit();
        commits += 1;
        if life.dice.u32(0..240) == 0 {
            for _ in 0..life.dice.u32(10..120) {
                life.pass(1_000);
                life.commit();
                commits += 1;
            }
        }
        let jitter = life.dice.i64(0..2_000);
        life.pass(MINUTE - 1_000 + jitter);
        if minute % 8 == 0 {
            life.check(window);
        }
    }
    let listed = life.tend.store.list().unwrap();
    assert_eq!(
        Some(&listed),
        life.upkeep.listing(),
        "what is remembered is what is there"
    );
    let held = std::fs::read_dir(life.tend.spool.dir().join("ltx/0"));
    let held = held.unwrap().count();
    say(&format!(
        "history: {days} days, {commits} commits: at most {} files, {} KiB; {held} files in the spool",
        life.files_max,
        life.bytes_max / 1024
    ));
    // A level keeps at most its steps, and no more than what lies behind the snapshot that begins
    // the window; level 0 some minutes of commits; and there is a snapshot a day.
    let span = window + DAY;
    let steps = [30 * 1000, 5 * MINUTE, 60 * MINUTE].map(|step| (span / step).min(2880));
    let bound = usize::try_from(steps.iter().sum::<i64>()).unwrap() + 400;
    let most = life.files_max;
    assert!(most < bound, "{most} files, bound {bound}");
    assert!(life.spool.pending_bytes() == 0 && held < 200);
    // An app that falls silent: all is merged, and then nothing wakes anybody but reading back.
    life.pass(40 * DAY);
    life.check(1);
    let left = life.tend.store.list().unwrap().files().len();
    assert!(left <= 5, "the newest of each level: {left}");
    assert!(matches!(life.upkeep.next(), Some((_, Chore::Verify))));
}

/// A node whose clock is set now and then; time passes for it all the same.
struct Node {
    life: Life,
    /// Capture's.
    clock: ChainClock,
    begun: Instant,
    /// Milliseconds since the beginning, and by how many the clock is off.
    passed: i64,
    off: i64,
    start: i64,
    level_0_max: usize,
}

impl Node {
    /// One whose life ends now, so that the clock of where the replica lies, a real one, says at most
    /// so many hours more than the node's.
    fn of(retention: Duration, hours: i64) -> Self {
        let seed = std::env::var("SQLREP_SEED")
            .map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
        say(&format!("clocks: SQLREP_SEED={seed}"));
        let mut life = Life::new(seed, retention);
        let start = crate::stage::capture::wall_now().millis() - hours * 60 * MINUTE;
        life.now = start;
        life.upkeep = Upkeep::new(life.rhythm.clone(), 0.3, Timestamp::from_millis(start));
        Self {
            life,
            clock: ChainClock::default(),
            begun: Instant::now(),
            passed: 0,
            off: 0,
            start,
            level_0_max: 0,
        }
    }

    fn reading(&self) -> Reading {
        Reading {
            wall: Timestamp::from_millis(self.start + self.passed + self.off),
            count: self.begun + Duration::from_millis(self.passed.unsigned_abs()),
        }
    }

    /// The agent begins anew.
    fn restart(&mut self) {
        self.clock = ChainClock::default();
        let now = self.reading().wall;
        self.life.upkeep = Upkeep::new(self.life.rhythm.clone(), 0.3, now);
    }

    /// An hour with a commit a minute, looked after every quarter of one; says how many chores.
    fn hour(&mut self) -> usize {
        let mut chores = 0;
        for quarter in 0..240 {
            self.passed += MINUTE / 4;
            let reading = self.reading();
            self.life.reading = Some(reading);
            if quarter % 4 == 0 {
                let newest = self.life.times.last().copied().unwrap_or(0);
                self.clock.holds(Timestamp::from_millis(newest), reading);
                self.life.now = self.clock.now(reading).millis().max(newest + 1);
                self.life.commit();
            }
            self.life.now = self.life.upkeep.time(reading).millis();
            chores += self.life.work();
            let listing = self.life.upkeep.listing();
            let level_0 = listing.map_or(0, |listing| listing.level(Level::L0).count());
            self.level_0_max = self.level_0_max.max(level_0);
        }
        chores
    }

    fn compacted(&self) -> Option<TxidRange> {
        let level = Level::new(1).unwrap();
        self.life.tend.store.ranges(level).unwrap().pop()
    }

    /// Moments of the last hours.
    fn moments(&self, hours: i64) -> Vec<i64> {
        let ago = |hours| self.life.now - hours * 60 * MINUTE;
        (1..=hours).map(ago).collect()
    }

    /// Restores the state of a moment, which is exact to five minutes.
    fn restores(&self, moment: i64) {
        let state = self.life.times.partition_point(|time| *time <= moment);
        let point = Point::Before(Timestamp::from_millis(moment + 1));
        let dir = scratch();
        let path = dir.path().join("db");
        let destination = Destination::open(&path).unwrap();
        let (store, options) = (&self.life.tend.store, RestoreOptions::default());
        let restored = restore::restore(store, point, &destination, &options, &());
        let txid = usize::try_from(restored.unwrap().txid.get()).unwrap();
        let expected = image(&self.life.states[txid - 1]);
        assert_eq!(std::fs::read(&path).unwrap(), expected);
        assert!((state - 6..=state).contains(&txid), "{txid} for {state}");
    }
}

#[test]
fn a_clock_that_is_set_back_stops_nothing_and_hurries_nothing() {
    let mut node = Node::of(Duration::from_hours(4), 40);
    let usual = (0..6).map(|_| node.hour()).max().unwrap();
    let level_0 = node.level_0_max;
    node.off = -DAY;
    for hour in 0..12 {
        if hour % 4 == 2 {
            node.restart();
        }
        let reached = node.compacted();
        let chores = node.hour();
        assert!(node.compacted() > reached, "hour {hour}: nothing compacted");
        assert!(
            chores <= usual + 20,
            "hour {hour}: {chores} chores, {usual} are usual"
        );
        node.life.check(4 * 60 * MINUTE);
    }
    // Between its start and its first look an agent leaves it as it is.
    let (found, most) = (node.level_0_max, level_0 + 12);
    assert!(found <= most, "{found} files, {level_0} are usual");
    let rising = node.life.times.windows(2).all(|pair| {
        let gap = pair[1] - pair[0];
        // A restart costs the minute in which it happens.
        (1..=2 * MINUTE).contains(&gap)
    });
    assert!(rising, "times rise as time passes");
    node.off = 0;
    node.hour();
    node.life.check(4 * 60 * MINUTE);
}

/// Nothing that is kept is taken by a clock that is ahead, and it goes when it really is old.
fn is_kept_by_a_clock_that_is(ahead: i64, restarts: bool) {
    let mut node = Node::of(Duration::from_hours(12), 26);
    let usual = (0..24).map(|_| node.hour()).max().unwrap();
    let moments = node.moments(10);
    node.off = ahead;
    if restarts {
        node.restart();
    }
    let chores = node.hour();
    assert!(chores <= usual + 20, "{chores} chores, {usual} are usual");
    node.off = 0;
    if restarts {
        node.restart();
    }
    node.hour();
    for moment in moments {
        node.restores(moment);
    }
    node.life.check(MINUTE);
    let before = node.life.upkeep.listing().unwrap().files().len();
    for _ in 0..14 {
        node.hour();
    }
    let oldest = |node: &Node| {
        let levels = node.life.tend.store.ranges(Level::SNAPSHOT).unwrap();
        levels.first().copied().map(TxidRange::max)
    };
    let begun = oldest(&node);
    for _ in 0..26 {
        node.hour();
    }
    assert!(oldest(&node) > begun, "what is old goes: {begun:?}");
    let after = node.life.upkeep.listing().unwrap().files().len();
    assert!(after < 3 * before, "{after} files, {before} before");
    node.life.check(12 * 60 * MINUTE);
}

#[test]
fn a_clock_that_is_set_a_year_forward_takes_nothing_that_is_kept() {
    is_kept_by_a_clock_that_is(400 * DAY, false);
}

#[test]
fn a_clock_that_is_set_a_day_forward_takes_nothing_that_is_kept() {
    is_kept_by_a_clock_that_is(DAY, false);
}

#[test]
fn an_agent_that_begins_with_a_clock_ahead_takes_nothing_that_is_kept() {
    is_kept_by_a_clock_that_is(400 * DAY, true);
}

/// A share that is asked for its time and does not say it, for so many times.
fn silent(life: &Life) -> Remote {
    let fs = CrashFs::new(life.dir.path()).unwrap();
    fs.fail_always("now_at", EROFS);
    let store = DirStore::with_fs(life.tend.store.place(), Arc::new(fs));
    life.tend.store.with(store)
}

/// Takes the oldest file of level 0 out as if it were damaged; where it is then.
fn set_one_aside(life: &Life) -> std::path::PathBuf {
    let store = &life.tend.store;
    let oldest = store.list_level(Level::L0).unwrap().remove(0);
    let now = Timestamp::from_millis(life.now);
    store.set_aside(&oldest, now).unwrap();
    let aside = store.dir().join(".sqlrep/damaged");
    let mut names = std::fs::read_dir(aside).unwrap();
    names.next().unwrap().unwrap().path()
}

/// Before the share says what time it is there, nothing goes by the node's clock alone.
#[test]
fn an_agent_that_hears_the_shares_time_late_takes_nothing_before() {
    let mut node = Node::of(Duration::from_hours(12), 26);
    for _ in 0..24 {
        node.hour();
    }
    let moments = node.moments(10);
    let aside = set_one_aside(&node.life);
    let heard = node.life.tend.store.clone();
    node.life.tend.store = silent(&node.life);
    (node.off, node.life.read_only) = (400 * DAY, true);
    node.restart();
    for _ in 0..3 {
        node.hour();
    }
    assert!(!node.life.upkeep.compared());
    (node.life.tend.store, node.life.read_only) = (heard, false);
    node.hour();
    assert!(node.life.upkeep.compared());
    assert!(aside.exists(), "what was set aside today is not old");
    node.off = 0;
    node.restart();
    node.hour();
    for moment in moments {
        node.restores(moment);
    }
}

#[test]
fn a_fenced_owner_neither_compacts_nor_removes() {
    let mut life = Life::new(1, Duration::from_hours(1));
    for _ in 0..5 {
        life.commit();
        life.pass(1_000);
    }
    life.tend.known = life.tend.store.list().unwrap();
    let head = Txid::new(6).unwrap();
    let theirs = TxidRange::single(head);
    let (from, to) = (TxidRange::single(Txid::new(5).unwrap()), theirs);
    let path = |range| {
        let file = ReplicaFile {
            level: Level::L0,
            range,
            bytes: 0,
            modified: Timestamp::from_millis(0),
        };
        life.tend.store.path(&file)
    };
    std::fs::copy(path(from), path(to)).unwrap();
    let level = Level::new(1).unwrap();
    let now = Timestamp::from_millis(life.now);
    for chore in [Chore::Compact(level), Chore::Snapshot] {
        let tended = life.tend.run(chore, now).unwrap();
        assert!(
            matches!(tended, Tended::NotOurs { head: found } if found == head),
            "{chore:?}: {tended:?}"
        );
    }
    assert!(life.tend.store.list_level(level).unwrap().is_empty());
}

/// Flips a bit of a file of the replica.
fn damage(life: &Life, file: &ReplicaFile) -> std::path::PathBuf {
    let path = life.tend.store.path(file);
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.len() - 1;
    bytes[end] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    path
}

fn mended(life: &Life) -> Damage {
    let now = Timestamp::from_millis(life.now);
    match life.tend.run(Chore::Verify, now).unwrap() {
        Tended::Damaged(damage) => damage,
        other => panic!("{other:?}"),
    }
}

/// What whoever looks at the replica next is told of damage.
fn noted(life: &Life) -> Option<String> {
    let now = Timestamp::from_millis(life.now);
    match life.tend.run(Chore::List, now).unwrap() {
        Tended::Listed(found) => found.doubt.map(|doubt| doubt.reason),
        other => panic!("{other:?}"),
    }
}

fn verified(life: &Life) {
    let again = life
        .tend
        .run(Chore::Verify, Timestamp::from_millis(life.now));
    let again = again.unwrap();
    assert!(matches!(again, Tended::Verified(..)), "{again:?}");
}

/// A replica of six commits, one of them old; every file of level 0 is still in the spool.
fn grown(seed: u64) -> Life {
    let mut life = Life::new(seed, Duration::from_hours(1));
    life.commit();
    life.pass(MINUTE * 10);
    for _ in 0..5 {
        life.commit();
        life.pass(1_000);
    }
    life.tend.known = life.tend.store.list().unwrap();
    verified(&life);
    life
}

/// The inode of the first file at a level.
fn inode(life: &Life, level: Level) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let file = life.tend.store.list_level(level).unwrap().swap_remove(0);
    assert_eq!(file.range, TxidRange::single(Txid::FIRST));
    std::fs::metadata(life.tend.store.path(&file))
        .unwrap()
        .ino()
}

#[test]
fn the_first_file_is_the_first_snapshot_while_the_spool_vouches_for_it() {
    for gone in [false, true] {
        let mut life = Life::new(9, Duration::from_hours(1));
        life.commit();
        // Once others were shipped the spool lets go of it: then it is read, and so proven anew.
        while gone && life.tend.spool.kept(Txid::FIRST).is_some() {
            life.now += 1_000;
            life.commit();
            assert!(life.states.len() < 1_000, "it stays");
        }
        assert_eq!(life.tend.spool.kept(Txid::FIRST).is_none(), gone);
        life.pass(1_000);
        let (first, snapshot) = (inode(&life, Level::L0), inode(&life, Level::SNAPSHOT));
        assert_eq!(first == snapshot, !gone);
        life.tend.known = life.tend.store.list().unwrap();
        verified(&life);
        life.check(1);
        // When its other name goes, the snapshot stays.
        for _ in 0..5 {
            life.commit();
            life.pass(MINUTE * 10);
        }
        life.tend.known = life.tend.store.list().unwrap();
        let first = life.tend.known.level(Level::L0).next().unwrap();
        assert_ne!(first.range.min(), Txid::FIRST);
        assert_eq!(inode(&life, Level::SNAPSHOT), snapshot);
        verified(&life);
        life.check(1);
    }
}

/// Takes the copies of the spool away.
fn forget(life: &Life) {
    for kept in 1..=life.states.len() as u64 {
        let kept = life.tend.spool.kept(Txid::new(kept).unwrap());
        if let Some(kept) = kept {
            std::fs::remove_file(kept.path).unwrap();
        }
    }
}

#[test]
fn a_damaged_file_is_mended_from_the_spool_and_said() {
    let mut life = grown(2);
    let victim = life.tend.known.level(Level::L0).nth(3).unwrap().clone();
    let path = damage(&life, &victim);
    let found = mended(&life);
    assert!(found.reason.contains(path.to_str().unwrap()), "{found:?}");
    assert_eq!((found.put_back, found.whole), (1, true), "{found:?}");
    assert!(found.lost.is_empty() && found.text().contains("no kept point is lost"));
    verified(&life);
    life.check(1);
    // And one that is gone.
    std::fs::remove_file(&path).unwrap();
    let found = mended(&life);
    assert_eq!((found.put_back, found.whole), (1, true), "{found:?}");
    assert_eq!(noted(&life), None);
    verified(&life);
    assert_eq!(life.tend.store.list().unwrap(), life.tend.known);
}

#[test]
fn a_damaged_snapshot_is_planned_around_and_leaves_the_chain() {
    let mut life = grown(3);
    life.tend
        .run(Chore::Snapshot, Timestamp::from_millis(life.now))
        .unwrap();
    let newest = life.tend.store.list_level(Level::SNAPSHOT).unwrap().pop();
    damage(&life, &newest.unwrap());
    let found = mended(&life);
    assert_eq!(
        (found.aside, found.whole, found.put_back),
        (1, true, 0),
        "{found:?}"
    );
    assert!(found.lost.is_empty(), "{found:?}");
    verified(&life);
    life.check(1);
}

#[test]
fn when_nothing_has_the_pages_the_live_database_stands_in_and_the_loss_is_said() {
    let mut life = grown(4);
    let victim = life.tend.known.level(Level::L0).nth(3).unwrap().clone();
    damage(&life, &victim);
    forget(&life);
    let found = mended(&life);
    assert!(
        !found.whole && found.renewed.is_none() && found.lost.is_empty(),
        "{found:?}"
    );
    assert!(
        found.text().contains("cannot be restored until"),
        "{}",
        found.text()
    );
    // Whoever comes next is told, for this agent may end here.
    assert_eq!(noted(&life), Some(found.reason));

    // What the live database holds comes as one more file, with every page.
    life.commit_all();
    life.tend.full = Txid::new(life.states.len() as u64);
    let found = mended(&life);
    assert_eq!(
        (found.renewed, found.whole),
        (life.tend.full, true),
        "{found:?}"
    );
    let lost: Vec<u64> = found.lost.iter().map(|point| point.txid.get()).collect();
    assert_eq!(noted(&life), None);
    assert_eq!(lost, [victim.range.max().get(), 5, 6], "{}", found.text());
    assert!(
        found.text().contains("3 kept points from TXID"),
        "{}",
        found.text()
    );
    life.tend.full = None;
    verified(&life);
    life.check(1);
    // Compaction and retention go on with what is left, and what stands in stays.
    life.upkeep.surprised(Timestamp::from_millis(life.now));
    for _ in 0..200 {
        life.pass(MINUTE);
        life.commit();
    }
    life.check(30 * MINUTE);
    verified(&life);
}

#[test]
fn a_doubt_that_proves_wrong_or_cannot_be_read_is_cleared() {
    let mut life = grown(12);
    let now = Timestamp::from_millis(life.now);
    life.tend.store.note_doubt("somebody thought so", now);
    assert_eq!(noted(&life).as_deref(), Some("somebody thought so"));
    verified(&life);
    assert_eq!(noted(&life), None);
    let note = life.tend.store.dir().join(".sqlrep/doubt.json");
    std::fs::write(note, "{").unwrap();
    assert!(noted(&life).unwrap().contains("doubt.json"));
    verified(&life);
    assert_eq!(noted(&life), None);
    life.check(1);
}

#[test]
fn nothing_is_shipped_that_a_power_failure_could_take() {
    let mut life = Life::new(11, Duration::from_hours(1));
    // An empty root is marked.
    life.tend.home.check().unwrap();
    life.commit();
    let target = Target {
        store: life.tend.store.clone(),
        writer: life.tend.writer,
        spool: life.tend.spool.clone(),
        home: life.tend.home.clone(),
    };
    life.now += 10;
    let state = life.change(life.states[0].clone());
    life.append(&state);
    assert!(!target.spool.is_settled());
    let ltx = life.tend.store.dir().join("ltx");
    let away = ltx.with_extension("away");
    rustix::fs::rename(&ltx, &away).unwrap();
    std::fs::write(&ltx, "in the way").unwrap();
    let batch = target.ship(None);
    assert!(matches!(batch.end, End::Failed(_)), "{:?}", batch.end);
    assert!(
        target.spool.is_settled(),
        "it might have been shipped: {:?}",
        batch.end
    );
    std::fs::remove_file(&ltx).unwrap();
    rustix::fs::rename(&away, &ltx).unwrap();
    assert_eq!(target.ship(None).shipped, Txid::new(2));
}

#[test]
fn what_is_before_the_damage_stays_though_a_level_covers_it() {
    let mut life = grown(7);
    let now = Timestamp::from_millis(life.now);
    let one = Chore::Compact(Level::new(1).unwrap());
    assert!(matches!(life.tend.run(one, now), Ok(Tended::Wrote(_))));
    for _ in 0..3 {
        life.now += 10;
        life.commit();
    }
    life.tend.known = life.tend.store.list().unwrap();
    let first = life.states.len() as u64 - 1;
    let victim = life
        .tend
        .known
        .level(Level::L0)
        .nth_back(1)
        .unwrap()
        .clone();
    assert_eq!(victim.range.max().get(), first);
    damage(&life, &victim);
    forget(&life);
    life.now += 10;
    life.commit_all();
    life.tend.full = Txid::new(life.states.len() as u64);
    let before = points(&life.tend.store.list().unwrap());
    let found = mended(&life);
    let lost: Vec<u64> = found.lost.iter().map(|point| point.txid.get()).collect();
    assert_eq!(lost, [first, first + 1], "{}", found.text());
    let after = points(&life.tend.store.list().unwrap());
    assert_eq!(after.len() + 2, before.len(), "{before:?} {after:?}");
    // Retention takes them for nobody else's leftovers, now or later.
    life.tend.full = None;
    life.upkeep.surprised(Timestamp::from_millis(life.now));
    life.pass(1_000);
    let kept = points(&life.tend.store.list().unwrap());
    assert_eq!(kept, after);
    verified(&life);
}

#[test]
fn compaction_that_meets_damage_mends_it() {
    let mut life = grown(5);
    let victim = life.tend.known.level(Level::L0).nth(3).unwrap().clone();
    damage(&life, &victim);
    forget(&life);
    life.commit_all();
    life.tend.full = Txid::new(life.states.len() as u64);
    life.tend.known = life.tend.store.list().unwrap();
    let now = Timestamp::from_millis(life.now);
    let met = life
        .tend
        .run(Chore::Compact(Level::new(1).unwrap()), now)
        .unwrap();
    assert!(
        matches!(met, Tended::Damaged(Damage { whole: true, .. })),
        "{met:?}"
    );
    life.tend.known = life.tend.store.list().unwrap();
    let goes_on = life
        .tend
        .run(Chore::Compact(Level::new(1).unwrap()), now)
        .unwrap();
    assert!(matches!(goes_on, Tended::Wrote(_)), "{goes_on:?}");
    verified(&life);
}

#[test]
fn a_branch_that_is_old_goes_and_nothing_wakes_for_it_before() {
    let mut life = grown(6);
    let begun = Timestamp::from_millis(life.now);
    let dir = life.tend.store.dir().to_path_buf();
    let (_, branch) = sqlrep_replica::owner::branch(&dir, "surmai-0", begun).unwrap();
    let file = life
        .tend
        .known
        .level(Level::L0)
        .next_back()
        .unwrap()
        .clone();
    let bytes = std::fs::read(life.tend.store.path(&file)).unwrap();
    let old = ReplicaFile {
        modified: begun,
        ..file
    };
    branch.put(&old, &mut |out| out.write_all(&bytes)).unwrap();
    let count = |life: &Life| {
        let branches = sqlrep_replica::owner::list_branches(life.tend.store.dir());
        branches.unwrap().len()
    };
    life.pass(29 * DAY);
    assert_eq!(count(&life), 1);
    life.pass(2 * DAY);
    assert_eq!(count(&life), 0);
    assert!(matches!(life.upkeep.next(), Some((_, Chore::Verify))));
}
