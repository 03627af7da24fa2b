//! Restore, history and verify with nothing alive but the directory (L11).

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Run, copy_replica, golden, manifest, names, sqlrepctl};

/// A root with two databases and a place to restore to.
struct Root {
    dir: tempfile::TempDir,
}

const MULTI: &str = "media/surmai/sqlite/data.db";
const PITR: &str = "home/mealie/data/mealie.db";

impl Root {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (case, name) in [("0.5.17/multilevel", MULTI), ("0.5.17/pitr", PITR)] {
            copy_replica(&golden().join(case), &dir.path().join("root").join(name));
        }
        fs::create_dir(dir.path().join("out")).unwrap();
        Self { dir }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn replica(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn file(&self) -> PathBuf {
        self.out().join("data.db")
    }

    fn restore(&self, more: &[&str]) -> Run {
        let (root, file) = (self.root(), self.file());
        let mut arguments = vec!["restore", "--replica", root.to_str().unwrap()];
        arguments.extend(["-o", file.to_str().unwrap()]);
        arguments.extend(more);
        sqlrepctl(&arguments)
    }
}

/// Bytes of a run of the hash that the manifests use.
fn sha256(path: &Path) -> String {
    let output = std::process::Command::new("sha256sum")
        .arg(path)
        .output()
        .unwrap();
    String::from_utf8(output.stdout)
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .to_owned()
}

fn restores(case: &str) -> Vec<Value> {
    manifest(&golden().join(case))["restores"]
        .as_array()
        .unwrap()
        .clone()
}

#[test]
fn golden_replicas_restore_to_what_litestream_restores() {
    let root = Root::new();
    let mut checked = 0;
    for (case, name) in [("0.5.17/multilevel", MULTI), ("0.5.17/pitr", PITR)] {
        for restore in restores(case) {
            let Some(expected) = restore["sha256"].as_str() else {
                continue;
            };
            let words: Vec<&str> = restore["args"]
                .as_array()
                .unwrap()
                .iter()
                .map(|arg| arg.as_str().unwrap())
                .collect();
            let mut arguments = vec![name];
            match words.as_slice() {
                [] => {}
                ["-txid", txid] => arguments.extend(["--txid", txid]),
                ["-timestamp", time] => arguments.extend(["--timestamp", time]),
                other => panic!("{other:?}"),
            }
            let run = root.restore(&arguments);
            assert_eq!(run.exit, 0, "{case} {words:?}: {run:?}");
            assert_eq!(sha256(&root.file()), expected, "{case} {words:?}");
            assert_eq!(names(&root.out()), ["data.db"]);
            fs::remove_file(root.file()).unwrap();
            checked += 1;
        }
    }
    assert!(checked >= 12, "{checked}");
}

#[test]
fn a_replica_directory_needs_no_reference() {
    let root = Root::new();
    let (replica, file) = (root.replica(MULTI), root.file());
    let run = sqlrepctl(&[
        "restore",
        "--replica",
        replica.to_str().unwrap(),
        "-o",
        file.to_str().unwrap(),
        "--format",
        "json",
    ]);
    assert_eq!(run.exit, 0, "{run:?}");
    assert_eq!(run.json()["txid"], "000000000000001b");
    assert_eq!(run.json()["bytes"], fs::metadata(&file).unwrap().len());
    assert!(run.err.contains("TXID 1b"), "{run:?}");
}

#[test]
fn references_on_a_root_are_resolved_or_refused() {
    let root = Root::new();
    let ambiguous = root.restore(&[]);
    assert_eq!(ambiguous.exit, 5, "{ambiguous:?}");
    assert!(
        ambiguous.err.contains(MULTI) && ambiguous.err.contains(PITR),
        "{ambiguous:?}"
    );
    let unknown = root.restore(&["surmia"]);
    assert_eq!(unknown.exit, 3, "{unknown:?}");
    assert!(
        unknown.err.contains(MULTI),
        "near names are listed: {unknown:?}"
    );
    assert!(names(&root.out()).is_empty());
    assert_eq!(root.restore(&["surmai"]).exit, 0);
}

#[test]
fn points_outside_of_the_replica_are_not_found_and_the_range_is_said() {
    let root = Root::new();
    for arguments in [
        &["mealie", "--timestamp", "2026-11-22T20:48:54Z"][..],
        &["mealie", "--txid", "99"],
        &["surmai", "--txid", "1"],
    ] {
        let run = root.restore(arguments);
        assert_eq!(run.exit, 3, "{arguments:?}: {run:?}");
        assert!(
            run.err.contains("covers TXID") && run.err.contains("2026-11-22T"),
            "{run:?}"
        );
    }
    assert!(names(&root.out()).is_empty());
}

#[test]
fn a_file_that_exists_stays_untouched_without_force() {
    let root = Root::new();
    fs::write(root.file(), "precious").unwrap();
    let refused = root.restore(&["surmai"]);
    assert_eq!(refused.exit, 5, "{refused:?}");
    assert_eq!(fs::read(root.file()).unwrap(), b"precious");
    assert_eq!(names(&root.out()), ["data.db"]);

    fs::write(root.out().join("data.db-wal"), "stale").unwrap();
    let forced = root.restore(&["surmai", "--force"]);
    assert_eq!(forced.exit, 0, "{forced:?}");
    assert_eq!(
        sha256(&root.file()),
        restores("0.5.17/multilevel")[0]["sha256"]
    );
    assert_eq!(names(&root.out()), ["data.db"], "the stale log is gone");
}

#[test]
fn force_keeps_the_old_file_when_the_restore_fails() {
    let root = Root::new();
    fs::write(root.file(), "precious").unwrap();
    // Every file of the newest state, so that there is no way around.
    let ltx = root.replica(PITR).join("ltx");
    for level in names(&ltx) {
        for name in names(&ltx.join(&level)) {
            let path = ltx.join(&level).join(name);
            let mut bytes = fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x40;
            fs::write(&path, bytes).unwrap();
        }
    }
    let run = root.restore(&["mealie", "--force"]);
    assert_eq!(run.exit, 1, "{run:?}");
    assert!(run.err.contains(".ltx"), "the file is named: {run:?}");
    assert_eq!(fs::read(root.file()).unwrap(), b"precious");
    assert_eq!(names(&root.out()), ["data.db"]);
}

#[test]
fn force_leaves_a_database_in_use_alone() {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::process::{Command, Stdio};
    let root = Root::new();
    assert_eq!(root.restore(&["surmai"]).exit, 0);
    let before = fs::read(root.file()).unwrap();
    // Another process that holds the lock SQLite's connections hold.
    let script = "import fcntl,sys\nf=open(sys.argv[1],'r+b')\n\
                  fcntl.lockf(f,fcntl.LOCK_SH|fcntl.LOCK_NB,510,0x40000002)\n\
                  print('held',flush=True)\nsys.stdin.read()\n";
    let holder = Command::new("python3")
        .args(["-c", script])
        .arg(root.file())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut holder = holder.expect("python3 is there, as for the other suites");
    let mut said = String::new();
    BufReader::new(holder.stdout.take().unwrap())
        .read_line(&mut said)
        .unwrap();
    assert_eq!(said, "held\n");
    let run = root.restore(&["mealie", "--force"]);
    holder.stdin.take().unwrap().flush().unwrap();
    holder.wait().unwrap();
    assert_eq!(run.exit, 5, "{run:?}");
    assert!(run.err.contains("in use"), "{run:?}");
    assert_eq!(fs::read(root.file()).unwrap(), before);
    assert_eq!(root.restore(&["mealie", "--force"]).exit, 0);
}

#[test]
fn negative_replicas_are_refused_by_name_and_leave_nothing() {
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("data.db");
    let mut refused = 0;
    for case in names(&golden().join("negative")) {
        let case = golden().join("negative").join(case);
        if !case.is_dir() || case.ends_with("checksum-tracked-valid-but-rejected") {
            continue;
        }
        let replica = if case.join("replica").is_dir() {
            case.join("replica")
        } else {
            case
        };
        let arguments = ["restore", "--replica", replica.to_str().unwrap(), "-o"];
        let run = sqlrepctl(&[&arguments[..], &[file.to_str().unwrap()]].concat());
        assert_ne!(run.exit, 0, "{}: {run:?}", replica.display());
        assert!(
            run.err.contains(".ltx") || run.err.contains("TXID"),
            "{run:?}"
        );
        assert!(names(out.path()).is_empty());
        let verified = sqlrepctl(&["verify", "--replica", replica.to_str().unwrap()]);
        assert_ne!(verified.exit, 0, "{}: {verified:?}", replica.display());
        refused += 1;
    }
    assert!(refused >= 8, "{refused}");
}

#[test]
fn history_shows_files_and_what_they_reach() {
    let root = Root::new();
    let dir = root.root();
    let arguments = ["history", "--replica", dir.to_str().unwrap(), "surmai"];
    let table = sqlrepctl(&arguments);
    assert_eq!(table.exit, 0, "{table:?}");
    let first = table.out.lines().next().unwrap();
    for heading in [
        "TXID",
        "FROM",
        "LEVEL",
        "TIME",
        "SIZE",
        "RESTORABLE",
        "BRANCH",
    ] {
        assert!(first.contains(heading), "{first}");
    }
    assert!(
        table.err.contains("can be restored from TXID d"),
        "{table:?}"
    );
    assert!(table.err.contains("to TXID 1b (2026-11-22T"), "{table:?}");

    let json = sqlrepctl(&[&arguments[..], &["-o", "json"]].concat()).json();
    let points = json["points"].as_array().unwrap();
    let files = manifest(&golden().join("0.5.17/multilevel"))["files"]
        .as_array()
        .unwrap()
        .len();
    assert_eq!(points.len(), files);
    // Before the first snapshot nothing can be restored, and every snapshot can.
    let of = |txid: &str| points.iter().find(|point| point["txid"] == txid).unwrap();
    assert_eq!(of("0000000000000007")["restorable"], false);
    assert_eq!(of("000000000000000d")["restorable"], true);
    assert_eq!(json["branches"].as_array().unwrap().len(), 0);
}

#[test]
fn verify_proves_all_replicas_of_a_root_and_names_the_bad_one() {
    let root = Root::new();
    let dir = root.root();
    let arguments = [
        "verify",
        "--replica",
        dir.to_str().unwrap(),
        "--all",
        "-o",
        "json",
    ];
    let good = sqlrepctl(&arguments);
    assert_eq!(good.exit, 0, "{good:?}");
    let rows = good.json();
    assert_eq!(rows.as_array().unwrap().len(), 2);
    assert!(rows.as_array().unwrap().iter().all(|row| row["ok"] == true));

    let bad = root
        .replica(PITR)
        .join("ltx/9/0000000000000001-0000000000000001.ltx");
    let mut bytes = fs::read(&bad).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&bad, bytes).unwrap();
    let run = sqlrepctl(&arguments);
    assert_eq!(run.exit, 1, "{run:?}");
    assert!(
        run.err.contains(PITR) && run.err.contains(".ltx"),
        "{run:?}"
    );
    let rows = run.json();
    let ok: Vec<bool> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["ok"].as_bool().unwrap())
        .collect();
    assert_eq!(ok, [false, true]);

    let unsaid = sqlrepctl(&["verify", "--replica", dir.to_str().unwrap()]);
    assert_eq!(unsaid.exit, 2, "{unsaid:?}");
}

#[test]
fn an_unknown_branch_is_not_found() {
    let root = Root::new();
    let run = root.restore(&["surmai", "--branch", "nope"]);
    assert_eq!(run.exit, 3, "{run:?}");
    assert!(run.err.contains("no branch nope"), "{run:?}");
}

#[test]
fn list_shows_what_lies_on_a_share() {
    let root = Root::new();
    let dir = root.root();
    let run = sqlrepctl(&["list", "--replica", dir.to_str().unwrap(), "-o", "json"]);
    assert_eq!(run.exit, 0, "{run:?}");
    let rows = run.json();
    let named: Vec<&str> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["replica"].as_str().unwrap())
        .collect();
    assert_eq!(named, [PITR, MULTI]);
    assert_eq!(rows[1]["txid"], "000000000000001b");
}

#[test]
fn a_directory_that_is_no_replica_is_not_found() {
    let dir = tempfile::tempdir().unwrap();
    let run = sqlrepctl(&["history", "--replica", dir.path().to_str().unwrap()]);
    assert_eq!(run.exit, 3, "{run:?}");
    assert!(run.err.contains("is the share mounted?"), "{run:?}");
}

#[test]
fn a_branch_restores_on_top_of_the_main_chain_and_is_listed() {
    let root = Root::new();
    let replica = root.replica(PITR);
    let name = "20261122T204905000Z-pod-1";
    // The last two captures become the tail of a writer that was fenced.
    let tail = replica.join(".sqlrep/branches").join(name).join("ltx/0");
    fs::create_dir_all(&tail).unwrap();
    for txid in [6, 7] {
        let file = format!("{txid:016x}-{txid:016x}.ltx");
        fs::copy(replica.join("ltx/0").join(&file), tail.join(&file)).unwrap();
        fs::remove_file(replica.join("ltx/0").join(&file)).unwrap();
    }
    fs::remove_file(replica.join("ltx/1/0000000000000004-0000000000000007.ltx")).unwrap();
    let restores = restores("0.5.17/pitr");
    let expected = |label: &str| {
        restores
            .iter()
            .find(|restore| restore["label"] == label)
            .unwrap()["sha256"]
            .clone()
    };

    let run = root.restore(&["mealie", "--branch", name]);
    assert_eq!(run.exit, 0, "{run:?}");
    assert_eq!(sha256(&root.file()), expected("latest"));
    let run = root.restore(&["mealie", "--force"]);
    assert_eq!(run.exit, 0, "{run:?}");
    assert_eq!(
        sha256(&root.file()),
        expected("timestamp step 4"),
        "the main chain ends before it"
    );
    let run = root.restore(&["mealie", "--branch", "pod-1", "--force"]);
    assert_eq!(run.exit, 3, "{run:?}");
    assert!(run.err.contains(name), "branches are listed: {run:?}");

    let dir = root.root();
    let arguments = [
        "history",
        "--replica",
        dir.to_str().unwrap(),
        "mealie",
        "-o",
        "json",
    ];
    let history = sqlrepctl(&arguments).json();
    assert_eq!(history["branches"][0]["name"], name);
    assert_eq!(history["branches"][0]["from_txid"], "0000000000000006");
    let points = history["points"].as_array().unwrap();
    let own: Vec<_> = points
        .iter()
        .filter(|point| point["branch"] == name)
        .collect();
    assert_eq!(own.len(), 2);
    assert!(own.iter().all(|point| point["restorable"] == true));
}
