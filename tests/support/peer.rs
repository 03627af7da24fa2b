//! Litestream, from its own packages: the other reader and writer of our replicas.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process::{Process, output};
use crate::world::{Binaries, World};

/// The releases that replicas are proven with: the last of the frame encoding that users run, and
/// the newest, which writes blocks.
pub const VERSIONS: [&str; 2] = ["0.5.9", "0.5.17"];

/// One release of the peer.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Which.
    pub version: &'static str,
    bin: PathBuf,
}

impl Peer {
    /// Both releases. Fails where `tests/run setup` has not put them: a proof that is skipped
    /// is none.
    pub fn all(binaries: &Binaries) -> Result<Vec<Self>> {
        VERSIONS
            .iter()
            .map(|version| Self::find(binaries, version))
            .collect()
    }

    fn find(binaries: &Binaries, version: &'static str) -> Result<Self> {
        let bin = binaries.peers.join(version).join("bin/litestream");
        ensure!(
            bin.is_file(),
            "{} is not there: run `tests/run setup` once",
            bin.display()
        );
        Ok(Self { version, bin })
    }

    /// `litestream restore`; `point` may be `["-txid", …]` or `["-timestamp", …]`.
    pub fn restore(&self, replica: &Path, out: &Path, point: &[&str]) -> Result<()> {
        let mut command = Command::new(&self.bin);
        command
            .arg("restore")
            .arg("-o")
            .arg(out)
            .args(point)
            .arg(url(replica));
        let output = output(&mut command)?;
        ensure!(
            output.status.success(),
            "litestream {} restore: {}{}",
            self.version,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// `litestream replicate`, once a fifth of a second, until it is dropped or ended.
    pub fn replicate(&self, world: &World, db: &Path, replica: &Path) -> Result<Process> {
        let name = format!("litestream-{}-{:08x}", self.version, fastrand::u32(..));
        let config = world.path(&format!("{name}.yml"));
        let text = format!(
            "dbs:\n  - path: {}\n    monitor-interval: 200ms\n    replica:\n      url: {}\n      \
             sync-interval: 200ms\n",
            db.display(),
            url(replica)
        );
        fs::write(&config, text)?;
        let mut command = Command::new(&self.bin);
        command.arg("replicate").arg("-config").arg(&config);
        let log = world.path(&format!("{name}.log"));
        Process::logged(&name, &mut command, &log).context("the peer starts")
    }
}

fn url(replica: &Path) -> String {
    format!("file://{}", replica.display())
}
