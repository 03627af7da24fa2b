//! A pod as the API server writes it: decoded straight into the few fields that matter here, so
//! that nothing else of a pod is ever held.

use std::borrow::Cow;

use kube::Resource;
use kube::core::NamespaceResourceScope;
use kube::core::ObjectMeta;
use serde::Deserialize;

use crate::pods::manifest::{Manifest, Metadata, OwnerReference, Spec, Status, or_default};

/// A `v1/Pod`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct WatchedPod {
    pub(super) metadata: ObjectMeta,
    #[serde(default, deserialize_with = "or_default")]
    spec: Spec,
    #[serde(default, deserialize_with = "or_default")]
    status: Status,
}

impl WatchedPod {
    /// Drops what the server adds to each object and nobody here reads.
    pub(super) fn prune(&mut self) {
        self.metadata.managed_fields = None;
        self.metadata.finalizers = None;
    }
}

impl Resource for WatchedPod {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Pod".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "pods".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl From<WatchedPod> for Manifest {
    fn from(pod: WatchedPod) -> Self {
        let WatchedPod {
            metadata,
            spec,
            status,
        } = pod;
        let owners = metadata.owner_references.unwrap_or_default();
        let owners = owners.into_iter().map(|owner| OwnerReference {
            kind: owner.kind,
            name: owner.name,
            uid: owner.uid,
            controller: owner.controller,
        });
        Self {
            api_version: "v1".into(),
            kind: "Pod".into(),
            metadata: Metadata {
                name: metadata.name.unwrap_or_default(),
                namespace: metadata.namespace.unwrap_or_default(),
                uid: metadata.uid.unwrap_or_default(),
                labels: metadata.labels.unwrap_or_default(),
                annotations: metadata.annotations.unwrap_or_default(),
                owner_references: owners.collect(),
                deletion_timestamp: metadata.deletion_timestamp.map(|time| time.0.to_string()),
                ..Metadata::default()
            },
            spec,
            status,
            items: Vec::new(),
        }
    }
}
