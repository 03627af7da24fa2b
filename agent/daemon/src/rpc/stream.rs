//! Answers that are streams: bounded in number and in queue, and ended by deadline, departure of
//! the caller, or the agent's own end.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep_until};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::{Response, Status};

use super::deadline;

/// Streams that are open at once.
const STREAMS_MAX: usize = 128;

/// Messages that wait for a slow caller.
const QUEUE: usize = 8;

/// A stream of answers.
pub(super) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Starts streams; clones share the bound.
#[derive(Clone, Debug)]
pub(crate) struct Streams {
    permits: Arc<Semaphore>,
    stop: CancellationToken,
}

/// Where the work of a stream puts its messages.
#[derive(Clone, Debug)]
pub(super) struct Sink<T>(mpsc::Sender<Result<T, Status>>);

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
        let (sender, receiver) = mpsc::channel(QUEUE);
        let work = work(Sink(sender.clone()));
        let (deadline, stop) = (deadline::of(metadata), self.stop.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let end = tokio::select! {
                end = work => end,
                () = sender.closed() => Err(Broken::Left),
                () = until(deadline) => {
                    Err(Status::deadline_exceeded("the time that the caller gave is over").into())
                }
                () = stop.cancelled() => Err(Status::unavailable("the agent stops").into()),
            };
            if let Err(Broken::Status(status)) = end {
                // A caller that went away meanwhile needs no status.
                drop(sender.send(Err(status)).await);
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
