//! `sqlrep.v1.Agent`: who answers.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use sqlrep_pipeline::{RootProbe, sqlite_version};
use sqlrep_proto::v1;
use sqlrep_proto::v1::agent_server::Agent;
use tonic::{Request, Response, Status};

use super::{Node, convert};
use crate::config::{Auth, Config, PodsSource};
use crate::units::{format_duration, format_size};

/// The service.
#[derive(Clone, Debug)]
pub(super) struct Service {
    node: Node,
}

impl Service {
    pub(super) fn new(node: Node) -> Self {
        Self { node }
    }

    fn health(&self) -> Vec<v1::HealthCheck> {
        let Node { fleet, config, .. } = &self.node;
        let root = fleet.root();
        let (pending, most) = (fleet.pending_bytes(), config.spool_bytes_max);
        let waits = format!("{} waits for the replica", format_size(pending));
        let id = root.id.unwrap_or_default();
        let marked = format!("{}, id {id}", config.replica_root.display());
        let mut checks = vec![check(
            "replica-root",
            root.problem.map_or(Ok(marked), Err),
            "mount the share, or correct --replica-root",
        )];
        checks.extend(root.probe.into_iter().flat_map(of_root));
        checks.extend([
            check(
                "spool",
                if pending < most {
                    Ok(waits)
                } else {
                    Err(waits)
                },
                "bring the NAS back, or raise --spool-limit",
            ),
            // An agent in a cluster whose own pod is not there does not start, and none starts
            // with a SQLite that is too old.
            check(
                "kubelet-root",
                Ok(config.kubelet_root.display().to_string()),
                "",
            ),
            check("sqlite", Ok(sqlite_version().to_owned()), ""),
        ]);
        checks
    }
}

/// A publish that takes longer keeps commits back more than anything else would.
const SLOW: Duration = Duration::from_secs(1);

/// Clocks that differ more confuse people who compare times; nothing else looks at the share's.
const CLOCKS_MS: u64 = 10_000;

/// What was tried on the root.
fn of_root(probed: Result<RootProbe, String>) -> Vec<v1::HealthCheck> {
    let RootProbe { took, ahead_ms } = match probed {
        Ok(probe) => probe,
        Err(problem) => {
            let hint = "a replica needs exclusive names: see the mount and the NAS";
            return vec![check("replica-root-names", Err(problem), hint)];
        }
    };
    let latency = format!("two publishes and a removal take {} ms", took.as_millis());
    let clock = format!("its clock differs from the node's by {ahead_ms} ms");
    vec![
        check(
            "replica-root-names",
            Ok("a name that is taken is refused".to_owned()),
            "",
        ),
        check(
            "replica-root-latency",
            if took < SLOW {
                Ok(latency)
            } else {
                Err(latency)
            },
            "the share is slow: look at the network, the NAS and its disks",
        ),
        check(
            "replica-root-clock",
            if ahead_ms.unsigned_abs() < CLOCKS_MS {
                Ok(clock)
            } else {
                Err(clock)
            },
            "set the time of the node and of the NAS by NTP",
        ),
    ]
}

/// One check: what was found, or what is wrong.
fn check(name: &str, found: Result<String, String>, hint: &str) -> v1::HealthCheck {
    let ok = found.is_ok();
    let (Ok(message) | Err(message)) = found;
    v1::HealthCheck {
        name: name.to_owned(),
        ok,
        message,
        hint: if ok { String::new() } else { hint.to_owned() },
    }
}

#[tonic::async_trait]
impl Agent for Service {
    async fn info(
        &self,
        _: Request<v1::InfoRequest>,
    ) -> Result<Response<v1::InfoResponse>, Status> {
        let Node {
            fleet,
            config,
            started,
            ..
        } = &self.node;
        Ok(Response::new(v1::InfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            sqlite_version: sqlite_version().to_owned(),
            node: config.node_name.clone(),
            pods: pods(config),
            replica_root: config.replica_root.display().to_string(),
            replica_root_id: fleet.root().id.unwrap_or_default(),
            state_dir: config.state_dir.display().to_string(),
            started: Some(convert::time(*started)),
            flags: flags(config),
            health: self.health(),
            databases: u32::try_from(fleet.look(BTreeMap::len)).unwrap_or(u32::MAX),
            spool_bytes: fleet.pending_bytes(),
            spool_bytes_max: config.spool_bytes_max,
        }))
    }
}

fn pods(config: &Config) -> String {
    match &config.pods {
        PodsSource::Kube => "kube".to_owned(),
        PodsSource::Dir(path) => format!("dir:{}", path.display()),
    }
}

fn auth(config: &Config) -> &'static str {
    match config.auth {
        Auth::Kube => "kube",
        Auth::None => "none",
    }
}

/// The flags in force; paths of keys are no secrets, what is in them is.
fn flags(config: &Config) -> HashMap<String, String> {
    let listen: Vec<_> = config.listen.iter().map(ToString::to_string).collect();
    let optional = |value: Option<String>| value.unwrap_or_default();
    [
        ("node-name", config.node_name.clone()),
        ("pods", pods(config)),
        ("kubelet-root", config.kubelet_root.display().to_string()),
        ("replica-root", config.replica_root.display().to_string()),
        (
            "replica-uid",
            optional(config.replica_owner.map(|(uid, _)| uid.to_string())),
        ),
        (
            "replica-gid",
            optional(config.replica_owner.map(|(_, gid)| gid.to_string())),
        ),
        ("state-dir", config.state_dir.display().to_string()),
        ("sync-interval", format_duration(config.sync_interval)),
        ("l0-retention", format_duration(config.l0_retention)),
        (
            "snapshot-interval",
            format_duration(config.snapshot_interval),
        ),
        ("retention", format_duration(config.retention)),
        ("branch-retention", format_duration(config.branch_retention)),
        (
            "verify-interval",
            format_duration(config.verify_interval.unwrap_or_default()),
        ),
        ("spool-limit", format_size(config.spool_bytes_max)),
        ("wal-limit", format_size(config.wal_bytes_max)),
        ("drain-timeout", format_duration(config.drain_timeout)),
        ("listen", listen.join(",")),
        ("auth", auth(config).to_owned()),
        (
            "metrics",
            optional(config.metrics.map(|address| address.to_string())),
        ),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}
