//! What can be attached to, and what is refused.

use super::*;
use crate::{LiveFile, Probe, convert_to_wal, probe};

#[test]
fn one_process_has_one_session_of_an_inode() {
    let mut bench = Bench::new();
    let _app = App::plain(&bench.path());
    let session = bench.session();
    let error = bench.try_open().unwrap_err();
    assert!(matches!(error, Error::Held { .. }), "{error}");
    assert!(matches!(
        probe(&bench.file()).unwrap_err(),
        Error::Held { .. }
    ));
    assert!(convert_to_wal(&bench.file()).is_ok(), "it is in WAL mode");
    drop(session);
    assert!(bench.try_open().is_ok());
}

#[test]
fn nothing_is_held_after_the_session() {
    let mut bench = Bench::new();
    let app = App::plain(&bench.path());
    let session = bench.session();
    app.kill();
    assert!(!locks(&bench.beside("-shm")).is_empty());
    drop(session);
    assert!(locks(&bench.beside("-shm")).is_empty());
    assert!(locks(&bench.path()).is_empty());
}

#[test]
fn other_journal_modes_are_named_with_what_to_do() {
    let mut bench = Bench::new();
    let mut app = App::open(&bench.path(), &["CREATE TABLE t(a)"]);
    assert!(matches!(
        probe(&bench.file()).unwrap(),
        Probe::Rollback { .. }
    ));
    let error = bench.try_open().unwrap_err();
    assert!(error.is_unsupported(), "{error}");
    let text = error.to_string();
    assert!(text.contains("journal_mode=delete") && text.contains("sqlrep.io/journal-mode"));
    app.sql("BEGIN IMMEDIATE");
    let error = convert_to_wal(&bench.file()).unwrap_err();
    assert!(
        matches!(error, Error::Busy { .. }) && error.is_transient(),
        "{error}"
    );
    app.sql("COMMIT");
    convert_to_wal(&bench.file()).unwrap();
    convert_to_wal(&bench.file()).unwrap();
    assert!(matches!(probe(&bench.file()).unwrap(), Probe::Wal { .. }));
    app.sql("INSERT INTO t VALUES(1)");
    let session = bench.session();
    bench.assert_equal(session, &mut app);
}

#[test]
fn files_that_are_no_database_are_refused() {
    let mut bench = Bench::new();
    for (bytes, what) in [
        (vec![0x55; 8192], "encrypted"),
        (vec![1; 10], "no SQLite database"),
    ] {
        fs::write(bench.path(), bytes).unwrap();
        let error = bench.try_open().unwrap_err();
        assert!(
            error.is_unsupported() && error.to_string().contains(what),
            "{error}"
        );
    }
    fs::write(bench.path(), "").unwrap();
    assert_eq!(probe(&bench.file()).unwrap(), Probe::Empty);
    assert!(bench.try_open().unwrap_err().is_unsupported());
    fs::remove_file(bench.path()).unwrap();
    assert!(bench.try_open().unwrap_err().is_missing());
}

#[test]
fn an_exclusive_application_is_busy_and_is_left_alone() {
    let mut bench = Bench::new();
    let setup = [
        "PRAGMA journal_mode=wal",
        "PRAGMA locking_mode=exclusive",
        "CREATE TABLE t(a)",
    ];
    let mut app = App::open(&bench.path(), &setup);
    let error = bench.try_open().unwrap_err();
    assert!(matches!(error, Error::Busy { .. }), "{error}");
    app.sql("INSERT INTO t VALUES(1)");
}

#[test]
fn links_lead_nowhere() {
    let mut bench = Bench::new();
    let outside = bench.dir.path().join("outside.db");
    App::plain(&outside).kill();
    std::os::unix::fs::symlink(&outside, bench.path()).unwrap();
    let error = bench.try_open().unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    fs::remove_file(bench.path()).unwrap();
    rustix::fs::link(&outside, bench.path()).unwrap();
    let error = bench.try_open().unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    let other = bench.dir.path().join("volume/other");
    fs::create_dir(&other).unwrap();
    App::plain(&other.join("data.db")).kill();
    std::os::unix::fs::symlink("other", bench.dir.path().join("volume/link")).unwrap();
    std::os::unix::fs::symlink(bench.dir.path(), bench.dir.path().join("volume/out")).unwrap();
    for path in ["link/data.db", "out/outside.db"] {
        let file = LiveFile::new(bench.dir.path().join("volume"), path).unwrap();
        let error = probe(&file).unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{path}: {error}");
    }
    // a link in the place of the volume itself
    let file = LiveFile::new(bench.dir.path().join("volume/link"), "data.db").unwrap();
    assert!(probe(&file).is_err());
    for path in ["../outside.db", "/etc/passwd", "", "a/../b", "."] {
        assert!(LiveFile::new(bench.dir.path(), path).is_err(), "{path:?}");
    }
    assert!(LiveFile::new("relative", "data.db").is_err());
    fs::remove_file(bench.path()).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, bench.path(), fifo, mode, 0).unwrap();
    assert!(matches!(
        bench.try_open().unwrap_err(),
        Error::Refused { .. }
    ));
}

#[test]
fn files_that_sqlite_makes_for_us_belong_to_the_owner() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    if !rustix::process::geteuid().is_root() {
        return; // all files are ours then
    }
    let mut bench = Bench::new();
    let mut app = App::plain(&bench.path());
    app.run("db.close()");
    drop(app);
    assert!(!bench.beside("-wal").exists());
    fs::set_permissions(bench.dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    for path in [bench.dir.path().join("volume"), bench.path()] {
        std::os::unix::fs::chown(path, Some(4711), Some(4712)).unwrap();
    }
    let session = bench.session();
    for suffix in ["-wal", "-shm"] {
        let facts = fs::metadata(bench.beside(suffix)).unwrap();
        assert_eq!((facts.uid(), facts.gid()), (4711, 4712));
    }
    assert_eq!((session.ownership().0, session.ownership().1), (4711, 4712));
    assert!(bench.image() == fs::read(bench.path()).unwrap());
}
