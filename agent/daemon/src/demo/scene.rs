//! The stage: a temporary directory with a NAS, nodes that run agents, and pods on them.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io::Read as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use sqlrep_proto::v1;
use tokio::time::Instant;

use super::app::Count;
use super::{client, shorten};
use crate::gate::status::{Phase, Status};

/// Longest wait for any one thing; all of them together stay under 30 seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Pause between looks.
const LOOK: Duration = Duration::from_millis(20);

/// How long an agent may take to end in good order before it is killed.
const AGENT_END: Duration = Duration::from_secs(5);

/// Lines of an agent's log that are shown when the demo fails.
const LAST_WORDS: usize = 15;

const NAMESPACE: &str = "home";
const APP: &str = "notes";
const VOLUME: &str = "data";
const DATABASE: &str = "app.db";

/// A child process that does not outlive its handle.
#[derive(Debug)]
struct Process(Child);

impl Process {
    fn start(mut command: Command) -> anyhow::Result<Self> {
        // The user's own settings are for his agents, not for these.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("SQLREP_") {
                command.env_remove(name);
            }
        }
        Ok(Self(
            command
                .stdin(Stdio::piped())
                .spawn()
                .context("cannot start a process")?,
        ))
    }

    /// Tells it to end, by closing its standard input.
    fn tell_to_end(&mut self) {
        drop::<Option<ChildStdin>>(self.0.stdin.take());
    }

    /// Waits until it has ended; `false` when it takes too long.
    async fn ended(&mut self, patience: Duration) -> anyhow::Result<bool> {
        let until = Instant::now() + patience;
        while self.0.try_wait()?.is_none() {
            if Instant::now() >= until {
                return Ok(false);
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(true)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for a process that has ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// This program.
fn myself() -> anyhow::Result<Command> {
    Ok(Command::new(
        std::env::current_exe().context("cannot find this program")?,
    ))
}

/// The temporary directory and everything in it.
#[derive(Debug)]
pub(super) struct World {
    dir: PathBuf,
    verbose: bool,
    agents: RefCell<Vec<Process>>,
}

impl World {
    pub(super) fn new(base: Option<&Path>, verbose: bool) -> anyhow::Result<Self> {
        let base = base.map_or_else(std::env::temp_dir, Path::to_path_buf);
        let id = uuid::Uuid::new_v4().simple().to_string();
        let dir = base.join(format!("sqlrep-demo-{}", &id[..8]));
        DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .with_context(|| format!("cannot make {}; choose another --dir", dir.display()))?;
        let world = Self {
            dir,
            verbose,
            agents: RefCell::default(),
        };
        fs::create_dir(world.nas())?;
        Ok(world)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    fn nas(&self) -> PathBuf {
        self.dir.join("nas")
    }

    /// The directory of the app's replica.
    pub(super) fn replica(&self) -> PathBuf {
        self.nas()
            .join(NAMESPACE)
            .join(APP)
            .join(VOLUME)
            .join(DATABASE)
    }

    /// A node with an agent that answers.
    pub(super) async fn node(&self, name: &str) -> anyhow::Result<Node> {
        let node = Node {
            name: name.to_owned(),
            dir: self.dir.join(name),
            world: self.dir.clone(),
        };
        fs::create_dir_all(node.dir.join("kubelet/pods"))?;
        fs::create_dir_all(node.dir.join("manifests"))?;
        let log = File::create(node.dir.join("agent.log"))?;
        let mut command = myself()?;
        let flag = |name: &str, value: &OsStr| {
            let mut flag = std::ffi::OsString::from(name);
            flag.push("=");
            flag.push(value);
            flag
        };
        let mut pods = std::ffi::OsString::from("dir:");
        pods.push(node.dir.join("manifests"));
        let mut listen = std::ffi::OsString::from("unix:");
        listen.push(node.socket());
        command
            .arg("demo-agent")
            .arg(flag("--node-name", name.as_ref()))
            .arg(flag("--pods", &pods))
            .arg(flag("--kubelet-root", node.dir.join("kubelet").as_os_str()))
            .arg(flag("--replica-root", self.nas().as_os_str()))
            .arg(flag("--state-dir", node.dir.join("state").as_os_str()))
            .arg(flag("--listen", &listen))
            .arg("--sync-interval=1s")
            .stdout(Stdio::null());
        if self.verbose {
            command.stderr(Stdio::inherit());
        } else {
            command.stderr(log);
        }
        self.agents.borrow_mut().push(Process::start(command)?);
        let until = Instant::now() + PATIENCE;
        while client::connect(&node.socket()).await.is_err() {
            let ended = self
                .agents
                .borrow_mut()
                .last_mut()
                .is_some_and(|agent| matches!(agent.0.try_wait(), Ok(Some(_))));
            if ended || Instant::now() >= until {
                bail!("the agent of {name} does not answer");
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(node)
    }

    /// The ends of the agents' logs.
    pub(super) fn last_words(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for name in ["node-a", "node-b"] {
            let Ok(log) = fs::read_to_string(self.dir.join(name).join("agent.log")) else {
                continue;
            };
            lines.push(format!("--- the agent of {name} said last:"));
            let all: Vec<_> = log.lines().collect();
            lines.extend(
                all.iter()
                    .skip(all.len().saturating_sub(LAST_WORDS))
                    .map(|line| (*line).to_owned()),
            );
        }
        lines
    }

    /// Ends the agents and removes everything.
    pub(super) async fn remove(self) -> anyhow::Result<()> {
        let mut agents = self.agents.take();
        agents.iter_mut().for_each(Process::tell_to_end);
        for agent in &mut agents {
            agent.ended(AGENT_END).await?;
        }
        drop(agents);
        fs::remove_dir_all(&self.dir)
            .with_context(|| format!("cannot remove {}; please do", self.dir.display()))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Reached with something left only when removing failed or was never come to.
        self.agents.take();
        drop(fs::remove_dir_all(&self.dir));
    }
}

/// A node: a kubelet's tree, a directory of manifests, an agent.
#[derive(Debug)]
pub(super) struct Node {
    name: String,
    dir: PathBuf,
    world: PathBuf,
}

impl Node {
    fn socket(&self) -> PathBuf {
        self.dir.join("agent.sock")
    }

    /// Where the volumes of its pods are.
    pub(super) fn shown_volumes(&self) -> PathBuf {
        self.dir
            .join("kubelet/pods/<uid>/volumes/kubernetes.io~empty-dir")
            .join(VOLUME)
    }

    /// What the kubelet does for a new pod: its volumes, empty; and the pod becomes known.
    pub(super) fn create_pod(&self, name: &str) -> anyhow::Result<Pod> {
        let uid = uuid::Uuid::new_v4().to_string();
        let pod = Pod {
            name: name.to_owned(),
            dir: self.dir.join("kubelet/pods").join(&uid),
            manifest: self.dir.join("manifests").join(format!("{name}.yaml")),
            world: self.world.clone(),
        };
        for volume in [VOLUME, "sqlrep-gate"] {
            let dir = pod.volume(volume);
            fs::create_dir_all(&dir)?;
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o777))?;
        }
        // Written aside first: the directory of manifests is watched.
        let aside = self.dir.join("manifest.new");
        fs::write(&aside, manifest(name, &uid, &self.name))?;
        rustix::fs::rename(&aside, &pod.manifest)?;
        Ok(pod)
    }

    /// The app's database, once it is in this state and nothing waits for the NAS.
    pub(super) async fn database(&self, state: &str) -> anyhow::Result<v1::Database> {
        let wanted = v1::State::from_str_name(&format!("STATE_{}", state.to_uppercase()));
        let until = Instant::now() + PATIENCE;
        loop {
            let rows = client::list(&self.socket()).await?;
            let seen = rows.iter().map(|row| {
                format!(
                    "{} {} {}",
                    client::name(row),
                    row.state().as_str_name(),
                    row.reason
                )
            });
            let seen: Vec<_> = seen.collect();
            let ready =
                |row: &&v1::Database| Some(row.state()) == wanted && row.shipped_txid.is_some();
            if let Some(row) = rows.iter().find(ready) {
                return Ok(row.clone());
            }
            if Instant::now() >= until {
                bail!(
                    "the agent of {} never had the database {state}; it has {seen:?}",
                    self.name
                );
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until the replica says that its owner let go; the manifest, for people.
    pub(super) async fn wait_for_release(&self) -> anyhow::Result<String> {
        let replica = self
            .world
            .join("nas")
            .join(NAMESPACE)
            .join(APP)
            .join(VOLUME)
            .join(DATABASE);
        let path = replica.join(".sqlrep/manifest.json");
        let until = Instant::now() + PATIENCE;
        loop {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let manifest: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            if manifest["owner"]["state"] == "released" {
                return Ok(format!("{} says released", shorten(&path, &self.world)));
            }
            if Instant::now() >= until {
                bail!("the replica was not released; its manifest says {text:?}");
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// A pod of the app.
#[derive(Debug)]
pub(super) struct Pod {
    name: String,
    dir: PathBuf,
    manifest: PathBuf,
    world: PathBuf,
}

impl Pod {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn volume(&self, name: &str) -> PathBuf {
        self.dir.join("volumes/kubernetes.io~empty-dir").join(name)
    }

    fn db(&self) -> PathBuf {
        self.volume(VOLUME).join(DATABASE)
    }

    /// The database's path, for people.
    pub(super) fn shown_db(&self) -> String {
        let node = shorten(&self.dir, &self.world);
        let node = node.split('/').next().unwrap_or_default();
        format!("{node}/kubelet/pods/<uid>/…/{VOLUME}/{DATABASE}, each a transaction of its own")
    }

    /// Waits as the init container does; what it was told, for people.
    pub(super) async fn wait_for_gate(&self) -> anyhow::Result<String> {
        let path = self
            .volume("sqlrep-gate")
            .join(crate::gate::status::FILE_NAME);
        let until = Instant::now() + PATIENCE;
        loop {
            let status = fs::read(&path).ok();
            let status = status.and_then(|bytes| serde_json::from_slice::<Status>(&bytes).ok());
            match status {
                Some(status) if status.phase == Phase::Ready => {
                    let restored = status.databases.first();
                    return Ok(restored.map_or_else(
                        || "ready".to_owned(),
                        |database| format!("ready: {} at TXID {}", database.replica, database.txid),
                    ));
                }
                Some(status) if status.phase == Phase::Failed => bail!("gate: {}", status.message),
                other if Instant::now() >= until => {
                    bail!("the gate of {} never opened; it says {other:?}", self.name)
                }
                _ => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// Starts the app on the pod's volume.
    pub(super) fn start_app(&self, rows_per_second: u32) -> anyhow::Result<App> {
        let mut command = self.app_command()?;
        command.arg(format!("--rows-per-second={rows_per_second}"));
        Ok(App(Process::start(command)?))
    }

    /// Counts the rows without writing.
    pub(super) async fn count(&self) -> anyhow::Result<Count> {
        let mut command = self.app_command()?;
        command.arg("--digest");
        App(Process::start(command)?).finish().await
    }

    fn app_command(&self) -> anyhow::Result<Command> {
        let mut command = myself()?;
        command
            .arg("demo-app")
            .arg("--db")
            .arg(self.db())
            .stdout(Stdio::piped());
        Ok(command)
    }

    /// Removes the pod's directory under everybody's feet; how many files the volume had.
    pub(super) fn remove_directory(&self) -> anyhow::Result<usize> {
        let files = fs::read_dir(self.volume(VOLUME))?.count();
        fs::remove_dir_all(&self.dir)
            .with_context(|| format!("cannot remove {}", shorten(&self.dir, &self.world)))?;
        Ok(files)
    }

    /// The API forgets the pod.
    pub(super) fn remove_manifest(&self) -> anyhow::Result<()> {
        Ok(fs::remove_file(&self.manifest)?)
    }
}

/// The running app.
#[derive(Debug)]
pub(super) struct App(Process);

impl App {
    /// Tells it to stop and reads what it counted.
    pub(super) async fn finish(mut self) -> anyhow::Result<Count> {
        self.0.tell_to_end();
        if !self.0.ended(PATIENCE).await? {
            bail!("the app does not end");
        }
        let mut text = String::new();
        if let Some(out) = self.0.0.stdout.take() {
            out.take(4096).read_to_string(&mut text)?;
        }
        text.parse()
    }
}

/// The manifest of a pod of the app's Deployment.
fn manifest(name: &str, uid: &str, node: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: {NAMESPACE}
  uid: {uid}
  labels:
    sqlrep.io/replicate: \"true\"
    pod-template-hash: 7d9f
  ownerReferences:
  - {{apiVersion: apps/v1, kind: ReplicaSet, name: {APP}-7d9f, uid: {uid}, controller: true}}
spec:
  nodeName: {node}
  volumes:
  - {{name: {VOLUME}, emptyDir: {{}}}}
  - {{name: sqlrep-gate, emptyDir: {{}}}}
  containers:
  - name: {APP}
    image: example.org/{APP}
    volumeMounts: [{{name: {VOLUME}, mountPath: /data}}]
status:
  phase: Pending
"
    )
}
