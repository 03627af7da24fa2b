//! Work on the databases of several agents at once.

use std::cell::RefCell;
use std::collections::BTreeSet;

use futures_util::StreamExt as _;
use futures_util::stream;

use super::{AT_ONCE, Agents};
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

/// Databases of one agent.
pub(crate) struct Group {
    agent: Agent,
    ids: Vec<Id>,
}

enum Agent {
    /// Connected to for as long as its job takes: a cluster has more agents than a process has
    /// descriptors.
    Of(usize),
    Here(Client),
}

impl Group {
    /// Databases of the agent that has this index.
    pub(super) fn at(agent: usize, ids: Vec<Id>) -> Self {
        let agent = Agent::Of(agent);
        Self { agent, ids }
    }

    /// Replicas that this one can read.
    pub(super) fn of(client: Client, ids: Vec<Id>) -> Self {
        let agent = Agent::Here(client);
        Self { agent, ids }
    }

    async fn run<J: Job>(
        &self,
        agents: &Agents,
        job: &J,
        on: impl FnMut(&Id, Step<J::Done>) -> Result<()>,
    ) -> Result<()> {
        match &self.agent {
            Agent::Of(agent) => job.run(&agents.client(*agent).await?, &self.ids, on).await,
            Agent::Here(client) => job.run(client, &self.ids, on).await,
        }
    }
}

/// Does the job at all agents. One that fails fails its own databases; alone, the whole job.
pub(crate) async fn work<J: Job>(
    agents: &Agents,
    job: &J,
    groups: &[Group],
    on: impl FnMut(&Id, Step<J::Done>),
) -> Result<()> {
    let on = RefCell::new(on);
    let step = |id: &Id, step: Step<J::Done>| (on.borrow_mut())(id, step);
    if let [group] = groups {
        let ended = group.run(agents, job, |id, what| {
            step(id, what);
            Ok(())
        });
        return ended.await;
    }
    let step = &step;
    let runs = groups.iter().map(|group| async move {
        let open = RefCell::new(group.ids.iter().collect::<BTreeSet<_>>());
        let ended = group.run(agents, job, |id, what| {
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
