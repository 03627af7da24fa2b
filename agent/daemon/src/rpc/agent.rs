//! `sqlrep.v1.Agent`: who answers.

use std::collections::HashMap;

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
        let full = fleet.pending_bytes() >= config.spool_bytes_max;
        vec![
            check(
                "replica-root",
                root.problem,
                "mount the share, or correct --replica-root",
            ),
            check(
                "spool",
                full.then(|| {
                    format!(
                        "{} waits for the replica",
                        format_size(fleet.pending_bytes())
                    )
                }),
                "bring the NAS back, or raise --spool-limit",
            ),
        ]
    }
}

fn check(name: &str, problem: Option<String>, hint: &str) -> v1::HealthCheck {
    let ok = problem.is_none();
    v1::HealthCheck {
        name: name.to_owned(),
        ok,
        message: problem.unwrap_or_default(),
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
            sqlite_version: String::new(),
            node: config.node_name.clone(),
            pods: pods(config),
            replica_root: config.replica_root.display().to_string(),
            replica_root_id: fleet.root().id.unwrap_or_default(),
            state_dir: config.state_dir.display().to_string(),
            started: Some(convert::time(*started)),
            flags: flags(config),
            health: self.health(),
            databases: u32::try_from(fleet.list().len()).unwrap_or(u32::MAX),
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
