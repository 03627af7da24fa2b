//! The process that checks a database, over sound, damaged and hostile ones. It gives up its rights
//! for good, so each test starts this test program once more, as the agent starts itself.

use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::Uid;
use rustix::thread;
use tempfile::TempDir;

use super::*;

const FILE: &str = "SQLREP_TEST_QUICK_CHECK";
const TRY: &str = "SQLREP_TEST_QUICK_CHECK_TRIES";

/// Not a test: the process, when a test starts it.
#[test]
fn the_process() {
    let Some(path) = env::var_os(FILE) else {
        return;
    };
    // The test program has a line begun and not ended.
    println_raw("\n");
    if env::var_os(TRY).is_some() {
        prepared(Path::new(&path)).unwrap();
        for (what, done) in tries() {
            println_raw(&format!(
                "found {what} {}\n",
                if done { "worked" } else { "refused" }
            ));
        }
        println_raw("done\n");
        return;
    }
    quick_check(Path::new(&path), io::stdout()).unwrap();
}

fn println_raw(text: &str) {
    io::stdout().write_all(text.as_bytes()).unwrap();
}

/// What the process must not be able to do any more.
fn tries() -> Vec<(&'static str, bool)> {
    let other =
        |id| thread::set_thread_res_uid(Uid::from_raw(id), Uid::from_raw(id), Uid::from_raw(id));
    vec![
        ("open", fs::File::open("/etc/passwd").is_ok()),
        ("open-proc", fs::File::open("/proc/self/status").is_ok()),
        ("open-root", fs::read_dir("/").is_ok()),
        ("write", fs::write("/tmp/sqlrep-quick-check", "x").is_ok()),
        ("socket", std::net::UdpSocket::bind("127.0.0.1:0").is_ok()),
        ("connect", std::os::unix::net::UnixStream::pair().is_ok()),
        ("exec", Command::new("/bin/true").status().is_ok()),
        ("root", other(0).is_ok()),
        (
            "much memory",
            vec![1_u8; 0].try_reserve_exact(256 << 20).is_ok(),
        ),
    ]
}

fn start(path: &Path, tries: bool) -> Vec<Word> {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args([
            "--exact",
            "inspect::tests::the_process",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(FILE, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    if tries {
        command.env(TRY, "1");
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

fn check(path: &Path) -> Vec<Word> {
    start(path, false)
}

fn database(sql: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app #1%3f?.db");
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch(sql).unwrap();
    drop(connection);
    (dir, path)
}

fn ok() -> Vec<Word> {
    vec![Word::Ready, Word::Found("ok".to_owned()), Word::Done]
}

const ROWS: &str = "CREATE TABLE t(x); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 \
     FROM n WHERE i < 200) INSERT INTO t SELECT randomblob(900) FROM n;";

#[test]
fn a_sound_database_is_ok_with_and_without_a_wal() {
    for mode in ["delete", "wal"] {
        let (_dir, path) = database(&format!("PRAGMA journal_mode={mode}; {ROWS}"));
        assert_eq!(check(&path), ok(), "{mode}");
    }
}

#[test]
fn a_page_that_is_corrupt_is_found() {
    let (_dir, path) = database(ROWS);
    let mut bytes = fs::read(&path).unwrap();
    bytes[4096 * 20..4096 * 20 + 200].fill(0x55);
    fs::write(&path, &bytes).unwrap();
    let said = check(&path);
    assert!(said.len() >= 3 && said != ok(), "{said:?}");
    assert_eq!(said.last(), Some(&Word::Done));
}

#[test]
fn what_is_no_database_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.db");
    fs::write(&path, "no database at all ".repeat(400)).unwrap();
    let said = check(&path);
    assert!(
        matches!(&said[..], [Word::Ready, Word::Found(text), Word::Done] if text.contains("not a database")),
        "{said:?}"
    );
}

#[test]
fn a_schema_that_is_damaged_is_found_and_said_in_one_line() {
    let (_dir, path) = database(
        "CREATE TABLE t(x); PRAGMA writable_schema=on; \
         UPDATE sqlite_schema SET sql='CREATE TABLE t(' || char(10) || 'done' || char(10) || 'x'",
    );
    let said = check(&path);
    assert!(
        matches!(&said[..], [Word::Ready, Word::Found(text), Word::Done] if text.contains("malformed")),
        "{said:?}"
    );
}

#[test]
fn a_header_of_a_huge_database_is_found_in_no_time_and_no_memory() {
    let (_dir, path) = database(ROWS);
    let mut bytes = fs::read(&path).unwrap();
    bytes[28..32].copy_from_slice(&u32::MAX.to_be_bytes());
    fs::write(&path, &bytes).unwrap();
    let said = check(&path);
    assert!(said.len() == 3 && said != ok(), "{said:?}");
}

/// A table of so many rows, each with a column that is to be worked out and must not be NULL.
fn computed(rows: u32, column: &str) -> (TempDir, PathBuf) {
    database(&format!(
        "CREATE TABLE t(x, y); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n \
         WHERE i < {rows}) INSERT INTO t SELECT i, 1 FROM n; PRAGMA writable_schema=on; \
         UPDATE sqlite_schema SET sql='CREATE TABLE t(x, y, z AS ({column}) NOT NULL)'"
    ))
}

#[test]
fn a_schema_that_eats_memory_is_not_called_ok() {
    let (_dir, path) = computed(1, "length(hex(zeroblob(300000000 + x)))");
    let said = check(&path);
    assert!(
        matches!(&said[..], [Word::Ready, Word::Failed(text)] if text.contains("memory")),
        "{said:?}"
    );
}

#[test]
fn a_schema_that_never_ends_is_ended() {
    let (_dir, path) = computed(50_000, "length(hex(zeroblob(4000000 + x)))");
    let begun = Instant::now();
    assert_eq!(check(&path), [Word::Ready], "it is killed without a word");
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(SECONDS_MIN - 1), "{took:?}");
}

#[test]
fn what_it_has_given_up_it_does_not_get_back() {
    let (_dir, path) = database(ROWS);
    let said = start(&path, true);
    assert!(
        said.len() > 8 && said.last() == Some(&Word::Done),
        "{said:?}"
    );
    for word in &said {
        assert!(
            !matches!(word, Word::Found(text) if text.ends_with("worked")),
            "{said:?}"
        );
    }
}

#[test]
fn words_are_lines_and_are_read_as_they_were_said() {
    for word in [
        Word::Ready,
        Word::Found("*** in database main ***".to_owned()),
        Word::Done,
        Word::Failed("out of memory".to_owned()),
    ] {
        assert_eq!(word.to_string().parse::<Word>().unwrap(), word);
    }
    let two = Word::Found("a\nok".to_owned()).to_string();
    assert_eq!(two, "found a ok");
    assert!("ok".parse::<Word>().is_err());
}
