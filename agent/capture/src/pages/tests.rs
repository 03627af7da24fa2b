//! Databases in rollback-journal mode, written by an application in a process of its own.

use std::fs;

use super::*;
use crate::testing::{App, Bench, locks, pages_of};
use crate::{Follower, Session};

const MODES: [&str; 3] = ["DELETE", "TRUNCATE", "PERSIST"];

fn app(bench: &Bench, mode: &str, page_size: u32) -> App {
    let mut app = App::open(
        &bench.path(),
        &[
            &format!("PRAGMA page_size={page_size}"),
            &format!("PRAGMA journal_mode={mode}"),
            "CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, v BLOB)",
        ],
    );
    app.insert(200);
    app
}

fn open(bench: &Bench) -> Pages {
    Pages::open(&bench.file(), bench.spool.clone(), bench.options()).unwrap()
}

fn started(bench: &mut Bench) -> Pages {
    let mut pages = open(bench);
    pages.start(bench.now()).unwrap();
    pages
}

/// Cuts; how many pages the file has.
fn cut(bench: &mut Bench, pages: &mut Pages) -> usize {
    let entry = pages.cut(bench.now()).unwrap();
    entry.map_or(0, |entry| pages_of(&entry.path).len())
}

fn assert_equal(bench: &Bench) {
    let (image, source) = (bench.image(), fs::read(bench.path()).unwrap());
    assert_eq!(image.len(), source.len(), "size of the database");
    assert!(image == source, "the image is not the database");
}

#[test]
fn only_pages_that_changed_are_captured() {
    for mode in MODES {
        for page_size in [512, 4096, 65536] {
            let mut bench = Bench::new();
            let mut app = app(&bench, mode, page_size);
            let mut pages = open(&bench);
            let start = pages.start(bench.now()).unwrap();
            let all = fs::metadata(bench.path()).unwrap().len() / u64::from(page_size);
            let all = u32::try_from(all).unwrap();
            assert_eq!(start, Start::Snapshot { pages: all });
            assert_equal(&bench);
            assert_eq!(pages.look().unwrap(), Look::Quiet);
            assert_eq!(cut(&mut bench, &mut pages), 0, "nothing happened");

            app.sql("UPDATE t SET v = zeroblob(500) WHERE id = 100");
            assert_eq!(pages.look().unwrap(), Look::New);
            assert_eq!(pages.look().unwrap(), Look::Quiet, "it is said once");
            let changed = cut(&mut bench, &mut pages);
            // Page 1 with its counter, and the page, or at 512 bytes the pages, of one row.
            let most = if page_size == 512 { 4 } else { 2 };
            assert!(
                (1..=most).contains(&changed),
                "{mode} {page_size}: {changed}"
            );
            assert_equal(&bench);

            app.sql("DELETE FROM t WHERE id % 3 > 0");
            app.sql("VACUUM");
            app.insert(50);
            cut(&mut bench, &mut pages);
            assert_equal(&bench);
            assert!(
                locks(&bench.path()).is_empty(),
                "nothing is held in between"
            );
        }
    }
}

#[test]
fn a_session_that_begins_anew_captures_what_differs() {
    let mut bench = Bench::new();
    let mut app = app(&bench, "DELETE", 4096);
    drop(started(&mut bench));
    let mut pages = open(&bench);
    assert_eq!(pages.start(bench.now()).unwrap(), Start::Resumed);
    drop(pages);
    app.sql("UPDATE t SET v = zeroblob(500) WHERE id = 100");
    let mut pages = open(&bench);
    let start = pages.start(bench.now()).unwrap();
    assert!(matches!(start, Start::Resync { pages: 1..=2 }), "{start:?}");
    assert_equal(&bench);
}

#[test]
fn a_transaction_under_way_is_neither_captured_nor_disturbed() {
    let mut bench = Bench::new();
    let mut app = app(&bench, "DELETE", 4096);
    let mut pages = started(&mut bench);
    let before = fs::read(bench.path()).unwrap();
    app.sql("BEGIN IMMEDIATE");
    app.sql("UPDATE t SET v = zeroblob(500)");
    assert_eq!(pages.look().unwrap(), Look::Uncommitted);
    assert!(
        pages.snapshot(bench.now()).unwrap().is_some(),
        "its patience ends"
    );
    assert!(bench.image() == before);
    app.sql("COMMIT"); // has no busy timeout
    assert_eq!(pages.look().unwrap(), Look::New);
    assert!(cut(&mut bench, &mut pages) > 0);
    assert_equal(&bench);
}

/// An app that dies in the middle of a commit, with some of its pages written.
fn die_in_a_commit(app: App, path: &std::path::Path, synchronous: &str) {
    let mut app = app;
    let before = fs::read(path).unwrap();
    app.sql(&format!("PRAGMA synchronous={synchronous}"));
    app.sql("PRAGMA cache_size=5");
    app.sql("BEGIN");
    app.sql("UPDATE t SET v = zeroblob(3000) WHERE id % 2");
    app.sql("DELETE FROM t WHERE id % 7 = 0");
    app.insert_more(300);
    assert!(
        fs::read(path).unwrap() != before,
        "its cache spilled into the file"
    );
    app.kill();
}

#[test]
fn a_hot_journal_is_read_as_sqlite_plays_it_back() {
    for mode in MODES {
        for page_size in [512, 4096, 65536] {
            let mut bench = Bench::new();
            let mut app = app(&bench, mode, page_size);
            let mut pages = started(&mut bench);
            app.sql("UPDATE t SET v = zeroblob(400) WHERE id < 20"); // not captured yet
            // Synced, a journal has a segment for each spill; not synced, one without a count.
            let synchronous = if page_size == 4096 { "FULL" } else { "OFF" };
            die_in_a_commit(app, &bench.path(), synchronous);
            let torn = fs::read(bench.path()).unwrap();
            assert!(cut(&mut bench, &mut pages) > 0);
            assert!(
                fs::read(bench.path()).unwrap() == torn,
                "nothing was repaired"
            );
            assert!(bench.image() != torn);
            // What SQLite itself makes of it, and that we follow it there.
            let mut other = App::open(&bench.path(), &["SELECT count(*) FROM t"]);
            assert_equal(&bench);
            pages.look().unwrap();
            assert_eq!(cut(&mut bench, &mut pages), 0, "it is what was captured");
            other.insert(1);
            pages.look().unwrap();
            assert!(cut(&mut bench, &mut pages) > 0);
            assert_equal(&bench);
        }
    }
}

#[test]
fn a_database_with_a_hot_journal_can_be_begun_with() {
    let mut bench = Bench::new();
    let app = app(&bench, "DELETE", 4096);
    let committed = fs::read(bench.path()).unwrap();
    die_in_a_commit(app, &bench.path(), "NORMAL");
    let pages = started(&mut bench);
    assert!(bench.image() == committed);
    pages.drain(bench.now()).unwrap();
    assert!(bench.image() == committed);
}

#[test]
fn a_journal_of_several_databases_is_left_to_the_app() {
    let mut bench = Bench::new();
    let app = app(&bench, "DELETE", 4096);
    let mut pages = started(&mut bench);
    die_in_a_commit(app, &bench.path(), "NORMAL");
    let journal = bench.beside("-journal");
    let mut bytes = fs::read(&journal).unwrap();
    let name = b"/elsewhere-mj1";
    let sum: u32 = name.iter().map(|byte| u32::from(*byte)).sum();
    bytes.extend(name);
    bytes.extend(u32::try_from(name.len()).unwrap().to_be_bytes());
    bytes.extend(sum.to_be_bytes());
    bytes.extend([0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7]);
    fs::write(&journal, bytes).unwrap();
    let error = pages.snapshot(bench.now()).unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("several databases"));
}

#[test]
fn a_database_that_stays_locked_is_named_with_what_to_do() {
    let mut bench = Bench::new();
    let mut app = app(&bench, "DELETE", 4096);
    app.sql("PRAGMA locking_mode=EXCLUSIVE");
    app.insert(1);
    let error = open(&bench).start(bench.now()).unwrap_err();
    assert!(error.is_unsupported(), "{error}");
    assert!(
        error.to_string().contains("locking_mode=EXCLUSIVE"),
        "{error}"
    );
    app.sql("PRAGMA locking_mode=NORMAL");
    app.sql("SELECT count(*) FROM t");
    started(&mut bench);
    assert_equal(&bench);
}

#[test]
fn a_database_that_is_cut_short_is_named() {
    let mut bench = Bench::new();
    drop(app(&bench, "DELETE", 4096));
    let file = fs::OpenOptions::new()
        .write(true)
        .open(bench.path())
        .unwrap();
    file.set_len(8192).unwrap();
    let error = open(&bench).start(bench.now()).unwrap_err();
    assert!(
        error.is_unsupported() && error.to_string().contains("damaged"),
        "{error}"
    );
}

#[test]
fn a_change_of_journal_mode_is_followed_both_ways() {
    let mut bench = Bench::new();
    let mut app = app(&bench, "DELETE", 4096);
    let follow = |bench: &mut Bench| {
        let now = bench.now();
        let options = bench.options();
        let mut one = Follower::open(&bench.file(), bench.spool.clone(), options, now).unwrap();
        let start = one.start(bench.now()).unwrap();
        (one, start)
    };
    let (mut one, _) = follow(&mut bench);
    assert!(matches!(one, Follower::Pages(_)));
    app.sql("PRAGMA journal_mode=wal");
    app.insert(1);
    assert_eq!(one.look().unwrap(), Look::Replaced);
    assert!(one.cut(bench.now()).unwrap().is_none());
    drop(one);
    let (one, start) = follow(&mut bench);
    assert!(matches!(one, Follower::Wal(_)));
    assert!(matches!(start, Start::Resync { pages: 1..=4 }), "{start:?}");
    drop(one);
    app.sql("PRAGMA journal_mode=delete");
    app.insert(1);
    let (one, start) = follow(&mut bench);
    assert!(matches!(one, Follower::Pages(_)));
    assert!(matches!(start, Start::Resync { pages: 1..=4 }), "{start:?}");
    assert_equal(&bench);
}

#[test]
fn a_file_without_a_name_counts_only_if_it_was_seen_whole() {
    let mut bench = Bench::new();
    let mut app = app(&bench, "DELETE", 4096);
    let mut pages = started(&mut bench);
    app.insert(3);
    std::thread::sleep(REST_AGE * 3);
    assert_eq!(pages.look().unwrap(), Look::New);
    assert_eq!(pages.look().unwrap(), Look::Quiet);
    let committed = fs::read(bench.path()).unwrap();
    fs::remove_file(bench.path()).unwrap();
    assert_eq!(pages.look().unwrap(), Look::Unlinked);
    assert!(pages.drain(bench.now()).unwrap().is_some());
    assert!(bench.image() == committed, "the last commit is not lost");
}

#[test]
fn a_time_in_whole_seconds_proves_nothing_for_two_of_them() {
    let mut bench = Bench::new();
    let mut app = app(&bench, "DELETE", 4096);
    let mut pages = started(&mut bench);
    app.insert(3);
    // As a file system that counts seconds has it: a write within this one would not show.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let second = SystemTime::UNIX_EPOCH + Duration::from_secs(now.unwrap().as_secs());
    std::thread::sleep(REST_AGE * 3);
    let file = fs::File::options().write(true).open(bench.path()).unwrap();
    file.set_modified(second).unwrap();
    drop(file);
    assert_eq!(pages.look().unwrap(), Look::New);
    assert_eq!(pages.look().unwrap(), Look::Quiet);
    fs::remove_file(bench.path()).unwrap();
    assert!(pages.drain(bench.now()).unwrap().is_none());
}

#[test]
fn half_a_commit_in_a_file_without_a_name_is_not_captured() {
    for seen in [false, true] {
        let mut bench = Bench::new();
        let app = app(&bench, "DELETE", 4096);
        let mut pages = started(&mut bench);
        std::thread::sleep(REST_AGE * 3);
        assert_eq!(pages.look().unwrap(), Look::Quiet);
        let committed = fs::read(bench.path()).unwrap();
        die_in_a_commit(app, &bench.path(), "NORMAL");
        if seen {
            pages.look().unwrap();
        }
        fs::remove_file(bench.beside("-journal")).unwrap();
        fs::remove_file(bench.path()).unwrap();
        pages.drain(bench.now()).unwrap();
        assert!(bench.image() == committed, "seen before: {seen}");
    }
}

#[test]
fn a_writer_without_patience_and_without_pauses_is_followed() {
    let mut bench = Bench::new();
    let mut app = app(&bench, "DELETE", 4096);
    app.sql("PRAGMA synchronous=OFF");
    app.insert_more(40_000); // more than a slice
    app.sql("COMMIT");
    let mut pages = started(&mut bench);
    app.start(
        "def work():\n\
         \x20 busy = done = 0\n\
         \x20 end = time.time() + 3\n\
         \x20 while time.time() < end:\n\
         \x20  try:\n\
         \x20   db.execute('UPDATE t SET v = randomblob(500) WHERE id = abs(random()) % 40000')\n\
         \x20   done += 1\n\
         \x20  except sqlite3.OperationalError:\n\
         \x20   busy += 1\n\
         \x20 return [done, busy]\n",
        "work()",
    );
    let (mut files, mut shipped) = (0, 0);
    while !app.is_done() {
        if pages.look().unwrap() == Look::New {
            let changed = cut(&mut bench, &mut pages);
            (files, shipped) = (files + u32::from(changed > 0), shipped + changed);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let said = app.answer();
    assert!(
        files > 0,
        "a writer without pauses starves us: {said}, {files} files of {shipped} pages"
    );
    pages.look().unwrap();
    cut(&mut bench, &mut pages);
    assert_equal(&bench);
}

#[test]
fn a_session_by_wal_refuses_and_one_by_pages_too() {
    let mut bench = Bench::new();
    let mut app = app(&bench, "DELETE", 4096);
    let session = Session::open(
        &bench.file(),
        bench.spool.clone(),
        bench.options(),
        bench.now(),
    );
    assert!(session.unwrap_err().is_unsupported());
    app.sql("PRAGMA journal_mode=wal");
    let pages = Pages::open(&bench.file(), bench.spool.clone(), bench.options());
    assert!(pages.unwrap_err().is_transient());
}

#[test]
fn the_last_commit_is_read_while_a_process_of_ours_keeps_everybody_out() {
    for mode in MODES {
        let mut bench = Bench::new();
        let mut app = app(&bench, mode, 4096);
        let mut pages = started(&mut bench);
        let mut keeper = App::open(&bench.path(), &[]);
        app.insert(10);
        keeper.sql("BEGIN EXCLUSIVE");
        let sealed = pages.seal(bench.now(), Keeper(keeper.pid())).unwrap();
        assert!(sealed.is_some(), "{mode}: the commit was not read");
        assert_equal(&bench);
        let again = pages.seal(bench.now(), Keeper(keeper.pid())).unwrap();
        assert!(again.is_none(), "{mode}: nothing came since");
        // What the keeper then writes is a commit as any other.
        keeper.sql("DELETE FROM t WHERE id < 100");
        keeper.sql("COMMIT");
        assert!(cut(&mut bench, &mut pages) > 0, "{mode}");
        assert_equal(&bench);
    }
}

#[test]
fn who_is_not_kept_out_is_not_read_beside() {
    let mut bench = Bench::new();
    let mut app = app(&bench, "DELETE", 4096);
    let mut pages = started(&mut bench);
    let mut keeper = App::open(&bench.path(), &[]);
    app.insert(10);
    let ours = Keeper(keeper.pid());
    let mut refused = |bench: &mut Bench, keeper| {
        let error = pages.seal(bench.now(), keeper).unwrap_err();
        assert!(matches!(error, Error::Busy { .. }), "{error}");
    };
    refused(&mut bench, ours); // it has no lock
    keeper.sql("BEGIN IMMEDIATE");
    refused(&mut bench, ours); // it reserved the file only
    keeper.sql("COMMIT");
    keeper.sql("BEGIN EXCLUSIVE");
    refused(&mut bench, Keeper(app.pid())); // somebody else has it
    keeper.sql("COMMIT");
    refused(&mut bench, ours); // it has let go
    assert!(
        cut(&mut bench, &mut pages) > 0,
        "nothing was taken for read"
    );
    assert_equal(&bench);
}

/// The kernel is asked at the end as well: a keeper that ends in the middle lets a writer in.
#[test]
fn a_keeper_that_dies_spoils_no_commit() {
    let mut bench = Bench::new();
    let mut app = app(&bench, "DELETE", 512);
    app.insert(6_000);
    let mut pages = started(&mut bench);
    let mut died = 0;
    for round in 0..12 {
        app.sql(&format!("UPDATE t SET v = randomblob({})", 100 + round));
        let before = fs::read(bench.path()).unwrap();
        let mut keeper = App::open(&bench.path(), &[]);
        keeper.sql("BEGIN EXCLUSIVE");
        let ours = Keeper(keeper.pid());
        let writes = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                std::thread::sleep(Duration::from_micros(round * 200));
                keeper.kill();
                app.sql("UPDATE t SET v = randomblob(150)")
            });
            match pages.seal(bench.now(), ours) {
                Ok(_) => assert!(bench.image() == before, "round {round}: two commits in one"),
                Err(Error::Busy { .. }) => died += 1,
                Err(error) => panic!("round {round}: {error}"),
            }
            writer.join().unwrap()
        });
        assert!(!writes.contains("error"), "{writes}");
    }
    assert!(died > 0, "no keeper died in time");
    assert!(cut(&mut bench, &mut pages) > 0);
    assert_equal(&bench);
}
