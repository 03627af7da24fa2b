//! What the cluster remembers of volumes of pods that hold replicas: one ConfigMap for each, beside
//! that of the root. It goes with the PersistentVolume, where there is one.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use sqlrep_pipeline::{RootMemory, TargetAnswer, TargetMemory, TargetPlace};

use super::Cluster;

/// What the names of these ConfigMaps begin with.
const PREFIX: &str = "sqlrep-target-";

impl TargetMemory for Cluster {
    fn recall(&self, place: TargetPlace) -> TargetAnswer<RootMemory> {
        let cluster = self.clone();
        Box::pin(async move {
            let name = name_of(&place);
            match cluster.remembered_id(&name).await {
                Ok(None) => RootMemory::Nobody,
                Ok(Some(text)) => text.parse().map_or_else(
                    |error| {
                        let problem = format!("ConfigMap {name} holds {text:?}: {error}");
                        RootMemory::Unknown(problem)
                    },
                    RootMemory::Id,
                ),
                Err(error) => RootMemory::Unknown(format!("{error:#}")),
            }
        })
    }

    fn remember(&self, place: TargetPlace, id: String) -> TargetAnswer<Result<(), String>> {
        let cluster = self.clone();
        Box::pin(async move {
            let name = name_of(&place);
            let owner = place.persistent.map(|(name, uid)| OwnerReference {
                api_version: "v1".to_owned(),
                kind: "PersistentVolume".to_owned(),
                name,
                uid,
                ..OwnerReference::default()
            });
            let remembered = cluster.remember_id(&name, &id, owner).await;
            remembered.map_err(|error| format!("{error:#}"))
        })
    }

    fn forget_by(&self, place: &TargetPlace) -> Option<String> {
        let (namespace, name) = (self.own_namespace(), name_of(place));
        Some(format!("kubectl -n {namespace} delete configmap {name}"))
    }
}

fn name_of(place: &TargetPlace) -> String {
    format!("{PREFIX}{}", place.key)
}
