//! What `check` wants to know of a cluster, in types of our own.

use std::collections::BTreeMap;

use k8s_openapi::api::admissionregistration::v1::{
    MutatingAdmissionPolicyBinding, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SubjectAccessReview,
    SubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::{Container, EmptyDirVolumeSource, Pod, PodSpec, Volume};
use kube::api::{Api, ListParams, ObjectMeta, PostParams};

use super::{Cluster, answered};
use crate::failure::{Exit, Result};

/// The label that opts a pod in.
const OPTED_IN: &str = "sqlrep.io/replicate";
/// The init container that holds an app back.
const GATE: &str = "sqlrep-gate";
/// Pods of one page; the pages are read to their end.
const PAGE: u32 = 500;
/// Pages that are read at most: half a million pods are more than any cluster has.
const PAGES_MAX: usize = 1000;

/// Something that somebody may do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Right {
    /// `get`, `create`, …
    pub(crate) verb: &'static str,
    /// Empty: the core group.
    pub(crate) group: &'static str,
    /// As a role writes it: `pods/portforward`.
    pub(crate) resource: &'static str,
    /// Only in the namespace of sqlrep, or everywhere.
    pub(crate) everywhere: bool,
}

/// A pod with the label.
#[derive(Clone, Debug)]
pub(crate) struct OptedIn {
    /// Its namespace and name.
    pub(crate) name: String,
    /// Its node; none while it waits for one.
    pub(crate) node: Option<String>,
    /// Whether the gate is its first init container.
    pub(crate) gated: bool,
    /// emptyDirs with a size limit: name and limit, in bytes where it can be read.
    pub(crate) limits: BTreeMap<String, Option<u64>>,
}

/// A Deployment whose pods have the label.
#[derive(Clone, Debug)]
pub(crate) struct Rollout {
    /// Its namespace and name.
    pub(crate) name: String,
    /// How many pods at once.
    pub(crate) replicas: i32,
    /// Whether a new pod starts before the old one is gone.
    pub(crate) surges: bool,
}

/// The policies of an installation that are bound.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policies {
    /// Puts the gate into pods.
    pub(crate) gate: bool,
    /// Turns a surge into Recreate.
    pub(crate) rollout: bool,
    /// Warns.
    pub(crate) warnings: bool,
}

impl Cluster {
    /// The version of the API server.
    pub(crate) async fn version(&self) -> Result<String> {
        let asked = self.client.apiserver_version();
        let version = answered("cannot ask the API server for its version", asked).await?;
        Ok(version.git_version)
    }

    fn attributes(&self, right: Right) -> ResourceAttributes {
        let (resource, subresource) = match right.resource.split_once('/') {
            Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
            None => (right.resource, None),
        };
        ResourceAttributes {
            verb: Some(right.verb.to_owned()),
            group: Some(right.group.to_owned()),
            resource: Some(resource.to_owned()),
            subresource,
            namespace: (!right.everywhere).then(|| self.namespace().to_owned()),
            ..ResourceAttributes::default()
        }
    }

    /// Whether we may.
    pub(crate) async fn may(&self, right: Right) -> Result<bool> {
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(self.attributes(right)),
                non_resource_attributes: None,
            },
            ..SelfSubjectAccessReview::default()
        };
        let api: Api<SelfSubjectAccessReview> = Api::all(self.client.clone());
        let parameters = PostParams::default();
        let asked = api.create(&parameters, &review);
        let review = answered("cannot ask for our own permissions", asked).await?;
        Ok(review.status.is_some_and(|status| status.allowed))
    }

    /// Whether the agents may; `None` where we may not ask.
    pub(crate) async fn agents_may(&self, account: &str, right: Right) -> Result<Option<bool>> {
        let user = format!("system:serviceaccount:{}:{account}", self.namespace());
        let groups = ["system:serviceaccounts", "system:authenticated"].map(str::to_owned);
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user),
                groups: Some(groups.to_vec()),
                resource_attributes: Some(self.attributes(right)),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let parameters = PostParams::default();
        let asked = api.create(&parameters, &review);
        match answered("cannot ask for the permissions of the agents", asked).await {
            Ok(review) => Ok(review.status.map(|status| status.allowed)),
            Err(failure) if failure.exit == Exit::Refused => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// The pods with the label that are not finished.
    pub(crate) async fn opted_in(&self, namespace: Option<&str>) -> Result<Vec<OptedIn>> {
        let pods: Api<Pod> = match namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let labels = format!("{OPTED_IN}=true");
        let wanted = ListParams::default().labels(&labels);
        let found = all(&pods, wanted, "cannot list the pods that opted in").await?;
        let running = found.into_iter().filter(|pod| {
            let phase = pod
                .status
                .as_ref()
                .and_then(|status| status.phase.as_deref());
            !matches!(phase, Some("Succeeded" | "Failed"))
        });
        Ok(running.map(opted_in).collect())
    }

    /// The Deployments whose pods have the label.
    pub(crate) async fn rollouts(&self, namespace: Option<&str>) -> Result<Vec<Rollout>> {
        let deployments: Api<Deployment> = match namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let wanted = ListParams::default();
        let found = all(&deployments, wanted, "cannot list the deployments").await?;
        Ok(found.into_iter().filter_map(rollout).collect())
    }

    /// Which of the policies are bound.
    pub(crate) async fn policies(&self) -> Result<Policies> {
        let what = "cannot look for the admission policies";
        let mutating: Api<MutatingAdmissionPolicyBinding> = Api::all(self.client.clone());
        let warning: Api<ValidatingAdmissionPolicyBinding> = Api::all(self.client.clone());
        Ok(Policies {
            gate: answered(what, mutating.get_opt("gate.sqlrep.io"))
                .await?
                .is_some(),
            rollout: answered(what, mutating.get_opt("rollout.sqlrep.io"))
                .await?
                .is_some(),
            warnings: answered(what, warning.get_opt("warnings.sqlrep.io"))
                .await?
                .is_some(),
        })
    }

    /// Whether a pod with the label would get the gate: a pod is made, but for show only.
    pub(crate) async fn gate_fires(&self, namespace: &str) -> Result<bool> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let parameters = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        let pod = example();
        let made = answered("cannot try a pod", pods.create(&parameters, &pod)).await?;
        Ok(opted_in(made).gated)
    }
}

/// All objects, page by page.
async fn all<K>(api: &Api<K>, wanted: ListParams, what: &str) -> Result<Vec<K>>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let mut found = Vec::new();
    let mut page = wanted.limit(PAGE);
    for _ in 0..PAGES_MAX {
        let list = answered(what, api.list(&page)).await?;
        found.extend(list.items);
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => break,
        }
    }
    Ok(found)
}

fn named(meta: ObjectMeta) -> String {
    let (namespace, name) = (meta.namespace, meta.name);
    format!(
        "{}/{}",
        namespace.unwrap_or_default(),
        name.unwrap_or_default()
    )
}

fn opted_in(pod: Pod) -> OptedIn {
    let spec = pod.spec.unwrap_or_default();
    let first = spec.init_containers.iter().flatten().next();
    let gated = first.is_some_and(|container| container.name == GATE);
    let limits = spec.volumes.into_iter().flatten().filter_map(|volume| {
        let limit = volume.empty_dir?.size_limit?;
        Some((volume.name, bytes(&limit.0)))
    });
    OptedIn {
        gated,
        limits: limits.collect(),
        node: spec.node_name,
        name: named(pod.metadata),
    }
}

fn rollout(deployment: Deployment) -> Option<Rollout> {
    let spec = deployment.spec?;
    let labels = spec.template.metadata?.labels?;
    if labels.get(OPTED_IN).map(String::as_str) != Some("true") {
        return None;
    }
    let strategy = spec.strategy.unwrap_or_default();
    Some(Rollout {
        name: named(deployment.metadata),
        replicas: spec.replicas.unwrap_or(1),
        surges: strategy.type_.as_deref() != Some("Recreate"),
    })
}

/// A pod as an app's would be, of an image that is never pulled.
fn example() -> Pod {
    Pod {
        metadata: ObjectMeta {
            name: Some("sqlrepctl-check".to_owned()),
            labels: Some([(OPTED_IN.to_owned(), "true".to_owned())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            containers: vec![Container {
                name: "app".to_owned(),
                image: Some("sqlrep.invalid/app".to_owned()),
                ..Container::default()
            }],
            volumes: Some(vec![Volume {
                name: "data".to_owned(),
                empty_dir: Some(EmptyDirVolumeSource::default()),
                ..Volume::default()
            }]),
            ..PodSpec::default()
        }),
        ..Pod::default()
    }
}

/// A quantity such as `512Mi` or `2G`, in bytes.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "" => 1,
        "k" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_bytes_or_unknown() {
        assert_eq!(bytes("512Mi"), Some(512 << 20));
        assert_eq!(bytes("2G"), Some(2_000_000_000));
        assert_eq!(bytes("1024"), Some(1024));
        for text in ["", "Gi", "1.5Gi", "x", "99999999999Ti"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }

    #[test]
    fn only_a_gate_that_is_first_is_a_gate() {
        let container = |name: &str| Container {
            name: name.to_owned(),
            ..Container::default()
        };
        let pod = |names: &[&str]| Pod {
            spec: Some(PodSpec {
                init_containers: Some(names.iter().map(|name| container(name)).collect()),
                ..PodSpec::default()
            }),
            ..Pod::default()
        };
        assert!(opted_in(pod(&["sqlrep-gate", "migrate"])).gated);
        assert!(!opted_in(pod(&["migrate", "sqlrep-gate"])).gated);
        assert!(!opted_in(pod(&[])).gated);
    }
}
