//! For the tests: an application in a process of its own, and the state that L0 files add up to.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use sqlrep_format::{Timestamp, ltx};
use sqlrep_replica::DbId;
use sqlrep_spool::{DatabaseSpool, Limits, Spool};

use crate::{Error, LiveFile, Options, Session};

const DRIVER: &str = r#"
import json, os, random, sqlite3, sys, time
scope = dict(globals())
for line in sys.stdin:
    try:
        code = json.loads(line)
        try:
            answer = eval(compile(code, "test", "eval"), scope)
        except SyntaxError:
            exec(compile(code, "test", "exec"), scope)
            answer = None
        print(json.dumps(answer if isinstance(answer, (int, str, list, type(None))) else str(answer)), flush=True)
    except Exception as error:
        print(json.dumps("error: %s" % error), flush=True)
"#;

/// A Python process with a database open in WAL mode as `db`.
pub(crate) struct App {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl App {
    /// Opens `path`; `setup` are statements to run first.
    pub(crate) fn open(path: &Path, setup: &[&str]) -> Self {
        let mut child = Command::new("python3")
            .args(["-u", "-c", DRIVER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut app = Self {
            child,
            stdin,
            stdout,
        };
        let path = path.display();
        app.run(&format!(
            "db = sqlite3.connect({path:?}, isolation_level=None, timeout=0)"
        ));
        for statement in setup {
            app.sql(statement);
        }
        app
    }

    /// An application with WAL mode, no checkpoints of its own and a table.
    pub(crate) fn plain(path: &Path) -> Self {
        Self::with_page_size(path, 4096)
    }

    pub(crate) fn with_page_size(path: &Path, page_size: u32) -> Self {
        let mut app = Self::open(
            path,
            &[
                &format!("PRAGMA page_size={page_size}"),
                "PRAGMA journal_mode=wal",
                "PRAGMA wal_autocheckpoint=0",
                "CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, v BLOB)",
            ],
        );
        app.insert(10);
        app
    }

    /// Runs Python code; what it gives back, as JSON.
    pub(crate) fn try_run(&mut self, code: &str) -> String {
        self.send(code);
        self.answer()
    }

    fn send(&mut self, code: &str) {
        let quoted: String = code
            .chars()
            .map(|c| match c {
                '\n' => "\\n".to_owned(),
                '"' => "\\\"".to_owned(),
                '\\' => "\\\\".to_owned(),
                c => c.to_string(),
            })
            .collect();
        writeln!(self.stdin, "\"{quoted}\"").unwrap();
    }

    pub(crate) fn run(&mut self, code: &str) -> String {
        let answer = self.try_run(code);
        assert!(!answer.starts_with("\"error"), "{code}: {answer}");
        answer
    }

    /// Runs one statement; its rows, as JSON.
    pub(crate) fn sql(&mut self, statement: &str) -> String {
        self.run(&format!("[list(row) for row in db.execute({statement:?})]"))
    }

    /// Everything in its table.
    pub(crate) fn rows(&mut self) -> String {
        self.sql("SELECT id, hex(v) FROM t ORDER BY id")
    }

    /// One transaction that inserts `rows` rows of some 500 bytes.
    pub(crate) fn insert(&mut self, rows: u32) {
        self.run(&format!(
            "db.execute('BEGIN')\n\
             db.executemany('INSERT INTO t(v) VALUES(?)', [(os.urandom(500),) for _ in range({rows})])\n\
             db.execute('COMMIT')"
        ));
    }

    /// Inserts `rows` rows in a transaction that stays open.
    pub(crate) fn insert_more(&mut self, rows: u32) {
        self.run(&format!(
            "db.in_transaction or db.execute('BEGIN')\n\
             db.executemany('INSERT INTO t(v) VALUES(?)', [(os.urandom(500),) for _ in range({rows})])"
        ));
    }

    /// Begins to run `call`, which `code` defines; ask for the answer later.
    pub(crate) fn start(&mut self, code: &str, call: &str) {
        self.run(code);
        self.send(call);
    }

    /// Whether the answer is there.
    pub(crate) fn is_done(&mut self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::new(self.stdout.get_ref(), PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).unwrap() > 0
    }

    /// Waits for the answer.
    pub(crate) fn answer(&mut self) -> String {
        let mut answer = String::new();
        self.stdout.read_line(&mut answer).unwrap();
        answer.trim().to_owned()
    }

    /// `busy`, frames in the WAL, frames copied.
    pub(crate) fn checkpoint(&mut self, mode: &str) -> String {
        self.sql(&format!("PRAGMA wal_checkpoint({mode})"))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for App {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A volume with a database, and a state directory.
pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) spool: DatabaseSpool,
    clock: i64,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with_limit(1 << 40)
    }

    pub(crate) fn with_limit(bytes_max: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("volume")).unwrap();
        fs::create_dir(dir.path().join("scratch")).unwrap();
        let id = DbId::new("ns", "app", "vol", "data.db").unwrap();
        let spool = Spool::open(&dir.path().join("state"), Limits { bytes_max }).unwrap();
        let spool = spool.database(&id, "uid").unwrap();
        Self {
            dir,
            spool,
            clock: 1_700_000_000_000,
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("volume/data.db")
    }

    pub(crate) fn beside(&self, suffix: &str) -> PathBuf {
        self.dir.path().join(format!("volume/data.db{suffix}"))
    }

    pub(crate) fn file(&self) -> LiveFile {
        LiveFile::new(self.dir.path().join("volume"), "data.db").unwrap()
    }

    pub(crate) fn now(&mut self) -> Timestamp {
        self.clock += 10;
        Timestamp::from_millis(self.clock)
    }

    pub(crate) fn options(&self) -> Options {
        Options {
            arena_bytes: 64 * 1024,
            ..Options::new(7, self.dir.path().join("scratch"))
        }
    }

    pub(crate) fn try_open(&mut self) -> Result<Session, Error> {
        self.try_open_with(self.options())
    }

    fn try_open_with(&mut self, options: Options) -> Result<Session, Error> {
        let now = self.now();
        Session::open(&self.file(), self.spool.clone(), options, now)
    }

    /// A session that is started.
    pub(crate) fn session(&mut self) -> Session {
        self.session_with(self.options())
    }

    /// The same, with these options.
    pub(crate) fn session_with(&mut self, options: Options) -> Session {
        let mut session = self.try_open_with(options).unwrap();
        session.start(self.now()).unwrap();
        session
    }

    /// Reads all and cuts; the number of pages in the file.
    pub(crate) fn capture(&mut self, session: &mut Session) -> usize {
        session.step().unwrap();
        match session.cut(self.now()).unwrap() {
            Some(entry) => pages_of(&entry.path).len(),
            None => 0,
        }
    }

    /// The database that the L0 files add up to.
    pub(crate) fn image(&self) -> Vec<u8> {
        let mut image = Vec::new();
        for entry in self.spool.pending() {
            apply(&entry.path, &mut image);
        }
        image
    }

    /// The rows of the database that the L0 files add up to, as [`App::rows`] has them.
    pub(crate) fn captured_rows(&self) -> String {
        let copy = self.dir.path().join("copy.db");
        fs::write(&copy, self.image()).unwrap();
        App::open(&copy, &[]).rows()
    }

    /// Ends the session, lets `app` copy its WAL, and compares.
    pub(crate) fn assert_equal(&self, session: Session, app: &mut App) {
        drop(session);
        // A process that another test is about to start has our descriptors until it is another
        // program, and with them the locks.
        let mut done = app.checkpoint("TRUNCATE");
        for _ in 0..100 {
            if done.starts_with("[[0,") {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
            done = app.checkpoint("TRUNCATE");
        }
        assert!(
            done.starts_with("[[0,"),
            "nobody holds the WAL any more: {done}"
        );
        let source = fs::read(self.path()).unwrap();
        let image = self.image();
        assert_eq!(image.len(), source.len(), "size of the database");
        for (at, (ours, theirs)) in image.chunks(512).zip(source.chunks(512)).enumerate() {
            assert_eq!(ours, theirs, "bytes from {}", at * 512);
        }
    }
}

/// The pages of an LTX file, and the size that it gives the database.
fn read(path: &Path) -> (ltx::Header, Vec<(u32, Vec<u8>)>) {
    let file = BufReader::new(File::open(path).unwrap());
    let mut decoder = ltx::Decoder::new(file).unwrap();
    let header = *decoder.header();
    let mut pages = Vec::new();
    let mut page = vec![0; header.page_size.bytes()];
    while let Some(pgno) = decoder.next_page(&mut page).unwrap() {
        pages.push((pgno.get(), page.clone()));
    }
    decoder.finish().unwrap();
    (header, pages)
}

pub(crate) fn pages_of(path: &Path) -> Vec<u32> {
    read(path).1.into_iter().map(|(pgno, _)| pgno).collect()
}

pub(crate) fn apply(path: &Path, image: &mut Vec<u8>) {
    let (header, pages) = read(path);
    let size = header.page_size.bytes();
    image.resize(header.commit.get() as usize * size, 0);
    for (pgno, page) in pages {
        let at = (pgno as usize - 1) * size;
        image[at..at + size].copy_from_slice(&page);
    }
}

/// The locks on a file, as `/proc/locks` tells them: (kind, first byte).
pub(crate) fn locks(path: &Path) -> Vec<(String, u64)> {
    use std::os::unix::fs::MetadataExt;
    let inode = format!(":{}", fs::metadata(path).unwrap().ino());
    let locks = fs::read_to_string("/proc/locks").unwrap();
    locks
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.len() >= 8 && fields[5].ends_with(&inode))
        .map(|fields| (fields[1].to_owned(), fields[6].parse().unwrap()))
        .collect()
}

/// Whether a thread of this process waits for a lock of the open file behind this descriptor.
pub(crate) fn is_lock_waited_for(descriptor: RawFd) -> bool {
    let wait = format!(" {descriptor:#x} {:#x} ", libc::F_OFD_SETLKW);
    let threads = fs::read_dir("/proc/self/task").unwrap();
    threads.flatten().any(|thread| {
        let call = fs::read_to_string(thread.path().join("syscall"));
        call.is_ok_and(|call| call.contains(&wait))
    })
}
