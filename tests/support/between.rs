//! Somebody between an agent and its process that rewinds, who can stop their conversation before
//! any word. The shim of the agent plays it where a test has made the directory [`DIR`].

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, getppid, kill_process};

use crate::world::World;

/// In the directory of a world.
const DIR: &str = "between";
/// Says to the shim that it is the process itself.
const DIRECT: &str = "SQLREP_TESTS_DIRECT";

/// Where a conversation is stopped, as a test sees it.
#[derive(Debug)]
pub struct Between(PathBuf);

impl Between {
    /// From now on every rewind in this world is listened to.
    pub fn new(world: &World) -> Result<Self> {
        let dir = world.path(DIR);
        fs::create_dir(&dir)?;
        Ok(Self(dir))
    }

    /// The next conversation stops before its word of this number, from 0; `None`: not at all.
    pub fn stop_before(&self, word: Option<u32>) -> Result<()> {
        fs::remove_file(self.0.join("stopped")).ok(); // there may be none
        let word = word.unwrap_or(u32::MAX).to_string();
        Ok(fs::write(self.0.join("word"), word)?)
    }

    /// The word before which it stopped, once it did.
    pub fn stopped(&self) -> Option<String> {
        fs::read_to_string(self.0.join("stopped")).ok()
    }

    /// SIGKILL for the process that rewinds, and for whoever is between.
    pub fn kill(&self) -> Result<()> {
        let pids = fs::read_to_string(self.0.join("pids"))?;
        for pid in pids.split_whitespace() {
            let pid = pid.parse().ok().and_then(Pid::from_raw);
            kill_process(pid.context("a process id")?, Signal::KILL).ok(); // it may be gone
        }
        Ok(())
    }
}

/// What the shim does first: `None` when it is to go on as the agent.
pub fn play(args: &[OsString]) -> Option<ExitCode> {
    let direct = std::env::var_os(DIRECT).is_some();
    if direct || args.get(1).is_none_or(|verb| verb != "rewind") {
        return None;
    }
    // <world>/<state>/scratch/<file>
    let dir = Path::new(args.get(2)?).ancestors().nth(3)?.join(DIR);
    let played = dir.is_dir().then(|| between(&dir, args));
    played.map(|played| match played {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    })
}

/// Counts words, and stops before one of them.
struct Gate {
    dir: PathBuf,
    stop_before: u32,
    words: Mutex<u32>,
    agent: Option<Pid>,
}

impl Gate {
    fn pass(&self, word: &str) -> io::Result<()> {
        let mut words = self.words.lock().map_err(|_| io::ErrorKind::Other)?;
        if *words == self.stop_before {
            let stopped = self.dir.join("stopped");
            fs::write(self.dir.join("new"), word)?;
            crate::pod::rename(&self.dir.join("new"), &stopped).map_err(io::Error::other)?;
            // Until somebody kills us, or the agent.
            while getppid() == self.agent {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        *words += 1;
        Ok(())
    }
}

fn between(dir: &Path, args: &[OsString]) -> Result<()> {
    let mut child = Command::new("/proc/self/exe")
        .args(args.get(1..).unwrap_or_default())
        .env(DIRECT, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let pids = format!("{} {}", child.id(), std::process::id());
    fs::write(dir.join("pids"), pids)?;
    let gate = Gate {
        stop_before: fs::read_to_string(dir.join("word"))?.parse()?,
        dir: dir.to_path_buf(),
        words: Mutex::new(0),
        agent: getppid(),
    };
    let gate: &'static Gate = Box::leak(Box::new(gate)); // as long as this process
    let orders = child.stdin.take().context("piped")?;
    let answers = child.stdout.take().context("piped")?;
    // Ends with the process, or with the orders: then those of the child end too.
    std::thread::spawn(move || hand_on(gate, io::stdin().lock(), orders));
    let told = hand_on(gate, BufReader::new(answers), io::stdout());
    child.wait()?;
    Ok(told?)
}

fn hand_on(gate: &Gate, from: impl BufRead, mut to: impl Write) -> io::Result<()> {
    for line in from.lines() {
        let line = line?;
        gate.pass(&line)?;
        writeln!(to, "{line}")?;
        to.flush()?;
    }
    Ok(())
}
