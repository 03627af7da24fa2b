//! Looks at the replica root now and then: a share that vanishes is shown, one that comes is used.
//!
//! In a cluster the id of the root is kept in a ConfigMap too, so that a node which never saw the
//! root knows a share that is not mounted from one that is new (DESIGN §4.2). The agent that marks
//! an empty root makes it; everybody reads it; nobody changes it.

use std::time::Duration;

use sqlrep_pipeline::{Fleet, RootMemory};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::health::Pulse;

/// How often the root is looked at while it is usable.
const LOOK: Duration = Duration::from_secs(30);

/// And while it is not: a share that is mounted late is noticed this soon.
const RETRY: Duration = Duration::from_secs(3);

/// How often the cluster is asked again while its memory and the root disagree: a thousand nodes
/// that wait for one share must not be felt by the API server.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// How often is tried whether the root can do what it must; it costs a few round trips.
const PROBE: Duration = Duration::from_mins(10);

/// What the watch needs.
#[derive(Debug)]
pub(crate) struct RootWatch {
    fleet: Fleet,
    /// Where the root's id is remembered for all nodes, if anywhere.
    cluster: Option<Cluster>,
    pulse: Pulse,
}

impl RootWatch {
    /// Where the cluster can remember roots, none that is new to this node is used before it said.
    pub(crate) fn new(fleet: Fleet, cluster: Option<Cluster>, pulse: Pulse) -> Self {
        let cluster = cluster.filter(Cluster::remembers_roots);
        if cluster.is_some() {
            fleet.remember_root(RootMemory::Unknown("it has not been asked yet".to_owned()));
        }
        Self {
            fleet,
            cluster,
            pulse,
        }
    }

    /// Looks until told to stop.
    pub(crate) async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.watch() => {}
        }
        Ok(())
    }

    async fn watch(&self) {
        let mut memory = None;
        let mut asked = Instant::now();
        let mut usable = false;
        let mut probed: Option<Instant> = None;
        loop {
            let known = matches!(memory, Some(RootMemory::Id(_)));
            let ask = memory.is_none() || (!(usable && known) && asked.elapsed() >= ASK_AGAIN);
            if ask && let Some(cluster) = &self.cluster {
                memory = self.ask(cluster).await;
                asked = Instant::now();
            }
            // The fleet logs and shows what is wrong.
            usable = self.fleet.check_root().await.is_ok();
            if usable {
                self.pulse.root_was_usable();
                if probed.is_none_or(|at| at.elapsed() >= PROBE) {
                    // Where no lane is free for it, the state of the root says more.
                    drop(self.fleet.probe_root().await);
                    probed = Some(Instant::now());
                }
                if memory == Some(RootMemory::Nobody) {
                    memory = self.tell().await;
                }
            }
            sleep(if usable { LOOK } else { RETRY }).await;
        }
    }

    /// What the cluster remembers; `None` when it does not say.
    async fn ask(&self, cluster: &Cluster) -> Option<RootMemory> {
        let (memory, answered) = match cluster.remembered_root().await {
            Ok(Some(text)) => match text.parse() {
                Ok(id) => (RootMemory::Id(id), true),
                Err(error) => {
                    let problem = format!("ConfigMap sqlrep-root holds {text:?}: {error}");
                    (RootMemory::Unknown(problem), false)
                }
            },
            Ok(None) => (RootMemory::Nobody, true),
            Err(error) => (RootMemory::Unknown(format!("{error:#}")), false),
        };
        self.fleet.remember_root(memory.clone());
        answered.then_some(memory)
    }

    /// Has the cluster remember the root that was just found to be usable.
    async fn tell(&self) -> Option<RootMemory> {
        let cluster = self.cluster.as_ref()?;
        let id = self.fleet.root().id?;
        if let Err(error) = cluster.remember_root(&id).await {
            tracing::warn!(err = %format!("{error:#}"), "the cluster does not remember the replica root yet");
        }
        // Another node may have been faster: what is there holds.
        self.ask(cluster).await
    }
}
