//! Somebody between an agent and its process that rewinds, who can stop their conversation before
//! any word. The shim of the agent plays it where a test has made the directory [`DIR`].

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, getppid, kill_process, test_kill_process};

use crate::world::World;

/// In the directory of a world.
const DIR: &str = "between";
/// Says to the shim that it is the process itself.
const DIRECT: &str = "SQLREP_TESTS_DIRECT";
/// Says to it that it is the one between, and who the agent is.
const LISTENS: &str = "SQLREP_TESTS_LISTENS";

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

    /// Whether the process that rewinds has not ended.
    pub fn process_runs(&self) -> Result<bool> {
        let pids = fs::read_to_string(self.0.join("pids"))?;
        let process = pids.split_whitespace().next().context("a process id")?;
        // of one that has ended and that nobody asked about yet nothing is left there
        Ok(Path::new(&format!("/proc/{process}/exe")).exists())
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
    let played = match std::env::var(LISTENS) {
        Ok(agent) => listen(&dir, &agent),
        Err(_) if dir.is_dir() => stand_aside(&dir, args),
        Err(_) => return None,
    };
    Some(match played {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    })
}

/// Starts the one who listens, and becomes the process itself: the agent knows it by its id.
fn stand_aside(dir: &Path, args: &[OsString]) -> Result<()> {
    let again = || {
        let mut command = Command::new("/proc/self/exe");
        command.args(args.get(1..).unwrap_or_default());
        command
    };
    let agent = getppid().context("the agent has gone")?;
    let (ours, theirs) = UnixStream::pair()?;
    let listener = again()
        .env(LISTENS, agent.as_raw_nonzero().to_string())
        .stderr(OwnedFd::from(theirs)) // in both directions
        .spawn()?;
    let pids = format!("{} {}", std::process::id(), listener.id());
    fs::write(dir.join("pids"), pids)?;
    let orders = OwnedFd::from(ours.try_clone()?);
    let failed = again()
        .env(DIRECT, "1")
        .stdin(orders)
        .stdout(OwnedFd::from(ours))
        .exec();
    Err(failed.into())
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
            while self
                .agent
                .is_some_and(|agent| test_kill_process(agent).is_ok())
            {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        *words += 1;
        Ok(())
    }
}

/// Hands on what the two say to each other.
fn listen(dir: &Path, agent: &str) -> Result<()> {
    let gate = Gate {
        stop_before: fs::read_to_string(dir.join("word"))?.parse()?,
        dir: dir.to_path_buf(),
        words: Mutex::new(0),
        agent: agent.parse().ok().and_then(Pid::from_raw),
    };
    let gate: &'static Gate = Box::leak(Box::new(gate)); // as long as this process
    let process = UnixStream::from(rustix::io::dup(io::stderr())?);
    let orders = process.try_clone()?;
    // Ends with the process, or with the orders: then those of the process end too.
    std::thread::spawn(move || {
        hand_on(gate, io::stdin().lock(), &orders).ok(); // the process has gone
        orders.shutdown(Shutdown::Write).ok();
    });
    Ok(hand_on(gate, BufReader::new(process), io::stdout())?)
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
