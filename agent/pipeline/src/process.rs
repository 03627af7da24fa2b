//! A process of the agent's own program, for what must not happen in the agent: to parse what a pod
//! made. It is spawned and not forked (L3), and spoken with in lines.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as Pair;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// This program, whatever its file is called by now.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// More than any line has: the process reads what a pod made, and is not trusted.
const LINE_BYTES_MAX: u64 = 8 << 10;

/// Ends, at the latest, when it is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Option<Child>,
    talk: BufReader<UnixStream>,
}

impl Process {
    /// Starts this program with a verb that only the agent uses.
    pub(crate) fn start<S: AsRef<OsStr>>(
        verb: &str,
        args: impl IntoIterator<Item = S>,
    ) -> io::Result<Self> {
        let mut command = Command::new(THIS_PROGRAM);
        command.arg(verb).args(args);
        Self::spawn(command)
    }

    pub(crate) fn spawn(mut command: Command) -> io::Result<Self> {
        let (ours, theirs) = Pair::pair()?;
        let orders = OwnedFd::from(theirs.try_clone()?);
        let child = command
            .env_clear()
            .stdin(orders)
            .stdout(OwnedFd::from(theirs))
            // What it says it says to us: nothing of a pod's gets into the log by another way.
            .stderr(Stdio::null())
            .spawn()?;
        let child = Some(child);
        // It holds our end of its streams, and would not notice that it has gone.
        drop(command);
        ours.set_nonblocking(true)?;
        let talk = BufReader::new(UnixStream::from_std(ours)?);
        Ok(Self { child, talk })
    }

    /// Its id, which is no other process's before this is dropped.
    pub(crate) fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Tells it a line.
    pub(crate) async fn tell(&mut self, line: &str) -> io::Result<()> {
        let line = format!("{line}\n");
        self.talk.get_mut().write_all(line.as_bytes()).await
    }

    /// Waits for its next line; an error of kind `TimedOut` when there is none for so long, and
    /// `UnexpectedEof` when there will be none.
    pub(crate) async fn hear(&mut self, patience: Duration) -> io::Result<String> {
        let mut line = String::new();
        let mut bounded = (&mut self.talk).take(LINE_BYTES_MAX);
        match timeout(patience, bounded.read_line(&mut line)).await {
            Ok(Ok(_)) if line.ends_with('\n') => {
                line.pop();
                Ok(line)
            }
            Ok(Ok(_)) => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it ended without a word",
            )),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("nothing was heard of it for {patience:?}"),
            )),
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
            .name("reap".to_owned())
            .spawn(move || drop(child.wait()));
        if let Err(error) = reaped {
            tracing::warn!(%error, "a process stays as a zombie until the agent ends");
        }
    }
}
