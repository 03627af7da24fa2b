//! The real agent as a process, on a port and a socket, over a replica that no pod has.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sqlrep_proto::v1;
use sqlrep_proto::v1::agent_client::AgentClient;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use tonic::transport::{Channel, Endpoint};

/// An agent; killed when dropped.
pub(crate) struct Agent {
    process: Child,
    dir: TempDir,
    port: u16,
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Gone in between is what we want.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl Agent {
    /// Starts it, and waits until it answers.
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["pods", "kubelet", "nas"] {
            fs::create_dir(at(name)).unwrap();
        }
        let golden = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/golden/litestream/0.5.17/multilevel/replica"
        );
        copy(Path::new(golden), &at("nas/media/app/data/x.db"));
        let port = free_port();
        let log = fs::File::create(at("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_sqlrep-agent"));
        command.args(["run", "--node-name", "n1", "--auth", "none"]);
        command
            .arg("--pods")
            .arg(format!("dir:{}", at("pods").display()));
        command.arg("--kubelet-root").arg(at("kubelet"));
        command.arg("--replica-root").arg(at("nas"));
        command.arg("--state-dir").arg(at("state"));
        command.args(["--listen", &format!("unix:{}", at("sock").display())]);
        command.args(["--listen", &format!("127.0.0.1:{port}")]);
        command.stdin(Stdio::null()).stderr(log);
        let process = command.spawn().unwrap();
        let agent = Self { process, dir, port };
        let patience = Instant::now() + Duration::from_secs(20);
        while agent.ask(&agent.tcp()).await.is_err() {
            assert!(Instant::now() < patience, "no answer: {}", agent.log());
            sleep(Duration::from_millis(50)).await;
        }
        agent
    }

    /// Where it listens for TCP.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The way over TCP.
    pub(crate) fn tcp(&self) -> Endpoint {
        Endpoint::from_shared(format!("http://127.0.0.1:{}", self.port)).unwrap()
    }

    /// The way over the unix socket.
    pub(crate) fn unix(&self) -> Endpoint {
        let path = self.dir.path().join("sock");
        Endpoint::from_shared(format!("unix:{}", path.display())).unwrap()
    }

    /// Asks it who it is, as a client would.
    pub(crate) async fn ask(&self, road: &Endpoint) -> Result<v1::InfoResponse, String> {
        let channel: Channel = road.connect().await.map_err(|error| error.to_string())?;
        let answer = AgentClient::new(channel).info(v1::InfoRequest {}).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| status.to_string())
    }

    /// What it has said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// What it has open.
    pub(crate) fn open(&self) -> Vec<PathBuf> {
        let all = fs::read_dir(format!("/proc/{}/fd", self.process.id())).unwrap();
        // One that is gone by now is not open.
        let all = all.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        all.collect()
    }

    /// Its memory at its largest, in KiB.
    pub(crate) fn peak(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.unwrap().split_whitespace().next().unwrap();
        kib.parse().unwrap()
    }

    /// Whether it still is the process that was started.
    pub(crate) fn lives(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}
