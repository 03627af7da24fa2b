//! Sessions that end and begin again, and files that go away.

use super::*;

#[test]
fn a_session_resumes_where_the_last_one_stopped() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    app.insert(500);
    let mut session = bench.session();
    app.insert(3);
    bench.capture(&mut session);
    app.insert(3);
    session.step().unwrap(); // read, not cut: lost with the session, not from the WAL
    drop(session);
    app.insert(3);
    let mut session = bench.try_open().unwrap();
    assert_eq!(session.start(bench.now()).unwrap(), Start::Resumed);
    assert!((1..20).contains(&bench.capture(&mut session)));
    bench.assert_equal(session, &mut app);
}

#[test]
fn after_a_break_only_the_pages_that_differ_are_captured() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    app.insert(2000);
    drop(bench.session());
    app.insert(2);
    app.checkpoint("TRUNCATE");
    app.insert(2);
    app.checkpoint("PASSIVE");
    let mut session = bench.try_open().unwrap();
    let Start::Resync { pages } = session.start(bench.now()).unwrap() else {
        panic!("a reset that nobody saw is a break");
    };
    assert!((1..10).contains(&pages), "{pages} pages of 250");
    assert_eq!(bench.capture(&mut session), 0);
    app.insert(1);
    bench.capture(&mut session);
    bench.assert_equal(session, &mut app);
}

#[test]
fn a_break_in_which_nothing_changed_costs_no_file() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    drop(bench.session());
    app.checkpoint("TRUNCATE");
    let files = bench.spool.pending().len();
    let mut session = bench.try_open().unwrap();
    assert_eq!(
        session.start(bench.now()).unwrap(),
        Start::Resync { pages: 0 }
    );
    assert_eq!(bench.spool.pending().len(), files);
    app.insert(1);
    bench.capture(&mut session);
    bench.assert_equal(session, &mut app);
}

#[test]
fn frames_that_were_taken_back_are_noticed_at_the_start() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    let mut session = bench.session();
    app.insert(4);
    bench.capture(&mut session);
    let place = bench.spool.position().unwrap().wal.unwrap();
    drop(session);
    // As after a power loss: the same generation, and at the place another frame, or none.
    for place in [
        sqlrep_spool::WalPlace {
            frames: place.frames + 5,
            ..place
        },
        sqlrep_spool::WalPlace {
            frames: place.frames - 1,
            ..place
        },
        sqlrep_spool::WalPlace {
            checksum: None,
            ..place
        },
    ] {
        bench.spool.set_place(Some(place));
        let mut session = bench.try_open().unwrap();
        assert_eq!(
            session.start(bench.now()).unwrap(),
            Start::Resync { pages: 0 }
        );
    }
    app.insert(1);
    let mut session = bench.session();
    bench.capture(&mut session);
    bench.assert_equal(session, &mut app);
}

#[test]
fn a_page_size_that_changed_needs_a_new_chain() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    drop(bench.session());
    app.sql("PRAGMA journal_mode=delete");
    app.sql("PRAGMA page_size=8192");
    app.sql("VACUUM");
    app.sql("PRAGMA journal_mode=wal");
    let mut session = bench.try_open().unwrap();
    let error = session.start(bench.now()).unwrap_err();
    assert!(matches!(error, Error::PageSizeChanged { .. }), "{error}");
}

#[test]
fn the_tail_is_read_after_the_directory_is_gone() {
    for _ in 0..5 {
        let mut bench = Bench::new();
        let mut app = App::plain(&bench.path());
        let mut session = bench.session();
        app.insert(5);
        bench.capture(&mut session);
        app.checkpoint("PASSIVE");
        rest(&mut session);
        app.insert(7);
        let rows = app.rows();
        app.kill();
        fs::remove_dir_all(bench.dir.path().join("volume")).unwrap();
        assert_eq!(session.look().unwrap(), Look::Unlinked);
        assert!(session.drain(bench.now()).unwrap().is_some());
        assert_eq!(bench.captured_rows(), rows);
    }
}

#[test]
fn another_file_at_the_path_is_noticed() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    let mut session = bench.session();
    app.insert(1);
    app.kill();
    let old = bench.dir.path().join("old");
    fs::create_dir(&old).unwrap();
    for suffix in ["", "-wal", "-shm"] {
        let to = old.join(format!("data.db{suffix}"));
        rustix::fs::rename(bench.beside(suffix), to).unwrap();
    }
    assert_eq!(session.look().unwrap(), Look::Unlinked);
    let mut app = App::plain(&bench.path());
    app.insert(50);
    assert_eq!(session.look().unwrap(), Look::Replaced);
    assert!(
        bench.capture(&mut session) > 0,
        "the old one's tail is not lost"
    );
    drop(session);
    let mut session = bench.try_open().unwrap();
    assert!(matches!(
        session.start(bench.now()).unwrap(),
        Start::Resync { pages: 1.. }
    ));
    bench.capture(&mut session);
    bench.assert_equal(session, &mut app);
}
