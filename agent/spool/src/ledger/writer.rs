//! The one thread that writes to sled.
//!
//! sled frees what a write replaced (nodes, whole buffers of its log) when the *thread* that wrote
//! comes back often enough. Capture threads come once and sleep: a hundred of them kept some ten
//! megabytes of garbage for ever. Reads leave none, and stay where they are.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::open::idly;

/// Writes that may wait (L12); who comes next waits until there is room.
const QUEUE: usize = 16;

/// Reads after each flush: so many visits make sled's collector go over what was replaced.
const VISITS: u32 = 256;

type Job = Box<dyn FnOnce(&sled::Db) + Send>;

/// The thread, until it is dropped.
#[derive(Debug)]
pub(super) struct Writer {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(db: sled::Db) -> io::Result<Self> {
        let (jobs, inbox) = sync_channel::<Job>(QUEUE);
        let thread = std::thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || idly(|| serve(&db, &inbox)))?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// Runs a write on the thread, and waits for it. A panic goes on in the caller.
    pub(super) fn run<T: Send + 'static>(
        &self,
        write: impl FnOnce(&sled::Db) -> sled::Result<T> + Send + 'static,
    ) -> sled::Result<T> {
        type Answer<T> = Result<sled::Result<T>, Box<dyn Any + Send>>;
        let (reply, answer) = sync_channel::<Answer<T>>(1);
        let job: Job = Box::new(move |db| {
            let result = catch_unwind(AssertUnwindSafe(|| write(db)));
            drop(reply.send(result)); // the caller waits for it
        });
        let sent = self.jobs.as_ref().map(|jobs| jobs.send(job));
        match (sent, answer.recv()) {
            (Some(Ok(())), Ok(Ok(result))) => result,
            (Some(Ok(())), Ok(Err(panic))) => resume_unwind(panic),
            _ => Err(sled::Error::ReportableBug("its thread ended".to_owned())),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
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
