//! A memory-medium emptyDir is a mount of its own, and the kubelet must be able to unmount it (L15).

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use sqlrep_tests::process::output;
use sqlrep_tests::wait::{PATIENCE, poll};
use sqlrep_tests::{Agent, Pod, PodOptions, Workload, World, say, scenario};

use crate::binaries;
use crate::scene::Scene;

/// A tmpfs, gone when dropped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(dir: &Path) -> Result<Self> {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", "mode=777,size=64m", "tmpfs"]);
        let mounted = output(command.arg(dir))?;
        let err = String::from_utf8_lossy(&mounted.stderr);
        ensure!(mounted.status.success(), "mount: {err}");
        Ok(Self(dir.to_owned()))
    }

    fn unmount(&self) -> Result<bool> {
        Ok(output(Command::new("umount").arg(&self.0))?
            .status
            .success())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Unmounted already, where all went well.
        output(Command::new("umount").arg("-l").arg(&self.0)).ok();
    }
}

fn names(dir: &Path) -> Result<BTreeSet<OsString>> {
    fs::read_dir(dir)?
        .map(|entry| Ok(entry?.file_name()))
        .collect()
}

/// A pod that is deleted while its app writes at full speed, up to the kill at the end of its grace.
fn goes(world: &World, agent: &Agent, pod: Pod, workload: &Workload, least: u64) -> Result<u64> {
    let tmpfs = Tmpfs::mount(&pod.volume("data"))?;
    pod.announce()?;
    pod.wait_ready()?;
    let scene = Scene::of(world, pod);
    if least == 0 {
        workload.init(&scene.db)?;
    } else {
        let have = workload.check(&scene.db)?[0];
        ensure!(
            (least..=least + 1).contains(&have),
            "it starts with {have} commits; {least} were acknowledged"
        );
    }
    agent.ctl().wait_following(&scene.reference)?;
    let writer = workload.start(world, &scene.db, 0)?;
    writer.wait_commits(100)?;
    scene.pod.mark_deleted()?;
    writer.wait_commits(100)?;
    let acknowledged = writer.kill()?;
    let (ended, left) = (Instant::now(), names(&tmpfs.0)?);
    poll("the volume can be unmounted", PATIENCE, || {
        let now = names(&tmpfs.0)?;
        ensure!(now.is_subset(&left), "made after the end: {now:?}");
        Ok(tmpfs.unmount()?.then_some(()))
    })?;
    say(&format!(
        "unmounted {:.1} s after the app's end",
        ended.elapsed().as_secs_f32()
    ));
    scene.pod.delete()?;
    Ok(acknowledged)
}

#[test]
fn a_memory_volume_is_let_go_of_and_nothing_is_lost() {
    if !rustix::process::geteuid().is_root() {
        say("memory: only root may mount a tmpfs; nothing was proven");
        return;
    }
    scenario("memory", binaries(), |world| {
        let agent = world.agent()?;
        let workload = Workload::new(world.seed);
        let options = PodOptions {
            memory: true,
            ..PodOptions::app("app")
        };
        let mut least = 0;
        for round in 0..3 {
            let pod = Pod::prepare(world, options.clone())?;
            least = goes(world, &agent, pod, &workload, least)
                .with_context(|| format!("pod {round}"))?;
        }
        Ok(())
    });
}

#[test]
fn nothing_is_put_where_memory_is_yet_to_be_mounted() {
    if !rustix::process::geteuid().is_root() {
        say("memory-late: only root may mount a tmpfs; nothing was proven");
        return;
    }
    scenario("memory-late", binaries(), |world| {
        let agent = world.agent()?;
        let workload = Workload::new(world.seed);
        let options = PodOptions {
            memory: true,
            ..PodOptions::app("app")
        };
        let first = Pod::prepare(world, options.clone())?;
        let least = goes(world, &agent, first, &workload, 0)?;
        // the kubelet makes the directory, and takes its time to mount
        let pod = Pod::start(world, options)?;
        poll("the gate says what it waits for", PATIENCE, || {
            let status = pod.status()?.unwrap_or_default();
            let said = status["message"].as_str().unwrap_or_default();
            Ok(said.contains("not mounted yet").then_some(()))
        })?;
        ensure!(names(&pod.volume("data"))?.is_empty(), "restored too early");
        let _tmpfs = Tmpfs::mount(&pod.volume("data"))?;
        pod.wait_ready()?;
        let scene = Scene::of(world, pod);
        let have = workload.check(&scene.db)?[0];
        ensure!(
            (least..=least + 1).contains(&have),
            "it starts with {have} commits; {least} were acknowledged"
        );
        agent.ctl().wait_following(&scene.reference)?;
        let writer = workload.start(world, &scene.db, 0)?;
        writer.wait_commits(20)?;
        writer.quit()?;
        scene.prove_equal(world, &agent)
    });
}

#[test]
fn after_a_reboot_a_memory_volume_is_restored_into_the_same_pod() {
    if !rustix::process::geteuid().is_root() {
        say("reboot: only root may mount a tmpfs; nothing was proven");
        return;
    }
    scenario("reboot", binaries(), |world| {
        let agent = world.agent()?;
        let options = PodOptions {
            memory: true,
            ..PodOptions::app("app")
        };
        let pod = Pod::prepare(world, options)?;
        let before = Tmpfs::mount(&pod.volume("data"))?;
        pod.announce()?;
        pod.wait_ready()?;
        let scene = Scene::of(world, pod);
        let workload = Workload::new(world.seed);
        workload.init(&scene.db)?;
        agent.ctl().wait_following(&scene.reference)?;
        let writer = workload.start(world, &scene.db, 0)?;
        writer.wait_commits(100)?;
        let commits = writer.quit()?["commits"].as_u64();
        agent.ctl().sync(&scene.reference)?;
        agent.kill()?;
        ensure!(before.unmount()?, "a dead agent holds the volume");
        let _after = Tmpfs::mount(&scene.pod.volume("data"))?;
        let agent = world.agent()?;
        agent.ctl().wait_following(&scene.reference)?;
        let have = workload.check(&scene.db)?;
        ensure!(have.first().copied() == commits, "{have:?} of {commits:?}");
        let writer = workload.start(world, &scene.db, 0)?;
        writer.wait_commits(20)?;
        writer.quit()?;
        scene.prove_equal(world, &agent)?;
        scene.prove_contiguous(0)
    });
}
