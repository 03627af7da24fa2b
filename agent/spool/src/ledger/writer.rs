//! The one thread that writes to sled.
//!
//! sled frees what a write replaced (nodes, whole buffers of its log) when the *thread* that wrote
//! comes back often enough. Capture threads come once and sleep: a hundred of them kept some ten
//! megabytes of garbage for ever. Reads leave none, and stay where they are.
//!
//! Nobody waits for it for ever. sled 0.34 can lock itself up: who gives out a segment of its log waits,
//! with the lock that every write needs at its end, for the file to be cut back, and that may wait in
//! the pool of seven threads behind seven such writes. Then the ledger is broken like any other.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::open::idly;

/// How long a write may take: far longer than a disk that still answers needs for a flush.
pub(super) const WAIT_MAX: Duration = Duration::from_mins(2);

/// Reads after each flush: so many visits make sled's collector go over what was replaced.
const VISITS: u32 = 256;

type Job = Box<dyn FnOnce(&sled::Db) + Send>;

/// The thread, until it is dropped.
#[derive(Debug)]
pub(super) struct Writer {
    /// Each is waited for by a thread, so there are never more of them than threads (L12).
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    wait_max: Duration,
    /// It did not come back in time, and may never.
    stuck: AtomicBool,
}

impl Writer {
    pub(super) fn start(db: sled::Db, wait_max: Duration) -> io::Result<Self> {
        let (jobs, inbox) = channel::<Job>();
        let thread = std::thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || idly(|| serve(&db, &inbox)))?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
            wait_max,
            stuck: AtomicBool::new(false),
        })
    }

    /// Runs a write on the thread, and waits for it, but not longer than is said in `start`: it may
    /// still be done then. A panic goes on in the caller.
    pub(super) fn run<T: Send + 'static>(
        &self,
        write: impl FnOnce(&sled::Db) -> sled::Result<T> + Send + 'static,
    ) -> sled::Result<T> {
        type Answer<T> = Result<sled::Result<T>, Box<dyn Any + Send>>;
        let (reply, answer) = sync_channel::<Answer<T>>(1);
        let job: Job = Box::new(move |db| {
            let result = catch_unwind(AssertUnwindSafe(|| write(db)));
            drop(reply.send(result)); // the caller waits for it, or has given up
        });
        let failed = |reason: String| Err(sled::Error::ReportableBug(reason));
        if !matches!(self.jobs.as_ref().map(|jobs| jobs.send(job)), Some(Ok(()))) {
            return failed("its thread ended".to_owned());
        }
        match answer.recv_timeout(self.wait_max) {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => resume_unwind(panic),
            Err(RecvTimeoutError::Disconnected) => failed("its thread ended".to_owned()),
            Err(RecvTimeoutError::Timeout) => {
                self.stuck.store(true, Ordering::Release);
                let waited = self.wait_max.as_secs();
                failed(format!("a write did not come back within {waited} s"))
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if self.stuck.load(Ordering::Acquire) {
            return; // it ends with the process
        }
        // It catches what it runs, so it ends when nobody can send any more.
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::debug!("the ledger's thread panicked");
        }
    }
}

fn serve(db: &sled::Db, inbox: &Receiver<Job>) {
    while let Ok(job) = inbox.recv() {
        job(db);
    }
}

/// Lets sled free what was replaced.
pub(super) fn collect(db: &sled::Db) -> sled::Result<()> {
    (0..VISITS).try_for_each(|_| db.get(b"v").map(drop))
}
