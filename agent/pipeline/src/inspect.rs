//! Looking at the database that a replica restores to: does SQLite find it sound?
//!
//! A replica that is whole gives back what the app wrote. If that is damaged, by a bad disk, a bug of
//! the app or a copy of the live file, then the damage is in the replica as well, as it has to be; but
//! somebody should know while older states are kept. So the pages that a verification reads anyway
//! are written to a scratch file of the node, and a [`Process`] without rights asks SQLite about it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlrep_capture::Word;
use sqlrep_replica::Verified;
use sqlrep_replica::verify::CopyOut;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::error::chain;
use crate::limits;
use crate::process::Process;

/// The verb by which the agent's program is called to check a database.
pub const QUICK_CHECK_VERB: &str = "quick-check";

/// Lines that the process may say of a database: it stops before. And characters that are kept of
/// each.
const LINES_MAX: usize = 32;
const LINE_CHARS_MAX: usize = 200;

/// What SQLite says of the database that a replica restores to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuickCheck {
    /// It is sound.
    Ok,
    /// It is damaged, and how: at least one line. The replica is whole all the same: the app's own
    /// database was like that when it was captured.
    Damaged(Vec<String>),
    /// Nobody knows, and why.
    NotChecked(String),
}

/// What a verification came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// What the replica was proven to hold.
    pub verified: Verified,
    /// What SQLite says of it.
    pub check: QuickCheck,
}

/// What the process does that [`QUICK_CHECK_VERB`] starts. It must have one thread.
pub fn quick_check_process(path: &Path) -> io::Result<()> {
    sqlrep_capture::quick_check(path, io::stdout().lock())
}

/// The places where databases are looked at, each with room for one. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Benches {
    dir: PathBuf,
    free: Arc<Semaphore>,
}

/// One of them, taken.
#[derive(Clone, Debug)]
pub(crate) struct Bench {
    dir: PathBuf,
    /// Taken until the last clone goes.
    _turn: Arc<OwnedSemaphorePermit>,
}

impl Benches {
    /// In the directory for files without a future.
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            free: Arc::new(Semaphore::new(limits::CHECKS_MAX)),
        }
    }

    /// One, if one is free.
    pub(crate) fn free(&self) -> Option<Bench> {
        let turn = Arc::clone(&self.free).try_acquire_owned().ok()?;
        Some(self.bench(turn))
    }

    /// Waits for one.
    pub(crate) async fn wait(&self) -> Option<Bench> {
        let turn = Arc::clone(&self.free).acquire_owned().await.ok()?;
        Some(self.bench(turn))
    }

    fn bench(&self, turn: OwnedSemaphorePermit) -> Bench {
        Bench {
            dir: self.dir.clone(),
            _turn: Arc::new(turn),
        }
    }
}

impl Bench {
    /// Room for a database; or why there is none.
    pub(crate) fn subject(self) -> Result<Subject, String> {
        let room = room_bytes(&self.dir).map_err(|error| {
            format!(
                "the free space of {} is not known: {error}",
                self.dir.display()
            )
        })?;
        let scratch = Scratch(scratch_path(&self.dir, "check"));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(scratch.path());
        let file = file
            .map_err(|error| format!("{} cannot be created: {error}", scratch.path().display()))?;
        Ok(Subject {
            copy: CopyOut::into(file, room),
            scratch,
            bench: self,
        })
    }
}

/// What a scratch file may take of the disk. A kubelet begins to delete images at 85 % and pods at
/// 90 % of one, and the spool needs room too: what lies above that, or a small part of what is free.
fn room_bytes(dir: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(dir)?;
    let room = room_blocks(disk.f_blocks, disk.f_bavail);
    Ok(room.saturating_mul(disk.f_frsize))
}

fn room_blocks(all: u64, free: u64) -> u64 {
    let kept = all / 100 * limits::DISK_KEPT_PERCENT;
    free.saturating_sub(kept).max(free / limits::DISK_PART)
}

/// A database that is being put together to be looked at.
#[derive(Debug)]
pub(crate) struct Subject {
    copy: CopyOut,
    scratch: Scratch,
    bench: Bench,
}

impl Subject {
    /// Where its pages go.
    pub(crate) fn copy(&self) -> &CopyOut {
        &self.copy
    }

    /// Every page of it was read and proven: it can be looked at, unless it is not all there.
    pub(crate) fn whole(self, verified: &Verified) -> Result<Whole, String> {
        let bytes = self.copy.finish().map_err(|error| {
            format!(
                "the node's disk has no place for a copy in {}: {}",
                self.bench.dir.display(),
                chain(&error)
            )
        })?;
        debug_assert!(verified.pages == 0 || bytes > 0, "a state has bytes");
        Ok(Whole {
            scratch: self.scratch,
            bytes,
            _bench: self.bench,
        })
    }
}

/// A database that can be looked at.
#[derive(Debug)]
pub(crate) struct Whole {
    scratch: Scratch,
    bytes: u64,
    _bench: Bench,
}

/// Has a database looked at, or says why not. Dropping it ends the process.
pub(crate) async fn check(whole: Result<Whole, String>) -> QuickCheck {
    match whole {
        Ok(whole) => whole.check().await,
        Err(reason) => QuickCheck::NotChecked(reason),
    }
}

impl Whole {
    async fn check(self) -> QuickCheck {
        let path = [self.scratch.path().as_os_str()];
        let process = match Process::start(QUICK_CHECK_VERB, path) {
            Ok(process) => process,
            Err(error) => return not_heard(&format!("it cannot be started: {error}")),
        };
        listen(process, limits::check_timeout(self.bytes)).await
    }
}

/// Hears what the process has to say. It reads what a pod made: nothing that it says is believed
/// but in the form that was agreed on, and its silence is no yes.
async fn listen(mut process: Process, patience: Duration) -> QuickCheck {
    let until = Instant::now() + patience;
    let mut lines = Vec::new();
    let mut ready = false;
    loop {
        let line = match timeout_at(until, process.hear(patience)).await {
            Ok(Ok(line)) => line,
            Ok(Err(error)) if error.kind() != io::ErrorKind::TimedOut => {
                let guess = "it was killed, or took more processor time than it may";
                return not_heard(&format!("{error}: {guess}"));
            }
            _ => return not_heard(&format!("it was not done after {patience:?}")),
        };
        match line.parse() {
            Ok(Word::Ready) if !ready => ready = true,
            Ok(Word::Found(text)) if ready && lines.len() < LINES_MAX => lines.push(bounded(&text)),
            Ok(Word::Failed(reason)) => return QuickCheck::NotChecked(bounded(&reason)),
            Ok(Word::Done) if ready && lines == ["ok"] => return QuickCheck::Ok,
            Ok(Word::Done) if ready && !lines.is_empty() => return QuickCheck::Damaged(lines),
            _ => return not_heard(&format!("it said {:?}", bounded(&line))),
        }
    }
}

fn not_heard(what: &str) -> QuickCheck {
    QuickCheck::NotChecked(format!("of the process that asks SQLite: {what}"))
}

/// Foreign text as part of one line of ours.
fn bounded(text: &str) -> String {
    let plain = |c: char| matches!(c, '"' | '\'' | '\\');
    let escaped = text.chars().flat_map(|c| {
        let keep = plain(c).then_some(c);
        keep.into_iter()
            .chain(c.escape_debug().filter(move |_| !plain(c)))
    });
    escaped.take(LINE_CHARS_MAX).collect()
}

/// A file of the state directory that goes when it is dropped; whoever has it open keeps it.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// One that is still to be made, in the directory for files without a future.
    pub(crate) fn new(dir: &Path) -> Self {
        Self(scratch_path(dir, "restore"))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn open(&self) -> io::Result<File> {
        File::open(&self.0)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        match std::fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.0.display(), %error, "a scratch file stays");
            }
            _ => {}
        }
    }
}

fn scratch_path(dir: &Path, what: &str) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    dir.join(format!("{what}-{number}"))
}

#[cfg(test)]
mod tests;
