//! Tests of identities and paths.

use super::*;
use proptest::prelude::*;

fn id(path: &str) -> Result<DbId, IdError> {
    DbId::new("media", "surmai", "sqlite", path)
}

#[test]
fn paths_follow_the_layout() {
    let id = id("db/data.db").unwrap();
    assert_eq!(
        id.replica_path(),
        Path::new("media/surmai/sqlite/db/data.db")
    );
    assert_eq!(id.to_string(), "media/surmai/sqlite/db/data.db");
    let range = TxidRange::snapshot(sqlrep_format::Txid::new(255).unwrap());
    assert_eq!(
        file_path(Level::SNAPSHOT, range),
        Path::new("ltx/9/0000000000000001-00000000000000ff.ltx")
    );
}

#[test]
fn a_path_cannot_leave_its_volume() {
    for bad in [
        "",
        "/",
        "/etc/passwd",
        "..",
        "a/../b",
        "../a",
        ".",
        "./a",
        "a//b",
        "a/",
        "a/.",
        "a\0b",
    ] {
        assert!(matches!(id(bad), Err(IdError::Path(_))), "{bad:?}");
    }
}

#[test]
fn a_path_cannot_reach_into_another_replica() {
    for (path, stored) in [
        ("a/ltx/0", "media/surmai/sqlite/a/%6Ctx/0"),
        (
            "a/.sqlrep/manifest.json",
            "media/surmai/sqlite/a/%2Esqlrep/manifest.json",
        ),
        ("generations", "media/surmai/sqlite/%67enerations"),
        ("a b%c", "media/surmai/sqlite/a%20b%25c"),
    ] {
        let id = id(path).unwrap();
        assert_eq!(id.replica_path(), Path::new(stored));
        assert_eq!(id.to_string().parse(), Ok(id));
    }
}

#[test]
fn names_are_those_of_kubernetes() {
    for bad in [
        "",
        "A",
        "-a",
        "a-",
        "a_b",
        "a.b",
        "..",
        "a/b",
        &"x".repeat(64),
    ] {
        assert!(DbId::new(bad, "a", "v", "p").is_err(), "namespace {bad:?}");
        assert!(DbId::new("n", "a", bad, "p").is_err(), "volume {bad:?}");
    }
    assert!(DbId::new("n", "set-node.example", "v", "p").is_ok());
    assert!(DbId::new("n", "a..b", "v", "p").is_err());
    assert!(DbId::new("n", "..", "v", "p").is_err());
}

#[test]
fn one_database_has_one_spelling() {
    for bad in [
        "n/a/v",
        "n/a/v/",
        "n/a/v/%61",
        "n/a/v/a%2fb",
        "n/a/v/%6ctx",
        "n/a/v/a%2",
        "n/a/v/%",
    ] {
        assert!(bad.parse::<DbId>().is_err(), "{bad:?}");
    }
}

#[test]
fn names_too_long_for_a_disk_are_refused() {
    assert!(id(&"x".repeat(255)).is_ok());
    assert!(matches!(id(&"ü".repeat(64)), Err(IdError::TooLong(_))));
    assert!(matches!(
        id("x/".repeat(1200).trim_end_matches('/')),
        Err(IdError::TooLong(_))
    ));
}

proptest! {
    #[test]
    fn text_round_trips(path in proptest::collection::vec(1u8..=255, 1..40)) {
        let path = OsStr::from_bytes(&path);
        if let Ok(id) = DbId::new("n", "a", "v", path) {
            prop_assert_eq!(id.to_string().parse(), Ok(id.clone()));
            prop_assert_eq!(id.path().as_os_str(), path);
            prop_assert!(id.replica_path().components().all(|c| matches!(c, Component::Normal(_))));
        }
    }
}

#[test]
fn replicas_are_found_below_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    for path in [
        "n/a/v/x.db/ltx/0",
        "n/a/v/d/y.db/ltx",
        "n/a/v/x.db/.sqlrep/branches/b/ltx",
        "n/empty",
    ] {
        std::fs::create_dir_all(dir.path().join(path)).unwrap();
    }
    std::os::unix::fs::symlink(dir.path(), dir.path().join("loop")).unwrap();
    let found = replicas_below(dir.path()).unwrap();
    assert_eq!(
        found,
        [PathBuf::from("n/a/v/d/y.db"), PathBuf::from("n/a/v/x.db")]
    );
    assert_eq!(
        DbId::from_replica_path(&found[0]).unwrap().path(),
        Path::new("d/y.db")
    );
    assert!(
        replicas_below(dir.path().join("nowhere"))
            .unwrap()
            .is_empty()
    );
    assert!(replicas_below(dir.path().join("n/a/v/x.db")).unwrap() == [PathBuf::new()]);
}

#[test]
fn encoded_paths_round_trip() {
    let id = id("a b/c.db").unwrap();
    assert_eq!(id.encoded_path(), "a%20b/c.db");
    assert_eq!(
        DbId::from_encoded("media", "surmai", "sqlite", "a%20b/c.db"),
        Ok(id)
    );
    assert!(DbId::from_encoded("media", "surmai", "sqlite", "a b/c.db").is_err());
}
