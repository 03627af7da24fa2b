//! The gate against every kind of status file.

use std::os::unix::fs::symlink;

use super::status::{RestoredDatabase, VERSION, read};
use super::*;

const POD: &str = "0f0e-pod";
const BOOT: &str = "boot-1";

fn status(phase: Phase) -> Status {
    Status {
        v: VERSION,
        pod_uid: POD.to_owned(),
        boot_id: BOOT.to_owned(),
        phase,
        databases: Vec::new(),
        message: String::new(),
    }
}

fn json(status: &Status) -> Vec<u8> {
    serde_json::to_vec(status).unwrap()
}

fn args(dir: &Path) -> GateArgs {
    GateArgs {
        pod_uid: POD.to_owned(),
        status: dir.join(status::FILE_NAME),
        node_name: Some("node-7".to_owned()),
        termination_log: dir.join("none"),
    }
}

#[test]
fn only_our_pod_in_this_boot_is_believed() {
    let ready = status(Phase::Ready);
    assert_eq!(read(&json(&ready), POD, BOOT), Reading::Ours(ready.clone()));
    let forged = Status {
        pod_uid: "other".to_owned(),
        ..ready.clone()
    };
    let old = Status {
        boot_id: "boot-0".to_owned(),
        ..ready.clone()
    };
    let newer = Status {
        v: 2,
        ..ready.clone()
    };
    let whole = json(&ready);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (json(&forged), "another pod"),
        (json(&old), "restarted"),
        (json(&newer), "version 2"),
        (whole[..whole.len() - 5].to_vec(), "not readable"),
        (Vec::new(), "not readable"),
        (b"\xff\xfe".to_vec(), "not readable"),
        (b"[]".to_vec(), "not readable"),
        (b"{\"v\":1,\"phase\":\"ready\"}".to_vec(), "not readable"),
    ];
    for (bytes, reason) in cases {
        match read(&bytes, POD, BOOT) {
            Reading::NotOurs(found) => assert!(found.contains(reason), "{found}"),
            Reading::Ours(status) => panic!("{status:?} was believed"),
        }
    }
}

#[test]
fn phases_are_spelled_as_agreed() {
    for phase in [
        Phase::WaitingHandover,
        Phase::Restoring,
        Phase::Ready,
        Phase::Failed,
    ] {
        let text = serde_json::to_string(&phase).unwrap();
        assert_eq!(text, format!("\"{}\"", phase.as_str()));
    }
}

#[tokio::test(start_paused = true)]
async fn the_wait_ends_with_ready_and_tells_each_change_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(status::FILE_NAME);
    tokio::spawn(async move {
        let pause = || tokio::time::sleep(Duration::from_secs(4));
        let mut waiting = status(Phase::WaitingHandover);
        waiting.message = "pod a on node b".to_owned();
        std::fs::write(&file, json(&waiting)).unwrap();
        pause().await;
        std::fs::write(&file, json(&status(Phase::Restoring))).unwrap();
        pause().await;
        let mut ready = status(Phase::Ready);
        ready.databases = vec![RestoredDatabase {
            replica: "n/a/v/x.db".to_owned(),
            txid: 0x1a,
        }];
        std::fs::write(&file, json(&ready)).unwrap();
    });
    let mut out = Vec::new();
    let outcome = wait(&args(dir.path()), BOOT, &mut out).await.unwrap();
    assert_eq!(outcome, Outcome::Ready);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "sqlrep gate: waiting-handover: pod a on node b\nsqlrep gate: restoring\n\
         sqlrep gate: ready\n  n/a/v/x.db at TXID 1a\n"
    );
}

#[tokio::test(start_paused = true)]
async fn a_failure_ends_the_wait_with_its_message() {
    let dir = tempfile::tempdir().unwrap();
    let mut failed = status(Phase::Failed);
    failed.message = "no replica".to_owned();
    std::fs::write(dir.path().join(status::FILE_NAME), json(&failed)).unwrap();
    let outcome = wait(&args(dir.path()), BOOT, &mut Vec::new())
        .await
        .unwrap();
    assert_eq!(outcome, Outcome::Failed("no replica".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn silence_is_told_after_fifteen_seconds_and_a_stale_ready_does_not_open() {
    let dir = tempfile::tempdir().unwrap();
    let stale = Status {
        boot_id: "boot-0".to_owned(),
        ..status(Phase::Ready)
    };
    std::fs::write(dir.path().join(status::FILE_NAME), json(&stale)).unwrap();
    let mut out = Vec::new();
    let args = args(dir.path());
    let start = Instant::now();
    let waited = tokio::time::timeout(Duration::from_secs(20), wait(&args, BOOT, &mut out)).await;
    assert!(waited.is_err(), "opened after {:?}", start.elapsed());
    let out = String::from_utf8(out).unwrap();
    assert!(out.contains("from before the node was restarted"), "{out}");
    assert_eq!(
        out.matches("no sqlrep agent has claimed this pod on node node-7")
            .count(),
        1
    );
}

#[test]
fn only_a_small_regular_file_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("real"), json(&status(Phase::Ready))).unwrap();
    symlink(path("real"), path("link")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    std::fs::create_dir(path("dir")).unwrap();
    let huge = usize::try_from(STATUS_BYTES_MAX).unwrap() + 1;
    std::fs::write(path("huge"), vec![b' '; huge]).unwrap();
    assert!(read_bounded(&path("real")).is_ok());
    for name in ["link", "pipe", "dir", "huge"] {
        assert!(read_bounded(&path(name)).is_err(), "{name}");
    }
}
