//! An app on SQLAlchemy, which `tests/run setup` puts beside the peer.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::process::Process;
use crate::wait::PATIENCE;
use crate::world::World;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/support/py/orm.py");

/// Writes through a pool of connections until it is stopped.
#[derive(Debug)]
pub struct Orm {
    process: Process,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Orm {
    /// Starts it on a database, which it makes if need be, in this journal mode.
    pub fn start(world: &World, db: &Path, journal: &str) -> Result<Self> {
        let python = world.binaries.peers.join("sqlalchemy/bin/python");
        ensure!(
            python.is_file(),
            "{} is not there: run `tests/run setup` once",
            python.display()
        );
        let mut command = Command::new(python);
        command.arg(SCRIPT).arg(db).arg(journal);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::start("the app on SQLAlchemy", &mut command)?;
        let stdin = process.child().stdin.take().context("stdin is piped")?;
        let stdout = process.child().stdout.take().context("stdout is piped")?;
        let mut app = Self {
            process,
            stdin,
            stdout: BufReader::new(stdout),
        };
        let said = app.line()?;
        ensure!(said == "ready", "the app on SQLAlchemy said {said:?}");
        Ok(app)
    }

    /// The rows that a connection sees which is open since the beginning, and how many
    /// transactions were committed.
    pub fn count(&mut self) -> Result<(u64, u64)> {
        writeln!(self.stdin, "count")?;
        let said = self.line()?;
        let numbers = said.split_once(' ').context("two numbers")?;
        Ok((numbers.0.parse()?, numbers.1.parse()?))
    }

    /// Ends it; how many transactions were committed. Fails if the database failed it.
    pub fn stop(mut self) -> Result<u64> {
        writeln!(self.stdin, "stop")?;
        let said = self.line()?;
        let made = said.strip_prefix("stopped ");
        let made = made.with_context(|| format!("the app on SQLAlchemy failed: {said}"))?;
        self.process.wait(PATIENCE)?;
        Ok(made.parse()?)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let read = self.stdout.read_line(&mut line)?;
        ensure!(read > 0, "the app on SQLAlchemy ended (its error is above)");
        Ok(line.trim_end().to_owned())
    }
}
