//! The end of the application's checkpoint, which is waited for.

use std::os::fd::AsRawFd as _;

use super::*;
use crate::hold::Rest;
use crate::testing::is_lock_waited_for;

/// Frames in the WAL, none of them unread, and mark 0 held as by a checkpoint that copies them.
fn under_way(bench: &mut Bench) -> (App, Session) {
    let mut app = App::plain(&bench.path());
    app.sql("PRAGMA wal_autocheckpoint=0");
    let mut session = bench.session();
    for _ in 0..=BUSY_STEPS {
        app.insert(6000); // 3 MB each: in all more than a checkpoint is worth
        session.step().unwrap();
    }
    assert!(session.is_ebbing());
    begin(bench, &mut app);
    (app, session)
}

/// Has the application hold mark 0.
fn begin(bench: &Bench, app: &mut App) {
    app.run(&format!(
        "import fcntl\nshm = open({:?}, 'r+b')\nfcntl.lockf(shm, fcntl.LOCK_EX, 1, 123)",
        bench.beside("-shm").display().to_string()
    ));
}

const END: &str = "fcntl.lockf(shm, fcntl.LOCK_UN, 1, 123)";

/// Waits for the end, which comes when the session waits for it.
fn outwait(app: &mut App, session: &mut Session) -> Option<Rest> {
    let Session {
        live, hold, cursor, ..
    } = session;
    let look = || live.published().map_err(std::io::Error::other);
    let is_captured = |now: &Published| reading::is_read(cursor.as_ref(), now);
    let shm = live.shm().as_raw_fd();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_lock_waited_for(shm) {
                std::thread::sleep(Duration::from_millis(1));
            }
            app.run(END);
        });
        let patience = Duration::from_mins(1);
        hold.rest_after_checkpoint(live.shm(), patience, is_captured, look)
            .unwrap()
    })
}

#[test]
fn the_wal_is_let_go_when_it_is_copied_and_captured() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    app.sql("PRAGMA wal_autocheckpoint=0");
    let mut session = bench.session();
    app.insert(50);
    session.step().unwrap();
    app.checkpoint("PASSIVE");
    begin(&bench, &mut app);
    let seen = session.published().unwrap().unwrap();
    session.settle(&seen).unwrap();
    assert!(!session.hold.is_resting(), "a checkpoint is under way");
    assert_eq!(outwait(&mut app, &mut session), Some(Rest::Resting));
    assert!(session.hold.is_resting());
    session.may_reset = true;
    app.insert(3); // begins the WAL anew
    bench.capture(&mut session);
    bench.assert_equal(session, &mut app);
}

#[test]
fn a_wal_that_is_not_copied_to_its_end_stays_held_and_may_be_copied() {
    let mut bench = Bench::new();
    let (mut app, mut session) = under_way(&mut bench);
    assert_eq!(outwait(&mut app, &mut session), Some(Rest::NotNow));
    let done = app.checkpoint("PASSIVE");
    let numbers: Vec<&str> = done.trim_matches(['[', ']']).split(", ").collect();
    assert_eq!((numbers[0], numbers[1]), ("0", numbers[2]), "{done}");
    let done = app.checkpoint("TRUNCATE");
    assert!(done.starts_with("[[1,"), "it is still held: {done}");
    bench.capture(&mut session);
    bench.assert_equal(session, &mut app);
}

#[test]
fn what_was_committed_during_the_checkpoint_stays_held() {
    let mut bench = Bench::new();
    let (mut app, mut session) = under_way(&mut bench);
    app.insert(5); // not read
    app.checkpoint("PASSIVE");
    begin(&bench, &mut app);
    assert_eq!(outwait(&mut app, &mut session), Some(Rest::NotNow));
    app.insert(5); // would begin the WAL anew
    bench.capture(&mut session);
    bench.assert_equal(session, &mut app);
}

#[test]
fn a_checkpoint_that_never_ends_is_given_up_and_stops_nothing() {
    let mut bench = Bench::new();
    let (mut app, mut session) = under_way(&mut bench);
    let mut looks = 0;
    while session.awaits_checkpoint() {
        assert!(!session.hold.is_resting());
        session.look().unwrap();
        looks += 1;
        assert!(
            looks <= EBB_LOOKS / TIMED_OUT_LOOKS + 1,
            "it is waited for for ever"
        );
    }
    assert_eq!(session.pause(), Cadence::BUSY);
    app.insert(5);
    bench.capture(&mut session);
    app.run(END);
    bench.assert_equal(session, &mut app);
}
