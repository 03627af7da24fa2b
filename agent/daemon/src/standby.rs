//! One agent works on a node at a time; the next one stands by.
//!
//! A rollout starts the new agent beside the old one, and ends the old one once the new one is
//! ready. It is ready when it could begin at once: the moment in which the old one lets go of the
//! state directory is the moment in which this one goes on, so a node is without an agent for
//! fractions of a second and not for as long as a pod takes to be made.

use std::time::Duration;

use sqlrep_pipeline::{Fleet, FleetConfig, StartError};
use tokio::time::sleep;

use crate::health::Pulse;

/// How often is tried whether the node is free; one try is a system call or two.
const LOOK: Duration = Duration::from_millis(20);

/// Starts the fleet as soon as no other agent holds the state directory.
pub(crate) async fn start_fleet(config: FleetConfig, pulse: &Pulse) -> Result<Fleet, StartError> {
    let mut waits = false;
    loop {
        match Fleet::start(config.clone()) {
            Err(error) if error.is_locked() => {
                if !waits {
                    tracing::info!(why = %error, "standing by until the agent before this one ends");
                }
                waits = true;
                pulse.beat();
                pulse.stands_by(true);
                sleep(LOOK).await;
            }
            started => {
                pulse.stands_by(false);
                return started;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use sqlrep_pipeline::{NoLookup, Settings};

    use super::*;

    fn config(dir: &Path) -> FleetConfig {
        let day = Duration::from_hours(24);
        FleetConfig {
            node: "n1".to_owned(),
            replica_root: dir.join("replicas"),
            state_dir: dir.join("state"),
            defaults: Settings {
                sync_interval: Duration::from_secs(1),
                snapshot_interval: day,
                retention: day,
            },
            spool_bytes_max: 1 << 30,
            wal_bytes_max: 1 << 28,
            l0_retention: Duration::from_mins(5),
            branch_retention: Duration::from_hours(720),
            levels: vec![Duration::from_secs(30)],
            verify_interval: None,
            drain_timeout: Duration::from_secs(1),
            replica_owner: None,
            cluster_uid: None,
            lookup: Arc::new(NoLookup),
            targets: Arc::new(sqlrep_pipeline::NodeMemory),
        }
    }

    #[tokio::test]
    async fn the_next_agent_is_ready_while_it_waits_and_begins_when_the_last_one_ends() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (Pulse::new(), Pulse::new());
        let one = start_fleet(config(dir.path()), &first).await.unwrap();
        assert!(first.missing().is_some(), "it has not read the pods");
        let (waiting, pulse) = (config(dir.path()), second.clone());
        let two = tokio::spawn(async move { start_fleet(waiting, &pulse).await });
        while second.missing().is_some() {
            sleep(Duration::from_millis(1)).await;
        }
        assert!(!two.is_finished(), "two agents on one node");
        one.shutdown().await;
        let two = two.await.unwrap().unwrap();
        assert!(second.missing().is_some(), "now it has work to do first");
        two.shutdown().await;
    }

    #[tokio::test]
    async fn another_fault_is_no_reason_to_wait() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("state"), "a file").unwrap();
        let started = start_fleet(config(dir.path()), &Pulse::new()).await;
        assert!(!started.unwrap_err().is_locked());
    }
}
