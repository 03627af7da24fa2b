//! The few fields of a `v1/Pod` that matter here, as they are written. Everything else in a
//! manifest is passed over, so that manifests of any Kubernetes version are read.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use crate::target::Claimed;

/// A `v1/Pod`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Manifest {
    #[serde(deserialize_with = "or_default")]
    pub(crate) api_version: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) kind: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) metadata: Metadata,
    #[serde(deserialize_with = "or_default")]
    pub(crate) spec: Spec,
    #[serde(deserialize_with = "or_default")]
    pub(crate) status: Status,
    /// Of a `List` or `PodList`, which is what `kubectl get pods -o yaml` prints.
    #[serde(deserialize_with = "or_default")]
    pub(crate) items: Vec<Manifest>,
}

impl Manifest {
    /// The pods of a list, else the manifest itself. The items of a `PodList` do not repeat
    /// what they are.
    pub(crate) fn into_items(self) -> Vec<Self> {
        if self.kind != "List" && self.kind != "PodList" {
            return vec![self];
        }
        let mut items = self.items;
        for item in items
            .iter_mut()
            .filter(|item| self.kind == "PodList" && item.kind.is_empty())
        {
            item.kind = "Pod".into();
            item.api_version = "v1".into();
        }
        items
    }
}

/// Its `metadata`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Metadata {
    #[serde(deserialize_with = "or_default")]
    pub(crate) name: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) namespace: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) uid: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) owner_references: Vec<OwnerReference>,
    /// Only whether it is there matters.
    pub(crate) deletion_timestamp: Option<String>,
    /// Never in a manifest.
    #[serde(skip)]
    pub(crate) looked_up: LookedUp,
}

/// What a pod does not say itself and an API server was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LookedUp {
    /// The name of the object at the top of the pod's owner: the CronJob of its Job.
    pub(crate) top_owner: Option<String>,
    /// The UID of its namespace.
    pub(crate) namespace_uid: Option<String>,
    /// What lies behind the claim that it names for its replicas, or why that is not known.
    pub(crate) claimed: Option<Result<Claimed, String>>,
}

/// One of its `metadata.ownerReferences`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct OwnerReference {
    #[serde(deserialize_with = "or_default")]
    pub(crate) kind: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) name: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) uid: String,
    pub(crate) controller: Option<bool>,
}

/// Its `spec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Spec {
    pub(crate) node_name: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) volumes: Vec<Volume>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) init_containers: Vec<Container>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) containers: Vec<Container>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) security_context: SecurityContext,
}

/// Whom the processes of a pod, or of one of its containers, run as.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct SecurityContext {
    pub(crate) run_as_user: Option<u32>,
    pub(crate) run_as_group: Option<u32>,
    /// Of a pod only.
    pub(crate) fs_group: Option<u32>,
}

/// One of the `volumeMounts` of a container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct VolumeMount {
    #[serde(deserialize_with = "or_default")]
    pub(crate) name: String,
}

/// One of its containers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Container {
    #[serde(deserialize_with = "or_default")]
    pub(crate) resources: Resources,
    #[serde(deserialize_with = "or_default")]
    pub(crate) security_context: SecurityContext,
    #[serde(deserialize_with = "or_default")]
    pub(crate) volume_mounts: Vec<VolumeMount>,
}

/// What a container may use.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Resources {
    #[serde(deserialize_with = "or_default")]
    pub(crate) limits: BTreeMap<String, Quantity>,
}

impl Container {
    fn ephemeral_limit(&self) -> Option<u64> {
        self.resources.limits.get("ephemeral-storage")?.bytes()
    }
}

impl Spec {
    /// User and group of the first container that mounts a volume, as far as the pod says: an image
    /// may have a user of its own, which is seen nowhere here.
    pub(crate) fn user_of(&self, volume: &str) -> Option<(u32, u32)> {
        let mounts = |container: &&Container| {
            let mut names = container.volume_mounts.iter();
            names.any(|mount| mount.name == volume)
        };
        let container = self.containers.iter().find(mounts)?.security_context;
        let pod = self.security_context;
        let user = container.run_as_user.or(pod.run_as_user)?;
        let group = pod.fs_group.or(container.run_as_group).or(pod.run_as_group);
        Some((user, group.unwrap_or(0)))
    }

    /// What the pod may keep on the node's disk in all: the kubelet adds up the limits of its
    /// containers, and an init container's own limit holds when it is larger.
    pub(crate) fn ephemeral_limit(&self) -> Option<u64> {
        let init = self.init_containers.iter();
        let init = init.filter_map(Container::ephemeral_limit).max();
        let all = self
            .containers
            .iter()
            .filter_map(Container::ephemeral_limit);
        let sum = all.reduce(u64::saturating_add);
        init.max(sum)
    }
}

/// One of its `spec.volumes`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Volume {
    #[serde(deserialize_with = "or_default")]
    pub(crate) name: String,
    /// `emptyDir:` with nothing behind it is what people write for `emptyDir: {}`; the API server
    /// takes neither for anything else, so the key's presence decides.
    #[serde(deserialize_with = "present")]
    pub(crate) empty_dir: Option<EmptyDirSource>,
    pub(crate) nfs: Option<NfsSource>,
    pub(crate) persistent_volume_claim: Option<ClaimSource>,
}

/// The inside of `nfs`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NfsSource {
    #[serde(deserialize_with = "or_default")]
    pub(crate) server: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) path: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) read_only: bool,
}

/// The inside of `persistentVolumeClaim`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ClaimSource {
    #[serde(deserialize_with = "or_default")]
    pub(crate) claim_name: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) read_only: bool,
}

/// The inside of `emptyDir`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct EmptyDirSource {
    #[serde(deserialize_with = "or_default")]
    pub(crate) medium: String,
    pub(crate) size_limit: Option<Quantity>,
}

/// Its `status`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Status {
    #[serde(deserialize_with = "or_default")]
    pub(crate) phase: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) init_container_statuses: Vec<ContainerStatus>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) container_statuses: Vec<ContainerStatus>,
}

/// One of its `status.containerStatuses`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ContainerStatus {
    #[serde(deserialize_with = "or_default")]
    pub(crate) name: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) restart_count: u64,
    #[serde(deserialize_with = "or_default")]
    pub(crate) state: ContainerState,
    #[serde(deserialize_with = "or_default")]
    pub(crate) last_state: ContainerState,
}

/// Which of the states a container is in; what is inside them does not matter.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ContainerState {
    pub(crate) running: Option<serde::de::IgnoredAny>,
    pub(crate) terminated: Option<serde::de::IgnoredAny>,
}

impl ContainerStatus {
    /// Whether its process was ever started.
    pub(crate) fn has_run(&self) -> bool {
        let ran = |state: &ContainerState| state.running.is_some() || state.terminated.is_some();
        self.restart_count > 0 || ran(&self.state) || ran(&self.last_state)
    }
}

/// A resource quantity, `10Gi` or a bare number.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Quantity {
    /// A bare integer.
    Bytes(u64),
    /// As text.
    Text(String),
}

impl Quantity {
    /// Whole bytes, rounded up as Kubernetes does; `None` for what is no quantity.
    pub(crate) fn bytes(&self) -> Option<u64> {
        let text = match self {
            Self::Bytes(bytes) => return Some(*bytes),
            Self::Text(text) => text.trim(),
        };
        let digits = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, suffix) = text.split_at(digits);
        // Thousandths, because "m" is a suffix too (`1500m` is one byte and a half).
        let factor: u128 = match suffix {
            "m" => 1,
            "" => 1_000,
            "k" => 1_000_000,
            "M" => 1_000_000_000,
            "G" => 1_000_000_000_000,
            "T" => 1_000_000_000_000_000,
            "P" => 1_000_000_000_000_000_000,
            "Ki" => 1_000 << 10,
            "Mi" => 1_000 << 20,
            "Gi" => 1_000 << 30,
            "Ti" => 1_000 << 40,
            "Pi" => 1_000 << 50,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.len() > 9 {
            return None;
        }
        let whole: u128 = if whole.is_empty() {
            0
        } else {
            whole.parse::<u64>().ok()?.into()
        };
        let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
        let part: u128 = if fraction.is_empty() {
            0
        } else {
            fraction.parse().ok()?
        };
        let thousandths = (whole * scale + part).checked_mul(factor)?.div_ceil(scale);
        u64::try_from(thousandths.div_ceil(1_000)).ok()
    }
}

/// `null` is the default, as it is to the API server.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// A key that is there, be it with `null`.
fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    or_default(deserializer).map(Some)
}
