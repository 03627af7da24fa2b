//! Restores every replica that the real Litestream wrote (tests/golden/litestream).

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::*;
use crate::testing::chain::txid;
use crate::testing::scratch;
use crate::{DirStore, verify::verify};

/// A copy whose files have the time of their headers: a checkout does not keep times.
fn copy(case: &Path) -> tempfile::TempDir {
    let dir = scratch();
    copy_tree(&case.join("replica"), &dir.path().join("replica"));
    dir
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
            continue;
        }
        let bytes = fs::read(entry.path()).unwrap();
        fs::write(&target, &bytes).unwrap();
        if let Some(time) = bytes.get(32..40) {
            let millis = u64::from_be_bytes(time.try_into().unwrap());
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(millis);
            File::options()
                .write(true)
                .open(&target)
                .unwrap()
                .set_modified(time)
                .unwrap();
        }
    }
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/litestream")
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn cases(version: &str) -> Vec<PathBuf> {
    let mut cases: Vec<PathBuf> = fs::read_dir(golden().join(version))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("replica").is_dir())
        .collect();
    cases.sort();
    assert!(!cases.is_empty(), "no cases of {version}");
    cases
}

fn sha256(path: &Path) -> String {
    use std::fmt::Write as _;
    let mut hex = String::new();
    for byte in Sha256::digest(fs::read(path).unwrap()) {
        write!(hex, "{byte:02x}").unwrap();
    }
    hex
}

fn restored(store: &DirStore, point: Point, threads: usize) -> (Restored, String) {
    let out = scratch();
    let path = out.path().join("db");
    let options = RestoreOptions {
        threads,
        ownership: None,
    };
    let restored = restore(
        store,
        point,
        &Destination::open(&path).unwrap(),
        &options,
        &(),
    )
    .unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), restored.bytes);
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 1);
    (restored, sha256(&path))
}

/// What the manifest's command line asks for.
fn point(restore: &Value) -> Point {
    match restore["args"][0].as_str() {
        None => Point::Latest,
        Some("-txid") => Point::Txid(restore["args"][1].as_str().unwrap().parse().unwrap()),
        Some("-timestamp") => {
            Point::Before(Timestamp::from_millis(restore["ts_ms"].as_i64().unwrap()))
        }
        Some(other) => panic!("unknown argument {other}"),
    }
}

#[test]
fn replicas_of_the_peer_restore_byte_for_byte() {
    let mut count = 0;
    for case in ["0.5.9", "0.5.17"].into_iter().flat_map(cases) {
        let dir = copy(&case);
        let store = DirStore::new(dir.path().join("replica"));
        let listing = store.list().unwrap();
        for wanted in json(&case.join("manifest.json"))["restores"]
            .as_array()
            .unwrap()
        {
            let label = format!("{} {}", case.display(), wanted["label"]);
            if wanted["error"].is_string() {
                // After the newest file: that state, where Litestream's URL form refuses.
                continue;
            }
            let point = point(wanted);
            let steps: Vec<Value> = plan(&listing, point)
                .unwrap_or_else(|error| panic!("{label}: {error}"))
                .steps
                .iter()
                .map(|f| serde_json::json!([f.level.get(), format!("{}.ltx", f.range)]))
                .collect();
            assert_eq!(Value::Array(steps), wanted["plan"], "{label}");
            let (restored, found) = restored(&store, point, 2);
            assert_eq!(found, wanted["sha256"].as_str().unwrap(), "{label}");
            assert!(
                restored.replanned.is_empty() && restored.notes.is_empty(),
                "{label}"
            );
            count += 1;
        }
    }
    assert!(count > 50, "only {count} restores");
}

#[test]
fn replicas_of_an_independent_writer_restore_byte_for_byte() {
    let manifest = json(&golden().join("python-writer/manifest.json"));
    for (case, facts) in manifest.as_object().unwrap() {
        let dir = copy(&golden().join("python-writer").join(case));
        let store = DirStore::new(dir.path().join("replica"));
        let (_, found) = restored(&store, Point::Latest, 1);
        assert_eq!(found, facts["restored_sha256"].as_str().unwrap(), "{case}");
        verify(&store, Point::Latest, &()).unwrap();
    }
}

#[test]
fn times_lost_in_a_copy_are_taken_from_the_headers() {
    for case in cases("0.5.17")
        .into_iter()
        .filter(|case| case.ends_with("pitr"))
    {
        let dir = scratch();
        copy_tree(&case.join("replica"), &dir.path().join("replica"));
        let store = DirStore::new(dir.path().join("replica"));
        for file in store.list().unwrap().files() {
            let opened = File::options().write(true).open(store.path(file)).unwrap();
            opened.set_modified(std::time::SystemTime::now()).unwrap();
        }
        for wanted in json(&case.join("manifest.json"))["restores"]
            .as_array()
            .unwrap()
        {
            let (Some(sha), Point::Before(time)) =
                (wanted["sha256"].as_str(), point_or_latest(wanted))
            else {
                continue;
            };
            let (restored, found) = restored(&store, Point::Before(time), 1);
            assert_eq!(found, sha, "{}", wanted["label"]);
            assert_eq!(restored.notes, [Note::TimesFromHeaders]);
        }
    }
}

fn point_or_latest(wanted: &Value) -> Point {
    if wanted["error"].is_string() {
        Point::Latest
    } else {
        point(wanted)
    }
}

/// An error and all its causes.
fn text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[test]
fn every_negative_case_is_refused_and_says_why() {
    let second = "ltx/0/0000000000000002-0000000000000002.ltx";
    let expected = [
        ("file-checksum-flipped", second, "checksum"),
        ("truncated-5", second, "index"),
        ("trailing-2-bytes", second, "index"),
        ("zero-length", second, "truncated"),
        ("bad-magic", second, "LTX1"),
        ("page-byte-flipped", second, "byte"),
        (
            "checksum-tracked-valid-but-rejected",
            ".ltx",
            "database checksums",
        ),
        (
            "no-snapshot-starts-at-2",
            "TXID 0000000000000002",
            "no beginning",
        ),
        (
            "gap-at-3",
            "TXID 0000000000000002",
            "starts at TXID 0000000000000004",
        ),
    ];
    let cases = json(&golden().join("negative/manifest.json"));
    assert_eq!(cases.as_object().unwrap().len(), expected.len());
    for (case, file, reason) in expected {
        assert!(cases[case].is_object(), "{case}");
        let dir = copy(&golden().join("negative").join(case));
        let store = DirStore::new(dir.path().join("replica"));
        let out = scratch();
        let destination = Destination::open(&out.path().join("db")).unwrap();
        let error = restore(
            &store,
            Point::Latest,
            &destination,
            &RestoreOptions::default(),
            &(),
        )
        .unwrap_err();
        let said = text(&error);
        assert!(
            said.contains(file) && said.contains(reason),
            "{case}: {said}"
        );
        assert_eq!(
            fs::read_dir(out.path()).unwrap().count(),
            0,
            "{case} left something"
        );
        let verified = verify(&store, Point::Latest, &()).unwrap_err();
        assert!(
            text(&verified).contains(reason),
            "{case}: {}",
            text(&verified)
        );
        // What is sound below the damage can be had by asking for it.
        if second == file {
            assert!(said.contains("TXID 0000000000000001"), "{case}: {said}");
            restored(&store, Point::Txid(txid(1)), 1);
        }
    }
}
