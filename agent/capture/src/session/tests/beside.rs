//! The `-wal` and the `-shm` are deleted while the database is in use: by a kubelet that removes a
//! volume, by a person, by a tool that puts another database there.

use std::fs;

use super::*;

fn delete(bench: &Bench, suffixes: &[&str]) {
    for suffix in suffixes {
        fs::remove_file(bench.beside(suffix)).unwrap();
    }
}

fn assert_bare(session: &mut Session) {
    let error = session.look().unwrap_err();
    assert!(matches!(error, Error::Bare { .. }), "{error}");
    assert!(error.is_transient() && !error.needs_reopen());
}

#[test]
fn commits_into_a_deleted_wal_are_read_and_nothing_is_made_beside_it() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    let mut session = bench.session();
    app.insert(3);
    bench.capture(&mut session);
    session.relax(); // the next connection would create what is missing
    delete(&bench, &["-wal", "-shm"]);
    assert_bare(&mut session);
    app.insert(40);
    assert_eq!(session.look().unwrap(), Look::New);
    assert!(bench.capture(&mut session) > 0);
    assert_bare(&mut session);
    session.options.wal_soft_bytes = 1;
    session.options.wal_hard_bytes = 1;
    assert!(matches!(session.checkpoint(), Err(Error::Bare { .. })));
    assert!(matches!(
        session.snapshot(bench.now()),
        Err(Error::Bare { .. })
    ));
    for suffix in ["-wal", "-shm"] {
        assert!(!bench.beside(suffix).exists(), "a {suffix} was made");
    }
    let rows = app.rows();
    app.kill();
    assert_bare(&mut session); // the file lacks what was committed
    // What a kubelet does last.
    delete(&bench, &[""]);
    assert_eq!(session.look().unwrap(), Look::Unlinked);
    session.drain(bench.now()).unwrap();
    assert_eq!(bench.captured_rows(), rows);
}

#[test]
fn whoever_opens_the_database_anew_is_followed() {
    for deleted in [&["-wal", "-shm"][..], &["-shm"], &["-wal"]] {
        let mut bench = Bench::new();
        let mut old = App::plain(&bench.path());
        old.checkpoint("PASSIVE");
        let mut session = bench.session();
        old.insert(3);
        bench.capture(&mut session);
        old.checkpoint("PASSIVE");
        delete(&bench, deleted);
        assert_bare(&mut session);
        old.kill();
        assert_eq!(session.look().unwrap(), Look::Closed, "{deleted:?}");
        let mut new = App::open(&bench.path(), &["PRAGMA wal_autocheckpoint=0"]);
        new.insert(30);
        assert_eq!(session.look().unwrap(), Look::Replaced, "{deleted:?}");
        // Whatever this reads or refuses: the next session brings what is there.
        let _read = session.step();
        let _cut = session.cut(bench.now());
        drop(session);
        let mut session = bench.session();
        new.insert(5);
        bench.capture(&mut session);
        assert_eq!(session.look().unwrap(), Look::Quiet, "{deleted:?}");
        bench.assert_equal(session, &mut new);
    }
}

#[test]
fn a_file_that_came_beside_the_wal_of_another_waits() {
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    let mut session = bench.session();
    app.insert(20);
    app.kill();
    let other = bench.dir.path().join("other.db");
    let mut app = App::open(&other, &["CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)"]);
    app.insert(1);
    app.kill();
    rustix::fs::rename(&other, bench.path()).unwrap();
    // SQLite would play that WAL onto the file.
    assert_eq!(session.look().unwrap(), Look::Unlinked);
    delete(&bench, &["-wal", "-shm"]);
    assert_eq!(session.look().unwrap(), Look::Replaced);
    drop(session);
    let mut app = App::plain(&bench.path());
    let session = bench.session();
    bench.assert_equal(session, &mut app);
}

#[test]
fn what_was_committed_and_closed_between_two_looks_is_followed() {
    for deleted in [&["-wal", "-shm"][..], &["-shm"], &["-wal"]] {
        let mut bench = Bench::new();
        let mut old = App::plain(&bench.path());
        let mut session = bench.session();
        old.insert(3);
        bench.capture(&mut session);
        delete(&bench, deleted);
        assert_bare(&mut session);
        old.insert(5);
        bench.capture(&mut session);
        assert_bare(&mut session);
        old.checkpoint("PASSIVE");
        assert_bare(&mut session);
        old.kill();
        let mut new = App::plain(&bench.path());
        new.insert(7);
        new.run("db.close()");
        if deleted == ["-wal"] {
            // They had the same -shm, which tells of a WAL that is not the deleted one.
            assert_eq!(session.look().unwrap(), Look::New);
            let error = session.step().unwrap_err();
            assert!(error.needs_reopen(), "{error}");
        } else {
            assert_eq!(session.look().unwrap(), Look::Closed, "{deleted:?}");
        }
        drop(session);
        let mut session = bench.session();
        let mut new = App::plain(&bench.path());
        new.insert(1);
        bench.capture(&mut session);
        bench.assert_equal(session, &mut new);
    }
}
