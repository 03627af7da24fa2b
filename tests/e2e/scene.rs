//! What most scenarios begin and end with: a followed database, and the proof of its replica.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use sqlrep_tests::{Agent, Peer, Pod, PodOptions, Workload, World, image, ltx};

/// A pod with one database, and where its replica is.
#[derive(Debug)]
pub(crate) struct Scene {
    /// The pod.
    pub(crate) pod: Pod,
    /// The live database.
    pub(crate) db: PathBuf,
    /// What `sqlrepctl` calls it.
    pub(crate) reference: String,
    /// Its directory below the replica root.
    pub(crate) replica: PathBuf,
}

impl Scene {
    /// A gated pod of `app`; its database is to be `data/app.db`.
    pub(crate) fn pod(world: &World, app: &str) -> Result<Self> {
        Self::with(world, PodOptions::app(app))
    }

    /// The same from options; waits for the gate, as the app's containers would.
    pub(crate) fn with(world: &World, options: PodOptions) -> Result<Self> {
        let scene = Self::of(world, Pod::start(world, options)?);
        scene.pod.wait_ready()?;
        Ok(scene)
    }

    /// The scene of a pod that exists.
    pub(crate) fn of(world: &World, pod: Pod) -> Self {
        let reference = format!("{}/data/app.db", pod.app);
        let replica = world.replica(&reference);
        Self {
            db: pod.db("app.db"),
            pod,
            reference,
            replica,
        }
    }

    /// A pod of `app` whose app has made its database, which the agent follows.
    pub(crate) fn followed(
        world: &World,
        agent: &Agent,
        app: &str,
        workload: &Workload,
    ) -> Result<Self> {
        let scene = Self::pod(world, app)?;
        workload.init(&scene.db)?;
        agent.ctl().wait_following(&scene.reference)?;
        Ok(scene)
    }

    /// Captures and ships what is committed, then proves that ours and both peers restore it byte
    /// for byte. The writers must stand still.
    pub(crate) fn prove_equal(&self, world: &World, agent: &Agent) -> Result<()> {
        agent.ctl().sync(&self.reference)?;
        self.prove_replica(world)
    }

    /// The same without an agent: what is on the replica is all that was committed.
    pub(crate) fn prove_replica(&self, world: &World) -> Result<()> {
        let source = image::settled(&self.db)?;
        for (who, restored) in self.restore_all(world, &Point::Latest)? {
            image::same(&format!("source and {who}"), &source, &fs::read(&restored)?)?;
            image::integrity(&restored)?;
        }
        Ok(())
    }

    /// Whether the replica has pages in the block encoding, which only newer peers write and read.
    fn holds_blocks(&self) -> Result<bool> {
        for level in 0..=9 {
            if ltx::level(&self.replica, level)?
                .iter()
                .any(|file| file.blocks)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Restores at one point with ours and with both peers.
    pub(crate) fn restore_all(
        &self,
        world: &World,
        point: &Point,
    ) -> Result<Vec<(String, PathBuf)>> {
        let mut restored = Vec::new();
        let out = fresh(world, "ours");
        let ours: Vec<String> = match point {
            Point::Latest => vec![],
            Point::Txid(txid) => vec!["--txid".into(), format!("{txid:016x}")],
        };
        let ours: Vec<&str> = ours.iter().map(String::as_str).collect();
        world.ctl().restore(&self.replica, &out, &ours)?.done()?;
        restored.push(("ours".to_string(), out));
        let blocks = self.holds_blocks()?;
        for peer in Peer::all(&world.binaries)? {
            if blocks && peer.version == "0.5.9" {
                continue; // it does not read what 0.5.17 itself wrote before us
            }
            let out = fresh(world, peer.version);
            let theirs: Vec<String> = match point {
                Point::Latest => vec![],
                Point::Txid(txid) => vec!["-txid".into(), format!("{txid:016x}")],
            };
            let theirs: Vec<&str> = theirs.iter().map(String::as_str).collect();
            peer.restore(&self.replica, &out, &theirs)?;
            restored.push((format!("litestream {}", peer.version), out));
        }
        Ok(restored)
    }

    /// Proves that the single captures on the replica follow each other without a hole, up to the
    /// head, from at most the TXID after `from`.
    pub(crate) fn prove_contiguous(&self, from: u64) -> Result<()> {
        let files = ltx::level(&self.replica, 0)?;
        let first = files.first().context("the replica has single captures")?;
        // Single captures are kept for minutes; what is older must be in what they were merged to.
        let merged = self.merged_to(from)?;
        ensure!(
            first.min <= merged + 1,
            "level 0 begins at {}, and what is above it ends at {merged}",
            first.min,
        );
        for pair in files.windows(2) {
            ensure!(
                pair[0].max + 1 == pair[1].min,
                "{} then {}",
                pair[0].max,
                pair[1].min
            );
            ensure!(
                pair[0].timestamp < pair[1].timestamp,
                "time stands still at {}",
                pair[1].min
            );
        }
        Ok(())
    }

    /// How far compacted files and snapshots reach without a gap, from a TXID on.
    fn merged_to(&self, from: u64) -> Result<u64> {
        let mut reached = from;
        for level in [9, 3, 2, 1] {
            for file in ltx::level(&self.replica, level)? {
                if file.min <= reached + 1 {
                    reached = reached.max(file.max);
                }
            }
        }
        Ok(reached)
    }
}

/// Which state of a replica.
#[derive(Debug)]
pub(crate) enum Point {
    /// The newest.
    Latest,
    /// The state after a TXID.
    Txid(u64),
}

/// A file name that nothing has yet.
pub(crate) fn fresh(world: &World, what: &str) -> PathBuf {
    world.path(&format!(
        "restored-{what}-{:012x}.db",
        fastrand::u64(..1 << 48)
    ))
}

/// Whether a directory holds nothing but these names.
pub(crate) fn only(dir: &Path, names: &[&str]) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        ensure!(
            names.contains(&name.as_str()),
            "{} holds {name}",
            dir.display()
        );
    }
    Ok(())
}
