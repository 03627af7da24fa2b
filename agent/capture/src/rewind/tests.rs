//! The conversation of a rewind, over a live database that an app has open.

use std::io::Cursor;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::testing::App;

/// A live database with three rows more than the state that is kept of it in `then.db`.
fn scene(journal: &str) -> (TempDir, App) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.db");
    let mut app = App::open(
        &path,
        &[
            &format!("PRAGMA journal_mode={journal}"),
            "CREATE TABLE t(v)",
            "INSERT INTO t VALUES (1), (2)",
        ],
    );
    let then = dir.path().join("then.db");
    app.sql(&format!("VACUUM INTO '{}'", then.display()));
    if journal == "wal" {
        // what a restore gives has its mode, and no -wal
        let kept = Connection::open(&then).unwrap();
        kept.query_row("PRAGMA journal_mode=wal", [], |_| Ok(()))
            .unwrap();
    }
    app.sql("ALTER TABLE t ADD COLUMN w");
    app.sql("INSERT INTO t VALUES (3, 3), (4, 4), (5, 5)");
    (dir, app)
}

fn job(dir: &Path) -> Rewind {
    Rewind {
        source: dir.join("then.db"),
        volume: dir.to_owned(),
        path: "app.db".into(),
    }
}

/// As `prepare`, without giving up the rights of this process, which has other tests to run.
fn prepared(dir: &Path) -> Prepared {
    let job = job(dir);
    let file = LiveFile::new(&job.volume, &job.path).unwrap();
    job.must_fit(&file).unwrap();
    Site::of(&file).unwrap();
    let live = Connection::open(dir.join("app.db")).unwrap();
    Prepared {
        source: job.open_source().unwrap(),
        live,
        patience: Duration::from_millis(50),
    }
}

fn told(dir: &Path, orders: &str) -> Vec<Answer> {
    let mut said = Vec::new();
    let obeyed = prepared(dir).obey(Cursor::new(orders.to_owned()), &mut said);
    obeyed.unwrap();
    let said = String::from_utf8(said).unwrap();
    said.lines().map(|line| line.parse().unwrap()).collect()
}

#[test]
fn a_rewind_is_one_commit_that_open_connections_see() {
    for journal in ["wal", "delete"] {
        let (dir, mut app) = scene(journal);
        assert_eq!(app.sql("SELECT count(*) FROM t"), "[[5]]");
        let said = told(dir.path(), "lock\nwrite\n");
        assert_eq!(said, [Answer::Ready, Answer::Locked, Answer::Done]);
        assert_eq!(app.sql("SELECT * FROM t"), "[[1], [2]]", "{journal}");
        assert_eq!(app.sql("PRAGMA integrity_check"), "[[\"ok\"]]");
        // The schema that this connection knew at another time does not come back with its number.
        app.sql("ALTER TABLE t ADD COLUMN x");
        assert_eq!(app.sql("SELECT * FROM t"), "[[1, null], [2, null]]");
        assert_eq!(app.sql("PRAGMA journal_mode"), format!("[[\"{journal}\"]]"));
    }
}

#[test]
fn orders_that_end_early_change_nothing() {
    for (orders, last) in [
        ("", Answer::Ready),
        ("lock\n", Answer::Locked),
        (
            "lock\nlock\n",
            Answer::Refused("it has the lock".to_owned()),
        ),
    ] {
        let (dir, mut app) = scene("wal");
        assert_eq!(told(dir.path(), orders).last(), Some(&last), "{orders:?}");
        assert_eq!(app.sql("SELECT count(*) FROM t"), "[[5]]", "{orders:?}");
        app.sql("INSERT INTO t VALUES (6, 6)"); // nobody holds a lock
    }
}

#[test]
fn nothing_is_written_without_the_lock() {
    let (dir, mut app) = scene("wal");
    let said = told(dir.path(), "write\n");
    assert!(matches!(&said[1..], [Answer::Refused(_)]), "{said:?}");
    assert_eq!(app.sql("SELECT count(*) FROM t"), "[[5]]");
}

#[test]
fn an_app_in_a_transaction_is_not_overwritten() {
    for journal in ["wal", "delete"] {
        let (dir, mut app) = scene(journal);
        app.sql("BEGIN IMMEDIATE");
        app.sql("INSERT INTO t VALUES (6, 6)");
        assert_eq!(
            told(dir.path(), "lock\nlock\n"),
            [Answer::Ready, Answer::Busy, Answer::Busy],
            "{journal}"
        );
        app.sql("COMMIT");
        assert_eq!(app.sql("SELECT count(*) FROM t"), "[[6]]");
    }
}

/// Where the child of the test below ends itself, in which directory.
const END_AT: &str = "SQLREP_TESTS_END_AT";

/// Ends the process by SIGKILL when a word of this number is about to be said, or was just said.
struct Ends {
    said: u32,
    at: u32,
    after: bool,
}

impl Ends {
    fn end_if(&self, after: bool) {
        if self.said == self.at && self.after == after {
            let this = rustix::process::getpid();
            rustix::process::kill_process(this, rustix::process::Signal::KILL).unwrap();
        }
    }
}

impl Write for Ends {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.end_if(false);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.end_if(true);
        self.said += 1;
        Ok(())
    }
}

/// The other half of the test below, in a process of its own.
fn end_at(spec: &str) {
    let mut parts = spec.splitn(3, ' ');
    let mut next = || parts.next().unwrap();
    let ends = Ends {
        said: 0,
        at: next().parse().unwrap(),
        after: next() == "after",
    };
    let orders = Cursor::new("lock\nwrite\n");
    prepared(Path::new(next())).obey(orders, ends).unwrap();
}

/// A scene of which `then.db` takes several steps to write: it has 5 rows, the app has 6 now.
fn long_scene(journal: &str) -> (TempDir, App) {
    let (dir, mut app) = scene(journal);
    app.sql(
        "CREATE TABLE filler AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n \
         WHERE i < 3000) SELECT randomblob(3000) FROM n",
    );
    let then = dir.path().join("then.db");
    std::fs::remove_file(&then).unwrap();
    app.sql(&format!("VACUUM INTO '{}'", then.display()));
    if journal == "wal" {
        let kept = Connection::open(&then).unwrap();
        kept.query_row("PRAGMA journal_mode=wal", [], |_| Ok(()))
            .unwrap();
    }
    app.sql("INSERT INTO t VALUES (6, 6)");
    (dir, app)
}

#[test]
fn a_process_killed_between_any_two_steps_has_rewound_all_or_nothing() {
    const THIS: &str =
        "rewind::tests::a_process_killed_between_any_two_steps_has_rewound_all_or_nothing";
    if let Ok(spec) = std::env::var(END_AT) {
        return end_at(&spec);
    }
    for journal in ["wal", "delete"] {
        let mut at = 0;
        let mut killed = true;
        while killed {
            killed = false;
            for when in ["before", "after"] {
                let (dir, mut app) = long_scene(journal);
                let child = std::process::Command::new(std::env::current_exe().unwrap())
                    .args(["--exact", THIS, "--test-threads", "1"])
                    .env(END_AT, format!("{at} {when} {}", dir.path().display()))
                    .stdout(std::process::Stdio::null())
                    .status()
                    .unwrap();
                killed |= !child.success();
                let step = format!("{journal}, {when} word {at}");
                let rows = app.sql("SELECT count(*) FROM t");
                let rewound = rows == "[[5]]";
                assert!(rewound || rows == "[[6]]", "{step}: {rows}");
                assert!(rewound || !child.success(), "{step}: it ended, and is not");
                assert_eq!(app.sql("PRAGMA integrity_check"), "[[\"ok\"]]", "{step}");
                app.sql("INSERT INTO t VALUES (7, 7)"); // nobody holds a lock
            }
            at += 1;
        }
        // ready, locked, some words about progress, done
        assert!(at > 5, "{journal}: {at} words");
    }
}

#[test]
fn a_state_of_another_kind_is_refused_by_name() {
    let (dir, _app) = scene("wal");
    let file = LiveFile::new(dir.path(), "app.db").unwrap();
    let then = dir.path().join("then.db");
    for (pragma, wanted) in [
        (
            "PRAGMA journal_mode=delete",
            "4096 bytes a page, without a WAL",
        ),
        (
            "PRAGMA page_size=512; VACUUM; PRAGMA journal_mode=wal",
            "512 bytes a page, with a WAL",
        ),
    ] {
        let kept = Connection::open(&then).unwrap();
        kept.execute_batch(pragma).unwrap();
        drop(kept);
        let error = job(dir.path()).must_fit(&file).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
        assert!(
            error.contains("has 4096 bytes a page, with a WAL"),
            "{error}"
        );
    }
}

#[test]
fn the_wanted_state_may_lie_anywhere() {
    let (dir, _app) = scene("wal");
    let odd = dir.path().join("50% of #1?");
    std::fs::create_dir(&odd).unwrap();
    let source = odd.join("then.db");
    rustix::fs::rename(dir.path().join("then.db"), &source).unwrap();
    let job = Rewind {
        source,
        ..job(dir.path())
    };
    let rows = "SELECT count(*) FROM t";
    let rows = job
        .open_source()
        .unwrap()
        .query_row(rows, [], |row| row.get(0));
    assert_eq!(rows, Ok(2));
}

#[test]
fn what_is_said_is_what_is_heard() {
    for answer in [
        Answer::Ready,
        Answer::Locked,
        Answer::Busy,
        Answer::Wrote { pages: 7, of: 9 },
        Answer::Done,
        Answer::Refused("no, thanks".to_owned()),
        Answer::Failed("disk full".to_owned()),
    ] {
        assert_eq!(answer.to_string().parse::<Answer>().unwrap(), answer);
    }
    let two_lines = Answer::Failed("one\ntwo".to_owned()).to_string();
    assert_eq!(two_lines, "failed one two");
    for order in [Order::Lock, Order::Write] {
        assert_eq!(order.to_string().parse::<Order>().unwrap(), order);
    }
    for line in ["", "wrote", "wrote 1", "wrote x 2", "LOCK"] {
        assert!(line.parse::<Answer>().is_err(), "{line:?}");
        assert!(line.parse::<Order>().is_err(), "{line:?}");
    }
}
