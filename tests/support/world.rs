//! One test's own directory, its seed, and the report when it fails.

use std::fs;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::agent::{Agent, AgentOptions};
use crate::ctl::Ctl;
use crate::pod::{Pod, PodOptions};

/// The programs under test.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// `sqlrep-agent`.
    pub agent: PathBuf,
    /// `sqlrepctl`.
    pub ctl: PathBuf,
    /// Where the virtual environments of the peer lie, one directory a version.
    pub peers: PathBuf,
}

impl Binaries {
    /// The shims that Cargo built beside a suite, unless the environment names others:
    /// `SQLREP_AGENT_BIN`, `SQLREP_CTL_BIN`, `SQLREP_PEER_DIR`.
    pub fn new(agent: &str, ctl: &str, target_tmp: &str) -> Self {
        let named = |key: &str| std::env::var_os(key).map(PathBuf::from);
        let peers = Path::new(target_tmp).with_file_name("peer");
        Self {
            agent: named("SQLREP_AGENT_BIN").unwrap_or_else(|| agent.into()),
            ctl: named("SQLREP_CTL_BIN").unwrap_or_else(|| ctl.into()),
            peers: named("SQLREP_PEER_DIR").unwrap_or(peers),
        }
    }
}

/// One test's world: a kubelet's tree, manifests, a replica root, a state dir, logs.
#[derive(Debug)]
pub struct World {
    dir: TempDir,
    /// What every die of this test is thrown with.
    pub seed: u64,
    /// The programs under test.
    pub binaries: Binaries,
}

impl World {
    fn new(name: &str, binaries: Binaries) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix(&format!("sqlrep-{name}-"))
            .tempdir()?;
        // others may enter: some tests run apps and agents as another user
        fs::set_permissions(
            dir.path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )?;
        let world = Self {
            dir,
            seed: seed()?,
            binaries,
        };
        for made in [world.kubelet().join("pods"), world.pods(), world.replicas()] {
            fs::create_dir_all(made)?;
        }
        Ok(world)
    }

    /// A path in this world.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The kubelet's root (`--kubelet-root`).
    pub fn kubelet(&self) -> PathBuf {
        self.path("kubelet")
    }

    /// The directory of manifests (`--pods dir:…`).
    pub fn pods(&self) -> PathBuf {
        self.path("pods")
    }

    /// The replica root (`--replica-root`).
    pub fn replicas(&self) -> PathBuf {
        self.path("replicas")
    }

    /// A replica's own directory: `replica("shop/data/app.db")` in the default namespace.
    pub fn replica(&self, reference: &str) -> PathBuf {
        self.replicas().join("default").join(reference)
    }

    /// Starts the agent that most tests need: one, with the defaults, ready to answer.
    pub fn agent(&self) -> Result<Agent> {
        self.agent_with(AgentOptions::default())
    }

    /// Starts an agent.
    pub fn agent_with(&self, options: AgentOptions) -> Result<Agent> {
        Agent::start(self, options)
    }

    /// Starts a pod: its directories, then its manifest.
    pub fn pod(&self, options: PodOptions) -> Result<Pod> {
        Pod::start(self, options)
    }

    /// The client without an agent.
    pub fn ctl(&self) -> Ctl {
        Ctl::new(&self.binaries.ctl, None)
    }

    /// Dice that differ for each `salt` and come again with the seed.
    pub fn dice(&self, salt: u64) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// The end of each log, for a report.
    fn logs(&self) -> String {
        let mut text = String::new();
        let entries = fs::read_dir(self.dir.path())
            .into_iter()
            .flatten()
            .flatten();
        for path in entries.map(|entry| entry.path()) {
            if path.extension().is_some_and(|end| end == "log") {
                let log = fs::read_to_string(&path).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let tail = &lines[lines.len().saturating_sub(60)..];
                text.extend(["--- the end of ", &path.to_string_lossy(), "\n"]);
                text.extend([&tail.join("\n"), "\n"]);
            }
        }
        text
    }
}

/// The seed: given (`SQLREP_SEED`), or new.
fn seed() -> Result<u64> {
    match std::env::var("SQLREP_SEED") {
        Ok(text) => text
            .parse()
            .with_context(|| format!("SQLREP_SEED={text} is no number")),
        Err(_) => Ok(fastrand::u64(1..1_000_000_000)),
    }
}

/// Runs one scenario in a world of its own. When it fails: the seed, the logs, and with
/// `SQLREP_KEEP=1` the directory, are left to look at.
#[expect(clippy::missing_panics_doc, reason = "a test fails by a panic")]
pub fn scenario(name: &str, binaries: Binaries, run: impl FnOnce(&World) -> Result<()>) {
    let world = World::new(name, binaries).expect("a directory for the test");
    say(&format!("{name}: SQLREP_SEED={}", world.seed));
    let outcome = catch_unwind(AssertUnwindSafe(|| run(&world)));
    if matches!(outcome, Ok(Ok(()))) {
        return;
    }
    say(&format!(
        "{name} failed; replay with SQLREP_SEED={}\n{}",
        world.seed,
        world.logs()
    ));
    if std::env::var_os("SQLREP_KEEP").is_some() {
        say(&format!("kept: {}", world.dir.keep().display()));
    }
    match outcome {
        Ok(Err(err)) => panic!("{name}: {err:?}"),
        Err(panic) => resume_unwind(panic),
        Ok(Ok(())) => {}
    }
}

/// Says something for the reader of the test's output.
pub fn say(text: &str) {
    // straight to the descriptor: libtest holds back what a passing test prints, and a figure or
    // a seed is wanted then too
    writeln!(std::io::stderr(), "{text}").ok();
}

/// A number from the environment, or the default: how long, how often.
pub fn knob(key: &str, default: u64) -> u64 {
    std::env::var(key)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}
