//! Which directory is meant, and what is refused.

use super::*;
use crate::pods::{Reading, read};

fn pod(volume: &str, claimed: Option<Result<Claimed, String>>) -> crate::PodRef {
    let mut manifest: Manifest = serde_json::from_value(serde_json::json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "p", "namespace": "media", "uid": "u",
            "labels": {"sqlrep.io/replicate": "true"},
            "annotations": {TARGET_VOLUME: "replica"},
        },
        "spec": {"volumes": [
            {"name": "data", "emptyDir": {}},
            serde_json::from_str::<serde_json::Value>(volume).unwrap(),
        ]},
    }))
    .unwrap();
    manifest.metadata.looked_up.claimed = claimed;
    match read(&manifest, "n1") {
        Reading::Wanted(pod) => *pod,
        other => panic!("{other:?}"),
    }
}

fn claimed(name: &str, kind: Kind) -> Claimed {
    let uid = "pv-uid".to_owned();
    let name = name.to_owned();
    Claimed { name, uid, kind }
}

const CLAIM: &str = r#"{"name": "replica", "persistentVolumeClaim": {"claimName": "c"}}"#;

#[test]
fn a_claim_leads_to_where_the_kubelet_mounts_its_volume() {
    for (kind, below) in [
        (Kind::Nfs, "pods/u/volumes/kubernetes.io~nfs/pv.1"),
        (Kind::Csi, "pods/u/volumes/kubernetes.io~csi/pv.1/mount"),
        (
            Kind::Local,
            "pods/u/volumes/kubernetes.io~local-volume/pv.1",
        ),
    ] {
        let pod = pod(CLAIM, Some(Ok(claimed("pv.1", kind))));
        let place = pod.target.unwrap().place.unwrap();
        assert_eq!(place.below, PathBuf::from(below));
        assert_eq!(place.key, "pv-uid");
        assert_eq!(pod.wrong, []);
    }
}

#[test]
fn an_inline_share_is_known_by_its_server_and_path() {
    let nfs = r#"{"name": "replica", "nfs": {"server": "nas", "path": "/x"}}"#;
    let place = pod(nfs, None).target.unwrap().place.unwrap();
    let below = "pods/u/volumes/kubernetes.io~nfs/replica";
    assert_eq!(place.below, PathBuf::from(below));
    let other = nfs.replace("/x", "/y");
    let other = pod(&other, None).target.unwrap().place.unwrap();
    assert_ne!(place.key, other.key);
    // what nodes remember under it must outlive every build
    assert_eq!(place.key, format!("nfs-{:016x}", hash("nas:/x")));
    assert_eq!(hash("nas:/x"), 0xfdb6_220e_9710_f6ae);
}

#[test]
fn what_cannot_hold_replicas_is_named_and_the_root_is_not_taken_instead() {
    let read_only = r#"{"name": "replica", "nfs": {"server": "n", "path": "/", "readOnly": true}}"#;
    let reason = || Some(Err("claim media/c is not bound to a volume".to_owned()));
    let escape = Some(Ok(claimed("../../..", Kind::Nfs)));
    let map = r#"{"name": "replica", "configMap": {"name": "c"}}"#;
    for (volume, looked_up, word) in [
        (read_only, None, "read-only"),
        (CLAIM, None, "write the volume as nfs"),
        (CLAIM, reason(), "not bound"),
        (CLAIM, escape, "no DNS-1123 name"),
        (map, None, "it has none"),
    ] {
        let pod = pod(volume, looked_up);
        let said = pod.wrong.first().unwrap();
        assert_eq!(
            (said.key.as_str(), said.value.as_str()),
            (TARGET_VOLUME, "replica")
        );
        assert!(said.accepted.contains(word), "{said:?}");
        assert!(said.leaves_restore_uncertain());
        assert!(pod.target.unwrap().place.is_err());
    }
}
