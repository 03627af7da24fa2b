//! The real agent as a process.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use rustix::process::Signal;

use crate::ctl::Ctl;
use crate::process::Process;
use crate::wait::{PATIENCE, poll};
use crate::world::World;

/// Past `--drain-timeout` and then some.
const DRAIN: Duration = Duration::from_mins(1);

/// What an agent is started with. Unset paths are the world's own.
#[derive(Debug, Clone, Default)]
pub struct AgentOptions {
    /// `--node-name`, and the name of its log, socket and state dir.
    pub node: Option<String>,
    /// `--replica-root`.
    pub replicas: Option<PathBuf>,
    /// `--state-dir`.
    pub state: Option<PathBuf>,
    /// `--pods dir:…`.
    pub pods: Option<PathBuf>,
    /// `--pods kube` instead, with this kubeconfig.
    pub kubeconfig: Option<PathBuf>,
    /// Its log goes here, and not to that of its node.
    pub log: Option<String>,
    /// More of its environment.
    pub env: Vec<(String, String)>,
    /// `--kubelet-root`.
    pub kubelet: Option<PathBuf>,
    /// More flags.
    pub flags: Vec<String>,
    /// Run it as this user and group (needs root).
    pub user: Option<(u32, u32)>,
    /// A command that ends in `exec "$@"`, to run the agent in: `sh -c <this> sh agent run …`.
    pub within: Option<String>,
}

impl AgentOptions {
    /// The defaults under another node's name: a second agent.
    pub fn node(name: &str) -> Self {
        Self {
            node: Some(name.into()),
            ..Self::default()
        }
    }

    /// With its pods from an API server.
    pub fn kube(kubeconfig: PathBuf) -> Self {
        Self {
            kubeconfig: Some(kubeconfig),
            ..Self::default()
        }
    }

    /// With another flag.
    #[must_use]
    pub fn flag(mut self, flag: &str, value: &str) -> Self {
        self.flags.extend([flag.to_string(), value.to_string()]);
        self
    }
}

/// A running agent; killed when dropped.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    node: String,
    socket: PathBuf,
    log: PathBuf,
    ctl: PathBuf,
    /// It was told to end: a second time would cut its drain short.
    asked: bool,
}

impl Agent {
    /// Starts it and waits until it answers.
    pub fn start(world: &World, options: AgentOptions) -> Result<Self> {
        let mut agent = Self::spawn(world, options)?;
        let ctl = agent.ctl();
        poll("the agent answers", PATIENCE, || {
            if let Some(status) = agent.process.ended()? {
                bail!("the agent ended: {status}\n{}", agent.log()?);
            }
            Ok(ctl.run(["list", "-o", "json"])?.code.eq(&0).then_some(()))
        })?;
        Ok(agent)
    }

    /// Starts it, and no more: for those that must not come up.
    pub fn spawn(world: &World, options: AgentOptions) -> Result<Self> {
        let node = options.node.unwrap_or_else(|| "n1".into());
        let socket = world.path(&format!("{node}.sock"));
        let log = options.log.unwrap_or_else(|| node.clone());
        let log = world.path(&format!("{log}.log"));
        let prefixed = |prefix: &str, path: PathBuf| {
            let mut text = OsString::from(prefix);
            text.push(path);
            text
        };
        let mut command = match &options.within {
            Some(script) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", script, "sh"]).arg(&world.binaries.agent);
                shell
            }
            None => Command::new(&world.binaries.agent),
        };
        command
            .arg("run")
            .args(["--node-name", &node])
            .arg("--pods")
            .arg(match &options.kubeconfig {
                Some(_) => "kube".into(),
                None => prefixed("dir:", options.pods.unwrap_or_else(|| world.pods())),
            })
            .arg("--kubelet-root")
            .arg(options.kubelet.unwrap_or_else(|| world.kubelet()))
            .arg("--replica-root")
            .arg(options.replicas.unwrap_or_else(|| world.replicas()))
            .arg("--state-dir")
            .arg(
                options
                    .state
                    .unwrap_or_else(|| world.path(&format!("state-{node}"))),
            )
            .arg("--listen")
            .arg(prefixed("unix:", socket.clone()));
        if !options.flags.iter().any(|flag| flag == "--sync-interval") {
            command.args(["--sync-interval", "1s"]);
        }
        command.args(&options.flags);
        if let Some((uid, gid)) = options.user {
            command.uid(uid).gid(gid);
        }
        if let Some(kubeconfig) = &options.kubeconfig {
            command.env("KUBECONFIG", kubeconfig);
        }
        command.envs(options.env);
        let process = Process::logged(&format!("agent {node}"), &mut command, &log)?;
        Ok(Self {
            process,
            node,
            socket,
            log,
            ctl: world.binaries.ctl.clone(),
            asked: false,
        })
    }

    /// The client, talking to this agent.
    pub fn ctl(&self) -> Ctl {
        Ctl::new(&self.ctl, Some(format!("unix:{}", self.socket.display())))
    }

    /// Its node's name.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// All that it has said.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }

    /// SIGTERM, and no wait for what comes of it.
    pub fn ask_to_end(&mut self) -> Result<()> {
        self.asked = true;
        self.process.signal(Signal::TERM)
    }

    /// SIGTERM, if it was not sent yet: it drains and ends well.
    pub fn terminate(mut self) -> Result<()> {
        if !self.asked {
            self.ask_to_end()?;
        }
        let status = self.process.wait(DRAIN)?;
        ensure!(
            status.success(),
            "the agent ended with {status} on SIGTERM\n{}",
            self.log()?
        );
        Ok(())
    }

    /// Stops it in the middle of whatever it does, until [`Agent::resume`].
    pub fn freeze(&self) -> Result<()> {
        self.process.signal(Signal::STOP)
    }

    /// Lets it go on as if nothing had been.
    pub fn resume(&self) -> Result<()> {
        self.process.signal(Signal::CONT)
    }

    /// SIGKILL.
    pub fn kill(mut self) -> Result<()> {
        self.process.kill()
    }

    /// Waits for an end that nobody asked for.
    pub fn ends(&mut self) -> Result<ExitStatus> {
        self.process.wait(PATIENCE)
    }

    /// The status, if it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.process.ended()
    }
}
