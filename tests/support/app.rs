//! Apps that write: Python with its own SQLite, and the sqlite3 program.

use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::process::{Process, output};
use crate::wait::PATIENCE;
use crate::world::World;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/support/py/workload.py");

/// The end of an answer of the sqlite3 program.
const END: &str = "--end--";

/// A random workload: a function of its seed, so that any state of it can be made again.
#[derive(Debug, Clone)]
pub struct Workload {
    /// What all of it follows from.
    pub seed: u64,
    /// How many processes write.
    pub writers: u32,
    /// `PRAGMA page_size`.
    pub page_size: u32,
    /// `PRAGMA journal_mode`.
    pub journal: &'static str,
    /// `PRAGMA wal_autocheckpoint`.
    pub autocheckpoint: u32,
    /// `PRAGMA synchronous`.
    pub synchronous: &'static str,
    /// One transaction in so many is a VACUUM; 0: none.
    pub vacuum: u32,
    /// Busy timeout in seconds. With 0 the app sees every single refusal.
    pub timeout: u32,
    /// Seconds between transactions.
    pub pause: f32,
    /// Whether a writer closes its connection at the end, or leaves as a killed one does.
    pub close: bool,
}

impl Workload {
    /// One writer at full speed, SQLite's defaults.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            writers: 1,
            page_size: 4096,
            journal: "WAL",
            autocheckpoint: 1000,
            synchronous: "NORMAL",
            vacuum: 0,
            timeout: 0,
            pause: 0.0,
            close: true,
        }
    }

    fn command(&self, verb: &str, db: &Path) -> Command {
        let mut command = Command::new(python());
        command.arg(SCRIPT).arg(verb).arg(db);
        command.args(["--seed", &self.seed.to_string()]);
        command.args(["--vacuum", &self.vacuum.to_string()]);
        command.args(["--timeout", &self.timeout.to_string()]);
        command.args(["--journal", self.journal]);
        command
    }

    /// Makes the database and its tables.
    pub fn init(&self, db: &Path) -> Result<()> {
        let mut command = self.command("init", db);
        command.args(["--page-size", &self.page_size.to_string()]);
        command.args(["--writers", &self.writers.to_string()]);
        let output = output(&mut command)?;
        ensure!(
            output.status.success(),
            "init: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// Starts writer number `writer`; it goes on where its database says it was.
    pub fn start(&self, world: &World, db: &Path, writer: u32) -> Result<Writer> {
        let stem = db
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let oracle = world.path(&format!("oracle-{stem}-{writer}-{:08x}", fastrand::u32(..)));
        let mut command = self.command("write", db);
        command.args(["--writer", &writer.to_string()]);
        command.args(["--autocheckpoint", &self.autocheckpoint.to_string()]);
        command.args(["--synchronous", self.synchronous]);
        command.args(["--pause", &self.pause.to_string()]);
        command.args(["--close", if self.close { "yes" } else { "no" }]);
        command.arg("--oracle").arg(&oracle);
        Writer::start(&format!("writer {writer} of {stem}"), &mut command, oracle)
    }

    /// Starts all writers.
    pub fn start_all(&self, world: &World, db: &Path) -> Result<Vec<Writer>> {
        (0..self.writers)
            .map(|writer| self.start(world, db, writer))
            .collect()
    }

    /// Starts a process that keeps read transactions open for up to so many seconds.
    pub fn read(&self, db: &Path, hold: f32) -> Result<Reader> {
        let mut command = self.command("read", db);
        command.args(["--hold", &hold.to_string()]);
        Writer::start("reader", &mut command, PathBuf::new()).map(Reader)
    }

    /// Proves that the database is the exact state after some commit, by making that state again;
    /// returns how many commits of each writer are in it.
    pub fn check(&self, db: &Path) -> Result<Vec<u64>> {
        self.check_with(db, &[])
    }

    /// The same for a file that nobody writes: no lock is taken, nothing is left beside it.
    pub fn check_restored(&self, db: &Path) -> Result<Vec<u64>> {
        self.check_with(db, &["--immutable"])
    }

    fn check_with(&self, db: &Path, more: &[&str]) -> Result<Vec<u64>> {
        let output = output(self.command("check", db).args(more))?;
        let said: Value = serde_json::from_slice(&output.stdout).with_context(|| {
            format!(
                "check {}: {}",
                db.display(),
                String::from_utf8_lossy(&output.stderr)
            )
        })?;
        ensure!(
            said["ok"] == true,
            "{} is not what the seed says: {said}",
            db.display()
        );
        let commits = said["commits"].as_array().context("commits are a list")?;
        Ok(commits.iter().filter_map(Value::as_u64).collect())
    }
}

/// A process that writes, and listens.
#[derive(Debug)]
pub struct Writer {
    process: Process,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    oracle: PathBuf,
}

impl Writer {
    fn start(what: &str, command: &mut Command, oracle: PathBuf) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::start(what, command)?;
        let stdin = process.child().stdin.take();
        let stdout = process.child().stdout.take().context("stdout is piped")?;
        let mut writer = Self {
            process,
            stdin,
            stdout: BufReader::new(stdout),
            oracle,
        };
        writer.event("started")?;
        Ok(writer)
    }

    fn event(&mut self, wanted: &str) -> Result<Value> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        let said: Value = serde_json::from_str(&line).with_context(|| {
            format!("a writer said {line:?} where {wanted:?} was due (its error is above)")
        })?;
        if said["event"] == "stopped" && wanted != "stopped" {
            bail!("a writer stopped by itself: {said}");
        }
        ensure!(
            said["event"] == wanted,
            "a writer said {said} where {wanted:?} was due"
        );
        Ok(said)
    }

    fn tell(&mut self, word: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("stdin is open")?;
        // in one piece: a writer that has read "quit" may be gone before the end of the line comes
        let Err(error) = stdin.write_all(format!("{word}\n").as_bytes()) else {
            return Ok(());
        };
        // whoever does not listen has ended: how it did says more than that
        let mut said = String::new();
        self.stdout.read_to_string(&mut said)?;
        let status = self.process.wait(PATIENCE)?;
        Err(error).context(format!(
            "a writer ended by itself: {status}, saying {said:?}"
        ))
    }

    /// Stops it between two transactions; returns what it counted.
    pub fn pause(&mut self) -> Result<Value> {
        self.tell("pause")?;
        self.event("paused")
    }

    /// Lets it go on.
    pub fn resume(&mut self) -> Result<()> {
        self.tell("resume")?;
        self.event("resumed").map(drop)
    }

    /// Ends it between two transactions; returns what it counted.
    pub fn quit(mut self) -> Result<Value> {
        self.tell("quit")?;
        let said = self.event("stopped")?;
        self.process.wait(PATIENCE)?;
        Ok(said)
    }

    /// SIGKILL, as the kubelet does after the grace period; returns what had been acknowledged.
    pub fn kill(mut self) -> Result<u64> {
        self.process.kill()?;
        self.acknowledged()
    }

    /// Commits that SQLite has acknowledged to the app, as the app itself noted outside the pod.
    pub fn acknowledged(&self) -> Result<u64> {
        match fs::read(&self.oracle) {
            Ok(bytes) => Ok(bytes.try_into().map_or(0, u64::from_le_bytes)),
            Err(err) if err.kind() == ErrorKind::NotFound => Ok(0),
            Err(err) => Err(err.into()),
        }
    }

    /// Waits until it has made so many more commits.
    pub fn wait_commits(&self, more: u64) -> Result<()> {
        let from = self.acknowledged()?;
        crate::wait(
            "the app commits",
            || Ok(self.acknowledged()? >= from + more),
        )
    }
}

/// A process that holds read transactions open; ends when dropped.
#[derive(Debug)]
pub struct Reader(#[expect(dead_code, reason = "held for its Drop")] Writer);

/// The sqlite3 program with a database open.
#[derive(Debug)]
pub struct Sqlite {
    process: Process,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Sqlite {
    /// Opens the database and keeps it open.
    pub fn open(db: &Path) -> Result<Self> {
        Self::open_as(db, None)
    }

    /// The same as another user (needs root).
    pub fn open_as(db: &Path, user: Option<(u32, u32)>) -> Result<Self> {
        let mut command = Command::new("sqlite3");
        command
            .arg("-batch")
            .arg(db)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if let Some((uid, gid)) = user {
            command.uid(uid).gid(gid);
        }
        let mut process = Process::start("the sqlite3 program", &mut command)?;
        let stdin = process.child().stdin.take().context("stdin is piped")?;
        let stdout = process.child().stdout.take().context("stdout is piped")?;
        Ok(Self {
            process,
            stdin,
            stdout: BufReader::new(stdout),
        })
    }

    /// Runs statements and returns what they printed.
    pub fn run(&mut self, sql: &str) -> Result<String> {
        writeln!(self.stdin, "{sql}\n.print {END}")?;
        let mut said = String::new();
        loop {
            let mut line = String::new();
            ensure!(
                self.stdout.read_line(&mut line)? > 0,
                "the sqlite3 program ended: {said}"
            );
            if line.trim_end() == END {
                return Ok(said);
            }
            said += &line;
        }
    }

    /// Closes the database: the last close, with its checkpoint.
    pub fn close(self) -> Result<()> {
        let Self {
            mut process, stdin, ..
        } = self;
        drop(stdin);
        process.wait(PATIENCE).map(drop)
    }

    /// SIGKILL: no checkpoint, no last close.
    pub fn kill(mut self) -> Result<()> {
        self.process.kill()
    }

    /// One run of the program: opens, writes, closes.
    pub fn once(db: &Path, sql: &str) -> Result<String> {
        let output = output(Command::new("sqlite3").arg("-batch").arg(db).arg(sql))?;
        let err = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "sqlite3 {}: {err}", db.display());
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().into())
    }
}

/// The Python that runs the apps.
fn python() -> String {
    std::env::var("SQLREP_PYTHON").unwrap_or_else(|_| "python3".into())
}
