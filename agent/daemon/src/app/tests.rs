//! Whole agents on temporary directories: what stops them, and what does not.

use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::config::{Auth, LogFormat};

const PATIENCE: Duration = Duration::from_secs(20);

fn config(dir: &TempDir) -> Config {
    for name in ["pods", "kubelet/pods", "nas"] {
        std::fs::create_dir_all(dir.path().join(name)).unwrap();
    }
    Config {
        node_name: "node-1".to_owned(),
        pods: PodsSource::Dir(dir.path().join("pods")),
        kubelet_root: dir.path().join("kubelet"),
        replica_root: dir.path().join("nas"),
        replica_owner: None,
        state_dir: dir.path().join("state"),
        sync_interval: Duration::from_secs(1),
        l0_retention: Duration::from_mins(5),
        branch_retention: Duration::from_hours(720),
        levels: [
            Duration::from_secs(30),
            Duration::from_mins(5),
            Duration::from_hours(1),
        ]
        .into(),
        verify_interval: Some(Duration::from_hours(24)),
        snapshot_interval: Duration::from_hours(1),
        retention: Duration::from_hours(2),
        spool_bytes_max: 1 << 30,
        wal_bytes_max: 1 << 28,
        drain_timeout: Duration::from_secs(1),
        listen: vec![Listen::Unix(dir.path().join("agent.sock"))],
        auth: Auth::None,
        tls: None,
        metrics: None,
        log_format: LogFormat::Text,
    }
}

/// A port that was free a moment ago.
async fn free_port() -> std::net::SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
}

async fn get(address: std::net::SocketAddr, path: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1.to_owned();
    (code, body)
}

async fn until_code(address: std::net::SocketAddr, path: &str, code: u16) -> String {
    let waited = tokio::time::timeout(PATIENCE, async {
        loop {
            match get(address, path).await {
                (found, body) if found == code => return body,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    });
    waited
        .await
        .unwrap_or_else(|_| panic!("{path} never answered {code}"))
}

#[tokio::test]
async fn what_the_agent_cannot_do_without_stops_it_with_the_name_of_the_flag() {
    type Change = fn(&mut Config, PathBuf);
    let cases: [(&str, Change); 5] = [
        ("--pods", |config, path| {
            config.pods = PodsSource::Dir(path.join("none"));
        }),
        ("--kubelet-root", |config, path| {
            config.kubelet_root = path.join("none");
        }),
        ("--listen", |config, path| {
            std::fs::write(path.join("file"), "").unwrap();
            config.listen = vec![Listen::Unix(path.join("file"))];
        }),
        ("--state-dir", |config, path| {
            std::fs::write(path.join("file"), "").unwrap();
            config.state_dir = path.join("file");
        }),
        ("--tls-cert", |config, path| {
            config.tls = Some(TlsFiles {
                cert: path.join("none"),
                key: path.join("none"),
                client_ca: path.join("none"),
            });
        }),
    ];
    for (flag, change) in cases {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(&dir);
        change(&mut config, dir.path().to_path_buf());
        let error = format!("{:#}", App::start(config).await.expect_err(flag));
        assert!(error.contains(flag), "{flag}: {error}");
    }
}

#[tokio::test]
async fn a_state_directory_belongs_to_one_agent() {
    let dir = tempfile::tempdir().unwrap();
    let first = App::start(config(&dir)).await.unwrap();
    let mut second = config(&dir);
    second.listen = vec![Listen::Unix(dir.path().join("other.sock"))];
    let error = format!(
        "{:#}",
        App::start(second).await.expect_err("the lock is held")
    );
    assert!(error.contains("--state-dir"), "{error}");
    assert!(error.contains(&std::process::id().to_string()), "{error}");
    shutdown::end(first).await;
    assert!(
        !dir.path().join("agent.sock").exists(),
        "the socket stays behind"
    );
}

#[tokio::test]
async fn a_root_that_is_missing_is_waited_for_and_the_agent_lives() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(&dir);
    config.replica_root = dir.path().join("share");
    let address = free_port().await;
    config.metrics = Some(address);
    let app = App::start(config).await.unwrap();
    assert_eq!(get(address, "/healthz").await.0, 200);
    let missing = until_code(address, "/readyz", 503).await;
    assert!(missing.contains("not"), "{missing}");
    assert!(
        get(address, "/metrics")
            .await
            .1
            .contains("sqlrep_replica_root_usable 0")
    );
    std::fs::create_dir(dir.path().join("share")).unwrap();
    until_code(address, "/readyz", 200).await;
    assert!(
        get(address, "/metrics")
            .await
            .1
            .contains("sqlrep_replica_root_usable 1")
    );
    assert_eq!(get(address, "/else").await.0, 404);
    shutdown::end(app).await;
}
