//! Answers that are streams: bounded in number and in queue, and ended by deadline, departure of
//! the caller, a caller who stays and takes nothing, or the agent's own end.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Response, Status};

use super::{Peer, deadline};

/// Streams that are open at once.
const STREAMS_MAX: usize = 128;

/// Messages that wait for a slow caller.
const QUEUE: usize = 8;

/// How long a message may wait for a caller who takes none: it holds one of [`STREAMS_MAX`] places,
/// [`QUEUE`] messages, and a restore a thread and as much of the node's disk as the database has.
/// Looked at once in so long, so that who stops reading is known for it after one to two of these.
const TAKEN_WITHIN: Duration = Duration::from_mins(5);

/// A stream of answers.
pub(super) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What goes through the queue: a message, or the end and what is wrong.
type Item<T> = Result<T, Option<Status>>;

/// Starts streams; clones share the bound.
#[derive(Clone, Debug)]
pub(crate) struct Streams {
    permits: Arc<Semaphore>,
    stop: CancellationToken,
}

/// Where the work of a stream puts its messages.
#[derive(Clone, Debug)]
pub(super) struct Sink<T>(mpsc::Sender<Item<T>>);

/// The caller went away: the work is for nobody.
#[derive(Debug)]
pub(super) struct Left;

impl<T> Sink<T> {
    /// Sends one message, when the caller is ready for it.
    pub(super) async fn send(&self, message: T) -> Result<(), Left> {
        self.0.send(Ok(message)).await.map_err(|_| Left)
    }
}

/// How the work of a stream ended early.
#[derive(Debug)]
pub(super) enum Broken {
    /// With this status.
    Status(Status),
    /// Without a caller.
    Left,
}

impl From<Status> for Broken {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<Left> for Broken {
    fn from(_: Left) -> Self {
        Self::Left
    }
}

impl Streams {
    /// Streams that end when `stop` is cancelled.
    pub(super) fn new(stop: CancellationToken) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(STREAMS_MAX)),
            stop,
        }
    }

    /// Answers with what `work` sends.
    pub(super) fn answer<T, W, F>(
        &self,
        metadata: &MetadataMap,
        extensions: &Extensions,
        work: W,
    ) -> Result<Response<Answers<T>>, Status>
    where
        T: Send + 'static,
        W: FnOnce(Sink<T>) -> F,
        F: Future<Output = Result<(), Broken>> + Send + 'static,
    {
        let permit = Arc::clone(&self.permits).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!(
                "{STREAMS_MAX} streams are open already; try again when some have ended"
            ))
        })?;
        let (sender, messages) = mpsc::channel(QUEUE);
        let work = work(Sink(sender.clone()));
        let (deadline, stop) = (deadline::of(metadata), self.stop.clone());
        let end = async move {
            tokio::select! {
                end = work => end,
                () = until(deadline) => {
                    Err(Status::deadline_exceeded("the time that the caller gave is over").into())
                }
                () = stop.cancelled() => Err(Status::unavailable("the agent stops").into()),
            }
        };
        let queue = Arc::new(Mutex::new(Queue::Open {
            messages,
            taken: 0,
            _permit: permit,
        }));
        let seen = Arc::downgrade(&queue);
        let in_use = Peer::of(extensions).map(Peer::in_use);
        tokio::spawn(async move {
            let _in_use = in_use;
            let all_taken = async {
                let end = match end.await {
                    Ok(()) => None,
                    Err(Broken::Status(status)) => Some(status),
                    Err(Broken::Left) => return,
                };
                // A caller that went away meanwhile needs no status.
                drop(sender.send(Err(end)).await);
                sender.closed().await;
            };
            // Whichever comes first: what is left of the work is dropped, and lets go of what it holds.
            tokio::select! {
                () = all_taken => {}
                () = sender.closed() => {}
                () = not_taken(&seen) => cut(&seen),
            }
        });
        Ok(Response::new(Box::pin(Taken(queue))))
    }
}

/// What waits for the caller. It holds the place of its stream until all of it is taken.
#[derive(Debug)]
enum Queue<T> {
    /// Messages, those that were taken counted.
    Open {
        messages: mpsc::Receiver<Item<T>>,
        taken: u64,
        _permit: OwnedSemaphorePermit,
    },
    /// Nothing but why.
    Cut(Status),
    /// Nothing.
    Ended,
}

/// The caller's side of a stream.
#[derive(Debug)]
struct Taken<T>(Arc<Mutex<Queue<T>>>);

impl<T> Stream for Taken<T> {
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // Poison says that a thread panicked in here; no state of the queue is half of one.
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let end = match &mut *queue {
            Queue::Open {
                messages, taken, ..
            } => match messages.poll_recv(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(message))) => {
                    *taken += 1;
                    return Poll::Ready(Some(Ok(message)));
                }
                Poll::Ready(Some(Err(end))) => end,
                Poll::Ready(None) => Some(Status::internal(
                    "the answer ended before its end; this is a bug",
                )),
            },
            Queue::Cut(status) => Some(status.clone()),
            Queue::Ended => None,
        };
        *queue = Queue::Ended;
        Poll::Ready(end.map(Err))
    }
}

/// Returns when something waited for all of this time, and nothing was taken meanwhile.
async fn not_taken<T>(queue: &Weak<Mutex<Queue<T>>>) {
    loop {
        let before = waiting(queue);
        sleep(TAKEN_WITHIN).await;
        if before.is_some() && before == waiting(queue) {
            return;
        }
    }
}

/// How many messages were taken, if there are more that wait.
fn waiting<T>(queue: &Weak<Mutex<Queue<T>>>) -> Option<u64> {
    let queue = queue.upgrade()?;
    let queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
    match &*queue {
        Queue::Open {
            messages, taken, ..
        } => (!messages.is_empty()).then_some(*taken),
        Queue::Cut(_) | Queue::Ended => None,
    }
}

/// Lets go of what waits; should the caller ever read on, it finds out why.
fn cut<T>(queue: &Weak<Mutex<Queue<T>>>) {
    let because = format!(
        "the caller took nothing of this answer for {} s, so its work was ended; call again, and read \
         what comes",
        TAKEN_WITHIN.as_secs()
    );
    tracing::info!("{because}");
    if let Some(queue) = queue.upgrade() {
        let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
        *queue = Queue::Cut(Status::cancelled(because));
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
