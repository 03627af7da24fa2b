//! What must never become an L0 file, and what must never be lost.

use super::*;

fn rest_after_copy(session: &mut Session, app: &mut App) {
    session.step().unwrap();
    calm(session);
    app.checkpoint("PASSIVE");
    rest(session);
}

#[test]
fn the_wal_cannot_be_reset_before_it_is_captured() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    let mut session = bench.session();
    app.insert(5);
    session.step().unwrap();
    app.insert(5); // not read
    let done = app.checkpoint("TRUNCATE");
    assert!(done.starts_with("[[1,"), "the hold is a hold: {done}");
    app.checkpoint("PASSIVE");
    app.insert(5); // a writer that would reset, were there no hold
    rest_after_copy(&mut session, &mut app);
    let done = app.checkpoint("TRUNCATE");
    assert!(done.starts_with("[[0,"), "captured and copied: {done}");
    app.insert(3);
    bench.capture(&mut session);
    bench.assert_equal(session, &mut app);
}

#[test]
fn a_look_lets_go_of_nothing_that_is_not_read() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    let mut session = bench.session();
    for _ in 0..3 {
        app.insert(5);
        app.checkpoint("PASSIVE"); // all is copied: a writer would reset
        assert_eq!(session.look().unwrap(), Look::New);
        assert!(!session.hold.is_resting());
    }
    bench.capture(&mut session);
    bench.assert_equal(session, &mut app);
}

#[test]
fn a_rest_begins_only_if_nothing_happened_meanwhile() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    let mut session = bench.session();
    session.step().unwrap();
    app.checkpoint("PASSIVE");
    let seen = session.published().unwrap().unwrap();
    app.insert(5); // between the look and the lock
    app.checkpoint("PASSIVE");
    session.settle(&seen).unwrap();
    assert!(!session.hold.is_resting());
    app.insert(5);
    bench.capture(&mut session);
    bench.assert_equal(session, &mut app);
}

#[test]
fn the_hold_limits_no_checkpoint() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    let mut session = bench.session();
    app.insert(5);
    session.step().unwrap();
    app.insert(50); // unread, pinned: may be copied all the same
    let done = app.checkpoint("PASSIVE");
    let numbers: Vec<&str> = done.trim_matches(['[', ']']).split(", ").collect();
    assert_eq!(
        (numbers[0], numbers[1]),
        ("0", numbers[2]),
        "all is copied: {done}"
    );
    bench.capture(&mut session);
    bench.assert_equal(session, &mut app);
}

#[test]
fn two_resets_between_looks_are_impossible() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    let mut session = bench.session();
    rest_after_copy(&mut session, &mut app);
    let before = session.last_seen.unwrap().salts;
    for _ in 0..20 {
        app.insert(3);
        app.checkpoint("PASSIVE");
        app.checkpoint("TRUNCATE");
    }
    session.step().unwrap();
    let salts = session.last_seen.unwrap().salts;
    assert_eq!(
        salts.salt1,
        before.salt1.wrapping_add(1),
        "one reset, no more"
    );
    bench.capture(&mut session);
    bench.assert_equal(session, &mut app);
}

#[test]
fn a_reset_is_noticed_by_its_salts_when_the_size_is_the_same() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    let mut session = bench.session();
    rest_after_copy(&mut session, &mut app);
    let mut sizes = Vec::new();
    for _ in 0..4 {
        app.sql("UPDATE t SET v = randomblob(500) WHERE id = 1");
        assert_eq!(
            session.look().unwrap(),
            Look::New,
            "sizes so far: {sizes:?}"
        );
        assert!(bench.capture(&mut session) > 0);
        sizes.push(session.wal_bytes());
        rest_after_copy(&mut session, &mut app);
    }
    assert!(sizes.windows(2).all(|pair| pair[0] == pair[1]), "{sizes:?}");
    bench.assert_equal(session, &mut app);
}

#[test]
fn no_close_of_another_descriptor_drops_the_hold() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    let mut session = bench.session();
    app.insert(5);
    session.step().unwrap();
    let ours = |path| {
        locks(path)
            .into_iter()
            .filter(|lock| lock.0 == "OFDLCK")
            .collect::<Vec<_>>()
    };
    let (shm, db) = (bench.beside("-shm"), bench.path());
    let before = (ours(&shm), ours(&db));
    assert!(
        before.0.iter().any(|lock| (124..=127).contains(&lock.1)),
        "{before:?}"
    );
    assert!(
        before.1.iter().any(|lock| lock.1 == 0x4000_0002),
        "{before:?}"
    );
    for path in [&shm, &db, &bench.beside("-wal")] {
        drop(fs::read(path).unwrap()); // what a scan of the volume does
    }
    assert_eq!((ours(&shm), ours(&db)), before);
    app.insert(5);
    assert!(app.checkpoint("TRUNCATE").starts_with("[[1,"), "still held");
    bench.capture(&mut session);
    bench.assert_equal(session, &mut app);
}

#[test]
fn an_application_that_closes_its_last_connection_leaves_the_wal() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    let mut session = bench.session();
    app.insert(5);
    session.relax(); // no connection of ours keeps the WAL
    app.run("db.close()");
    assert!(bench.beside("-wal").metadata().unwrap().len() > FRAME);
    assert!(bench.capture(&mut session) > 0);
    let mut app = App::open(&bench.path(), &["PRAGMA wal_autocheckpoint=0"]);
    bench.assert_equal(session, &mut app);
}

#[test]
fn a_commit_that_was_not_published_does_not_count() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    let mut session = bench.session();
    app.insert(5);
    bench.capture(&mut session);
    // What a writer leaves that died after its commit frame: valid to the last bit.
    let cursor = session.cursor.unwrap();
    let wal = fs::File::options()
        .write(true)
        .open(bench.beside("-wal"))
        .unwrap();
    wal.write_all_at(&frame(&cursor, 2, 2, 0xaa), cursor.offset())
        .unwrap();
    assert_eq!(session.look().unwrap(), Look::Quiet);
    assert_eq!(session.step().unwrap(), Step::default());
    app.insert(1); // overwrites it
    assert!(bench.capture(&mut session) > 0);
    bench.assert_equal(session, &mut app);
}

/// A frame that follows on `cursor`, with a page full of `byte`.
fn frame(cursor: &Cursor, pgno: u32, commit: u32, byte: u8) -> Vec<u8> {
    let page = vec![byte; usize::try_from(PAGE).unwrap()];
    let mut head = Vec::new();
    head.extend(pgno.to_be_bytes());
    head.extend(commit.to_be_bytes());
    let sum = cursor.checksum().update(wal::ByteOrder::Little, &head);
    let sum = sum.update(wal::ByteOrder::Little, &page);
    head.extend(cursor.salts().salt1.to_be_bytes());
    head.extend(cursor.salts().salt2.to_be_bytes());
    head.extend(sum.s0.to_be_bytes());
    head.extend(sum.s1.to_be_bytes());
    head.extend(page);
    head
}

#[test]
fn a_frame_that_was_changed_is_never_shipped() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    let mut session = bench.session();
    let files = bench.spool.pending().len();
    let at = session.cursor.unwrap().offset();
    app.insert(20);
    let wal = fs::File::options()
        .read(true)
        .write(true)
        .open(bench.beside("-wal"))
        .unwrap();
    let mut byte = [0];
    let inside = at + FRAME_HEADER_BYTES as u64 + 100;
    wal.read_exact_at(&mut byte, inside).unwrap();
    wal.write_all_at(&[!byte[0]], inside).unwrap();
    assert_eq!(session.look().unwrap(), Look::New);
    let error = session.step().unwrap_err();
    assert!(matches!(error, Error::WalCorrupt { .. }), "{error}");
    assert!(error.is_corrupt() && error.needs_reopen());
    assert!(session.cut(bench.now()).unwrap().is_none());
    assert_eq!(bench.spool.pending().len(), files);
    wal.write_all_at(&byte, inside).unwrap();
    bench.capture(&mut session);
    bench.assert_equal(session, &mut app);
}

#[test]
fn a_wal_that_was_cut_short_is_named() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    let mut session = bench.session();
    app.insert(20);
    let wal = fs::File::options()
        .write(true)
        .open(bench.beside("-wal"))
        .unwrap();
    wal.set_len(session.cursor.unwrap().offset() + FRAME)
        .unwrap();
    let error = session.step().unwrap_err();
    assert!(matches!(error, Error::WalTruncated { .. }), "{error}");
    assert!(session.cut(bench.now()).unwrap().is_none());
    wal.set_len(0).unwrap();
    session.cursor = None;
    session.may_reset = true;
    assert!(matches!(
        session.step().unwrap_err(),
        Error::WalTruncated { held: 0, .. }
    ));
}

#[test]
fn a_wal_that_contradicts_its_index_is_not_believed() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    let mut session = bench.session();
    app.insert(20);
    let mut published = session.published().unwrap().unwrap();
    published.checksum.s0 ^= 1;
    let error = session.advance(&published).unwrap_err();
    assert!(matches!(error, Error::WalMismatch { .. }), "{error}");
    published.checksum.s0 ^= 1;
    published.salts.salt2 ^= 1;
    let error = session.advance(&published).unwrap_err();
    assert!(matches!(error, Error::ContinuityLost { .. }), "{error}");
    session.may_reset = true; // then the salts must be those of the WAL itself
    let error = session.advance(&published).unwrap_err();
    assert!(matches!(error, Error::WalMismatch { .. }), "{error}");
}

#[test]
fn pages_stay_pending_when_the_spool_is_full() {
    let mut bench = Bench::with_limit(20_000);
    let mut app = App::plain(&bench.path());
    let mut session = bench.session();
    app.insert(40);
    bench.capture(&mut session);
    let kept = bench.spool.pending();
    app.insert(5);
    session.step().unwrap();
    let pages = session.pending_pages();
    let error = session.cut(bench.now()).unwrap_err();
    assert!(error.is_full(), "{error}");
    assert_eq!(session.pending_pages(), pages);
    app.insert(5);
    session.step().unwrap();
    let mut image = Vec::new();
    for entry in &kept {
        apply(&entry.path, &mut image);
        bench.spool.ack(entry.txid).unwrap();
    }
    let entry = session.cut(bench.now()).unwrap().unwrap();
    apply(&entry.path, &mut image);
    drop(session);
    app.checkpoint("TRUNCATE");
    assert!(image == fs::read(bench.path()).unwrap());
}

#[test]
fn pages_for_which_there_is_no_room_are_read_again_and_not_left_out() {
    let mut bench = Bench::with_limit(40_000);
    let mut app = App::plain(&bench.path());
    let scratch = tempfile::tempdir().unwrap();
    let mut session = bench.session();
    let mut image = Vec::new();
    bench.capture(&mut session);
    app.insert(100);
    bench.capture(&mut session); // beyond the limit: nothing more is taken
    session.options.scratch_dir = scratch.path().to_path_buf();
    session.pending = session.empty_set();
    session.spare = None;
    app.insert(400); // more than fits into memory
    session.step().unwrap();
    // Neither the spool nor the scratch directory takes anything now.
    scratch.close().unwrap();
    session.cut(bench.now()).unwrap_err();
    assert!(matches!(session.look(), Err(Error::NotStarted { .. })));
    app.insert(3);
    for entry in bench.spool.pending() {
        apply(&entry.path, &mut image);
        bench.spool.ack(entry.txid).unwrap();
    }
    let refused = session.cut(bench.now()).unwrap_err();
    assert!(refused.needs_reopen(), "{refused}");
    drop(session);
    let mut session = bench.session();
    bench.capture(&mut session);
    for entry in bench.spool.pending() {
        apply(&entry.path, &mut image);
    }
    drop(session);
    app.checkpoint("TRUNCATE");
    assert!(image == fs::read(bench.path()).unwrap());
}

#[test]
fn a_half_written_index_is_waited_for_and_then_repaired() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    let mut session = bench.session();
    app.insert(5);
    app.kill();
    tear(&bench);
    for _ in 0..=TORN_LOOKS {
        assert_eq!(session.look().unwrap(), Look::Uncommitted); // repaired by the last one
    }
    assert_eq!(session.look().unwrap(), Look::New);
    assert!(bench.capture(&mut session) > 0);
    let mut app = App::open(&bench.path(), &["PRAGMA wal_autocheckpoint=0"]);
    bench.assert_equal(session, &mut app);
}

/// What a writer leaves that died between the two copies of the header.
fn tear(bench: &Bench) {
    let shm = fs::File::options()
        .read(true)
        .write(true)
        .open(bench.beside("-shm"))
        .unwrap();
    let mut change = [0; 1];
    shm.read_exact_at(&mut change, 56).unwrap();
    shm.write_all_at(&[change[0].wrapping_add(1)], 56).unwrap();
}

#[test]
fn a_drain_goes_by_the_wal_when_the_index_stays_half_written() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    let mut session = bench.session();
    app.insert(5);
    bench.capture(&mut session);
    app.insert(5);
    app.kill();
    tear(&bench);
    let entry = session.drain(bench.now()).unwrap().unwrap();
    assert!(!pages_of(&entry.path).is_empty());
    let mut app = App::open(&bench.path(), &["PRAGMA wal_autocheckpoint=0"]);
    app.checkpoint("TRUNCATE");
    assert!(bench.image() == fs::read(bench.path()).unwrap());
}

#[test]
fn spans_begin_after_the_last_one_or_after_the_header_of_a_new_generation() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    let mut session = bench.session();
    app.insert(1);
    bench.capture(&mut session);
    rest_after_copy(&mut session, &mut app);
    app.insert(1);
    session.step().unwrap();
    assert_eq!(
        session.span_from, HEADER_BYTES as u64,
        "a new generation begins"
    );
    bench.capture(&mut session);
    assert_eq!(session.span_from, session.cursor.unwrap().offset());
}

#[test]
fn a_drain_keeps_what_was_read_when_the_rest_is_damaged() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    let mut session = bench.session();
    app.insert(5);
    session.step().unwrap();
    let files = bench.spool.pending().len();
    let end = session.cursor.unwrap().offset();
    app.insert(5);
    let wal = fs::File::options()
        .write(true)
        .open(bench.beside("-wal"))
        .unwrap();
    wal.set_len(end).unwrap();
    assert!(session.drain(bench.now()).unwrap_err().is_corrupt());
    assert_eq!(bench.spool.pending().len(), files + 1);
}

#[test]
fn the_bytes_that_were_proven_are_the_bytes_that_are_captured() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    let mut session = bench.session();
    session.step().unwrap();
    app.insert(40);
    let published = session.published().unwrap().unwrap();
    let (cursor, span_from) = session.cursor_for(&published).unwrap();
    let window = &mut session.window;
    let scan = tail::scan(&session.live, cursor, &published, Reach::Window, window).unwrap();
    // Between proof and copy the frames become garbage, as no rule of SQLite's lets them.
    let wal = fs::File::options()
        .read(true)
        .write(true)
        .open(bench.beside("-wal"))
        .unwrap();
    let mut whole = vec![0; usize::try_from(wal.metadata().unwrap().len()).unwrap()];
    wal.read_exact_at(&mut whole, 0).unwrap();
    wal.write_all_at(&vec![0xaa; whole.len() - HEADER_BYTES], HEADER_BYTES as u64)
        .unwrap();
    session.take(&scan, span_from).unwrap();
    wal.write_all_at(&whole, 0).unwrap();
    bench.capture(&mut session);
    bench.assert_equal(session, &mut app);
}

/// A busy writer, whose checkpoints are braked.
fn braked() -> (Bench, App, Session) {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    let mut session = bench.session();
    for _ in 0..=BUSY_STEPS {
        app.insert(3);
        session.step().unwrap();
    }
    assert!(session.hold.is_braked());
    (bench, app, session)
}

#[test]
fn a_writer_that_paused_is_quiet_after_one_look() {
    let (mut bench, mut app, mut session) = braked();
    std::thread::sleep(Cadence::CALM);
    assert_eq!(session.look().unwrap(), Look::Quiet);
    assert!(session.is_quiet() && !session.is_busy() && !session.hold.is_braked());
    // And one that pauses after each commit never is a busy one.
    for _ in 0..=BUSY_STEPS {
        std::thread::sleep(Cadence::CALM);
        app.insert(3);
        assert_eq!(session.look().unwrap(), Look::New);
        session.step().unwrap();
        assert!(!session.is_busy() && !session.is_quiet());
    }
    bench.capture(&mut session);
    bench.assert_equal(session, &mut app);
}

#[test]
fn what_is_committed_within_a_look_is_seen_by_it() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    let mut session = bench.session();
    app.insert(3);
    bench.capture(&mut session);
    assert_eq!(session.look_for_work().unwrap(), Look::Quiet);
    // After a look at what is published, and before the one at the locks.
    app.insert(3);
    assert_eq!(session.look_for_work().unwrap(), Look::New);
    app.sql("BEGIN IMMEDIATE");
    bench.capture(&mut session);
    assert_eq!(session.look_for_work().unwrap(), Look::Uncommitted);
    app.sql("COMMIT");
    bench.assert_equal(session, &mut app);
}

#[test]
fn a_checkpoint_that_has_the_writers_wait_is_let_through_at_once() {
    for mode in ["FULL", "RESTART", "TRUNCATE"] {
        let (mut bench, mut app, mut session) = braked();
        let mut other = App::open(&bench.path(), &["PRAGMA busy_timeout=5000"]);
        let begun = Instant::now();
        let done = std::thread::spawn(move || other.sql(&format!("PRAGMA wal_checkpoint({mode})")));
        while !done.is_finished() && begun.elapsed() < Duration::from_secs(10) {
            session.look().unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
        let (took, said) = (begun.elapsed(), done.join().unwrap());
        assert!(
            said.starts_with("[[0, "),
            "{mode}: refused after {took:?}: {said}"
        );
        assert!(took < Duration::from_secs(2), "{mode} took {took:?}");
        app.insert(3);
        bench.capture(&mut session);
        bench.assert_equal(session, &mut app);
    }
}
