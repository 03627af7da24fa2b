//! A pod's data goes right after its last commit, as the kubelet takes it: nothing is lost, ever.
//!
//! `SQLREP_E2E_VANISH` says how many pods (200 for the long run).

use anyhow::{Context, Result, ensure};
use sqlrep_tests::world::knob;
use sqlrep_tests::{Sqlite, Workload, World, image, scenario, wait};

use crate::binaries;
use crate::scene::{Scene, fresh};

const PODS: u64 = 20;

#[test]
fn nothing_is_lost_when_a_pod_vanishes_after_its_last_commit() {
    scenario("vanish", binaries(), |world| {
        let agent = world.agent()?;
        let workload = Workload {
            close: false,
            ..Workload::new(world.seed)
        };
        let mut dice = world.dice(4);
        let mut least = 0;
        for round in 0..knob("SQLREP_E2E_VANISH", PODS) {
            let scene = next_pod(world, &workload, round, least)?;
            if round == 0 {
                agent.ctl().wait_following(&scene.reference)?;
            }
            let close = dice.bool();
            let workload = Workload {
                close,
                ..workload.clone()
            };
            let writer = workload.start(world, &scene.db, 0)?;
            writer.wait_commits(dice.u64(1..200))?;
            least = if dice.bool() {
                // killed at full speed: what was acknowledged counts, and at most one commit more
                writer.kill()?
            } else {
                // an orderly end, with the last close's checkpoint or without
                writer.quit()?["commits"]
                    .as_u64()
                    .context("commits are counted")?
            };
            scene.pod.delete()?;
        }
        let last = next_pod(world, &workload, u64::MAX, least)?;
        agent.ctl().wait_following(&last.reference)?;
        last.prove_equal(world, &agent)?;
        last.prove_contiguous(0)
    });
}

/// The app's next pod: its gate opens once the data is there, all of it.
fn next_pod(world: &World, workload: &Workload, round: u64, least: u64) -> Result<Scene> {
    let scene = Scene::pod(world, "app").with_context(|| format!("pod number {round}"))?;
    if round == 0 {
        workload.init(&scene.db)?;
        return Ok(scene);
    }
    ensure!(scene.db.exists(), "pod number {round} starts empty");
    let have = workload.check(&scene.db)?[0];
    ensure!(
        (least..=least + 1).contains(&have),
        "pod number {round} starts with {have} commits; {least} were acknowledged"
    );
    Ok(scene)
}

#[test]
fn a_database_that_lives_for_one_commit_is_not_lost() {
    scenario("short-lived", binaries(), |world| {
        let agent = world.agent()?;
        let scene = Scene::pod(world, "brief")?;
        Sqlite::once(&scene.db, "PRAGMA journal_mode = WAL; CREATE TABLE t (x);")?;
        // it must have been seen once: a file that comes and goes between two looks is nobody's
        agent.ctl().wait_following(&scene.reference)?;
        Sqlite::once(&scene.db, "INSERT INTO t VALUES ('the only row');")?;
        scene.pod.delete()?;
        let next = Scene::pod(world, "brief")?;
        ensure!(Sqlite::once(&next.db, "SELECT x FROM t;")? == "the only row");
        Ok(())
    });
}

#[test]
fn a_database_that_its_app_deletes_is_on_the_replica_to_the_last_commit() {
    scenario("deleted", binaries(), |world| {
        let agent = world.agent()?;
        let workload = Workload {
            close: false,
            ..Workload::new(world.seed)
        };
        let scene = Scene::followed(world, &agent, "app", &workload)?;
        let writer = workload.start(world, &scene.db, 0)?;
        writer.wait_commits(world.dice(5).u64(50..300))?;
        let least = writer.kill()?;
        for end in ["", "-wal", "-shm"] {
            std::fs::remove_file(image::beside(&scene.db, end))?;
        }
        // The pod lives, so nothing asks for its tail.
        wait("the last commit is on the replica", || {
            let out = fresh(world, "deleted");
            world.ctl().restore(&scene.replica, &out, &[])?.done()?;
            Ok(workload.check_restored(&out)?[0] >= least)
        })
    });
}

#[test]
fn a_pod_that_moves_to_another_node_takes_its_data_along() {
    scenario("move", binaries(), |world| {
        let one = world.agent()?;
        let workload = Workload::new(world.seed);
        let scene = Scene::followed(world, &one, "app", &workload)?;
        let writer = workload.start(world, &scene.db, 0)?;
        writer.wait_commits(200)?;
        let commits = writer.quit()?["commits"]
            .as_u64()
            .context("commits are counted")?;
        scene.pod.delete()?;
        let (two, options) = crate::race::second_node(world)?;
        let moved = Scene::with(world, options)?;
        ensure!(
            workload.check(&moved.db)? == [commits],
            "the other node starts with less"
        );
        two.ctl().wait_following(&moved.reference)?;
        let writer = workload.start(world, &moved.db, 0)?;
        writer.wait_commits(50)?;
        writer.quit()?;
        moved.prove_equal(world, &two)?;
        moved.prove_contiguous(0)
    });
}
