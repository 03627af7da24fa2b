//! Work on the databases of several agents at once.

use std::cell::RefCell;
use std::collections::BTreeSet;

use futures_util::StreamExt as _;
use futures_util::stream;

use super::AT_ONCE;
use crate::client::{Client, Step};
use crate::database::Id;
use crate::failure::{Failure, Result};

/// What is to be done with databases of one agent.
pub(crate) trait Job {
    /// What it leaves behind for each.
    type Done;

    /// Does it; each database gets its end through `on`.
    async fn run(
        &self,
        client: &Client,
        ids: &[Id],
        on: impl FnMut(&Id, Step<Self::Done>) -> Result<()>,
    ) -> Result<()>;
}

/// Does the job at all agents. One that fails fails its own databases; alone, the whole job.
pub(crate) async fn work<J: Job>(
    job: &J,
    groups: &[(Client, Vec<Id>)],
    on: impl FnMut(&Id, Step<J::Done>),
) -> Result<()> {
    let on = RefCell::new(on);
    let step = |id: &Id, step: Step<J::Done>| (on.borrow_mut())(id, step);
    if let [(client, ids)] = groups {
        let ended = job.run(client, ids, |id, what| {
            step(id, what);
            Ok(())
        });
        return ended.await;
    }
    let (job, step) = (&job, &step);
    let runs = groups.iter().map(|(client, ids)| async move {
        let open = RefCell::new(ids.iter().collect::<BTreeSet<_>>());
        let ended = job.run(client, ids, |id, what| {
            if !matches!(what, Step::Progress(..)) {
                open.borrow_mut().remove(id);
            }
            step(id, what);
            Ok(())
        });
        if let Err(failure) = ended.await {
            for id in open.into_inner() {
                step(id, Step::Failed(same(&failure)));
            }
        }
    });
    stream::iter(runs)
        .buffer_unordered(AT_ONCE)
        .collect::<()>()
        .await;
    Ok(())
}

/// The failure once more, for another database.
fn same(failure: &Failure) -> Failure {
    let again = Failure::new(failure.exit, failure.to_string());
    match failure.next_step() {
        Some(hint) => again.hint(hint),
        None => again,
    }
}
