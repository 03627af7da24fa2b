//! The init container: waits until the agent says that this pod's databases are in place.
//!
//! It reads one file and nothing else: no network, no token, no right beyond reading. Whoever
//! forges that file starts only his own pod.

pub(crate) mod status;

use std::fs::File;
use std::io::{self, Read as _, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::args::GateArgs;
use status::{BOOT_ID_FILE, Phase, Reading, STATUS_BYTES_MAX, Status};

/// First pause between looks: a restore of a small database takes about as long.
const POLL_MIN: Duration = Duration::from_millis(50);

/// Longest pause: an app starts at most this late. A look reads one small file.
const POLL_MAX: Duration = Duration::from_millis(250);

/// Without a word from an agent for this long, say so.
const SILENCE_TOLD_AFTER: Duration = Duration::from_secs(15);

/// And again each time this has passed.
const SILENCE_TOLD_EVERY: Duration = Duration::from_mins(1);

/// Exit code of a process that was told to stop: 128 + SIGTERM.
const EXIT_TERMINATED: u8 = 143;

/// How the wait ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The app may start.
    Ready,
    /// The app must not start.
    Failed(String),
}

/// Runs `sqlrep-agent gate`.
pub(crate) fn run(args: &GateArgs) -> ExitCode {
    let mut out = io::stdout();
    let boot_id = match std::fs::read_to_string(BOOT_ID_FILE) {
        Ok(text) => text.trim().to_owned(),
        Err(error) => {
            return fail(
                args,
                &mut out,
                &format!("cannot read {BOOT_ID_FILE}: {error}"),
            );
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(args, &mut out, &format!("cannot start: {error}")),
    };
    let outcome = runtime.block_on(async {
        // As process 1 of its container a gate gets no default action for SIGTERM.
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            outcome = wait(args, &boot_id, &mut out) => Ok::<_, io::Error>(Some(outcome?)),
            _ = terminate.recv() => Ok(None),
        }
    });
    match outcome {
        Ok(Some(Outcome::Ready)) => ExitCode::SUCCESS,
        Ok(Some(Outcome::Failed(message))) => fail(args, &mut out, &message),
        Ok(None) => ExitCode::from(EXIT_TERMINATED),
        Err(error) => fail(args, &mut out, &format!("cannot wait: {error}")),
    }
}

/// Says why, also where Kubernetes shows it, and ends with 1.
fn fail(args: &GateArgs, out: &mut impl Write, message: &str) -> ExitCode {
    // The exit code says it too; there is nobody left to tell that output is closed.
    drop(writeln!(out, "sqlrep gate: failed: {message}"));
    // Outside a container there is no such file, and it must not be made.
    let log = File::options()
        .write(true)
        .truncate(true)
        .open(&args.termination_log);
    if let Ok(mut log) = log {
        drop(log.write_all(message.as_bytes()));
    }
    ExitCode::FAILURE
}

/// Looks again and again until the agent has decided; prints each change.
pub(crate) async fn wait(
    args: &GateArgs,
    boot_id: &str,
    out: &mut impl Write,
) -> io::Result<Outcome> {
    let node = args.node_name.as_deref().unwrap_or("(unknown)");
    let mut pause = POLL_MIN;
    let mut told = String::new();
    let mut silence_told_at = Instant::now() + SILENCE_TOLD_AFTER;
    loop {
        let (line, outcome) = look(&args.status, &args.pod_uid, boot_id);
        if let Some(line) = line.filter(|line| *line != told) {
            writeln!(out, "sqlrep gate: {line}")?;
            told = line;
            pause = POLL_MIN;
        }
        match outcome {
            Look::Done(outcome) => return Ok(outcome),
            Look::Waiting => silence_told_at = Instant::now() + SILENCE_TOLD_AFTER,
            Look::Silence if Instant::now() >= silence_told_at => {
                writeln!(
                    out,
                    "sqlrep gate: no sqlrep agent has claimed this pod on node {node}; see that \
                     the sqlrep agent runs there and is ready"
                )?;
                silence_told_at = Instant::now() + SILENCE_TOLD_EVERY;
            }
            Look::Silence => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(POLL_MAX);
    }
}

/// What one look at the file means for the wait.
#[derive(Debug)]
enum Look {
    /// No word for this pod.
    Silence,
    /// An agent works on it.
    Waiting,
    /// Decided.
    Done(Outcome),
}

/// One look: a line to print when it is new, and what it means.
fn look(path: &Path, pod_uid: &str, boot_id: &str) -> (Option<String>, Look) {
    let bytes = match read_bounded(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return (None, Look::Silence),
        Err(error) => {
            return (
                Some(format!("cannot read {}: {error}", path.display())),
                Look::Silence,
            );
        }
    };
    match status::read(&bytes, pod_uid, boot_id) {
        Reading::NotOurs(reason) => (Some(format!("{reason}; waiting on")), Look::Silence),
        Reading::Ours(status) => {
            let line = line_of(&status);
            let look = match status.phase {
                Phase::WaitingHandover | Phase::Restoring => Look::Waiting,
                Phase::Ready => Look::Done(Outcome::Ready),
                Phase::Failed => Look::Done(Outcome::Failed(status.message)),
            };
            (Some(line), look)
        }
    }
}

fn line_of(status: &Status) -> String {
    let mut line = status.phase.as_str().to_owned();
    if !status.message.is_empty() {
        line.push_str(": ");
        line.push_str(&status.message);
    }
    for database in &status.databases {
        // As sqlrepctl and the names of files write it.
        let txid = format!("{:x}", database.txid);
        for part in ["\n  ", &database.replica, " at TXID ", &txid] {
            line.push_str(part);
        }
    }
    line
}

/// Reads a small regular file; a link, a pipe or a device in its place is an error, not a trap.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
    if kind != FileType::RegularFile {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "not a regular file",
        ));
    }
    let mut bytes = Vec::new();
    File::from(file)
        .take(STATUS_BYTES_MAX + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > STATUS_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "too large"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
