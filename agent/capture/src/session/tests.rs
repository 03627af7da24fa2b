//! Sessions beside applications in processes of their own.

use std::fs;
use std::os::unix::fs::FileExt;

use sqlrep_format::wal::{self, FRAME_HEADER_BYTES, HEADER_BYTES};
use sqlrep_format::{PageCount, Pgno};
use sqlrep_spool::PageSource;

use super::*;
use crate::snapshot::{Source, State};
use crate::tail::{self, Reach};
use crate::testing::{App, Bench, apply, locks, pages_of};

mod attach;
mod beside;
mod continuity;
mod ebb;
mod guards;
mod hostile;
mod load;

const PAGE: u64 = 4096;
const FRAME: u64 = PAGE + FRAME_HEADER_BYTES as u64;

/// Looks until the session has let the application reset its WAL.
fn rest(session: &mut Session) {
    session.step().unwrap();
    calm(session);
    assert!(
        session.hold.is_resting(),
        "{:?}, {:?}",
        session.hold,
        session.last_seen
    );
}

/// Looks until the application no longer counts as busy.
fn calm(session: &mut Session) {
    for _ in 0..CALM_LOOKS {
        assert_eq!(session.look().unwrap(), Look::Quiet);
    }
}

#[test]
fn the_wal_of_an_app_that_is_not_busy_goes_to_the_disk_when_the_app_wants_it() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    let mut session = bench.session();
    app.insert(3000);
    bench.capture(&mut session);
    assert!(session.wal_bytes() > 1 << 20);
    assert_eq!(session.outgoing.sent_to(), 0);
}

#[test]
fn what_a_busy_writer_adds_to_a_wal_that_is_worth_a_checkpoint_goes_to_the_disk() {
    const SOFT: u64 = 1 << 20;
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    let mut session = bench.session_with(Options {
        wal_soft_bytes: SOFT,
        ..bench.options()
    });
    for _ in 0..=BUSY_STEPS {
        app.insert(10);
        session.step().unwrap();
    }
    assert!(session.wal_bytes() < SOFT);
    assert_eq!(session.outgoing.sent_to(), 0);
    while session.wal_bytes() < 4 * SOFT {
        app.insert(500);
        session.step().unwrap();
    }
    let rest = session.wal_bytes() - session.outgoing.sent_to();
    assert!(rest < SOFT, "an fsync waits for {rest} bytes");
    bench.capture(&mut session);
    bench.assert_equal(session, &mut app);
}

#[test]
fn the_wal_is_read_in_parts_of_which_nothing_is_read_twice() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    let mut session = bench.session();
    session.step().unwrap();
    let mut long = Vec::new();
    for commits in [700, 1, 40] {
        app.run(&format!(
            "for _ in range({commits}): db.execute(\"INSERT INTO t(v) VALUES(randomblob(9000))\")"
        ));
        let published = session.published().unwrap().unwrap();
        let mut parts = 0;
        while session.is_new(&published) {
            let (cursor, span_from) = session.cursor_for(&published).unwrap();
            let window = &mut session.window;
            let scan =
                tail::scan(&session.live, cursor, &published, Reach::Window, window).unwrap();
            assert!(scan.cursor.frames() > cursor.frames());
            assert!(scan.commit.is_some());
            let held = |(_, frame): &(Pgno, u32)| session.window.frame(*frame).is_some();
            assert!(scan.latest.iter().all(held), "frames are read again");
            session.take(&scan, span_from).unwrap();
            parts += 1;
        }
        long.push(parts);
    }
    assert!(long[0] > 3 && long[1..] == [1, 1], "{long:?}");
    // One transaction that is longer is a part all the same.
    app.insert(20_000);
    let published = session.published().unwrap().unwrap();
    let batch = session.advance(&published).unwrap();
    assert!(
        batch.frames > 2000 && !session.is_new(&published),
        "{batch:?}"
    );
    bench.capture(&mut session);
    bench.assert_equal(session, &mut app);
}

#[test]
fn the_pages_of_a_state_come_in_turn_however_they_are_asked_for() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    let mut session = bench.session();
    app.insert(500);
    app.checkpoint("PASSIVE");
    app.insert(3); // some pages are in the WAL, the others only in the file
    let published = session.published_or_repaired().unwrap();
    let state = State::read(&mut session.live, published, &mut session.window).unwrap();
    let page_size = session.live.page_size();
    let bytes = page_size.bytes();
    let mut source = Source::new(&session.live, &state, None);
    let (mut pages, mut numbers) = (Vec::new(), Vec::new());
    for together in [0, 1, 3, 40].into_iter().cycle() {
        let (before, mut some) = (numbers.len(), vec![0; together.max(1) * bytes]);
        if together == 0 {
            numbers.extend(source.next(&mut some).unwrap());
        } else {
            source.fill(page_size, &mut some, &mut numbers).unwrap();
        }
        let given = numbers.len() - before;
        pages.extend_from_slice(&some[..given * bytes]);
        if given < together.max(1) {
            break;
        }
    }
    assert!(numbers.len() > 40, "{}", numbers.len());
    let expected: Vec<_> = (1..=state.commit.get()).filter_map(Pgno::new).collect();
    assert_eq!(numbers, expected);
    bench.capture(&mut session);
    assert!(pages == bench.image(), "other pages than those captured");
}

#[test]
fn commits_become_l0_files_that_add_up_to_the_database() {
    for page_size in [512, 4096, 65_536] {
        let mut bench = Bench::new();
        let mut app = App::with_page_size(&bench.path(), page_size);
        let mut session = bench.session();
        assert_eq!(session.look().unwrap(), Look::Quiet);
        assert_eq!(bench.capture(&mut session), 0, "nothing new, no file");
        for rows in [1, 300, 7] {
            app.insert(rows);
            assert_eq!(session.look().unwrap(), Look::New);
            assert!(bench.capture(&mut session) > 0);
            assert_eq!(session.look().unwrap(), Look::Quiet);
        }
        app.sql("DELETE FROM t WHERE id % 3 = 0");
        app.sql("UPDATE t SET v = zeroblob(5000) WHERE id % 5 = 0");
        bench.capture(&mut session);
        bench.assert_equal(session, &mut app);
    }
}

#[test]
fn one_file_holds_the_newest_version_of_each_page_of_many_commits() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    let mut session = bench.session();
    for _ in 0..50 {
        app.sql("UPDATE t SET v = randomblob(500) WHERE id = 1");
        session.step().unwrap();
    }
    assert!(bench.capture(&mut session) <= 3, "one row changed");
    bench.assert_equal(session, &mut app);
}

#[test]
fn pages_past_the_memory_limit_are_cut_all_the_same() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    let mut session = bench.session();
    app.insert(2000); // 1 MB, the limit is 64 KiB
    assert!(bench.capture(&mut session) > 200);
    bench.assert_equal(session, &mut app);
}

#[test]
fn a_database_that_shrinks_and_grows_again_stays_equal() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    app.insert(3000);
    let mut session = bench.session();
    app.sql("DELETE FROM t WHERE id > 20");
    app.sql("VACUUM");
    session.step().unwrap();
    app.insert(1000);
    bench.capture(&mut session);
    app.sql("DELETE FROM t WHERE id > 20");
    app.sql("VACUUM");
    let size = app.sql("PRAGMA page_count");
    assert!(bench.capture(&mut session) > 0);
    assert_eq!(format!("[[{}]]", bench.image().len() as u64 / PAGE), size);
    bench.assert_equal(session, &mut app);
}

#[test]
fn pages_by_which_the_database_grew_are_there_though_no_frame_holds_them() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    let mut session = bench.session();
    app.insert(1);
    session.step().unwrap();
    // A commit that ends three pages further than its frames reach.
    let commit = PageCount::new(session.pending.commit().unwrap().get() + 3).unwrap();
    session.pending.commit_at(commit);
    let pages = session.pending_pages();
    assert_eq!(bench.capture(&mut session), pages + 3);
    assert_eq!(
        bench.image().len() as u64,
        commit.file_bytes(session.live.page_size())
    );
}

#[test]
fn a_snapshot_on_demand_holds_every_page() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    let mut session = bench.session();
    app.insert(100);
    let entry = session.snapshot(bench.now()).unwrap().unwrap();
    let pages = pages_of(&entry.path);
    assert_eq!(pages.len() as u64, session.size_bytes() / PAGE);
    assert_eq!(bench.capture(&mut session), 0, "the snapshot has it all");
    app.insert(1);
    bench.capture(&mut session);
    bench.assert_equal(session, &mut app);
}

#[test]
fn an_application_that_does_not_checkpoint_is_helped() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    let options = Options {
        wal_soft_bytes: 200_000,
        ..bench.options()
    };
    let mut session = bench.session_with(options);
    app.insert(500);
    session.step().unwrap();
    assert!(
        session.checkpoint().unwrap().is_none(),
        "not in the middle of things"
    );
    calm(&mut session);
    let done = session.checkpoint().unwrap().unwrap();
    assert_eq!(
        (done.mode, done.log_frames),
        (crate::Mode::Passive, done.backfilled_frames)
    );
    assert!(session.hold.is_resting(), "the next writer may begin anew");
    let before = session.wal_file_bytes();
    app.insert(10);
    session.step().unwrap();
    assert!(session.wal_bytes() < before / 2, "and it did");
    bench.capture(&mut session);
    bench.assert_equal(session, &mut app);
}

#[test]
fn past_the_hard_limit_the_write_lock_is_taken_for_a_moment() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    let options = Options {
        wal_soft_bytes: 10_000,
        wal_hard_bytes: 50_000,
        ..bench.options()
    };
    let mut session = bench.session_with(options);
    app.insert(500);
    let done = session.checkpoint().unwrap().unwrap();
    assert_eq!(done.log_frames, done.backfilled_frames);
    assert!(session.hold.is_resting());
    app.insert(1);
    bench.capture(&mut session);
    bench.assert_equal(session, &mut app);
}

#[test]
fn writers_are_not_held_again_and_again_for_a_wal_that_a_reader_keeps() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    let mut reader = App::open(&bench.path(), &[]);
    reader.sql("BEGIN");
    reader.rows();
    let options = Options {
        wal_soft_bytes: 100_000,
        wal_hard_bytes: 200_000,
        ..bench.options()
    };
    let mut session = bench.session_with(options);
    let mut held = 0;
    for _ in 0..20 {
        app.insert(40); // 20 KB and more
        session.step().unwrap();
        let done = session.checkpoint().unwrap();
        held += u32::from(done.is_some_and(|done| done.mode == crate::Mode::Full));
    }
    assert!((1..=6).contains(&held), "{held} times in 20 commits");
    reader.sql("ROLLBACK");
    app.insert(200);
    session.step().unwrap();
    session.checkpoint().unwrap();
    assert!(session.hold.is_resting(), "the reader is gone");
    app.insert(1);
    session.step().unwrap();
    assert!(session.wal_bytes() < 100_000, "it began anew");
    assert_eq!(session.hold_again_bytes, 0);
    bench.capture(&mut session);
    bench.assert_equal(session, &mut app);
}

#[test]
fn checkpoints_of_a_wal_that_does_not_begin_anew_are_let_through_by_the_lot() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    let options = Options {
        wal_soft_bytes: 200_000,
        ..bench.options()
    };
    let mut session = bench.session_with(options);
    let lagging = |session: &mut Session| {
        let published = session.published().unwrap().unwrap();
        session.extent(&published).lagging
    };
    for _ in 0..=BUSY_STEPS {
        app.insert(400); // 200 KB and more
        session.step().unwrap();
    }
    app.checkpoint("PASSIVE");
    app.insert(1); // before the session could let go of the WAL, as if by another writer
    session.step().unwrap();
    assert!(session.wal_bytes() > 800_000);
    let copied = lagging(&mut session);
    while lagging(&mut session) < 400_000 {
        app.checkpoint("PASSIVE");
        assert!(lagging(&mut session) >= copied, "not for so little");
        app.insert(20);
        session.step().unwrap();
    }
    app.checkpoint("PASSIVE");
    assert_eq!(lagging(&mut session), 0, "all at once");
    bench.capture(&mut session);
    bench.assert_equal(session, &mut app);
}

#[test]
fn checkpoints_of_a_busy_writer_are_put_off_until_it_pauses_or_they_are_worth_it() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    let options = Options {
        wal_soft_bytes: 400_000,
        ..bench.options()
    };
    let mut session = bench.session_with(options);
    let copied = |session: &mut Session| session.published().unwrap().unwrap().is_backfilled();
    for _ in 0..=BUSY_STEPS {
        app.insert(5);
        session.step().unwrap();
    }
    app.insert(5);
    app.checkpoint("PASSIVE");
    session.step().unwrap();
    assert!(!copied(&mut session), "put off");
    calm(&mut session);
    app.checkpoint("PASSIVE");
    assert!(copied(&mut session), "it paused");
    for _ in 0..=BUSY_STEPS {
        app.insert(300);
        session.step().unwrap();
    }
    app.checkpoint("PASSIVE");
    assert!(copied(&mut session), "it is worth it");
    bench.capture(&mut session);
    bench.assert_equal(session, &mut app);
}

#[test]
fn an_idle_session_gives_its_connection_and_memory_back() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    let mut session = bench.session();
    app.insert(10);
    bench.capture(&mut session);
    assert_eq!(session.look().unwrap(), Look::Quiet);
    assert!(session.live.is_linked());
    session.relax();
    assert!(!session.live.is_linked());
    assert_eq!(session.window.memory_bytes(), 0);
    // Without a connection the hold stands, and following goes on.
    assert!(
        locks(&bench.beside("-shm"))
            .iter()
            .any(|(kind, _)| kind == "OFDLCK")
    );
    app.insert(10);
    assert!(bench.capture(&mut session) > 0);
    bench.assert_equal(session, &mut app);
}
