//! A pod as discovery sees it. Whatever the source, manifests on disk or the API server, it
//! fills the structs of [`manifest`], and [`PodRef`] is all that leaves this crate (L10).

pub(crate) mod manifest;

use crate::identity::{self, PodUid};
use crate::policy::{self, BadValue, PodVolumes, Policy};
use crate::target::{self, TargetVolume};
use manifest::{ContainerStatus, Manifest, Volume};

/// The emptyDir through which the gate learns that it may open; never holds databases.
const GATE_VOLUME: &str = "sqlrep-gate";
/// More volumes than any pod has; bounds what a manifest makes us remember and watch (L12).
const VOLUMES_MAX: usize = 64;

/// A pod of this node that opted in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRef {
    /// Its UID, which names its directory below the kubelet's root.
    pub uid: PodUid,
    /// Its name.
    pub name: String,
    /// Its namespace, the first part of the identity.
    pub namespace: String,
    /// The UID of that namespace, where a cluster told it.
    pub namespace_uid: Option<String>,
    /// The app part of the identity: from `sqlrep.io/app`, else from its owner.
    pub app: String,
    /// `spec.nodeName`, when the manifest says it.
    pub node: Option<String>,
    /// Its emptyDirs that hold databases: those that the policy selects, without the gate's.
    pub volumes: Vec<EmptyDir>,
    /// The volume that holds its replicas instead of the agent's root.
    pub target: Option<TargetVolume>,
    /// What it may keep on the node's disk in all, in bytes, before the kubelet evicts it.
    pub ephemeral_limit: Option<u64>,
    /// What its annotations ask for.
    pub policy: Policy,
    /// Where it stands in its life.
    pub phase: Phase,
    /// The gate's emptyDir, when the pod has one: its start waits for us.
    pub gate: Option<String>,
    /// Whether a container other than the gate has run already, so that it is too late to restore.
    pub started: bool,
    /// The wrong values among its annotations, each also an event. Look at
    /// [`BadValue::leaves_restore_uncertain`] before the gate is opened.
    pub wrong: Vec<BadValue>,
}

/// One emptyDir of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmptyDir {
    /// The volume's name, the third part of the identity.
    pub name: String,
    /// Where its bytes lie.
    pub medium: Medium,
    /// `sizeLimit` in bytes: a volume that grows past it costs the pod its life.
    pub size_limit: Option<u64>,
    /// User and group of the app that mounts it, where the pod says it.
    pub user: Option<(u32, u32)>,
}

/// What an emptyDir is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// The node's disk.
    Disk,
    /// tmpfs: no descriptor may outlive the pod (L15).
    Memory,
}

/// Where a pod stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not yet started, or not yet said.
    Pending,
    /// Running.
    Running,
    /// Being deleted: `deletionTimestamp` is set.
    Terminating,
    /// Succeeded or Failed: its volumes are removed though the pod object stays.
    Finished,
}

impl Phase {
    /// Whether its volumes go away soon.
    pub fn is_ending(self) -> bool {
        matches!(self, Self::Terminating | Self::Finished)
    }
}

/// What one manifest means to this node.
#[derive(Debug)]
pub(crate) enum Reading {
    /// Opted in and ours.
    Wanted(Box<PodRef>),
    /// Another kind, another node, or not opted in; with what is wrong about its opt-in, if it
    /// has a UID to report that under.
    NotOurs(Option<(PodUid, BadValue)>),
    /// It cannot be used, and why.
    Unusable(String),
}

/// Judges one manifest.
pub(crate) fn read(manifest: &Manifest, node_name: &str) -> Reading {
    if manifest.kind != "Pod" || manifest.api_version != "v1" {
        return Reading::Unusable(format!(
            "holds {} {}, only v1 Pod is read here",
            or_nothing(&manifest.api_version),
            or_nothing(&manifest.kind)
        ));
    }
    let metadata = &manifest.metadata;
    let uid = PodUid::new(&metadata.uid);
    let opted_in = policy::opted_in(metadata.labels.get(policy::REPLICATE).map(String::as_str));
    let node = manifest
        .spec
        .node_name
        .clone()
        .filter(|node| !node.is_empty());
    if node.as_ref().is_some_and(|node| node != node_name) {
        return Reading::NotOurs(None);
    }
    match (opted_in, uid) {
        (Err(bad), Some(uid)) => Reading::NotOurs(Some((uid, bad))),
        (Err(bad), None) => Reading::Unusable(format!(
            "label {} is {:?}, not {}",
            bad.key, bad.value, bad.accepted
        )),
        (Ok(false), uid) => Reading::NotOurs(uid.and_then(|uid| mistaken(manifest, uid))),
        (Ok(true), None) if metadata.uid.is_empty() => Reading::Unusable(format!(
            "pod {} has no metadata.uid; write the one that names its directory under pods/",
            or_nothing(&metadata.name)
        )),
        (Ok(true), None) => Reading::Unusable(format!(
            "metadata.uid {:?} is no pod UID: letters, digits, '.', '_', '-'",
            metadata.uid.chars().take(80).collect::<String>()
        )),
        (Ok(true), Some(uid)) => wanted(manifest, uid, node, node_name),
    }
}

/// The opt-in written as an annotation, where nothing looks for it.
fn mistaken(manifest: &Manifest, uid: PodUid) -> Option<(PodUid, BadValue)> {
    let mut annotations = manifest.metadata.annotations.clone();
    annotations.retain(|key, _| key == policy::REPLICATE);
    let volumes = PodVolumes {
        empty_dirs: &[],
        targets: &[],
    };
    policy::parse(&annotations, volumes)
        .bad
        .pop()
        .map(|bad| (uid, bad))
}

/// A pod that opted in and is ours.
fn wanted(manifest: &Manifest, uid: PodUid, node: Option<String>, node_name: &str) -> Reading {
    let metadata = &manifest.metadata;
    let name = metadata.name.clone();
    let namespace = if metadata.namespace.is_empty() {
        "default"
    } else {
        &metadata.namespace
    };
    if !identity::is_dns_subdomain(&name) {
        return Reading::Unusable(format!("metadata.name {name:?} is no DNS-1123 name"));
    }
    if !identity::is_dns_label(namespace) {
        return Reading::Unusable(format!(
            "metadata.namespace {namespace:?} is no DNS-1123 label"
        ));
    }
    let volumes = &manifest.spec.volumes;
    if let Some(fault) = fault_of(volumes) {
        return Reading::Unusable(fault);
    }
    let (mut dirs, others): (Vec<_>, Vec<_>) = volumes
        .iter()
        .partition(|volume| volume.empty_dir.is_some());
    let gate = dirs.iter().position(|volume| volume.name == GATE_VOLUME);
    let gate = gate.map(|index| dirs.remove(index).name.clone());
    let names = |volumes: &[&Volume]| -> Vec<String> {
        volumes.iter().map(|volume| volume.name.clone()).collect()
    };
    let others: Vec<_> = others
        .into_iter()
        .filter(|volume| target::is_possible(volume))
        .collect();
    let (empty_dirs, targets) = (names(&dirs), names(&others));
    let mut parsed = policy::parse(
        &metadata.annotations,
        PodVolumes {
            empty_dirs: &empty_dirs,
            targets: &targets,
        },
    );
    let target = target::find(manifest, &uid, &parsed.policy, &mut parsed.bad);
    let app = parsed
        .app
        .unwrap_or_else(|| identity::app_from_owner(metadata, &name, node_name));
    if !identity::is_dns_subdomain(&app) {
        return Reading::Unusable(format!(
            "the app name {app:?} made from its owner is no DNS-1123 name; set sqlrep.io/app"
        ));
    }
    let selected = dirs
        .iter()
        .filter(|volume| parsed.policy.selects_volume(&volume.name));
    Reading::Wanted(Box::new(PodRef {
        uid,
        name,
        namespace: namespace.to_owned(),
        namespace_uid: metadata.looked_up.namespace_uid.clone(),
        app,
        node,
        volumes: selected
            .filter_map(|volume| empty_dir(volume, manifest))
            .collect(),
        target,
        ephemeral_limit: manifest.spec.ephemeral_limit(),
        phase: phase(manifest),
        gate,
        started: started(manifest),
        policy: parsed.policy,
        wrong: parsed.bad,
    }))
}

/// Why the volumes of a pod cannot be used.
fn fault_of(volumes: &[Volume]) -> Option<String> {
    if volumes.len() > VOLUMES_MAX {
        return Some(format!("{} volumes, at most {VOLUMES_MAX}", volumes.len()));
    }
    let mut volumes = volumes.iter();
    let bad = volumes.find(|volume| !identity::is_dns_label(&volume.name))?;
    Some(format!("volume name {:?} is no DNS-1123 label", bad.name))
}

/// The volume, if it is an emptyDir.
fn empty_dir(volume: &Volume, manifest: &Manifest) -> Option<EmptyDir> {
    let source = volume.empty_dir.as_ref()?;
    // Huge pages are memory too; what is neither is the disk (the API server knows no fourth).
    let medium = match source.medium.as_str() {
        "" => Medium::Disk,
        _ => Medium::Memory,
    };
    let size_limit = source
        .size_limit
        .as_ref()
        .and_then(manifest::Quantity::bytes);
    Some(EmptyDir {
        name: volume.name.clone(),
        medium,
        size_limit,
        user: manifest.spec.user_of(&volume.name),
    })
}

/// Where the pod stands, from `metadata` and `status`.
fn phase(manifest: &Manifest) -> Phase {
    match manifest.status.phase.as_str() {
        "Succeeded" | "Failed" => Phase::Finished,
        _ if manifest.metadata.deletion_timestamp.is_some() => Phase::Terminating,
        "Running" => Phase::Running,
        _ => Phase::Pending,
    }
}

/// Whether any container but the gate has run.
fn started(manifest: &Manifest) -> bool {
    let status = &manifest.status;
    let init = status
        .init_container_statuses
        .iter()
        .filter(|c| c.name != GATE_VOLUME);
    init.chain(&status.container_statuses)
        .any(ContainerStatus::has_run)
}

/// A name for messages.
fn or_nothing(text: &str) -> &str {
    if text.is_empty() { "(nothing)" } else { text }
}

#[cfg(test)]
mod tests;
