//! What apps do to their databases, on purpose or not, beside reading and writing them.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sqlrep_tests::world::knob;
use sqlrep_tests::{Pod, PodOptions, Sqlite, Workload, ltx, poll, say, scenario, wait};

use crate::binaries;
use crate::scene::{Point, Scene};

const SECONDS: u64 = 6;

/// How often a checkpoint is tried that may meet another one.
const TRIES: u32 = 5;

#[test]
fn an_app_that_begins_its_wal_anew_all_the_time() {
    scenario("habits-checkpoints", binaries(), |world| {
        let workload = Workload {
            timeout: 10,
            ..Workload::new(world.seed)
        };
        let agent = world.agent()?;
        let scene = Scene::followed(world, &agent, "app", &workload)?;
        let mut writer = workload.start(world, &scene.db, 0)?;
        let mut janitor = Sqlite::open(&scene.db)?;
        janitor.run("PRAGMA busy_timeout = 5000;")?;
        let end = Instant::now() + Duration::from_secs(knob("SQLREP_E2E_SECONDS", SECONDS));
        let (mut done, mut busy) = (0, 0);
        while Instant::now() < end {
            for mode in ["RESTART", "TRUNCATE"] {
                // SQLite waits for readers, and not for a checkpoint that is under way: the writer's
                // own is, now and then. We would be in the way of every try.
                let mut refused = true;
                for _ in 0..TRIES {
                    let said = janitor.run(&format!("PRAGMA wal_checkpoint({mode});"))?;
                    refused = said.trim().starts_with('1');
                    if !refused {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
                (done, busy) = (done + u32::from(!refused), busy + u32::from(refused));
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        let said = writer.pause()?;
        say(&format!("checkpoints: {done} done, {busy} refused; {said}"));
        ensure!(said["busy"] == 0, "the writer was refused: {said}");
        ensure!(
            busy * 4 <= done,
            "{busy} checkpoints were refused {TRIES} times in a row, {done} done"
        );
        let stall = said["stall"].as_f64().context("the longest transaction")?;
        ensure!(stall < 3.0, "the app stood still for {stall} s");
        scene.prove_equal(world, &agent)?;
        scene.prove_contiguous(0)
    });
}

#[test]
fn an_app_that_dies_in_a_transaction_leaves_a_wal_that_restores() {
    scenario("habits-dies", binaries(), |world| {
        let workload = Workload::new(world.seed);
        let agent = world.agent()?;
        let scene = Scene::followed(world, &agent, "app", &workload)?;
        let mut dice = world.dice(3);
        for _ in 0..knob("SQLREP_E2E_KILLS", 8) {
            let writer = workload.start(world, &scene.db, 0)?;
            writer.wait_commits(dice.u64(1..40))?;
            let acknowledged = writer.kill()?;
            agent.ctl().sync(&scene.reference)?;
            // Nobody has it open: the hot WAL is all there is of the last commits.
            for (who, restored) in scene.restore_all(world, &Point::Latest)? {
                let have = workload.check_restored(&restored).context(who)?[0];
                ensure!(
                    (acknowledged..=acknowledged + 1).contains(&have),
                    "{have} commits are there, {acknowledged} were acknowledged"
                );
                fs::remove_file(restored)?;
            }
        }
        scene.prove_equal(world, &agent)
    });
}

#[test]
fn a_reader_that_never_ends_holds_nothing_up() {
    scenario("habits-reader", binaries(), |world| {
        let workload = Workload::new(world.seed);
        let agent = world.agent()?;
        let scene = Scene::followed(world, &agent, "app", &workload)?;
        let mut reader = Sqlite::open(&scene.db)?;
        let old = reader.run("BEGIN; SELECT sum(commits) FROM progress;")?;
        let writer = workload.start(world, &scene.db, 0)?;
        writer.wait_commits(300)?;
        writer.quit()?;
        ensure!(
            reader.run("SELECT sum(commits) FROM progress;")? == old,
            "the reader's state is another"
        );
        scene.prove_equal(world, &agent)?;
        reader.run("COMMIT;")?;
        scene.prove_equal(world, &agent)
    });
}

#[test]
fn a_page_that_is_corrupt_is_replicated_as_it_is() {
    scenario("habits-corrupt", binaries(), |world| {
        let agent = world.agent()?;
        let pod = Pod::prepare(world, PodOptions::app("app").ungated())?;
        let scene = Scene::of(world, pod);
        Sqlite::once(
            &scene.db,
            "CREATE TABLE t (x); INSERT INTO t SELECT randomblob(3000) FROM generate_series(1, 50);",
        )?;
        // as a bad disk leaves it, before anybody follows it
        let mut bytes = fs::read(&scene.db)?;
        for byte in &mut bytes[4096 * 20..4096 * 20 + 200] {
            *byte ^= 0x55;
        }
        fs::write(&scene.db, &bytes)?;
        scene.pod.announce()?;
        agent.ctl().wait_following(&scene.reference)?;
        agent.ctl().sync(&scene.reference)?;
        for (who, restored) in scene.restore_all(world, &Point::Latest)? {
            sqlrep_tests::image::same(&who, &bytes, &fs::read(restored)?)?;
        }
        Ok(())
    });
}

#[test]
fn a_database_among_thousands_of_files_is_found() {
    scenario("habits-files", binaries(), |world| {
        let agent = world.agent()?;
        let scene = Scene::pod(world, "app")?;
        let volume = scene.pod.volume("data");
        for dir in 0..20 {
            let dir = volume.join(format!("cache/{dir:02}"));
            fs::create_dir_all(&dir)?;
            for file in 0..100 {
                fs::write(dir.join(format!("{file:03}.bin")), b"not a database")?;
            }
        }
        let begun = Instant::now();
        Sqlite::once(&scene.db, "CREATE TABLE t (x); INSERT INTO t VALUES (1);")?;
        let deep = volume.join("cache/19/deep.sqlite");
        Sqlite::once(&deep, "CREATE TABLE t (x); INSERT INTO t VALUES (2);")?;
        agent.ctl().wait_following(&scene.reference)?;
        agent
            .ctl()
            .wait_following("app/data/cache/19/deep.sqlite")?;
        say(&format!("2,000 files: found in {:?}", begun.elapsed()));
        scene.prove_equal(world, &agent)
    });
}

/// How far the replica is.
fn head(scene: &Scene) -> Result<u64> {
    ltx::head(&scene.replica)
}

#[test]
fn an_app_that_never_stops_reading_and_writing_is_captured_to_its_end() {
    scenario("habits-both", binaries(), |world| {
        let workload = Workload {
            autocheckpoint: 1,
            timeout: 10,
            ..Workload::new(world.seed)
        };
        let agent = world.agent()?;
        let scene = Scene::followed(world, &agent, "app", &workload)?;
        let _reader = workload.read(&scene.db, 0.3)?;
        let mut writer = workload.start(world, &scene.db, 0)?;
        let begun = head(&scene)?;
        poll("it is shipped meanwhile", Duration::from_mins(1), || {
            Ok((head(&scene)? > begun + 3).then_some(()))
        })?;
        writer.pause()?;
        wait("everything is on the replica", || {
            Ok(scene.prove_equal(world, &agent).is_ok())
        })?;
        scene.prove_contiguous(0)
    });
}
