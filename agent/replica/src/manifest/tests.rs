//! Tests of the manifest.

use std::fs;

use super::*;
use crate::testing::scratch;
use crate::testing::{CrashFs, Loss};

fn manifest(state: OwnerState) -> Manifest {
    Manifest {
        version: Manifest::VERSION,
        id: "media/surmai/sqlite/a b/data.db"
            .replace(' ', "%20")
            .parse()
            .unwrap(),
        cluster_uid: Some("c".to_owned()),
        namespace_uid: None,
        owner: Owner {
            pod: "surmai-0".to_owned(),
            pod_uid: "u".to_owned(),
            node: "n".to_owned(),
            writer: WriterId::new("n", "u"),
            state,
            since: Timestamp::from_millis(1_700_000_000_123),
        },
        file: Some(Ownership {
            uid: 1,
            gid: 2,
            mode: 0o644,
        }),
        page_size: Some(PageSize::MAX),
        head: Txid::new(0x1f),
        claims: vec![Txid::FIRST, Txid::new(0x1f).unwrap()],
    }
}

#[test]
fn what_is_saved_is_loaded() {
    let dir = scratch();
    let replica = dir.path().join("a/b");
    assert_eq!(load(&replica).unwrap(), None);
    for state in [OwnerState::Active, OwnerState::Released] {
        save(&replica, &manifest(state)).unwrap();
        assert_eq!(load(&replica).unwrap(), Some(manifest(state)));
    }
    assert_eq!(fs::read_dir(replica.join(".sqlrep")).unwrap().count(), 1);
}

fn edited(edit: impl Fn(&mut serde_json::Value)) -> Result<Option<Manifest>, ManifestError> {
    let dir = scratch();
    save(dir.path(), &manifest(OwnerState::Active)).unwrap();
    let path = dir.path().join(".sqlrep/manifest.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut json);
    fs::write(&path, json.to_string()).unwrap();
    load(dir.path())
}

#[test]
fn unknown_fields_are_ignored_and_newer_versions_are_not() {
    let more = |json: &mut serde_json::Value| {
        json["later"] = 1.into();
        json["owner"]["later"] = 1.into();
    };
    assert_eq!(edited(more).unwrap(), Some(manifest(OwnerState::Active)));
    let newer = |json: &mut serde_json::Value| {
        json["version"] = 2.into();
        json["owner"] = "quite different".into();
    };
    assert!(matches!(
        edited(newer),
        Err(ManifestError::Version { found: 2, .. })
    ));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let bad: [&dyn Fn(&mut serde_json::Value); 4] = [
        &|json| json["id"] = "a/../b/c".into(),
        &|json| json["page_size"] = 1000.into(),
        &|json| json["owner"]["state"] = "maybe".into(),
        &|json| json["owner"]["node_id"] = "x".into(),
    ];
    for edit in bad {
        assert!(matches!(edited(edit), Err(ManifestError::Malformed { .. })));
    }
    let dir = scratch();
    fs::create_dir(dir.path().join(".sqlrep")).unwrap();
    let path = dir.path().join(".sqlrep/manifest.json");
    fs::write(&path, vec![b' '; 100_000]).unwrap();
    assert!(matches!(
        load(dir.path()),
        Err(ManifestError::TooLarge { .. })
    ));
    fs::write(&path, b"").unwrap();
    let error = load(dir.path()).unwrap_err();
    assert!(error.to_string().contains("manifest.json"), "{error}");
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
    assert!(matches!(load(dir.path()), Err(ManifestError::Io { .. })));
}

#[test]
fn a_save_that_crashes_leaves_the_old_or_the_new_one() {
    let (old, new) = (manifest(OwnerState::Active), manifest(OwnerState::Released));
    for step in 0..100 {
        let dir = scratch();
        save(dir.path(), &old).unwrap();
        let crash = CrashFs::new(dir.path()).unwrap();
        crash.crash_at(step);
        let done = save_with(&crash, dir.path(), &new).is_ok();
        for loss in Loss::EACH {
            let left = scratch();
            crash.after_crash(loss, left.path()).unwrap();
            let found = load(left.path()).unwrap().unwrap();
            assert!(
                found == new || (!done && found == old),
                "step {step} {loss:?}: {found:?}"
            );
            save(left.path(), &new).unwrap();
        }
        if !crash.fired() {
            return;
        }
    }
    panic!("the save never ends");
}

#[test]
fn a_manifest_from_before_heads_and_claims_is_read() {
    let old = edited(|json| {
        let json = json.as_object_mut().unwrap();
        json.remove("head").unwrap();
        json.remove("claims").unwrap();
    });
    let old = old.unwrap().unwrap();
    assert_eq!((old.head, old.claims), (None, Vec::new()));
}

#[test]
fn the_newest_claims_are_remembered_in_order() {
    let mut manifest = manifest(OwnerState::Active);
    for id in (1..=200).rev() {
        manifest.remember_claim(Txid::new(id).unwrap());
        manifest.remember_claim(Txid::new(id).unwrap());
    }
    // Those that came last are the lowest here, and the lowest are forgotten.
    manifest.remember_claim(Txid::new(500).unwrap());
    assert_eq!(manifest.claims.len(), CLAIMS_MAX);
    assert_eq!(manifest.claims.last().unwrap().get(), 500);
    assert!(manifest.claims.is_sorted());
}
