//! Manifests, as people and API servers write them.

use super::manifest::Quantity;
use super::*;

fn pod(yaml: &str) -> Reading {
    read(&serde_norway::from_str(yaml).unwrap(), "node-a")
}

fn wanted(yaml: &str) -> PodRef {
    match pod(yaml) {
        Reading::Wanted(pod) => *pod,
        other => panic!("{other:?}"),
    }
}

fn unusable(yaml: &str) -> String {
    match pod(yaml) {
        Reading::Unusable(reason) => reason,
        other => panic!("{other:?}"),
    }
}

const FULL: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: surmai-5d4f8c7b9-x2x4z
  namespace: media
  uid: 6a3f0f6e-8f0b-4a3b-9b58-1f2f3d4c5b6a
  creationTimestamp: "2026-01-01T00:00:00Z"
  labels: {sqlrep.io/replicate: "true", pod-template-hash: 5d4f8c7b9}
  annotations: {sqlrep.io/exclude: "cache/**"}
  ownerReferences:
  - {apiVersion: apps/v1, kind: ReplicaSet, name: surmai-5d4f8c7b9, uid: x, controller: true}
spec:
  nodeName: node-a
  containers: [{name: app, image: surmai, volumeMounts: [{name: sqlite, mountPath: /data}]}]
  volumes:
  - name: sqlite
    emptyDir: {sizeLimit: 1.5Gi}
  - name: shm
    emptyDir: {medium: Memory, sizeLimit: 67108864}
  - name: bare
    emptyDir:
  - name: sqlrep-gate
    emptyDir: {sizeLimit: 1Mi}
  - name: nas
    nfs: {server: nas, path: /export}
status:
  phase: Running
  initContainerStatuses:
  - {name: sqlrep-gate, restartCount: 0, state: {running: {startedAt: "2026-01-01T00:00:01Z"}}}
  containerStatuses:
  - {name: app, restartCount: 0, state: {waiting: {reason: PodInitializing}}, lastState: {}}
"#;

#[test]
fn whole_pod_is_read() {
    let pod = wanted(FULL);
    assert_eq!(
        (pod.namespace.as_str(), pod.app.as_str()),
        ("media", "surmai")
    );
    assert_eq!(pod.name, "surmai-5d4f8c7b9-x2x4z");
    assert_eq!(
        (pod.node.as_deref(), pod.gate.as_deref()),
        (Some("node-a"), Some("sqlrep-gate"))
    );
    let dir = |name: &str, medium, size_limit| EmptyDir {
        name: name.into(),
        medium,
        size_limit,
        user: None,
    };
    assert_eq!(
        pod.volumes,
        [
            dir("sqlite", Medium::Disk, Some(3 << 29)),
            dir("shm", Medium::Memory, Some(64 << 20)),
            dir("bare", Medium::Disk, None)
        ]
    );
    assert_eq!((pod.phase, pod.started), (Phase::Running, false));
    assert_eq!(pod.wrong, []);
    assert!(wanted(&FULL.replace("waiting", "terminated")).started);
    assert!(wanted(&FULL.replace("lastState: {}", "lastState: {terminated: {}}")).started);
}

#[test]
fn phases_follow_status_and_deletion() {
    let deleted = FULL.replace(
        "  namespace",
        "  deletionTimestamp: \"2026-01-01\"\n  namespace",
    );
    assert_eq!(wanted(&deleted).phase, Phase::Terminating);
    for (phase, wanted_phase) in [
        ("Pending", Phase::Pending),
        ("Succeeded", Phase::Finished),
        ("Failed", Phase::Finished),
        ("Unknown", Phase::Pending),
    ] {
        let yaml = FULL.replace("phase: Running", &format!("phase: {phase}"));
        assert_eq!(wanted(&yaml).phase, wanted_phase, "{phase}");
    }
}

#[test]
fn policy_selects_the_volumes() {
    let yaml = FULL.replace(
        "sqlrep.io/exclude: \"cache/**\"",
        "sqlrep.io/volumes: sqlite",
    );
    let names: Vec<String> = wanted(&yaml)
        .volumes
        .into_iter()
        .map(|dir| dir.name)
        .collect();
    assert_eq!(names, ["sqlite"]);
    let yaml = FULL.replace("sqlrep.io/exclude: \"cache/**\"", "sqlrep.io/app: Bad!");
    let pod = wanted(&yaml);
    assert_eq!(pod.app, "surmai");
    assert!(pod.wrong[0].leaves_restore_uncertain());
}

#[test]
fn what_is_not_ours_is_passed_over() {
    assert!(matches!(
        pod(&FULL.replace("node-a", "node-b")),
        Reading::NotOurs(None)
    ));
    assert!(matches!(
        pod(&FULL.replace("\"true\"", "\"false\"")),
        Reading::NotOurs(None)
    ));
    let Reading::NotOurs(Some((_, bad))) = pod(&FULL.replace("\"true\"", "\"yes\"")) else {
        panic!("a wrong label is told")
    };
    assert_eq!(bad.value, "yes");
    let as_annotation = FULL
        .replace("sqlrep.io/replicate: \"true\", ", "")
        .replace("sqlrep.io/exclude", "sqlrep.io/replicate");
    let Reading::NotOurs(Some((_, bad))) = pod(&as_annotation) else {
        panic!("an annotation in the place of the label is told")
    };
    assert!(bad.accepted.contains("metadata.labels"));
}

#[test]
fn unusable_manifests_say_why() {
    let uid = "uid: 6a3f0f6e-8f0b-4a3b-9b58-1f2f3d4c5b6a";
    assert!(unusable(&FULL.replace(uid, "uid:")).contains("no metadata.uid"));
    assert!(unusable(&FULL.replace(uid, "uid: ../../etc")).contains("is no pod UID"));
    assert!(unusable(&FULL.replace("kind: Pod", "kind: Deployment")).contains("Deployment"));
    assert!(unusable(&FULL.replace("namespace: media", "namespace: ../x")).contains("namespace"));
    assert!(unusable(&FULL.replace("name: sqlite\n", "name: ../../x\n")).contains("volume name"));
    assert!(unusable(&FULL.replace("name: surmai-5d4f8c7b9-x", "name: Ä-x")).contains("name"));
    let volumes = "  - {name: v, emptyDir: {}}\n".repeat(VOLUMES_MAX);
    let many = FULL.replace("  volumes:\n", &format!("  volumes:\n{volumes}"));
    assert!(unusable(&many).contains("at most 64"));
}

#[test]
fn namespace_defaults_and_an_unscheduled_pod_is_ours() {
    let pod = wanted(
        &FULL
            .replace("  namespace: media\n", "")
            .replace("  nodeName: node-a\n", ""),
    );
    assert_eq!((pod.namespace.as_str(), pod.node), ("default", None));
}

#[test]
fn quantities_are_bytes() {
    for (text, bytes) in [
        ("10Gi", Some(10 << 30)),
        ("1.5Ki", Some(1536)),
        ("500M", Some(500_000_000)),
        ("1500m", Some(2)),
        ("0", Some(0)),
        ("128", Some(128)),
        ("", None),
        (".", None),
        ("Gi", None),
        ("1.2.3", None),
        ("1e3", None),
        ("-1", None),
        ("99999999999999999999999999999999999999Pi", None),
        ("18446744073709551615Pi", None),
        ("1.0000000000000000000000001Gi", None),
    ] {
        assert_eq!(Quantity::Text(text.into()).bytes(), bytes, "{text:?}");
    }
}

#[test]
fn the_user_of_an_app_is_told_where_the_pod_says_it() {
    let user = |pod: &str, container: &str| {
        let text = format!(
            r#"{{"securityContext": {pod}, "containers": [
                {{"volumeMounts": [{{"name": "other"}}], "securityContext": {{"runAsUser": 7}}}},
                {{"volumeMounts": [{{"name": "data"}}], "securityContext": {container}}}]}}"#
        );
        let spec: manifest::Spec = serde_json::from_str(&text).unwrap();
        spec.user_of("data")
    };
    assert_eq!(user("{}", "{}"), None);
    assert_eq!(user(r#"{"runAsUser": 1}"#, "null"), Some((1, 0)));
    let both = r#"{"runAsUser": 1, "runAsGroup": 2}"#;
    assert_eq!(user(both, r#"{"runAsUser": 3}"#), Some((3, 2)));
    let group = r#"{"runAsUser": 1, "fsGroup": 5}"#;
    assert_eq!(user(group, r#"{"runAsGroup": 4}"#), Some((1, 5)));
}
