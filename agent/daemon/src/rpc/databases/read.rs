//! Calls that read a replica back: history, verify, restore.

use sqlrep_pipeline::{DbId, Fleet, Point, ReadProgress, RestorePart};
use sqlrep_proto::v1;
use tokio::sync::watch;
use tonic::Status;

use super::progress::telling;
use crate::rpc::stream::{Broken, Left, Sink};
use crate::rpc::{convert, status};

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

    let (sender, progress) = watch::channel(ReadProgress::default());
    // Dropping it on the way out cancels the work on the lane.
    let work = fleet.verify(&id, point, branch, sender);
    let database = Some(convert::id(&id));
    let message = |at| v1::VerifyResponse {
        database: database.clone(),
        step: Some(Step::Progress(at)),
    };
    let verified = telling(work, progress, &sink, message).await?;
    let step = match verified {
        Ok(proof) => Step::Done(convert::verified(proof)),
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
