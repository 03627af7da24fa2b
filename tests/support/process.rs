//! Child processes: started with their output in a file or a pipe, ended by their id, never left.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait::poll;

/// A child that is killed when it goes out of sight.
#[derive(Debug)]
pub struct Process {
    child: Child,
    what: String,
}

impl Process {
    /// Starts it with stdout and stderr appended to `log`.
    pub fn logged(what: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log);
        let file = file.with_context(|| format!("open {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        Self::start(what, command)
    }

    /// Starts it as the command stands.
    pub fn start(what: &str, command: &mut Command) -> Result<Self> {
        let child = command
            .spawn()
            .with_context(|| format!("start {what}: {command:?}"))?;
        Ok(Self {
            child,
            what: what.into(),
        })
    }

    /// The child's pipes and id.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The status, if it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).with_context(|| format!("signal {}", self.what))
    }

    /// Waits for its end.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let what = format!("{} ends", self.what);
        poll(&what, patience, || self.ended())
    }

    /// SIGKILL, and its end: no handler runs, nothing is flushed.
    pub fn kill(&mut self) -> Result<()> {
        self.child
            .kill()
            .with_context(|| format!("kill {}", self.what))?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // gone in between is what we want
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}

/// Runs it to its end and returns its output, whatever its status.
pub fn output(command: &mut Command) -> Result<std::process::Output> {
    command.stdin(Stdio::null());
    command.output().with_context(|| format!("run {command:?}"))
}
