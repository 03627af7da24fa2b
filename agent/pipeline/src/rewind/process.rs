//! The process that writes into a live database, from the agent's side.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as Pair;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use sqlrep_capture::{Answer, Order};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::REWIND_VERB;
use crate::error::CommandError;

/// This program, whatever its file is called by now.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// More than any answer has: the process reads what a pod made, and is not trusted.
const ANSWER_BYTES_MAX: u64 = 8 << 10;

/// Ends, at the latest, when it is dropped.
#[derive(Debug)]
pub(super) struct Process {
    child: Option<Child>,
    talk: BufReader<UnixStream>,
}

impl Process {
    /// Starts it; it says [`Answer::Ready`] first.
    pub(super) fn start(source: &Path, volume: &Path, path: &Path) -> Result<Self, CommandError> {
        let start = || -> io::Result<Self> {
            let (ours, theirs) = Pair::pair()?;
            let orders = OwnedFd::from(theirs.try_clone()?);
            let child = Command::new(THIS_PROGRAM)
                .arg(REWIND_VERB)
                .args([source, volume, path])
                .env_clear()
                .stdin(orders)
                .stdout(OwnedFd::from(theirs))
                .spawn()?;
            let child = Some(child);
            ours.set_nonblocking(true)?;
            let talk = BufReader::new(UnixStream::from_std(ours)?);
            Ok(Self { child, talk })
        };
        start().map_err(|error| failed(&format!("it cannot be started: {error}")))
    }

    /// Tells it what to do.
    pub(super) async fn order(&mut self, order: Order) -> Result<(), CommandError> {
        let line = format!("{order}\n");
        let told = self.talk.get_mut().write_all(line.as_bytes()).await;
        told.map_err(|error| failed(&format!("it does not listen: {error}")))
    }

    /// Waits for what it says.
    pub(super) async fn hear(&mut self, patience: Duration) -> Result<Answer, CommandError> {
        let mut line = String::new();
        let mut bounded = (&mut self.talk).take(ANSWER_BYTES_MAX);
        match timeout(patience, bounded.read_line(&mut line)).await {
            Ok(Ok(_)) if line.ends_with('\n') => line
                .trim_end()
                .parse()
                .map_err(|error| failed(&format!("{error}"))),
            Ok(Ok(_)) => Err(failed("it ended without a word")),
            Ok(Err(error)) => Err(failed(&format!("it is not heard: {error}"))),
            Err(_) => Err(failed(&format!("nothing was heard of it for {patience:?}"))),
        }
    }

    /// Waits for one answer and no other.
    pub(super) async fn expect(
        &mut self,
        wanted: &Answer,
        patience: Duration,
    ) -> Result<(), CommandError> {
        match self.hear(patience).await? {
            answer if answer == *wanted => Ok(()),
            other => Err(unexpected(other)),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        // One that has ended already cannot be killed, and need not be.
        drop(child.kill());
        // Nearly always that is a moment; a disk that hangs must not hold this thread.
        let reaped = std::thread::Builder::new()
            .name("rewind-reap".to_owned())
            .spawn(move || drop(child.wait()));
        if let Err(error) = reaped {
            tracing::warn!(%error, "a process of a rewind stays as a zombie until the agent ends");
        }
    }
}

/// What an answer means that ends a rewind.
pub(super) fn unexpected(answer: Answer) -> CommandError {
    match answer {
        Answer::Refused(reason) => CommandError::Refused(reason),
        Answer::Failed(reason) => {
            CommandError::Failed(format!("nothing was changed: SQLite says: {reason}"))
        }
        other => failed(&format!("it said {other} out of turn")),
    }
}

fn failed(what: &str) -> CommandError {
    CommandError::Failed(format!(
        "the process that rewinds the database failed ({what}); the database has its content of \
         before, or all of the wanted one: sqlrepctl history shows which"
    ))
}
