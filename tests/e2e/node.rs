//! The node's own disk goes wrong: the ledger, the spool, the state directory, a disk that is full.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sqlrep_tests::process::output;
use sqlrep_tests::{
    Agent, AgentOptions, Sqlite, Workload, World, ltx, pod, poll, say, scenario, wait,
};

use crate::binaries;
use crate::scene::Scene;

fn followed(world: &World, agent: &Agent) -> Result<Scene> {
    let scene = Scene::followed(world, agent, "app", &Workload::new(world.seed))?;
    Sqlite::once(
        &scene.db,
        "CREATE TABLE more (x); INSERT INTO more SELECT randomblob(900) FROM generate_series(1, 300);",
    )?;
    scene.prove_equal(world, agent)?;
    Ok(scene)
}

fn unmount(world: &World) -> Result<()> {
    pod::rename(&world.replicas(), &world.path("the-share"))?;
    Ok(fs::create_dir(world.replicas())?)
}

fn mount(world: &World) -> Result<()> {
    fs::remove_dir(world.replicas())?;
    pod::rename(&world.path("the-share"), &world.replicas())
}

/// The files of the ledger.
fn ledger(world: &World) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut dirs = vec![world.path("state-n1/ledger")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                files.push(path);
            }
        }
    }
    Ok(files)
}

#[test]
fn a_ledger_that_is_corrupt_costs_time_not_data() {
    scenario("node-ledger", binaries(), |world| {
        let mut agent = world.agent()?;
        let scene = followed(world, &agent)?;
        let mut dice = world.dice(5);
        for round in 0..4 {
            agent.kill()?;
            let sql = format!(
                "UPDATE more SET x = randomblob(900) WHERE rowid = {};",
                round + 1
            );
            Sqlite::once(&scene.db, &sql)?;
            for path in ledger(world)? {
                let mut bytes = fs::read(&path)?;
                for _ in 0..bytes.len().min(64) {
                    let at = dice.usize(0..bytes.len());
                    bytes[at] ^= 1 << dice.u8(0..8);
                }
                if round == 3 {
                    bytes.truncate(bytes.len() / 2);
                }
                fs::write(path, bytes)?;
            }
            agent = world.agent()?;
            agent.ctl().wait_following(&scene.reference)?;
            scene.prove_equal(world, &agent)?;
        }
        scene.prove_contiguous(0)
    });
}

#[test]
fn a_file_of_the_spool_that_goes_bad_before_it_is_shipped_is_captured_anew() {
    scenario("node-spool", binaries(), |world| {
        let mut agent = world.agent()?;
        let scene = followed(world, &agent)?;
        let mut dice = world.dice(6);
        for _ in 0..3 {
            unmount(world)?;
            for row in 1..6 {
                let sql = format!("UPDATE more SET x = randomblob(900) WHERE rowid = {row};");
                Sqlite::once(&scene.db, &format!("PRAGMA busy_timeout = 5000; {sql}"))?;
                std::thread::sleep(Duration::from_millis(120));
            }
            wait("some files wait", || {
                let row = agent.ctl().row(&scene.reference)?;
                Ok(row
                    .is_some_and(|row| row.number("pending_bytes").is_some_and(|bytes| bytes > 0)))
            })?;
            agent.kill()?;
            // nothing of the WAL is left that could tell what the file held
            Sqlite::once(&scene.db, "PRAGMA wal_checkpoint(TRUNCATE);")?;
            let mut files = ltx::below(&world.path("state-n1/spool"))?;
            files.sort();
            let bad = files.get(files.len().saturating_sub(dice.usize(1..3)));
            let bad = bad.context("a file in the spool")?;
            let mut bytes = fs::read(bad)?;
            let at = dice.usize(0..bytes.len());
            bytes[at] ^= 0x10;
            fs::write(bad, bytes)?;
            mount(world)?;
            agent = world.agent()?;
            agent.ctl().wait_following(&scene.reference)?;
            wait("it is captured anew and shipped", || {
                let synced = agent.ctl().sync(&scene.reference).is_ok();
                Ok(synced && scene.prove_replica(world).is_ok())
            })?;
        }
        scene.prove_contiguous(0)
    });
}

#[test]
fn a_state_directory_that_is_gone_costs_time_not_data() {
    scenario("node-state", binaries(), |world| {
        let agent = world.agent()?;
        let scene = followed(world, &agent)?;
        agent.kill()?;
        Sqlite::once(
            &scene.db,
            "UPDATE more SET x = randomblob(900) WHERE rowid < 4;",
        )?;
        let head = ltx::head(&scene.replica)?;
        fs::remove_dir_all(world.path("state-n1"))?;
        let agent = world.agent()?;
        agent.ctl().wait_following(&scene.reference)?;
        scene.prove_equal(world, &agent)?;
        let new = ltx::level(&scene.replica, 0)?;
        let pages: u64 = new
            .iter()
            .filter(|file| file.min > head)
            .map(|file| file.pages)
            .sum();
        say(&format!(
            "state directory lost: {pages} pages were shipped again"
        ));
        scene.prove_contiguous(0)
    });
}

/// Copies a directory as it is at this moment, whoever writes to it.
fn copied(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    let done = output(Command::new("cp").arg("-a").arg(from).arg(to))?;
    // A file that went meanwhile is as good as one that was never there.
    ensure!(to.is_dir(), "cp: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

#[test]
fn a_state_directory_from_an_earlier_moment_costs_time_not_data() {
    scenario("node-earlier", binaries(), |world| {
        let mut agent = world.agent()?;
        let workload = Workload::new(world.seed);
        let scene = Scene::followed(world, &agent, "app", &workload)?;
        let state = world.path("state-n1");
        let mut writer = workload.start(world, &scene.db, 0)?;
        let mut dice = world.dice(12);
        let mut copies = Vec::new();
        for round in 0..5 {
            for part in 0..3 {
                writer.wait_commits(dice.u64(10..200))?;
                let copy = world.path(&format!("copy-{round}-{part}"));
                copied(&state, &copy)?;
                copies.push(copy);
            }
            writer.wait_commits(dice.u64(1..200))?;
            agent.kill()?;
            // as if the disk had lost all that was written since
            fs::remove_dir_all(&state)?;
            let earlier = &copies[dice.usize(0..copies.len())];
            copied(earlier, &state)?;
            writer.wait_commits(dice.u64(1..50))?;
            agent = world.agent()?;
            agent.ctl().wait_following(&scene.reference)?;
            writer.pause()?;
            scene.prove_equal(world, &agent)?;
            scene.prove_contiguous(0)?;
            writer.resume()?;
        }
        writer.pause()?;
        scene.prove_equal(world, &agent)
    });
}

/// A tmpfs, gone when dropped.
struct Small(PathBuf);

impl Small {
    fn mount(dir: PathBuf, bytes: &str) -> Result<Self> {
        fs::create_dir_all(&dir)?;
        let size = format!("mode=755,size={bytes}");
        let mounted = output(
            Command::new("mount")
                .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
                .arg(&dir),
        )?;
        let err = String::from_utf8_lossy(&mounted.stderr);
        ensure!(mounted.status.success(), "mount: {err}");
        Ok(Self(dir))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        drop(Command::new("umount").args(["-l"]).arg(&self.0).status()); // it is a test's own
    }
}

#[test]
fn a_node_whose_disk_is_full_stalls_and_follows_when_there_is_room() {
    scenario("node-small", binaries(), |world| {
        if !rustix::process::geteuid().is_root() {
            say("node-small: SKIPPED, only root may mount a disk that is small");
            return Ok(());
        }
        let small = Small::mount(world.path("small"), "12m")?;
        let options = AgentOptions {
            state: Some(small.0.join("state")),
            ..AgentOptions::default()
        };
        let agent = world.agent_with(options)?;
        let workload = Workload::new(world.seed);
        let scene = Scene::followed(world, &agent, "app", &workload)?;
        scene.prove_equal(world, &agent)?;
        unmount(world)?;
        let mut writer = workload.start(world, &scene.db, 0)?;
        // The spool fills the disk; the app does not notice.
        poll("it is said", Duration::from_mins(2), || {
            Ok(agent.log()?.contains("No space left").then_some(()))
        })?;
        writer.wait_commits(200)?;
        let said = writer.pause()?;
        ensure!(said["busy"] == 0, "the app noticed: {said}");
        mount(world)?;
        wait("everything follows", || {
            let synced = agent.ctl().sync(&scene.reference).is_ok();
            Ok(synced && scene.prove_replica(world).is_ok())
        })?;
        agent.ctl().wait_following(&scene.reference)?;
        scene.prove_contiguous(0)?;
        agent.terminate()
    });
}
