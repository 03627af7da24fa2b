//! Calls that read a replica back: history, verify, restore.

use std::time::Duration;

use sqlrep_pipeline::{DbId, Fleet, Point, ReadProgress, RestorePart};
use sqlrep_proto::v1;
use tonic::Status;

use crate::rpc::stream::{Broken, Left, Sink};
use crate::rpc::{convert, status};

/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// What a replica holds.
pub(super) async fn history(
    fleet: Fleet,
    id: DbId,
    sink: Sink<v1::HistoryResponse>,
) -> Result<(), Broken> {
    let history = fleet
        .history(&id)
        .await
        .map_err(|error| status::of(&error))?;
    let branches = history.branches.into_iter();
    let branches =
        branches.map(|branch| v1::history_response::Entry::Branch(convert::branch_of(branch)));
    let mut files = history.files;
    files.sort_by(|a, b| (&a.branch, a.level, a.min).cmp(&(&b.branch, b.level, b.min)));
    let files = files.into_iter();
    let files = files.map(|file| v1::history_response::Entry::File(convert::file(file)));
    for entry in branches.chain(files) {
        sink.send(v1::HistoryResponse { entry: Some(entry) })
            .await?;
    }
    Ok(())
}

/// Proves one database; tells how far it is.
pub(super) async fn verify(
    fleet: Fleet,
    id: DbId,
    point: Point,
    branch: Option<String>,
    sink: Sink<v1::VerifyResponse>,
) -> Result<(), Left> {
    use v1::verify_response::Step;

    let (sender, progress) = tokio::sync::watch::channel(ReadProgress::default());
    let database = Some(convert::id(&id));
    let mut tick = tokio::time::interval(PROGRESS_EVERY);
    let mut told = 0;
    let verified = {
        // Dropping it on the way out cancels the work on the lane.
        let mut work = std::pin::pin!(fleet.verify(&id, point, branch, sender));
        loop {
            tokio::select! {
                verified = &mut work => break verified,
                _ = tick.tick() => {
                    let ReadProgress { done, total } = *progress.borrow();
                    if done > told {
                        told = done;
                        let step = Step::Progress(v1::Progress { bytes_done: done, bytes_total: total });
                        let database = database.clone();
                        sink.send(v1::VerifyResponse { database, step: Some(step) }).await?;
                    }
                }
            }
        }
    };
    let step = match verified {
        Ok(verified) => Step::Done(convert::verified(&verified)),
        Err(error) => Step::Failed(status::failure(&error)),
    };
    sink.send(v1::VerifyResponse {
        database,
        step: Some(step),
    })
    .await
}

/// Streams a restored database.
pub(super) async fn restore(
    fleet: Fleet,
    id: DbId,
    point: Point,
    branch: Option<String>,
    sink: Sink<v1::RestoreResponse>,
) -> Result<(), Broken> {
    use v1::restore_response::Part;

    let answer = |part| v1::RestoreResponse { part: Some(part) };
    let stream = fleet.restore_stream(&id, point, branch).await;
    let mut stream = stream.map_err(|error| status::of(&error))?;
    sink.send(answer(Part::Header(convert::restore_header(stream.info))))
        .await?;
    while let Some(part) = stream.parts.recv().await {
        match part.map_err(|error| status::of(&error))? {
            RestorePart::Chunk(bytes) => sink.send(answer(Part::Chunk(bytes.into()))).await?,
            RestorePart::End { bytes, crc64 } => {
                let end = v1::RestoreEnd {
                    bytes_total: bytes,
                    crc64,
                };
                return Ok(sink.send(answer(Part::End(end))).await?);
            }
        }
    }
    Err(Status::internal(format!("the restore of {id} ended before its end")).into())
}
