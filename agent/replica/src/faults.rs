//! Every operation on a replica, every step of it, every fault: none sampled.
//!
//! Each operation is run as often as it has steps, and each time one step fails, or the world ends
//! there. After that nothing that was there is lost, what can be restored is right, the error names
//! a thing and a reason, and the next attempt ends as if nothing had been.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlrep_format::Timestamp;
use sqlrep_format::ltx::Level;

use crate::compact::{compact, first_snapshot_plan, pending, snapshot_plan};
use crate::durable::{Fs, OsFs};
use crate::owner::{self, Claim, Publish, SpoolFile, WriterId};
use crate::restore::{self, first_page};
use crate::retain::{Beside, Policy, condemn, retain};
use crate::testing::chain::{History, encode, put, time, txid};
use crate::testing::faulty::{FaultyStore, Wrong};
use crate::testing::{CrashFs, Loss, scratch};
use crate::verify::verify;
use crate::{
    Destination, DirStore, Listing, Manifest, Owner, OwnerState, Plan, Point, RestoreError,
    RestoreOptions, Store, manifest, points,
};

mod hangs;
mod pieces;

const EIO: i32 = 5;
const EACCES: i32 = 13;
const EEXIST: i32 = 17;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;
const ESTALE: i32 = 116;
const ERRNOS: [i32; 5] = [EIO, EACCES, ENOSPC, EROFS, ESTALE];

type Outcome = Result<(), Box<dyn Error>>;

/// TXIDs that every replica here begins with.
const BEGUN: u64 = 8;

/// One operation. All of its files are in one directory: `replica`, `spool`, `out`.
struct Operation {
    name: &'static str,
    /// After [`begin`].
    prepare: fn(&Path),
    run: fn(&Path, Arc<dyn Fs>) -> Outcome,
    /// What holds at every moment, before, in the middle and after.
    holds: fn(&Path, &str),
    /// What holds when it is done.
    done: fn(&Path, &str),
}

fn history() -> History {
    let steps: Vec<(u32, Vec<u32>)> = (0..11_u32)
        .map(|n| (3 + n % 3, vec![n % 3 + 1, n % 4 + 1]))
        .collect();
    History::new(&steps)
}

fn replica(dir: &Path) -> DirStore {
    DirStore::new(dir.join("replica"))
}

fn over(dir: &Path, fs: Arc<dyn Fs>) -> DirStore {
    DirStore::with_fs(dir.join("replica"), fs)
}

fn writer() -> WriterId {
    WriterId::new("node", "pod")
}

/// The states up to a TXID, and two files more in the spool.
fn begin(dir: &Path) {
    let (history, store) = (history(), replica(dir));
    for id in 1..=BEGUN {
        let (header, pages) = history.covering(id, id);
        put(&store, 0, &header, &pages).unwrap();
    }
    fs::create_dir(dir.join("spool")).unwrap();
    fs::create_dir(dir.join("out")).unwrap();
    for id in BEGUN + 1..=BEGUN + 2 {
        let (header, pages) = history.covering(id, id);
        fs::write(spooled(dir, id).path, encode(&header, &pages)).unwrap();
    }
}

fn spooled(dir: &Path, id: u64) -> SpoolFile {
    SpoolFile {
        txid: txid(id),
        timestamp: time(id),
        path: dir.join("spool").join(id.to_string()),
        digest: None,
        content: None,
    }
}

/// Every state that the replica says it can restore is the one that it was; `least` is one of them.
fn states(store: &dyn Store, least: u64, context: &str) {
    let history = history();
    let listing = store.list().unwrap();
    let head = crate::plan::plan(&listing, Point::Latest).unwrap().head();
    assert!(
        head >= Some(txid(least)),
        "{context}: the newest is {head:?}"
    );
    for point in points(&listing) {
        let out = scratch();
        let path = out.path().join("db");
        let destination = Destination::open(&path).unwrap();
        let (wanted, options) = (Point::Txid(point.txid), RestoreOptions::default());
        restore::restore(store, wanted, &destination, &options, &()).unwrap();
        // A claim is a state of its own, of the content before it.
        let same = point.txid.get().min(history.head());
        let found = fs::read(path).unwrap();
        let right = found == history.file(same);
        assert!(right, "{context}: TXID {} is not what it was", point.txid);
    }
}

fn all_points(dir: &Path, context: &str) {
    states(&replica(dir), BEGUN, context);
    let listing = replica(dir).list().unwrap();
    let kept: BTreeSet<u64> = points(&listing)
        .iter()
        .map(|point| point.txid.get())
        .collect();
    for id in 1..=BEGUN {
        assert!(kept.contains(&id), "{context}: TXID {id} is lost");
    }
}

fn nothing(_: &Path) {}

const SHIP: Operation = Operation {
    name: "ship",
    prepare: nothing,
    run: |dir, fs| {
        let store = over(dir, fs);
        for id in BEGUN + 1..=BEGUN + 2 {
            match owner::publish_l0(&store, writer(), &spooled(dir, id))? {
                Publish::Done | Publish::AlreadyOurs => {}
                Publish::Fenced { by } => panic!("fenced by {by}, and there is nobody"),
            }
        }
        Ok(())
    },
    holds: all_points,
    done: |dir, context| states(&replica(dir), BEGUN + 2, context),
};

/// The newest state has the content that it had, however often it was claimed since.
fn unchanged(dir: &Path, context: &str) {
    let out = scratch();
    let path = out.path().join("db");
    let destination = Destination::open(&path).unwrap();
    let options = RestoreOptions::default();
    restore::restore(&replica(dir), Point::Latest, &destination, &options, &()).unwrap();
    let right = fs::read(path).unwrap() == history().file(BEGUN);
    assert!(right, "{context}: the newest state is not what it was");
}

const CLAIM: Operation = Operation {
    name: "claim",
    prepare: nothing,
    run: |dir, fs| {
        let store = over(dir, fs);
        // As settle does it: the head is what the listing says now.
        let listing = store.list()?;
        let head = listing.head().ok_or("there is a head")?;
        let (header, page) = first_page(&store, Point::Latest)?;
        if header.node_id == writer().get() {
            return Ok(()); // ours already: its reply was lost
        }
        match owner::claim(&store, writer(), head, &page, &header, time(99))? {
            Claim::Won(_) => Ok(()),
            Claim::Lost { by } => panic!("lost to {by}, and there is nobody"),
        }
    },
    holds: |dir, context| {
        let listing = replica(dir).list().unwrap();
        let head = listing.head().unwrap().get();
        assert!((BEGUN..=BEGUN + 1).contains(&head), "{context}: {head}");
        unchanged(dir, context);
    },
    done: |dir, context| {
        let store = replica(dir);
        let listing = store.list().unwrap();
        let by = owner::writer_of(&store, &listing, txid(BEGUN + 1)).unwrap();
        assert_eq!(by, writer().get(), "{context}");
    },
};

fn merged(dir: &Path, fs: Arc<dyn Fs>) -> Outcome {
    let store = over(dir, fs);
    if let Some(plan) = first_snapshot_plan(&store.list()?) {
        compact(&store, &plan, Level::SNAPSHOT, &())?;
    }
    for level in 1..=3 {
        let level = Level::new(level).ok_or("a level")?;
        if let Some(plan) = Plan::of(pending(&store.list()?, level)) {
            compact(&store, &plan, level, &())?;
        }
    }
    if let Some(plan) = snapshot_plan(&store.list()?)? {
        compact(&store, &plan, Level::SNAPSHOT, &())?;
    }
    Ok(())
}

const COMPACT: Operation = Operation {
    name: "compact",
    prepare: nothing,
    run: merged,
    holds: all_points,
    done: |dir, context| {
        let listing = replica(dir).list().unwrap();
        for (level, files) in [(1, 1), (2, 1), (3, 1), (9, 2)] {
            let there = listing.level(Level::new(level).unwrap()).count();
            assert_eq!(there, files, "{context}: level {level}");
        }
    },
};

fn thinning() -> Policy {
    Policy {
        l0: Duration::from_secs(1),
        levels: vec![Duration::from_secs(1); 2],
        window: Duration::from_secs(1_000),
        claims: Vec::new(),
    }
}

const RETAIN: Operation = Operation {
    name: "retain",
    prepare: |dir| merged(dir, Arc::new(OsFs)).unwrap(),
    run: |dir, fs| {
        let store = over(dir, fs);
        retain(&store.list()?, &thinning(), time(900))?.carry_out(&store)?;
        Ok(())
    },
    holds: |dir, context| states(&replica(dir), BEGUN, context),
    done: |dir, context| {
        let left = replica(dir).list().unwrap();
        assert_eq!(left.level(Level::L0).count(), 1, "{context}");
        let more = retain(&left, &thinning(), time(900)).unwrap();
        assert!(more.expired().is_empty(), "{context}");
    },
};

/// A file of level 0 that the newest state does not need.
const BAD: u64 = 3;

const ASIDE: Operation = Operation {
    name: "set aside",
    prepare: |dir| merged(dir, Arc::new(OsFs)).unwrap(),
    run: |dir, fs| {
        let store = over(dir, fs);
        let listing = store.list()?;
        let bad = listing.level(Level::L0);
        let bad = bad.filter(|file| file.range.max() == txid(BAD));
        let bad: Vec<_> = bad.cloned().collect();
        condemn(&listing, &bad, &thinning())?.carry_out(&store, time(900))?;
        Ok(())
    },
    holds: |dir, context| states(&replica(dir), BEGUN, context),
    done: |dir, context| {
        let left = replica(dir).list().unwrap();
        let left = left.level(Level::L0).count() as u64;
        assert_eq!(left, BEGUN - 1, "{context}");
        let aside = fs::read_dir(dir.join("replica/.sqlrep/damaged")).unwrap();
        assert_eq!(aside.count(), 1, "{context}");
    },
};

const RESTORE: Operation = Operation {
    name: "restore",
    prepare: nothing,
    run: |dir, fs| {
        let path = dir.join("out/app.db");
        let destination = Destination::open(&path)?.with_fs(fs);
        let options = RestoreOptions::default();
        match restore::restore(&replica(dir), Point::Latest, &destination, &options, &()) {
            // Done, and only its reply was lost: an agent that finds a database leaves it alone.
            Err(RestoreError::Exists { .. }) => Ok(()),
            other => Ok(other.map(drop)?),
        }
    },
    holds: |dir, context| {
        if let Ok(found) = fs::read(dir.join("out/app.db")) {
            let right = found == history().file(BEGUN);
            assert!(right, "{context}: half of a database");
        }
        all_points(dir, context);
    },
    done: |dir, context| {
        let found = fs::read(dir.join("out/app.db")).unwrap();
        assert!(found == history().file(BEGUN), "{context}");
    },
};

/// Where a chain is: in the replica, or in the branch that it was retired to; never in two parts.
fn whole_somewhere(dir: &Path, context: &str) {
    if !replica(dir).list().unwrap().is_empty() {
        return all_points(dir, context);
    }
    let branches = owner::list_branches(dir.join("replica")).unwrap();
    assert!(!branches.is_empty(), "{context}: it is nowhere");
    for branch in branches {
        let store = owner::BranchStore::open(dir.join("replica"), &branch.name).unwrap();
        states(&store, BEGUN, context);
    }
}

const RETIRE: Operation = Operation {
    name: "retire",
    prepare: nothing,
    run: |dir, over| {
        // As settle does it: a replica without files was retired before.
        let main = replica(dir);
        if main.list()?.is_empty() {
            fs::create_dir_all(dir.join("replica/ltx"))?;
            return Ok(());
        }
        // The clock goes on from one attempt to the next.
        let before = fs::read_dir(dir.join("replica/.sqlrep/branches")).map_or(0, Iterator::count);
        let now = time(50 + before as u64);
        owner::retire_chain_with(over.as_ref(), main.dir(), "page-size", now)?;
        Ok(())
    },
    holds: whole_somewhere,
    done: |dir, context| {
        assert!(replica(dir).list().unwrap().is_empty(), "{context}");
        whole_somewhere(dir, context);
    },
};

const BRANCH: Operation = Operation {
    name: "branch",
    prepare: nothing,
    run: |dir, fs| {
        let (name, _) = owner::branch(dir.join("replica"), "surmai-0", time(50))?;
        let store = DirStore::with_fs(dir.join("replica/.sqlrep/branches").join(name), fs);
        for id in BEGUN + 1..=BEGUN + 2 {
            owner::publish_l0(&store, writer(), &spooled(dir, id))?;
        }
        Ok(())
    },
    holds: |dir, context| {
        all_points(dir, context);
        for branch in owner::list_branches(dir.join("replica")).unwrap() {
            let store = owner::BranchStore::open(dir.join("replica"), &branch.name).unwrap();
            states(&store, branch.head.get(), context);
        }
    },
    done: |dir, context| {
        let branches = owner::list_branches(dir.join("replica")).unwrap();
        assert_eq!(branches[0].head, txid(BEGUN + 2), "{context}");
    },
};

const PRUNE: Operation = Operation {
    name: "prune",
    prepare: |dir| (BRANCH.run)(dir, Arc::new(OsFs)).unwrap(),
    run: |dir, fs| {
        let main = replica(dir);
        let keep = Duration::from_secs(1);
        let beside = Beside::look(main.dir(), &main.list()?, keep, time(900))?;
        Ok(beside.carry_out(main.dir(), fs.as_ref())?)
    },
    holds: BRANCH.holds,
    done: |dir, context| {
        let left = fs::read_dir(dir.join("replica/.sqlrep/branches")).unwrap();
        assert_eq!(left.count(), 0, "{context}");
    },
};

fn signed(head: u64) -> Manifest {
    Manifest {
        version: Manifest::VERSION,
        id: "media/surmai/data/x.db".parse().unwrap(),
        cluster_uid: None,
        namespace_uid: None,
        owner: Owner {
            pod: "surmai".to_owned(),
            pod_uid: "uid".to_owned(),
            node: "n".to_owned(),
            writer: writer(),
            state: OwnerState::Active,
            since: Timestamp::from_millis(1),
        },
        file: None,
        page_size: None,
        head: Some(txid(head)),
        claims: Vec::new(),
    }
}

const SIGN: Operation = Operation {
    name: "sign",
    prepare: |dir| manifest::save(dir.join("replica"), &signed(BEGUN)).unwrap(),
    run: |dir, fs| {
        let signed = signed(BEGUN + 1);
        Ok(manifest::save_with(
            fs.as_ref(),
            dir.join("replica"),
            &signed,
        )?)
    },
    holds: |dir, context| {
        let found = manifest::load(dir.join("replica")).unwrap().unwrap();
        let known = [signed(BEGUN), signed(BEGUN + 1)].contains(&found);
        assert!(known, "{context}: {found:?}");
    },
    done: |dir, context| {
        let found = manifest::load(dir.join("replica")).unwrap();
        assert_eq!(found, Some(signed(BEGUN + 1)), "{context}");
    },
};

const ALL: [Operation; 10] = [
    SHIP, CLAIM, COMPACT, RETAIN, ASIDE, RESTORE, RETIRE, BRANCH, PRUNE, SIGN,
];

/// A world in which an operation can begin, and its steps when nothing goes wrong.
fn world(operation: &Operation) -> (tempfile::TempDir, Arc<CrashFs>) {
    let dir = scratch();
    begin(dir.path());
    (operation.prepare)(dir.path());
    let fs = Arc::new(CrashFs::new(dir.path()).unwrap());
    (dir, fs)
}

fn steps(operation: &Operation) -> Vec<&'static str> {
    let (dir, fs) = world(operation);
    (operation.run)(dir.path(), Arc::clone(&fs) as Arc<dyn Fs>).unwrap();
    (operation.done)(dir.path(), operation.name);
    fs.log()
}

/// The error with all its causes.
fn text(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

#[test]
fn after_any_error_of_any_step_nothing_is_lost_and_the_next_attempt_succeeds() {
    let mut tried = 0;
    for operation in &ALL {
        let log = steps(operation);
        assert!(!log.is_empty(), "{}", operation.name);
        for (number, step) in (0..).zip(&log) {
            let lost_link = (*step == "link").then_some(EEXIST);
            for errno in ERRNOS.into_iter().chain(lost_link) {
                for done in [false, true] {
                    if errno == EEXIST && !done {
                        continue; // that is the answer to somebody else's name
                    }
                    let (dir, fs) = world(operation);
                    let context = format!(
                        "{}: step {number} ({step}), errno {errno}, done {done}",
                        operation.name
                    );
                    fs.fail_step(number, errno, done);
                    let outcome = (operation.run)(dir.path(), Arc::clone(&fs) as Arc<dyn Fs>);
                    assert!(fs.fired(), "{context}: {outcome:?}");
                    (operation.holds)(dir.path(), &context);
                    match outcome {
                        Ok(()) => (operation.done)(dir.path(), &context),
                        Err(error) => {
                            let text = text(error.as_ref());
                            let reason = std::io::Error::from_raw_os_error(errno).to_string();
                            assert!(text.contains(&reason), "{context}: no reason: {text}");
                            // Or a directory above it, where its own name is made durable.
                            let place = dir.path().parent().unwrap().display().to_string();
                            assert!(text.contains(&place), "{context}: no place: {text}");
                        }
                    }
                    (operation.run)(dir.path(), Arc::new(OsFs)).unwrap_or_else(|error| {
                        panic!("{context}: the next attempt: {}", text(error.as_ref()))
                    });
                    (operation.holds)(dir.path(), &context);
                    (operation.done)(dir.path(), &context);
                    tried += 1;
                }
            }
        }
    }
    say(&format!("faults: {tried} of {} operations", ALL.len()));
}

#[test]
fn after_a_crash_or_a_power_failure_at_any_step_the_next_attempt_succeeds() {
    let mut tried = 0;
    for operation in &ALL {
        for number in 0..steps(operation).len() as u64 {
            let (dir, fs) = world(operation);
            fs.crash_at(number);
            // Whatever it says: nobody is there to hear it.
            drop((operation.run)(dir.path(), Arc::clone(&fs) as Arc<dyn Fs>));
            assert!(fs.fired(), "{}: step {number}", operation.name);
            for loss in Loss::EACH {
                let context = format!("{}: crash at {number}, {loss:?}", operation.name);
                let left = scratch();
                fs.after_crash(loss, left.path()).unwrap();
                (operation.holds)(left.path(), &context);
                (operation.run)(left.path(), Arc::new(OsFs)).unwrap_or_else(|error| {
                    panic!("{context}: the next attempt: {}", text(error.as_ref()))
                });
                (operation.holds)(left.path(), &context);
                (operation.done)(left.path(), &context);
                tried += 1;
            }
        }
    }
    say(&format!("crashes: {tried} of {} operations", ALL.len()));
}

/// Operations that read a replica.
type Reading = fn(&FaultyStore, &Path) -> Outcome;

fn snapshots(store: &FaultyStore, _: &Path) -> Outcome {
    if let Some(plan) = snapshot_plan(&store.list()?)? {
        compact(store, &plan, Level::SNAPSHOT, &())?;
    }
    Ok(())
}

fn claims(store: &FaultyStore, _: &Path) -> Outcome {
    let head = store.list()?.head().ok_or("there is a head")?;
    let (header, page) = first_page(store, Point::Latest)?;
    owner::claim(store, writer(), head, &page, &header, time(99))?;
    Ok(())
}

fn read_all() -> Vec<(&'static str, Reading)> {
    vec![
        ("restore", |store, dir| {
            let path = dir.join("out/app.db");
            let destination = Destination::open(&path)?;
            let options = RestoreOptions::default();
            let done = restore::restore(store, Point::Latest, &destination, &options, &())?;
            let right = fs::read(&path)? == history().file(done.txid.get());
            assert!(right, "TXID {} is not what it was", done.txid);
            fs::remove_file(path)?;
            if done.txid == txid(BEGUN) {
                return Ok(());
            }
            Err(format!("{} an older state", store.dir().display()).into())
        }),
        ("verify", |store, _| {
            let verified = verify(store, Point::Latest, &())?;
            if verified.txid == txid(BEGUN) {
                return Ok(());
            }
            Err(format!("{} an older state", store.dir().display()).into())
        }),
        ("compact", |store, _| {
            let one = Level::new(1).ok_or("a level")?;
            if let Some(plan) = Plan::of(pending(&store.list()?, one)) {
                compact(store, &plan, one, &())?;
            }
            Ok(())
        }),
        ("snapshot", snapshots),
        ("retain", |store, _| {
            retain(&store.list()?, &thinning(), time(900))?.carry_out(store)?;
            Ok(())
        }),
        ("claim", claims),
        ("publish", |store, dir| {
            owner::publish_l0(store, writer(), &spooled(dir, BEGUN + 1))?;
            owner::publish_l0(store, writer(), &spooled(dir, BEGUN + 1))?;
            Ok(())
        }),
    ]
}

/// Whether an error says what happened. What the share did must not be taken for damage of a file: that
/// would be mended, and a sound file set aside.
fn tells(text: &str, wrong: Wrong, reading: bool) -> bool {
    match wrong {
        Wrong::Errno(errno) => {
            let reason = std::io::Error::from_raw_os_error(errno).to_string();
            text.contains(&reason)
        }
        Wrong::Short if reading => text.contains("truncated"),
        _ => true,
    }
}

/// How many calls an operation that reads makes when nothing goes wrong.
fn calls(run: Reading) -> usize {
    let (dir, _) = world(&RETAIN);
    let store = FaultyStore::new(replica(dir.path()));
    run(&store, dir.path()).unwrap();
    store.calls().len()
}

/// What holds whatever an operation that reads meets.
fn kept(name: &str, dir: &Path, context: &str) {
    if name == "claim" {
        unchanged(dir, context);
    } else {
        states(&replica(dir), BEGUN, context);
    }
}

#[test]
fn whatever_a_read_of_a_share_gives_nothing_wrong_comes_of_it() {
    let mut tried = 0;
    for (name, run) in read_all() {
        let calls = calls(run);
        let wrongs = ERRNOS.map(Wrong::Errno).into_iter();
        let wrongs = wrongs.chain([Wrong::Short, Wrong::Flipped, Wrong::Stale]);
        for wrong in wrongs {
            for call in 0..calls {
                let (dir, _) = world(&RETAIN);
                let store = FaultyStore::new(replica(dir.path()));
                store.fail(call, wrong);
                let context = format!("{name}: call {call}, {wrong:?}");
                let outcome = run(&store, dir.path());
                if !store.fired() {
                    continue; // not a fault of this call
                }
                if let Err(error) = outcome {
                    let text = text(error.as_ref());
                    let place = dir.path().display().to_string();
                    // A plan that a stale listing does not allow names TXIDs, not a file.
                    let named = text.contains(&place) || wrong == Wrong::Stale;
                    assert!(named, "{context}: no place: {text}");
                    let reading = store.calls().get(call) == Some(&"read");
                    assert!(tells(&text, wrong, reading), "{context}: no reason: {text}");
                }
                kept(name, dir.path(), &context);
                let left = fs::read_dir(dir.path().join("out")).unwrap().count();
                assert_eq!(left, 0, "{context}: something is left in the volume");
                let again = FaultyStore::new(replica(dir.path()));
                run(&again, dir.path()).unwrap_or_else(|error| {
                    panic!("{context}: the next attempt: {}", text(error.as_ref()))
                });
                tried += 1;
            }
        }
    }
    say(&format!("reads: {tried} faults"));
}

fn say(text: &str) {
    use std::io::Write as _;
    writeln!(std::io::stderr(), "{text}").unwrap();
}

#[test]
fn a_stale_listing_is_a_listing() {
    // What the test above relies on: the fault does happen, and is what it is called.
    let (dir, _) = world(&SHIP);
    let store = FaultyStore::new(replica(dir.path()));
    store.fail(0, Wrong::Stale);
    let stale: Listing = store.list().unwrap();
    assert_eq!(stale.head(), Some(txid(BEGUN - 1)));
    assert!(store.fired());
}
