//! A wall clock that a test sets under a running agent.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::agent::AgentOptions;
use crate::world::World;

const SOURCE: &str = include_str!("clock.c");

/// The clock of one agent; file systems and everybody else have the real one.
#[derive(Debug)]
pub struct Clock {
    library: PathBuf,
    offset: PathBuf,
}

impl Clock {
    /// One that is right. Needs a C compiler, as the build does.
    pub fn new(world: &World) -> Result<Self> {
        let source = world.path("clock.c");
        let clock = Self {
            library: world.path("clock.so"),
            offset: world.path("clock.offset"),
        };
        fs::write(&source, SOURCE)?;
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([clock.library.as_os_str(), OsStr::new(&source)])
            .status();
        let compiled = compiled.context("run cc")?;
        ensure!(compiled.success(), "cc: {compiled}");
        clock.set(0)?;
        Ok(clock)
    }

    /// Sets it so many seconds ahead of the real one.
    pub fn set(&self, ahead: i64) -> Result<()> {
        let next = self.offset.with_extension("next");
        fs::write(&next, ahead.to_string())?;
        crate::pod::rename(&next, &self.offset)?;
        Ok(())
    }

    /// An agent that has it.
    #[must_use]
    pub fn of(&self, mut options: AgentOptions) -> AgentOptions {
        let text = |path: &PathBuf| path.display().to_string();
        options.env.extend([
            ("LD_PRELOAD".to_string(), text(&self.library)),
            ("TEST_CLOCK".to_string(), text(&self.offset)),
        ]);
        options
    }
}
