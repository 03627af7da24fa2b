//! Whose a replica is.

use sqlrep_format::Timestamp;
use sqlrep_replica::owner::WriterId;
use sqlrep_replica::{DbId, Manifest, Owner, OwnerState};

use super::*;

fn manifest(namespace_uid: &str, pod_uid: &str) -> Manifest {
    Manifest {
        version: Manifest::VERSION,
        id: DbId::new("media", "surmai", "sqlite", "data.db").unwrap(),
        cluster_uid: Some("cluster".to_owned()),
        namespace_uid: Some(namespace_uid.to_owned()),
        owner: Owner {
            pod: "surmai-1".to_owned(),
            pod_uid: pod_uid.to_owned(),
            node: "n1".to_owned(),
            writer: WriterId::new("n1", pod_uid),
            state: OwnerState::Active,
            since: Timestamp::from_millis(1_000),
        },
        file: None,
        page_size: None,
        head: None,
        claims: Vec::new(),
    }
}

fn pod(namespace_uid: Option<&str>, uid: &str) -> PodIdentity {
    PodIdentity {
        namespace: "media".to_owned(),
        app: "surmai".to_owned(),
        name: "surmai-1".to_owned(),
        uid: uid.to_owned(),
        namespace_uid: namespace_uid.map(str::to_owned),
    }
}

#[test]
fn the_tail_of_a_pod_that_is_gone_is_its_own() {
    let recorded = manifest("namespace", "pod-1");
    let check = |pod: PodIdentity, cluster| check_identity(Some(&recorded), &pod, cluster);
    // after a restart of the agent nobody knows the namespace of a pod that is gone
    assert!(check(pod(None, "pod-1"), Some("cluster")).is_ok());
    assert!(check(pod(Some("namespace"), "pod-2"), Some("cluster")).is_ok());
    assert!(check(pod(None, "pod-2"), Some("cluster")).is_err());
    assert!(check(pod(Some("another"), "pod-1"), Some("cluster")).is_err());
    assert!(check(pod(None, "pod-1"), Some("another")).is_err());
}
