//! Names that come from outside: checked once, here.

use std::fmt;

use crate::pods::manifest::{Metadata, OwnerReference};

/// Kubernetes' own limit on a DNS-1123 subdomain, the form of most object names.
const SUBDOMAIN_BYTES_MAX: usize = 253;
/// Kubernetes' own limit on a DNS-1123 label, the form of volume and namespace names.
const LABEL_BYTES_MAX: usize = 63;
/// A pod UID is a UUID, or 32 hex digits for a static pod; manifests written by hand use words.
const UID_BYTES_MAX: usize = 128;
/// A CronJob names its Jobs `<name>-<minutes since 1970>`. The bounds are the years 2017 and
/// 2046: they tell such a suffix from a date like 20241122 in the name of a plain Job.
const CRON_MINUTES: std::ops::Range<u64> = 25_000_000..40_000_000;

/// A pod's UID: one path component below the kubelet's `pods`, safe to join.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodUid(Box<str>);

impl PodUid {
    /// Checks a UID: 1 to 128 of `A-Z a-z 0-9 . _ -`, not beginning with a dot.
    pub fn new(uid: &str) -> Option<Self> {
        let safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let valid = (1..=UID_BYTES_MAX).contains(&uid.len())
            && !uid.starts_with('.')
            && uid.bytes().all(safe);
        valid.then(|| Self(uid.into()))
    }

    /// The UID as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether `name` is a DNS-1123 label: `[a-z0-9]([-a-z0-9]*[a-z0-9])?`, at most 63 bytes.
pub(crate) fn is_dns_label(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=LABEL_BYTES_MAX).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// Whether `name` is a DNS-1123 subdomain: labels joined by dots, at most 253 bytes.
pub(crate) fn is_dns_subdomain(name: &str) -> bool {
    let label = |label: &str| {
        // Only the whole is bounded here, not each label: this is what the API server does.
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty()
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= SUBDOMAIN_BYTES_MAX && name.split('.').all(label)
}

/// The app part of a pod's identity, from the object that controls it (KUBERNETES.md §4.1).
/// `node` is where the pod runs.
pub(crate) fn app_from_owner(metadata: &Metadata, pod_name: &str, node: &str) -> String {
    let Some(owner) = controller(&metadata.owner_references) else {
        return pod_name.to_owned();
    };
    if let Some(top) = &metadata.looked_up.top_owner {
        return top.clone();
    }
    match owner.kind.as_str() {
        "ReplicaSet" => deployment_of(owner, metadata).to_owned(),
        "Job" => cron_job_of(&owner.name).unwrap_or(&owner.name).to_owned(),
        "CronJob" | "Deployment" => owner.name.clone(),
        "DaemonSet" => format!("{}-{node}", owner.name),
        // A StatefulSet's pods are named `<statefulset>-<ordinal>`, which is the identity; so is
        // the name of a static pod and of a pod under a controller that we do not know.
        _ => pod_name.to_owned(),
    }
}

/// The owner whose own owner names the app, where no name in the pod tells it for certain.
pub(crate) fn owner_to_look_up(metadata: &Metadata) -> Option<&OwnerReference> {
    let owner = controller(&metadata.owner_references)?;
    match owner.kind.as_str() {
        "Job" => Some(owner),
        "ReplicaSet" => (deployment_of(owner, metadata) == owner.name).then_some(owner),
        _ => None,
    }
}

/// The owner that controls the pod; there is at most one.
fn controller(owners: &[OwnerReference]) -> Option<&OwnerReference> {
    owners.iter().find(|owner| owner.controller == Some(true))
}

/// A Deployment names its ReplicaSets `<deployment>-<pod-template-hash>`, and labels the pods
/// with the hash. Without that label the ReplicaSet stands alone.
fn deployment_of<'a>(owner: &'a OwnerReference, metadata: &Metadata) -> &'a str {
    let hash = metadata.labels.get("pod-template-hash").map(String::as_str);
    hash.filter(|hash| !hash.is_empty())
        .and_then(|hash| owner.name.strip_suffix(hash))
        .and_then(|name| name.strip_suffix('-'))
        .filter(|name| !name.is_empty())
        .unwrap_or(&owner.name)
}

/// The CronJob that named this Job, if one did.
fn cron_job_of(job: &str) -> Option<&str> {
    let (name, minutes) = job.rsplit_once('-')?;
    let minutes: u64 = minutes.parse().ok()?;
    (!name.is_empty() && CRON_MINUTES.contains(&minutes)).then_some(name)
}

#[cfg(test)]
mod tests;
