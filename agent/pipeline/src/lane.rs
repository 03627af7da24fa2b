//! A lane: the few threads that may touch one target, and the queue in front of them (L14).
//!
//! A call into a hard-mounted NFS share can hang in the kernel for ever. No timeout frees that
//! thread, so no such call is made on a thread that anybody else needs: each target has a fixed
//! number of threads of its own, callers wait with a deadline, and a lane whose threads all hang
//! fails its callers at once and hurts nobody else.

use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use sqlrep_replica::DbId;
use tokio::sync::oneshot;
use tower::{Service, ServiceBuilder, ServiceExt};
use tracing::Span;

use crate::limits;

/// One piece of blocking work.
type Job = Box<dyn FnOnce() + Send>;

/// Whom the lane's threads are to a file server: root is nobody there (root_squash).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// File-system user id.
    pub uid: u32,
    /// File-system group id.
    pub gid: u32,
}

impl Identity {
    /// Makes the calling thread this user to the file system, until the guard is dropped.
    fn enter(self) -> Acting {
        sqlrep_capture::act_as(self.uid, self.gid);
        Acting { _private: () }
    }
}

/// A thread that acts as somebody else to the file system.
struct Acting {
    _private: (),
}

impl Drop for Acting {
    fn drop(&mut self) {
        sqlrep_capture::act_as(
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
    }
}

/// Runs `work` as `identity` where one is given. For calls on the replica only: the spool and its
/// ledger belong to the agent itself.
pub(crate) fn acting<T>(identity: Option<Identity>, work: impl FnOnce() -> T) -> T {
    let _guard = identity.map(Identity::enter);
    work()
}

/// Why a job has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LaneError {
    /// It did not end in time; it may still be running.
    #[error("no answer from the {lane} lane within {waited:?}: the share may hang")]
    Timeout {
        /// Name of the lane.
        lane: &'static str,
        /// How long the caller waited.
        waited: Duration,
    },
    /// The queue is full.
    #[error("the {lane} lane is full: its target is too slow or hangs")]
    Full {
        /// Name of the lane.
        lane: &'static str,
    },
    /// The job panicked: a bug.
    #[error("a job on the {lane} lane panicked")]
    Panicked {
        /// Name of the lane.
        lane: &'static str,
    },
}

/// The span of a database; `pod` is the name of its pod.
pub(crate) fn named(id: &DbId, pod: &str) -> Span {
    tracing::debug_span!("database", db = %id, ns = id.namespace(), pod, volume = id.volume())
}

/// The span of the thread that captures a database. What is logged on it names nobody, so this is there
/// whatever `RUST_LOG` hides.
pub(crate) fn capturing(id: &DbId, pod: &str) -> Span {
    tracing::error_span!(
        "database",
        db = %id,
        ns = id.namespace(),
        pod,
        volume = id.volume(),
        stage = "capture"
    )
}

/// The span of one run of a stage, within that of its database: what is logged below names neither.
pub(crate) fn stage(name: &'static str) -> Span {
    tracing::debug_span!("stage", stage = name)
}

/// Runs a job, and says how long that took, if anybody wants to know.
fn timed<T>(job: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let done = job();
    if !Span::current().is_disabled() {
        let elapsed_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::debug!(elapsed_ms, "ran");
    }
    done
}

/// A handle on a lane; clones share its threads, which end with the last clone.
#[derive(Clone, Debug)]
pub(crate) struct Lane {
    name: &'static str,
    queue: SyncSender<Job>,
}

impl Lane {
    /// Starts the threads.
    pub(crate) fn start(name: &'static str, threads: usize) -> io::Result<Self> {
        let (queue, jobs) = sync_channel::<Job>(limits::LANE_QUEUE);
        let jobs = Arc::new(Mutex::new(jobs));
        for number in 0..threads.max(1) {
            let jobs = Arc::clone(&jobs);
            std::thread::Builder::new()
                .name(format!("{name}-{number}"))
                .spawn(move || serve(&jobs))?;
        }
        Ok(Self { name, queue })
    }

    /// Runs `job` on one of the lane's threads and waits for it, at most `deadline`.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        deadline: Duration,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, LaneError> {
        let (sender, receiver) = oneshot::channel();
        let span = Span::current();
        let job: Job = Box::new(move || {
            // A caller that gave up has dropped its end; the result is of no use to anybody.
            drop(sender.send(span.in_scope(|| timed(job))));
        });
        let service = ServiceBuilder::new()
            .timeout(deadline)
            .service(Submit { lane: self.clone() });
        let submitted = service
            .oneshot(Work {
                job,
                done: receiver,
            })
            .await;
        submitted.map_err(|error| match error.downcast::<LaneError>() {
            Ok(error) => *error,
            Err(_elapsed) => LaneError::Timeout {
                lane: self.name,
                waited: deadline,
            },
        })
    }
}

/// The queue as a tower service, so that deadlines and admission are layers and not code.
#[derive(Clone, Debug)]
struct Submit {
    lane: Lane,
}

struct Work<T> {
    job: Job,
    done: oneshot::Receiver<T>,
}

impl<T: Send + 'static> Service<Work<T>> for Submit {
    type Response = T;
    type Error = LaneError;
    type Future = Pin<Box<dyn Future<Output = Result<T, LaneError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), LaneError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, work: Work<T>) -> Self::Future {
        let lane = self.lane.name;
        let queued = self
            .lane
            .queue
            .try_send(work.job)
            .map_err(|error| match error {
                TrySendError::Full(_) => LaneError::Full { lane },
                TrySendError::Disconnected(_) => LaneError::Panicked { lane },
            });
        Box::pin(async move {
            queued?;
            work.done.await.map_err(|_| LaneError::Panicked { lane })
        })
    }
}

/// The life of one thread: takes jobs until the last handle is gone.
fn serve(jobs: &Mutex<Receiver<Job>>) {
    loop {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        // The job's sender is dropped by the unwinding: its caller sees `Panicked`.
        if catch_unwind(AssertUnwindSafe(job)).is_err() {
            tracing::error!("a lane job panicked; its caller was told");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_thread_that_captures_logs_says_whose_it_is_at_every_level() {
        let id = DbId::new("media", "app", "data", "x.db").unwrap();
        let span = capturing(&id, "app-1");
        let metadata = span.metadata().unwrap();
        let fields: Vec<_> = metadata.fields().iter().map(|field| field.name()).collect();
        assert_eq!(fields, ["db", "ns", "pod", "volume", "stage"]);
        assert_eq!(*metadata.level(), tracing::Level::ERROR);
    }

    #[tokio::test]
    async fn a_job_returns_its_value() {
        let lane = Lane::start("test", 1).unwrap();
        assert_eq!(lane.run(Duration::from_secs(5), || 42).await, Ok(42));
    }

    #[tokio::test]
    async fn a_hung_job_frees_its_caller_and_not_the_other_lane() {
        let hung = Lane::start("hung", 1).unwrap();
        let fine = Lane::start("fine", 1).unwrap();
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let stuck = hung
            .run(Duration::from_millis(20), move || {
                let _released = wait.recv();
            })
            .await;
        assert!(matches!(
            stuck,
            Err(LaneError::Timeout { lane: "hung", .. })
        ));
        let queued = hung.run(Duration::from_millis(20), || ()).await;
        assert!(
            matches!(queued, Err(LaneError::Timeout { .. })),
            "the only thread still hangs"
        );
        assert_eq!(fine.run(Duration::from_secs(5), || 1).await, Ok(1));
        drop(release);
        assert_eq!(hung.run(Duration::from_secs(5), || 2).await, Ok(2));
    }

    #[tokio::test]
    async fn a_panic_is_told_and_the_thread_lives_on() {
        let lane = Lane::start("test", 1).unwrap();
        let result = lane
            .run(Duration::from_secs(5), || panic!("on purpose"))
            .await;
        assert!(matches!(result, Err::<(), _>(LaneError::Panicked { .. })));
        assert_eq!(lane.run(Duration::from_secs(5), || 7).await, Ok(7));
    }
}
