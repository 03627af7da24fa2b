//! A database changes its page size, which no chain can: another one begins, and the old one stays
//! restorable as a branch.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sqlrep_tests::{Agent, Sqlite, World, image, ltx, scenario, wait};

use crate::binaries;
use crate::scene::{Scene, fresh, only};

/// Statements that a busy database does not refuse.
fn patient(db: &std::path::Path, sql: &str) -> Result<String> {
    Sqlite::once(db, &format!("PRAGMA busy_timeout = 30000; {sql}"))
}

/// Makes a database without a WAL, which is followed.
fn followed(world: &World, agent: &Agent) -> Result<Scene> {
    let scene = Scene::pod(world, "app")?;
    let fill = "INSERT INTO t SELECT randomblob(700) FROM generate_series(1, 200);";
    Sqlite::once(&scene.db, &format!("CREATE TABLE t (x); {fill}"))?;
    agent.ctl().wait_following(&scene.reference)?;
    scene.prove_equal(world, agent)?;
    Ok(scene)
}

/// Waits until what the database holds is on its replica.
fn wait_shipped(world: &World, agent: &Agent, scene: &Scene) -> Result<()> {
    wait("the new chain is on the replica", || {
        Ok(agent.ctl().sync(&scene.reference).is_ok() && scene.prove_replica(world).is_ok())
    })?;
    scene.prove_equal(world, agent)
}

/// The names of the branches, as `history` has them.
fn branches(agent: &Agent, scene: &Scene) -> Result<Vec<String>> {
    let history = agent
        .ctl()
        .run(["history", &scene.reference, "-o", "json"])?;
    let history = history.done()?.json()?;
    let branches = history["branches"].as_array().context("a list")?;
    let names = branches.iter().filter_map(|branch| branch["name"].as_str());
    Ok(names.map(str::to_owned).collect())
}

#[test]
fn a_changed_page_size_begins_a_new_chain_and_the_old_one_restores() {
    scenario("chains", binaries(), |world| {
        let agent = world.agent()?;
        let scene = followed(world, &agent)?;
        patient(
            &scene.db,
            "INSERT INTO t VALUES ('the last of the old chain');",
        )?;
        agent.ctl().sync(&scene.reference)?;
        let old = image::settled(&scene.db)?;
        for size in [8192, 512] {
            patient(&scene.db, &format!("PRAGMA page_size = {size}; VACUUM;"))?;
            wait_shipped(world, &agent, &scene)?;
            let first = ltx::level(&scene.replica, 0)?;
            ensure!(
                first.first().is_some_and(|file| file.min == 1),
                "it begins at TXID 1"
            );
            agent.ctl().wait_following(&scene.reference)?;
        }
        // it goes on like any other, with a WAL too
        patient(
            &scene.db,
            "PRAGMA journal_mode = WAL; INSERT INTO t VALUES (1);",
        )?;
        wait_shipped(world, &agent, &scene)?;
        scene.prove_contiguous(0)?;

        let names = branches(&agent, &scene)?;
        ensure!(names.len() == 2, "two chains were retired: {names:?}");
        let oldest = names.first().context("the oldest")?;
        for ctl in [agent.ctl(), world.ctl()] {
            let out = fresh(world, "branch");
            let mut words = vec![
                "restore",
                "--branch",
                oldest,
                "-o",
                out.to_str().context("UTF-8")?,
            ];
            let replica = scene.replica.display().to_string();
            if ctl.is_offline() {
                words.extend(["--replica", &replica]);
            } else {
                words.push(&scene.reference);
            }
            ctl.run(words)?.done()?;
            image::same("the old chain", &old, &fs::read(&out)?)?;
        }
        let whole = image::settled(&scene.db)?;
        scene.pod.delete()?;
        let next = Scene::pod(world, "app")?;
        image::same("put back", &whole, &fs::read(&next.db)?)
    });
}

#[test]
fn a_page_size_that_changed_while_nobody_looked_begins_a_new_chain() {
    scenario("chains-away", binaries(), |world| {
        let agent = world.agent()?;
        let scene = followed(world, &agent)?;
        patient(
            &scene.db,
            "PRAGMA journal_mode = WAL; INSERT INTO t VALUES (1);",
        )?;
        wait_shipped(world, &agent, &scene)?;
        agent.terminate()?;
        let there = "PRAGMA journal_mode = DELETE; PRAGMA page_size = 16384; VACUUM;";
        let back = "PRAGMA journal_mode = WAL; INSERT INTO t VALUES (2);";
        patient(&scene.db, &format!("{there} {back}"))?;
        let agent = world.agent()?;
        wait_shipped(world, &agent, &scene)?;
        agent.ctl().wait_following(&scene.reference)?;
        scene.prove_contiguous(0)
    });
}

#[test]
fn an_agent_that_is_killed_between_two_chains_goes_on() {
    scenario("chains-killed", binaries(), |world| {
        let mut agent = world.agent()?;
        let scene = followed(world, &agent)?;
        let mut dice = world.dice(11);
        for size in [1024, 8192, 512, 4096, 2048] {
            patient(&scene.db, &format!("PRAGMA page_size = {size}; VACUUM;"))?;
            std::thread::sleep(Duration::from_millis(dice.u64(0..700)));
            agent.kill()?;
            agent = world.agent()?;
            wait_shipped(world, &agent, &scene)?;
        }
        scene.prove_contiguous(0)
    });
}

#[test]
fn a_replica_between_two_chains_does_not_count_as_empty() {
    scenario("chains-between", binaries(), |world| {
        let agent = world.agent()?;
        let scene = followed(world, &agent)?;
        patient(&scene.db, "PRAGMA page_size = 8192; VACUUM;")?;
        wait_shipped(world, &agent, &scene)?;
        let whole = image::settled(&scene.db)?;
        scene.pod.delete()?;
        wait("the replica is released, and nobody is left", || {
            let manifest = fs::read_to_string(scene.replica.join(".sqlrep/manifest.json"))?;
            let row = agent.ctl().row(&scene.reference)?;
            Ok(manifest.contains("released") && row.is_none())
        })?;
        // as if its node had died after it retired the one chain and before it published the other
        let (chain, aside) = (scene.replica.join("ltx"), world.path("aside"));
        sqlrep_tests::pod::rename(&chain, &aside)?;
        fs::create_dir(&chain)?;
        let pod = sqlrep_tests::Pod::start(world, sqlrep_tests::PodOptions::app("app"))?;
        wait("it says why it does not begin", || {
            let row = agent.ctl().row(&scene.reference)?;
            Ok(row.is_some_and(|row| {
                row.state() == "stalled" && row.words().contains("moved to branch")
            }))
        })?;
        only(&pod.volume("data"), &[])?;
        fs::remove_dir(&chain)?;
        sqlrep_tests::pod::rename(&aside, &chain)?;
        pod.wait_ready()?;
        image::same("put back", &whole, &fs::read(pod.db("app.db"))?)
    });
}
