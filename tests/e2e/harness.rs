//! The proofs themselves: each fails when what it proves is not so. The peer stands in for the
//! agent, so that nothing under test can hide a fault.

use std::fs;

use anyhow::{Context, Result, ensure};
use sqlrep_tests::{Peer, Pod, PodOptions, Sqlite, Workload, World, image, ltx, scenario, wait};

use crate::binaries;
use crate::scene::Scene;

/// A replica by the peer of a database that stands still, and its proof, which holds.
fn proven(world: &World, workload: &Workload) -> Result<Scene> {
    let scene = Scene::of(
        world,
        Pod::prepare(world, PodOptions::app("app").ungated())?,
    );
    workload.init(&scene.db)?;
    let peer = Peer::all(&world.binaries)?.remove(0);
    let mut process = peer.replicate(world, &scene.db, &scene.replica)?;
    // the peer takes the write lock now and then: an app without patience would end
    let patient = Workload {
        timeout: 30,
        ..workload.clone()
    };
    let writer = patient.start(world, &scene.db, 0)?;
    wait("the peer ships", || Ok(ltx::head(&scene.replica)? > 3))?;
    writer.quit()?;
    wait("the peer has all of it", || {
        scene.prove_replica(world).map(|()| true)
    })?;
    process.kill()?;
    scene.prove_replica(world)?;
    Ok(scene)
}

#[test]
fn a_commit_that_is_not_on_the_replica_is_seen() {
    scenario("harness-commit", binaries(), |world| {
        let workload = Workload {
            pause: 0.002,
            ..Workload::new(world.seed)
        };
        let scene = proven(world, &workload)?;
        Sqlite::once(&scene.db, "UPDATE progress SET commits = commits;")?;
        Sqlite::once(&scene.db, "UPDATE clock SET n = n + 1;")?;
        let err = scene
            .prove_replica(world)
            .err()
            .context("a lost commit went unnoticed")?;
        ensure!(format!("{err:#}").contains("differ"), "{err:#}");
        Ok(())
    });
}

#[test]
fn a_file_that_is_not_on_the_replica_is_seen() {
    scenario("harness-file", binaries(), |world| {
        let workload = Workload {
            pause: 0.002,
            ..Workload::new(world.seed)
        };
        let scene = proven(world, &workload)?;
        scene.prove_contiguous(1)?;
        let files = ltx::level(&scene.replica, 0)?;
        let [.., before, _] = &files[..] else {
            anyhow::bail!("too few files: {files:?}")
        };
        fs::remove_file(&before.path)?;
        // what the peer may have compacted meanwhile would bridge it
        for level in 1..=9 {
            fs::remove_dir_all(scene.replica.join("ltx").join(level.to_string())).ok();
        }
        ensure!(scene.prove_contiguous(1).is_err(), "a hole went unnoticed");
        ensure!(
            scene.prove_replica(world).is_err(),
            "a restore over a hole went unnoticed"
        );
        Ok(())
    });
}

#[test]
fn a_state_that_never_was_is_seen() {
    scenario("harness-state", binaries(), |world| {
        let workload = Workload::new(world.seed);
        let db = world.path("app.db");
        workload.init(&db)?;
        let writer = workload.start(world, &db, 0)?;
        writer.wait_commits(200)?;
        writer.quit()?;
        workload.check(&db)?;
        for (sql, what) in [
            (
                "UPDATE note0 SET size = size + 1 WHERE id = (SELECT max(id) FROM note0);",
                "row",
            ),
            ("UPDATE clock SET n = n + 1;", "torn"),
            ("CREATE TABLE _sqlrep_seq (x);", "schema"),
        ] {
            let copy = world.path("copy.db");
            fs::write(&copy, image::settled(&db)?)?;
            Sqlite::once(&copy, sql)?;
            let err = workload
                .check(&copy)
                .err()
                .with_context(|| format!("unnoticed: {sql}"))?;
            ensure!(err.to_string().contains(what), "{sql}: {err}");
            fs::remove_file(&copy)?;
        }
        Ok(())
    });
}

#[test]
fn a_busy_app_is_seen() {
    scenario("harness-busy", binaries(), |world| {
        let workload = Workload::new(world.seed);
        let db = world.path("app.db");
        workload.init(&db)?;
        let mut writer = workload.start(world, &db, 0)?;
        let mut other = Sqlite::open(&db)?;
        wait("it gets in between", || {
            Ok(other.run("BEGIN IMMEDIATE;").is_ok())
        })?;
        wait("the app is refused", || {
            let busy = writer.pause()?["busy"].as_u64().unwrap_or(0);
            writer.resume()?;
            // the sqlite3 program has no patience: it may have missed the lock at first
            other.run("BEGIN IMMEDIATE;")?;
            Ok(busy > 0)
        })?;
        other.run("ROLLBACK;")?;
        writer.quit().map(drop)
    });
}
