//! A NAS that is away costs spool bytes and nothing else.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sqlrep_tests::{
    Agent, AgentOptions, Pod, PodOptions, Sqlite, Workload, World, image, ltx, pod, poll, say,
    scenario, wait,
};

use crate::binaries;
use crate::scene::Scene;

/// Until an app at full speed has filled half of the smallest spool three times.
const FOLDING: Duration = Duration::from_mins(5);

/// The share is taken away: what is left is the empty directory it was mounted on.
fn unmount(world: &World) -> Result<()> {
    pod::rename(&world.replicas(), &world.path("the-share"))?;
    Ok(fs::create_dir(world.replicas())?)
}

fn mount(world: &World) -> Result<()> {
    fs::remove_dir(world.replicas())?;
    pod::rename(&world.path("the-share"), &world.replicas())
}

#[test]
fn an_outage_is_caught_up_without_a_new_snapshot() {
    scenario("outage", binaries(), |world| {
        let agent = world.agent()?;
        let workload = Workload::new(world.seed);
        let scene = Scene::followed(world, &agent, "app", &workload)?;
        scene.prove_equal(world, &agent)?;
        let head = ltx::head(&scene.replica)?;
        unmount(world)?;
        let writer = workload.start(world, &scene.db, 0)?;
        writer.wait_commits(500)?;
        // an outage is told of, and the spool fills
        wait("the outage is seen", || {
            let row = agent.ctl().row(&scene.reference)?;
            Ok(row.is_some_and(|row| row.number("pending_bytes").is_some_and(|bytes| bytes > 0)))
        })?;
        writer.wait_commits(500)?;
        let said = writer.quit()?;
        ensure!(said["busy"] == 0, "the app noticed: {said}");
        // unmount left an empty directory; mount fails unless it is empty still
        mount(world)?;
        prove_caught_up(world, &agent, &scene, head)
    });
}

/// Everything follows, without a new snapshot; `head` is that of before the outage.
fn prove_caught_up(world: &World, agent: &Agent, scene: &Scene, head: u64) -> Result<()> {
    agent.ctl().wait_following(&scene.reference)?;
    scene.prove_equal(world, agent)?;
    scene.prove_contiguous(0)?;
    let snapshots = ltx::level(&scene.replica, 9)?;
    ensure!(snapshots.iter().all(|file| file.max <= head), "a snapshot");
    Ok(())
}

#[test]
fn an_outage_that_outgrows_the_spool_is_folded_and_the_app_never_waits() {
    scenario("outage-folded", binaries(), |world| {
        let options = AgentOptions::default().flag("--spool-limit", "16Mi");
        let agent = world.agent_with(options.flag("--sync-interval", "200ms"))?;
        let workload = Workload::new(world.seed);
        let scene = Scene::followed(world, &agent, "app", &workload)?;
        scene.prove_equal(world, &agent)?;
        let head = ltx::head(&scene.replica)?;
        unmount(world)?;
        let writer = workload.start(world, &scene.db, 0)?;
        let mut most = 0;
        let folded = "was folded";
        poll("it is folded, and again", FOLDING, || {
            let row = agent.ctl().row(&scene.reference)?;
            let row = row.context("it is listed")?;
            most = most.max(row.number("pending_bytes").unwrap_or(0));
            ensure!(most < 16 << 20, "{most} bytes wait");
            Ok((agent.log()?.matches(folded).count() >= 3).then_some(()))
        })?;
        let said = writer.quit()?;
        say(&format!(
            "outage-folded: {said}, at most {} KiB waited",
            most >> 10
        ));
        ensure!(said["busy"] == 0, "the app noticed: {said}");
        mount(world)?;
        prove_caught_up(world, &agent, &scene, head)
    });
}

#[test]
fn the_last_commit_of_a_pod_outlives_a_full_spool() {
    scenario("outage-full", binaries(), |world| {
        let agent = world.agent_with(AgentOptions::default().flag("--spool-limit", "16Mi"))?;
        let scene = Scene::followed(world, &agent, "app", &Workload::new(world.seed))?;
        scene.prove_equal(world, &agent)?;
        unmount(world)?;
        // one file is taken in below the limit, however large it is
        Sqlite::once(
            &scene.db,
            "CREATE TABLE large (x); INSERT INTO large VALUES (randomblob(20000000));",
        )?;
        wait("the spool is full", || {
            let row = agent.ctl().row(&scene.reference)?;
            let waits = row.and_then(|row| row.number("pending_bytes"));
            Ok(waits.is_some_and(|waits| waits > 16 << 20))
        })?;
        Sqlite::once(&scene.db, "INSERT INTO large VALUES ('the last one');")?;
        wait("it is told", || {
            let row = agent.ctl().row(&scene.reference)?;
            Ok(row.is_some_and(|row| row.words().contains("--spool-limit")))
        })?;
        let whole = image::settled(&scene.db)?;
        scene.pod.delete()?;
        mount(world)?;
        let next = Pod::start(world, PodOptions::app("app"))?;
        next.wait_ready()?;
        image::same("put back", &whole, &fs::read(next.db("app.db"))?)
    });
}

#[test]
fn an_agent_that_starts_without_its_root_serves_and_waits() {
    scenario("root-missing", binaries(), |world| {
        let agent = world.agent()?;
        let workload = Workload::new(world.seed);
        let scene = Scene::followed(world, &agent, "app", &workload)?;
        scene.prove_equal(world, &agent)?;
        agent.kill()?;
        unmount(world)?;
        let agent = world.agent()?;
        let row = agent.ctl().wait_state(&scene.reference, "stalled")?;
        ensure!(
            row.words().contains("replicas"),
            "it does not name the root: {row:?}"
        );
        // a new pod of the same app must not start empty while the root cannot be judged
        let next = Pod::start(world, PodOptions::app("second"))?;
        let writer = workload.start(world, &scene.db, 0)?;
        writer.wait_commits(200)?;
        writer.quit()?;
        ensure!(
            next.status()?
                .is_none_or(|status| status["phase"] != "ready"),
            "the gate opened"
        );
        mount(world)?;
        next.wait_ready()?;
        agent.ctl().wait_following(&scene.reference)?;
        scene.prove_equal(world, &agent)?;
        scene.prove_contiguous(0)
    });
}

#[test]
fn a_root_that_does_not_exist_stalls_every_replica() {
    scenario("root-absent", binaries(), |world| {
        let options = AgentOptions {
            replicas: Some(world.path("not-there")),
            ..AgentOptions::default()
        };
        let agent = world.agent_with(options)?;
        let scene = Scene::of(world, Pod::start(world, PodOptions::app("app").ungated())?);
        Workload::new(world.seed).init(&scene.db)?;
        let row = agent.ctl().wait_state(&scene.reference, "stalled")?;
        ensure!(
            row.words().contains("not-there"),
            "it does not name the root: {row:?}"
        );
        ensure!(!world.path("not-there").exists(), "it made the root");
        Ok(())
    });
}

#[test]
fn an_exchanged_root_is_not_written_to() {
    scenario("root-exchanged", binaries(), |world| {
        let agent = world.agent()?;
        let workload = Workload::new(world.seed);
        let scene = Scene::followed(world, &agent, "app", &workload)?;
        scene.prove_equal(world, &agent)?;
        // another root altogether, with a marker and data of its own
        pod::rename(&world.replicas(), &world.path("the-share"))?;
        fs::create_dir(world.replicas())?;
        let marker = fs::read_to_string(world.path("the-share/.sqlrep-root.json"))?;
        let other: String = marker
            .chars()
            .map(|c| if c.is_ascii_digit() { '0' } else { c })
            .collect();
        fs::write(world.replicas().join(".sqlrep-root.json"), &other)?;
        fs::create_dir_all(world.replicas().join("default/theirs"))?;
        let writer = workload.start(world, &scene.db, 0)?;
        writer.wait_commits(200)?;
        writer.quit()?;
        let row = agent.ctl().wait_state(&scene.reference, "stalled")?;
        ensure!(!row.words().is_empty(), "no reason: {row:?}");
        crate::scene::only(&world.replicas(), &[".sqlrep-root.json", "default"])?;
        crate::scene::only(&world.replicas().join("default"), &["theirs"])?;
        fs::remove_dir_all(world.replicas())?;
        pod::rename(&world.path("the-share"), &world.replicas())?;
        agent.ctl().wait_following(&scene.reference)?;
        scene.prove_equal(world, &agent)?;
        scene.prove_contiguous(0)
    });
}
