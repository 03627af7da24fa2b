//! The call that rewinds a live database.

use sqlrep_pipeline::{DbId, Fleet, ReadProgress, Wanted};
use sqlrep_proto::v1;
use sqlrep_proto::v1::restore_in_place_response::Step;
use tokio::sync::watch;

use super::progress::telling;
use crate::rpc::status;
use crate::rpc::stream::{Broken, Sink};

/// Rewinds one database; tells how far it is. Who asked was logged at the door.
pub(super) async fn run(
    fleet: Fleet,
    id: DbId,
    wanted: Wanted,
    sink: Sink<v1::RestoreInPlaceResponse>,
) -> Result<(), Broken> {
    let answer = |step| v1::RestoreInPlaceResponse { step: Some(step) };
    let (sender, progress) = watch::channel(ReadProgress::default());
    // Dropping it ends the process that writes: the old content stays, or the new one is complete.
    let work = fleet.rewind(&id, wanted, sender);
    let rewound = telling(work, progress, &sink, |at| answer(Step::Progress(at))).await?;
    let rewound = rewound.map_err(|error| status::of(&error))?;
    let done = Step::Done(v1::RestoreInPlaceDone {
        from_txid: rewound.from.get(),
        txid: rewound.txid.get(),
        before_txid: rewound.before.get(),
    });
    Ok(sink.send(answer(done)).await?)
}
