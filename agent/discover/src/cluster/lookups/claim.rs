//! From a claim to the volume behind it, and to what that is made of.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec};
use kube::{Api, Client};

use crate::target::{Claimed, Kind};

/// What lies behind a claim; inside, why it cannot hold replicas. Outside, that the server did not
/// answer.
pub(super) async fn look_up(
    client: Client,
    namespace: &str,
    name: &str,
) -> Result<Result<Claimed, String>, String> {
    let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace);
    let claim = match answered(claims.get(name).await)? {
        Ok(claim) => claim,
        Err(reason) => return Ok(Err(format!("claim {namespace}/{name}: {reason}"))),
    };
    let bound = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.volume_name.clone());
    let Some(volume) = bound.filter(|volume| !volume.is_empty()) else {
        return Ok(Err(format!(
            "claim {namespace}/{name} is not bound to a volume"
        )));
    };
    let volumes = Api::<PersistentVolume>::all(client);
    let found = match answered(volumes.get(&volume).await)? {
        Ok(found) => found,
        Err(reason) => return Ok(Err(format!("PersistentVolume {volume}: {reason}"))),
    };
    let bound_to = found.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    if bound_to.is_none_or(|to| to.uid != claim.metadata.uid) {
        return Ok(Err(format!(
            "PersistentVolume {volume} is not bound to claim {namespace}/{name}"
        )));
    }
    let kind = found.spec.as_ref().ok_or("nothing").and_then(kind);
    let uid = found.metadata.uid.unwrap_or_default();
    Ok(kind
        .map(|kind| Claimed {
            name: volume.clone(),
            uid,
            kind,
        })
        .map_err(|made_of| {
            format!("claim {namespace}/{name} is bound to {volume}, which is made of {made_of}")
        }))
}

/// What was found, or why asking again would not help.
fn answered<T>(found: Result<T, kube::Error>) -> Result<Result<T, String>, String> {
    match found {
        Ok(found) => Ok(Ok(found)),
        Err(kube::Error::Api(status)) if status.code == 404 => {
            Ok(Err("there is none of that name".to_owned()))
        }
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(Err(format!(
            "the agent may not look at it ({}): see deploy/base/rights.yaml",
            status.message
        ))),
        Err(error) => Err(error.to_string()),
    }
}

/// What a volume is made of; inside an error, what it is made of that is not mounted under the
/// directory of a pod, or that is no directory of files.
fn kind(spec: &PersistentVolumeSpec) -> Result<Kind, &'static str> {
    if spec.volume_mode.as_deref() == Some("Block") {
        return Err("raw blocks");
    }
    if spec.nfs.is_some() {
        Ok(Kind::Nfs)
    } else if spec.csi.is_some() {
        Ok(Kind::Csi)
    } else if spec.local.is_some() {
        Ok(Kind::Local)
    } else if spec.host_path.is_some() {
        // The kubelet mounts nothing for it: the containers get the directory of the node itself.
        Err("hostPath, which the agent cannot reach; make it a local volume")
    } else {
        Err("something else")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> PersistentVolumeSpec {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn what_the_kubelet_mounts_for_a_pod_is_told_from_what_it_does_not() {
        let nfs = r#"{"nfs": {"server": "nas", "path": "/x"}}"#;
        assert_eq!(kind(&spec(nfs)), Ok(Kind::Nfs));
        let csi = r#"{"csi": {"driver": "nfs.csi.k8s.io", "volumeHandle": "h"}}"#;
        assert_eq!(kind(&spec(csi)), Ok(Kind::Csi));
        assert_eq!(kind(&spec(r#"{"local": {"path": "/x"}}"#)), Ok(Kind::Local));
        let block = r#"{"local": {"path": "/dev/x"}, "volumeMode": "Block"}"#;
        assert_eq!(kind(&spec(block)), Err("raw blocks"));
        let host = kind(&spec(r#"{"hostPath": {"path": "/x"}}"#)).unwrap_err();
        assert!(host.contains("hostPath"), "{host}");
    }
}
