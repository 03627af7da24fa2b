//! Who runs it: an ordinary user does everything for his own files; root leaves ownership alone.
//!
//! A read-only replica root is one that this user may not write, or, for root, a bind mount that
//! is read-only: root ignores modes.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};

use anyhow::{Context, Result, ensure};
use sqlrep_tests::{
    AgentOptions, Pod, PodOptions, Sqlite, Workload, World, image, say, scenario, wait,
};

use crate::binaries;
use crate::scene::Scene;

/// Nobody, who owns nothing else.
const ORDINARY: (u32, u32) = (65534, 65534);

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Gives a tree to the ordinary user.
fn give(path: &std::path::Path) -> Result<()> {
    chown(path, Some(ORDINARY.0), Some(ORDINARY.1))?;
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path())?;
        }
    }
    Ok(())
}

/// The agent as an ordinary user. When this suite runs as root: as nobody, from a copy of the
/// program, for the checkout may be closed to others.
fn ordinary_agent(world: &World) -> Result<AgentOptions> {
    if !is_root() {
        return Ok(AgentOptions::default());
    }
    let state = world.path("state-n1");
    fs::create_dir_all(&state)?;
    for dir in [world.replicas(), state, world.kubelet()] {
        give(&dir)?;
    }
    // the socket and the log are made in the world's own directory
    fs::set_permissions(world.path(""), fs::Permissions::from_mode(0o777))?;
    Ok(AgentOptions {
        user: Some(ORDINARY),
        ..AgentOptions::default()
    })
}

/// A scenario with a copy of the agent that everybody may run.
fn as_ordinary(name: &str, run: impl FnOnce(&World) -> Result<()>) {
    let mut binaries = binaries();
    let shared = tempfile::Builder::new()
        .prefix("sqlrep-bin-")
        .tempdir()
        .expect("a directory");
    if is_root() {
        fs::set_permissions(shared.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
        let copy = shared.path().join("sqlrep-agent");
        fs::copy(&binaries.agent, &copy).expect("a copy of the agent");
        binaries.agent = copy;
    }
    scenario(name, binaries, run);
}

#[test]
fn an_ordinary_user_replicates_and_restores_his_databases() {
    as_ordinary("ordinary", |world| {
        let user = is_root().then_some(ORDINARY);
        let agent = world.agent_with(ordinary_agent(world)?)?;
        let pod = Pod::prepare(world, PodOptions::app("app"))?;
        if is_root() {
            give(&world.kubelet())?;
        }
        pod.announce()?;
        let scene = Scene::of(world, pod);
        scene.pod.wait_ready()?;
        let mut app = Sqlite::open_as(&scene.db, user)?;
        app.run("PRAGMA journal_mode = WAL; CREATE TABLE t (x); INSERT INTO t VALUES (1);")?;
        agent.ctl().wait_following(&scene.reference)?;
        app.run("INSERT INTO t SELECT randomblob(5000) FROM t;")?;
        scene.prove_equal(world, &agent)?;
        app.close()?;
        let whole = image::settled(&scene.db)?;
        scene.pod.delete()?;
        let next = Pod::prepare(world, PodOptions::app("app"))?;
        if is_root() {
            give(&world.kubelet())?;
        }
        next.announce()?;
        next.wait_ready()?;
        image::same("put back", &whole, &fs::read(next.db("app.db"))?)
    });
}

#[test]
fn a_root_that_cannot_be_written_stalls_and_recovers() {
    as_ordinary("read-only", |world| {
        let agent = world.agent_with(ordinary_agent(world)?)?;
        let pod = Pod::prepare(world, PodOptions::app("app"))?;
        if is_root() {
            give(&world.kubelet())?;
        }
        pod.announce()?;
        let scene = Scene::of(world, pod);
        scene.pod.wait_ready()?;
        let user = is_root().then_some(ORDINARY);
        let mut app = Sqlite::open_as(&scene.db, user)?;
        app.run("PRAGMA journal_mode = WAL; CREATE TABLE t (x); INSERT INTO t VALUES (1);")?;
        agent.ctl().wait_following(&scene.reference)?;
        scene.prove_equal(world, &agent)?;
        set_modes(&world.replicas(), 0o555)?;
        app.run("INSERT INTO t SELECT randomblob(50) FROM t;")?;
        wait("the failure is told", || {
            let row = agent.ctl().row(&scene.reference)?;
            Ok(row.is_some_and(|row| {
                row.number("pending_bytes").unwrap_or(0) > 0
                    && row.words().to_lowercase().contains("permission denied")
            }))
        })?;
        set_modes(&world.replicas(), 0o755)?;
        agent.ctl().wait_following(&scene.reference)?;
        scene.prove_equal(world, &agent)
    });
}

fn set_modes(dir: &std::path::Path, mode: u32) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            set_modes(&path, mode)?;
        }
    }
    Ok(fs::set_permissions(dir, fs::Permissions::from_mode(mode))?)
}

#[test]
fn a_root_mounted_read_only_stalls() {
    scenario("read-only-mount", binaries(), |world| {
        if !is_root() {
            say("read-only-mount: needs root for its bind mount; not run");
            return Ok(());
        }
        let script = format!(
            "unshare -m sh -c 'mount --bind \"$0\" \"$0\" && mount -o remount,ro,bind \"$0\" && \
             exec \"$@\"' {} \"$@\"",
            world.replicas().display()
        );
        let script = format!("exec {script}");
        // where mounting is forbidden even to root there is nothing to prove
        let tried = std::process::Command::new("sh")
            .args(["-c", &script, "sh", "true"])
            .status()
            .context("sh runs")?;
        if !tried.success() {
            say("read-only-mount: this machine forbids bind mounts; not run");
            return Ok(());
        }
        let agent = world.agent()?;
        let scene = Scene::followed(world, &agent, "app", &Workload::new(world.seed))?;
        scene.prove_equal(world, &agent)?;
        agent.terminate()?;
        let options = AgentOptions {
            within: Some(script),
            ..AgentOptions::default()
        };
        let agent = world.agent_with(options)?;
        Sqlite::once(&scene.db, "UPDATE clock SET n = 9;")?;
        wait("the failure is told", || {
            let row = agent.ctl().row(&scene.reference)?;
            Ok(row.is_some_and(|row| row.words().to_lowercase().contains("read-only")))
        })?;
        agent.terminate().ok();
        let agent = world.agent()?;
        agent.ctl().wait_following(&scene.reference)?;
        scene.prove_equal(world, &agent)
    });
}

#[test]
fn root_leaves_ownership_alone_and_puts_it_back() {
    scenario("ownership", binaries(), |world| {
        if !is_root() {
            say("ownership: needs root to play another user; not run");
            return Ok(());
        }
        let agent = world.agent()?;
        let scene = Scene::pod(world, "app")?;
        let mut app = Sqlite::open_as(&scene.db, Some((1234, 5678)))?;
        app.run("PRAGMA journal_mode = WAL; CREATE TABLE t (x); INSERT INTO t VALUES (1);")?;
        fs::set_permissions(&scene.db, fs::Permissions::from_mode(0o640))?;
        agent.ctl().wait_following(&scene.reference)?;
        app.run("INSERT INTO t VALUES (2);")?;
        scene.prove_equal(world, &agent)?;
        for end in ["", "-wal", "-shm"] {
            let facts = fs::metadata(image::beside(&scene.db, end))?;
            ensure!(
                (facts.uid(), facts.gid()) == (1234, 5678),
                "app.db{end} changed hands"
            );
        }
        app.kill()?;
        scene.pod.delete()?;
        let next = Scene::pod(world, "app")?;
        let facts = fs::metadata(&next.db)?;
        ensure!(
            (facts.uid(), facts.gid()) == (1234, 5678),
            "put back for {}",
            facts.uid()
        );
        ensure!(
            facts.mode() & 0o7777 == 0o640,
            "put back with mode {:o}",
            facts.mode()
        );
        let mut app = Sqlite::open_as(&next.db, Some((1234, 5678)))?;
        app.run("INSERT INTO t VALUES (3);")?;
        ensure!(app.run("SELECT count(*) FROM t;")?.trim() == "3");
        Ok(())
    });
}
