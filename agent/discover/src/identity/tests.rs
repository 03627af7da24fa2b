//! Names from outside, and the identity made of them.

use super::*;

fn app(kind: &str, owner: &str, pod: &str, hash: Option<&str>) -> String {
    let reference = OwnerReference {
        kind: kind.into(),
        name: owner.into(),
        uid: String::new(),
        controller: Some(true),
    };
    let mut metadata = Metadata {
        owner_references: vec![reference],
        ..Metadata::default()
    };
    if let Some(hash) = hash {
        metadata
            .labels
            .insert("pod-template-hash".into(), hash.into());
    }
    app_from_owner(&metadata, pod, "node-a")
}

#[test]
fn app_comes_from_the_owner() {
    let hash = Some("5d4f8c7b9");
    for (kind, owner, pod, hash, wanted) in [
        (
            "ReplicaSet",
            "surmai-5d4f8c7b9",
            "surmai-5d4f8c7b9-x2x4z",
            hash,
            "surmai",
        ),
        ("ReplicaSet", "lone", "lone-x2x4z", None, "lone"),
        (
            "ReplicaSet",
            "other-abc",
            "other-abc-x2x4z",
            hash,
            "other-abc",
        ),
        ("ReplicaSet", "-5d4f8c7b9", "p", hash, "-5d4f8c7b9"),
        ("StatefulSet", "db", "db-0", None, "db-0"),
        ("DaemonSet", "probe", "probe-x2x4z", None, "probe-node-a"),
        ("Job", "import", "import-x2x4z", None, "import"),
        (
            "Job",
            "nightly-29012345",
            "nightly-29012345-x2x4z",
            None,
            "nightly",
        ),
        (
            "Job",
            "import-20241122",
            "import-20241122-x2x4z",
            None,
            "import-20241122",
        ),
        ("Node", "node-a", "static-node-a", None, "static-node-a"),
        ("CloneSet", "clones", "clones-x2x4z", None, "clones-x2x4z"),
    ] {
        assert_eq!(app(kind, owner, pod, hash), wanted, "{kind} {owner}");
    }
}

#[test]
fn bare_pod_and_owner_that_does_not_control_give_the_pod_name() {
    assert_eq!(
        app_from_owner(&Metadata::default(), "bare", "node-a"),
        "bare"
    );
    let reference = OwnerReference {
        kind: "Job".into(),
        name: "job".into(),
        uid: String::new(),
        controller: None,
    };
    let metadata = Metadata {
        owner_references: vec![reference],
        ..Metadata::default()
    };
    assert_eq!(app_from_owner(&metadata, "bare", "node-a"), "bare");
}

#[test]
fn uid_is_one_harmless_path_component() {
    for good in [
        "6a3f0f6e-8f0b-4a3b-9b58-1f2f3d4c5b6a",
        "0123456789abcdef0123456789abcdef",
        "p.1_a",
    ] {
        assert_eq!(PodUid::new(good).unwrap().as_str(), good);
    }
    let long = "a".repeat(UID_BYTES_MAX + 1);
    for bad in [
        "",
        ".",
        "..",
        "../etc",
        "a/b",
        "/",
        "a\0",
        "a\n",
        "ä",
        ".hidden",
        long.as_str(),
    ] {
        assert!(PodUid::new(bad).is_none(), "{bad:?}");
    }
}

#[test]
fn dns_names_are_told_from_others() {
    let (label, long) = ("a".repeat(63), "a".repeat(64));
    for (name, is_label, is_subdomain) in [
        ("data", true, true),
        ("0-a", true, true),
        (label.as_str(), true, true),
        (long.as_str(), false, true),
        ("a.b", false, true),
        ("", false, false),
        ("-a", false, false),
        ("a-", false, false),
        ("A", false, false),
        ("a..b", false, false),
        ("..", false, false),
        ("a/b", false, false),
        ("a_b", false, false),
    ] {
        assert_eq!(is_dns_label(name), is_label, "{name:?}");
        assert_eq!(is_dns_subdomain(name), is_subdomain, "{name:?}");
    }
    assert!(!is_dns_subdomain(&"a".repeat(254)));
}
