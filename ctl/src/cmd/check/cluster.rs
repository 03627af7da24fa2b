//! The checks of a cluster: what it is, who may what, its agents, its policies, its workloads.

use std::collections::BTreeSet;

use super::{Check, ask, of_agent, of_database};
use crate::agents::Seat;
use crate::app::Context;
use crate::cluster::{AgentPod, Cluster, OptedIn, Options, Policies, Right, Rollout};
use crate::failure::Result;
use crate::options::Reach;

/// The account that agents run as.
const AGENT: &str = "sqlrep-agent";
/// A full volume ends the app; past this share of its limit somebody should know.
const LIMIT_PERCENT: u64 = 70;
/// Names that one message holds.
const NAMES_MAX: usize = 5;

/// What people need.
const OURS: [Right; 3] = [
    right("list", "", "pods", false),
    right("create", "", "pods/portforward", false),
    right("create", "", "serviceaccounts/token", false),
];

/// What agents cannot do without.
const THEIRS: [Right; 7] = [
    right("watch", "", "pods", true),
    right("get", "", "namespaces", true),
    right("get", "", "nodes", true),
    right("create", "", "configmaps", false),
    right("create", "events.k8s.io", "events", true),
    right("create", "authentication.k8s.io", "tokenreviews", true),
    right(
        "create",
        "authorization.k8s.io",
        "subjectaccessreviews",
        true,
    ),
];

const fn right(
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
    everywhere: bool,
) -> Right {
    Right {
        verb,
        group,
        resource,
        everywhere,
    }
}

/// All checks. One that cannot be made is a failed one; the others are made all the same.
pub(super) async fn checks(
    options: &Options,
    context: &mut Context,
    reach: &Reach,
) -> Result<Vec<Check>> {
    let cluster = Cluster::of(options).await?;
    let mut checks = Vec::new();
    match cluster.version().await {
        Ok(version) => {
            let said = format!("answers, version {version}");
            checks.push(Check::new("kubernetes-api", "api", said));
        }
        Err(failure) => {
            // Nothing else can be found out.
            checks.push(Check::unknown("kubernetes-api", "api", &failure));
            return Ok(checks);
        }
    }
    permissions(&cluster, &mut checks).await;
    let namespace = context.global.namespace.clone();
    let opted_in = cluster.opted_in(namespace.as_deref()).await;
    let (answered, seats) = agents(context, reach, &mut checks).await;
    match &opted_in {
        Ok(pods) => {
            checks.push(gates(pods));
            checks.push(limits(pods, &seats));
        }
        Err(failure) => checks.push(Check::unknown("workloads", "opted-in", failure)),
    }
    match cluster.agents().await {
        Ok(found) => {
            let pods = opted_in.as_deref().unwrap_or_default();
            checks.push(coverage(&found, pods));
            checks.extend(silent(&found, &answered));
        }
        Err(failure) => checks.push(Check::unknown("node-agent", "coverage", &failure)),
    }
    admission(&cluster, namespace.as_deref(), &mut checks).await;
    match cluster.rollouts(namespace.as_deref()).await {
        Ok(found) => checks.extend(rollouts(&found)),
        Err(failure) => checks.push(Check::unknown("workloads", "deployments", &failure)),
    }
    checks.extend(seats.iter().map(|seat| of_database(&seat.database)));
    Ok(checks)
}

async fn permissions(cluster: &Cluster, checks: &mut Vec<Check>) {
    for right in OURS {
        let name = format!("you may {} {}", right.verb, right.resource);
        checks.push(match cluster.may(right).await {
            Ok(true) => Check::new("permissions", name, "yes"),
            Ok(false) => Check::new("permissions", name, "no").failed(format!(
                "bind the role sqlrep-reach in namespace {} to you, or name an account of yours \
                 with --service-account",
                cluster.namespace()
            )),
            Err(failure) => Check::unknown("permissions", name, &failure),
        });
    }
    for right in THEIRS {
        let name = format!("agents may {} {}", right.verb, right.resource);
        checks.push(match cluster.agents_may(AGENT, right).await {
            Ok(Some(true)) => Check::new("permissions", name, "yes"),
            Ok(Some(false)) => Check::new("permissions", name, "no")
                .failed("apply the ClusterRole sqlrep-agent and its binding again"),
            Ok(None) => Check::new("permissions", name, "you may not ask")
                .warning("ask a cluster administrator to run this check"),
            Err(failure) => Check::unknown("permissions", name, &failure),
        });
    }
}

/// The nodes whose agents answer, and what they follow.
async fn agents(
    context: &mut Context,
    reach: &Reach,
    checks: &mut Vec<Check>,
) -> (BTreeSet<String>, Vec<Seat>) {
    match ask(context, reach).await {
        Ok((infos, seats)) => {
            let answered = infos.iter().map(|info| info.node.clone()).collect();
            checks.extend(infos.into_iter().flat_map(of_agent));
            (answered, seats)
        }
        Err(failure) => {
            checks.push(Check::unknown("node-agent", "agents", &failure));
            (BTreeSet::new(), Vec::new())
        }
    }
}

/// Is there an agent on every node with a pod that opted in?
fn coverage(found: &[AgentPod], pods: &[OptedIn]) -> Check {
    let running: BTreeSet<&str> = found
        .iter()
        .filter(|agent| agent.road.is_ok())
        .map(|agent| agent.node.as_str())
        .collect();
    let needed: BTreeSet<&str> = pods.iter().filter_map(|pod| pod.node.as_deref()).collect();
    let bare: Vec<&str> = needed.difference(&running).copied().collect();
    if bare.is_empty() {
        let said = format!(
            "an agent runs on each of {} nodes with opted-in pods",
            needed.len()
        );
        Check::new("node-agent", "coverage", said)
    } else {
        let said = format!("no agent runs on {}", some(&bare));
        Check::new("node-agent", "coverage", said).failed(
            "their pods are not replicated: see the DaemonSet's tolerations and `kubectl -n sqlrep \
             get pods -o wide`",
        )
    }
}

/// The agents that run and do not answer.
fn silent(found: &[AgentPod], answered: &BTreeSet<String>) -> Option<Check> {
    let silent: Vec<&str> = found
        .iter()
        .map(|agent| agent.node.as_str())
        .filter(|node| !answered.contains(*node))
        .collect();
    if silent.is_empty() {
        return None;
    }
    let said = format!("no answer from {}", some(&silent));
    Some(
        Check::new("node-agent", "answers", said).failed(
            "`sqlrepctl list` says why; `kubectl -n sqlrep logs` shows what the agent says",
        ),
    )
}

fn gates(pods: &[OptedIn]) -> Check {
    let bare: Vec<&str> = pods
        .iter()
        .filter(|pod| !pod.gated)
        .map(|pod| pod.name.as_str())
        .collect();
    if bare.is_empty() {
        let said = format!("first in all of {} opted-in pods", pods.len());
        Check::new("workloads", "gate", said)
    } else {
        Check::new(
            "workloads",
            "gate",
            format!("missing or not first in {}", some(&bare)),
        )
        .failed(
            "such a pod may start empty while its replica has data: delete it, so that the policy \
             adds the gate, or write the init container by hand",
        )
    }
}

/// Is there room for the databases in their volumes?
fn limits(pods: &[OptedIn], seats: &[Seat]) -> Check {
    let mut tight = Vec::new();
    for pod in pods {
        for (volume, limit) in &pod.limits {
            let Some(limit) = limit else { continue };
            let inside = seats.iter().map(|seat| &seat.database).filter(|database| {
                let name = format!("{}/{}", database.id.namespace, database.pod);
                name == pod.name && database.id.volume == *volume
            });
            let used: u64 = inside
                .map(|database| database.size_bytes.saturating_add(database.wal_bytes))
                .fold(0, u64::saturating_add);
            if used > limit / 100 * LIMIT_PERCENT {
                tight.push(format!("{} ({volume})", pod.name));
            }
        }
    }
    if tight.is_empty() {
        return Check::new("workloads", "size-limit", "every emptyDir has room");
    }
    let names: Vec<&str> = tight.iter().map(String::as_str).collect();
    let said = format!("nearly full: {}", some(&names));
    Check::new("workloads", "size-limit", said)
        .warning("a volume over its sizeLimit evicts the pod: raise the limit")
}

async fn admission(cluster: &Cluster, namespace: Option<&str>, checks: &mut Vec<Check>) {
    let policies = match cluster.policies().await {
        Ok(policies) => policies,
        Err(failure) => {
            checks.push(Check::unknown("admission", "policies", &failure));
            return;
        }
    };
    checks.push(bound(policies));
    if !policies.gate {
        return;
    }
    let namespace = namespace.unwrap_or("default");
    let name = "gate-fires";
    checks.push(match cluster.gate_fires(namespace).await {
        Ok(true) => {
            let said = format!("a labelled pod in {namespace} would get the gate");
            Check::new("admission", name, said)
        }
        Ok(false) => {
            let said = format!("a labelled pod in {namespace} would get no gate");
            Check::new("admission", name, said)
                .failed("see the policy gate.sqlrep.io, its binding and its ConfigMap sqlrep-gate")
        }
        Err(failure) => Check::new("admission", name, failure.to_string())
            .warning("it takes the permission to create pods (nothing is created); see -n"),
    });
}

fn bound(policies: Policies) -> Check {
    let all = [
        (policies.gate, "gate.sqlrep.io"),
        (policies.rollout, "rollout.sqlrep.io"),
        (policies.warnings, "warnings.sqlrep.io"),
    ];
    let missing: Vec<&str> = all
        .iter()
        .filter(|(there, _)| !there)
        .map(|(_, name)| *name)
        .collect();
    if missing.is_empty() {
        return Check::new("admission", "policies", "all are bound");
    }
    Check::new(
        "admission",
        "policies",
        format!("not bound: {}", some(&missing)),
    )
    .warning(
        "apply the admission component (Kubernetes 1.36 and later), or write the gate and the \
         strategy Recreate into each workload",
    )
}

fn rollouts(found: &[Rollout]) -> Vec<Check> {
    let surging: Vec<&str> = found
        .iter()
        .filter(|rollout| rollout.surges)
        .map(|rollout| rollout.name.as_str())
        .collect();
    let several: Vec<&str> = found
        .iter()
        .filter(|rollout| rollout.replicas > 1)
        .map(|rollout| rollout.name.as_str())
        .collect();
    let strategy = "strategy";
    let replicas = "replicas";
    vec![
        if surging.is_empty() {
            let said = format!("Recreate in all of {} deployments", found.len());
            Check::new("workloads", strategy, said)
        } else {
            let said = format!("not Recreate: {}", some(&surging));
            Check::new("workloads", strategy, said).failed(
                "a rolling update starts the new pod while the old one writes: set strategy \
                 Recreate",
            )
        },
        if several.is_empty() {
            Check::new("workloads", replicas, "one pod at a time")
        } else {
            let said = format!("more than one: {}", some(&several));
            Check::new("workloads", replicas, said)
                .failed("pods of a Deployment share one replica: set replicas: 1, or a StatefulSet")
        },
    ]
}

/// Some names, and how many more.
fn some(names: &[&str]) -> String {
    let shown = names[..names.len().min(NAMES_MAX)].join(", ");
    match names.len().saturating_sub(NAMES_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
