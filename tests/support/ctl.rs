//! The real client as a process, and what it said.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::process::output;
use crate::wait::{PATIENCE, poll};

/// Exit codes of `sqlrepctl`.
pub mod exit {
    /// Done.
    pub const DONE: i32 = 0;
    /// It failed.
    pub const FAILED: i32 = 1;
    /// It was called wrongly.
    pub const USAGE: i32 = 2;
    /// No such database, replica or point.
    pub const NOT_FOUND: i32 = 3;
    /// Nobody answers.
    pub const UNREACHABLE: i32 = 4;
    /// It would overwrite, is not the owner, or is ambiguous.
    pub const REFUSED: i32 = 5;
}

/// The client, with or without an agent to talk to.
#[derive(Debug, Clone)]
pub struct Ctl {
    bin: PathBuf,
    agent: Option<String>,
    env: Vec<(String, String)>,
}

impl Ctl {
    /// A client; `agent` is what `--agent` takes.
    pub fn new(bin: &Path, agent: Option<String>) -> Self {
        Self {
            bin: bin.into(),
            agent,
            env: Vec::new(),
        }
    }

    /// With another variable in its environment.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Whether it has no agent to talk to.
    pub fn is_offline(&self) -> bool {
        self.agent.is_none()
    }

    /// Runs it and returns what it said, whatever its exit code.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Said> {
        let mut command = Command::new(&self.bin);
        if let Some(agent) = &self.agent {
            command.args(["--agent", agent]);
        }
        command.args(args).envs(self.env.iter().cloned());
        let output = output(&mut command)?;
        Ok(Said {
            line: format!("{command:?}"),
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// What `list` says of every database.
    pub fn list(&self) -> Result<Vec<Row>> {
        let json = self.run(["list", "-o", "json"])?.done()?.json()?;
        let rows = json
            .as_array()
            .or_else(|| json["databases"].as_array())
            .cloned();
        let rows = rows.with_context(|| format!("list -o json is no list: {json}"))?;
        Ok(rows.into_iter().map(Row).collect())
    }

    /// What `list` says of one database, by the end of its `namespace/app/volume/path`.
    pub fn row(&self, reference: &str) -> Result<Option<Row>> {
        let end = format!("/{reference}");
        let of = |row: &Row| format!("/{}", row.reference());
        Ok(self.list()?.into_iter().find(|row| of(row).ends_with(&end)))
    }

    /// Waits until the database is in this state.
    pub fn wait_state(&self, reference: &str, state: &str) -> Result<Row> {
        let mut last = None;
        let found = poll(&format!("{reference} is {state}"), PATIENCE, || {
            last = self.row(reference)?;
            Ok(last.clone().filter(|row| row.state() == state))
        });
        found.with_context(|| format!("last seen: {last:?}"))
    }

    /// Waits until the database is followed.
    pub fn wait_following(&self, reference: &str) -> Result<Row> {
        self.wait_state(reference, "following")
    }

    /// Captures and ships now.
    pub fn sync(&self, reference: &str) -> Result<()> {
        self.run(["sync", reference])?.done().map(drop)
    }

    /// Restores from a replica directory, without any agent.
    pub fn restore(&self, replica: &Path, out: &Path, point: &[&str]) -> Result<Said> {
        let mut args = vec![
            OsStr::new("restore"),
            OsStr::new("--replica"),
            replica.as_os_str(),
        ];
        args.extend([OsStr::new("-o"), out.as_os_str()]);
        args.extend(point.iter().map(OsStr::new));
        self.run(args)
    }
}

/// What a run of the client said.
#[derive(Debug)]
pub struct Said {
    /// The command, for reports.
    pub line: String,
    /// Its exit code.
    pub code: i32,
    /// stdout: data.
    pub out: String,
    /// stderr: words.
    pub err: String,
}

impl Said {
    /// It must have worked.
    pub fn done(self) -> Result<Self> {
        self.exits(exit::DONE)
    }

    /// It must have ended with this code.
    pub fn exits(self, code: i32) -> Result<Self> {
        ensure!(
            self.code == code,
            "{} exited with {}, not {code}\nstdout: {}\nstderr: {}",
            self.line,
            self.code,
            self.out,
            self.err
        );
        Ok(self)
    }

    /// Its words must hold these, in any case.
    pub fn says(self, words: &[&str]) -> Result<Self> {
        let text = self.err.to_lowercase();
        for word in words {
            let wanted = word.to_lowercase();
            ensure!(
                text.contains(&wanted),
                "{} did not say {word:?}:\n{}",
                self.line,
                self.err
            );
        }
        Ok(self)
    }

    /// Its data as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.out)
            .with_context(|| format!("{} printed no JSON: {}", self.line, self.out))
    }
}

/// One database as `list -o json` shows it.
#[derive(Debug, Clone)]
pub struct Row(pub Value);

impl Row {
    /// `namespace/app/volume/path`.
    pub fn reference(&self) -> String {
        let part = |key: &str| self.0[key].as_str().unwrap_or_default().to_string();
        ["namespace", "app", "volume", "path"].map(part).join("/")
    }

    /// The state, in lower case.
    pub fn state(&self) -> String {
        self.0["state"].as_str().unwrap_or_default().to_lowercase()
    }

    /// Why, and what to do.
    pub fn words(&self) -> String {
        ["reason", "hint", "last_error"]
            .map(|key| self.0[key].as_str().unwrap_or_default().to_string())
            .join("; ")
    }

    /// A number of it; none when absent.
    pub fn number(&self, key: &str) -> Option<u64> {
        self.0[key]
            .as_u64()
            .or_else(|| self.0[key].as_str()?.parse().ok())
    }
}
