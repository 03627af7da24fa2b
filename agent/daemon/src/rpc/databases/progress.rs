//! Telling how far long work is, while it is done.

use std::future::Future;
use std::time::Duration;

use sqlrep_pipeline::ReadProgress;
use sqlrep_proto::v1;
use tokio::sync::watch;

use crate::rpc::stream::{Left, Sink};

/// How often progress is told.
const EVERY: Duration = Duration::from_millis(100);

/// Waits for the work, and tells how far it is whenever it is further.
pub(super) async fn telling<T, M>(
    work: impl Future<Output = T>,
    progress: watch::Receiver<ReadProgress>,
    sink: &Sink<M>,
    message: impl Fn(v1::Progress) -> M,
) -> Result<T, Left> {
    let mut work = std::pin::pin!(work);
    let mut tick = tokio::time::interval(EVERY);
    let mut told = 0;
    loop {
        tokio::select! {
            done = &mut work => return Ok(done),
            _ = tick.tick() => {
                let ReadProgress { done, total } = *progress.borrow();
                if done > told {
                    told = done;
                    let at = v1::Progress { bytes_done: done, bytes_total: total };
                    sink.send(message(at)).await?;
                }
            }
        }
    }
}
