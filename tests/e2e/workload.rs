//! Random apps at full speed: the restored database is the source, and the app noticed nothing.
//!
//! `SQLREP_E2E_SECONDS` says how long each writes (60 for the long run), `SQLREP_SEED` replays one.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sqlrep_tests::world::knob;
use sqlrep_tests::{AgentOptions, Reader, Workload, World, image, poll, say, scenario, wait};

use crate::binaries;
use crate::scene::{Point, Scene};

/// Long enough for hundreds of checkpoints, short enough to run at each push.
const SECONDS: u64 = 6;

#[test]
fn one_writer_with_the_defaults() {
    run("defaults", Workload::new, 0);
}

#[test]
fn one_writer_that_vacuums_on_small_pages_and_never_checkpoints() {
    let make = |seed| Workload {
        page_size: 512,
        autocheckpoint: 0,
        vacuum: 150,
        ..Workload::new(seed)
    };
    run("small-pages", make, 0);
}

#[test]
fn one_writer_that_checkpoints_all_the_time_on_large_pages() {
    let make = |seed| Workload {
        page_size: 65536,
        autocheckpoint: 5,
        vacuum: 300,
        ..Workload::new(seed)
    };
    run("large-pages", make, 0);
}

#[test]
fn three_writers_and_long_readers() {
    let make = |seed| Workload {
        writers: 3,
        autocheckpoint: 50,
        vacuum: 500,
        timeout: 30,
        ..Workload::new(seed)
    };
    run("three-writers", make, 2);
}

fn run(name: &str, make: impl FnOnce(u64) -> Workload, readers: u32) {
    scenario(name, binaries(), |world| {
        let workload = make(world.seed);
        // Past --wal-limit the agent takes the write lock for milliseconds, which an app without
        // patience sees. One that never checkpoints gets there within seconds: not what is tried.
        let limit = if workload.autocheckpoint == 0 {
            "64Gi"
        } else {
            "256Mi"
        };
        let agent = world.agent_with(AgentOptions::default().flag("--wal-limit", limit))?;
        let scene = Scene::followed(world, &agent, "app", &workload)?;
        let mut writers = workload.start_all(world, &scene.db)?;
        let readers: Vec<Reader> = (0..readers)
            .map(|_| workload.read(&scene.db, 3.0))
            .collect::<Result<_>>()?;
        let wal = image::beside(&scene.db, "-wal");
        let seconds = Duration::from_secs(knob("SQLREP_E2E_SECONDS", SECONDS));
        let end = Instant::now() + seconds;
        let mut largest = 0;
        let mut dice = world.dice(2);
        let mut next = Instant::now();
        poll(
            "the time is over",
            seconds * 10 + Duration::from_mins(1),
            || {
                largest = largest.max(fs::metadata(&wal).map_or(0, |facts| facts.len()));
                if next < Instant::now() {
                    restore_in_flight(world, &scene, &workload)?;
                    next = Instant::now() + Duration::from_millis(dice.u64(500..3000));
                }
                Ok((Instant::now() > end).then_some(()))
            },
        )?;
        let mut commits = Vec::new();
        for writer in &mut writers {
            let said = writer.pause()?;
            ensure!(said["busy"] == 0, "the app was refused: {said}");
            say(&format!(
                "{name}: {said}, largest WAL {} KiB",
                largest / 1024
            ));
            commits.push(said["commits"].as_u64().context("commits are counted")?);
        }
        drop(readers);
        // Nobody writes any more and nobody asks: what was read while a file was cut ships too.
        wait("the last commit is on the replica unasked", || {
            let mut all = true;
            for (who, restored) in scene.restore_all(world, &Point::Latest)? {
                all &= workload.check(&restored).context(who)? == commits;
                fs::remove_file(restored)?;
            }
            Ok(all)
        })?;
        scene.prove_equal(world, &agent)?;
        // the source itself: every row is the app's, and no object is ours
        ensure!(
            workload.check(&scene.db)? == commits,
            "the source lost commits"
        );
        scene.prove_contiguous(0)
    });
}

/// While all that goes on: any restore is the exact state after some commit.
fn restore_in_flight(world: &World, scene: &Scene, workload: &Workload) -> Result<()> {
    for (who, restored) in scene.restore_all(world, &Point::Latest)? {
        workload.check_restored(&restored).context(who)?;
        fs::remove_file(restored)?;
    }
    Ok(())
}
