//! From a commit in a pod to a file that anybody restores, at any moment.

use std::fs;

use anyhow::ensure;
use sqlrep_tests::{Sqlite, Workload, image, ltx, scenario, wait};

use crate::binaries;
use crate::scene::{Point, Scene, fresh};

#[test]
fn restores_at_any_moment_are_the_state_after_one_commit() {
    scenario("spine", binaries(), |world| {
        let agent = world.agent()?;
        let workload = Workload {
            pause: 0.001,
            ..Workload::new(world.seed)
        };
        let scene = Scene::followed(world, &agent, "app", &workload)?;
        let mut writer = workload.start(world, &scene.db, 0)?;
        let mut dice = world.dice(1);
        let mut newest = 0;
        for _ in 0..4 {
            writer.wait_commits(dice.u64(50..400))?;
            for (who, restored) in scene.restore_all(world, &Point::Latest)? {
                let commits = workload.check_restored(&restored)?[0];
                ensure!(
                    commits >= newest,
                    "{who} went back: {commits} after {newest}"
                );
                newest = newest.max(commits);
            }
        }
        // one TXID, three restores, the same bytes
        let head = ltx::head(&scene.replica)?;
        let restored = scene.restore_all(world, &Point::Txid(head))?;
        for (who, path) in &restored[1..] {
            image::same_files(&format!("ours and {who} at {head:x}"), &restored[0].1, path)?;
        }
        writer.pause()?;
        let acknowledged = writer.acknowledged()?;
        scene.prove_equal(world, &agent)?;
        let out = fresh(world, "agent");
        let ctl = agent.ctl();
        let to = out.to_string_lossy().into_owned();
        ctl.run(["restore", &scene.reference, "-o", &to])?.done()?;
        ensure!(
            workload.check_restored(&out)? == [acknowledged],
            "through the agent"
        );
        scene.prove_contiguous(0)
    });
}

#[test]
fn a_sparse_commit_is_on_the_replica_without_being_asked_for() {
    scenario("sparse", binaries(), |world| {
        let agent = world.agent()?;
        let workload = Workload::new(world.seed);
        let scene = Scene::followed(world, &agent, "app", &workload)?;
        let mut app = Sqlite::open(&scene.db)?;
        for round in 1..=3 {
            app.run(&format!("UPDATE clock SET n = n + {round};"))?;
            wait("the commit is shipped", || {
                scene.prove_replica(world).map(|()| true)
            })?;
        }
        Ok(())
    });
}

#[test]
fn the_sqlite3_program_is_an_app_like_any_other() {
    scenario("sqlite3", binaries(), |world| {
        let agent = world.agent()?;
        let scene = Scene::pod(world, "shell")?;
        // each run opens, commits, and closes: the last close checkpoints and removes the WAL
        Sqlite::once(
            &scene.db,
            "PRAGMA journal_mode = WAL; CREATE TABLE t (x); PRAGMA user_version = 7;",
        )?;
        for n in 0..20 {
            Sqlite::once(
                &scene.db,
                // whoever opens it while another recovers its WAL-index waits, or is refused
                &format!(
                    "PRAGMA busy_timeout = 5000; INSERT INTO t VALUES ({n}), (randomblob(3000));"
                ),
            )?;
        }
        agent.ctl().wait_following(&scene.reference)?;
        scene.prove_equal(world, &agent)?;
        // and one that stays open, with a transaction that is not committed
        let mut app = Sqlite::open(&scene.db)?;
        app.run("INSERT INTO t SELECT randomblob(900) FROM t;")?;
        app.run("BEGIN; DELETE FROM t; INSERT INTO t VALUES ('not yet');")?;
        agent.ctl().sync(&scene.reference)?;
        let out = fresh(world, "open");
        world.ctl().restore(&scene.replica, &out, &[])?.done()?;
        ensure!(Sqlite::once(&out, "SELECT count(*) FROM t WHERE x = 'not yet';")? == "0");
        ensure!(Sqlite::once(&out, "SELECT count(*) FROM t;")? == "80");
        app.run("ROLLBACK;")?;
        scene.prove_equal(world, &agent)?;
        app.close()?;
        scene.prove_equal(world, &agent)
    });
}

#[test]
fn every_page_size_takes_the_road() {
    scenario("page-sizes", binaries(), |world| {
        let agent = world.agent()?;
        for page_size in [512, 1024, 8192, 65536] {
            let workload = Workload {
                page_size,
                ..Workload::new(world.seed)
            };
            let app = format!("ps{page_size}");
            let scene = Scene::followed(world, &agent, &app, &workload)?;
            let writer = workload.start(world, &scene.db, 0)?;
            writer.wait_commits(300)?;
            writer.quit()?;
            scene.prove_equal(world, &agent)?;
            let whole = image::settled(&scene.db)?;
            ensure!(image::page_size(&whole)? == usize::try_from(page_size)?);
        }
        Ok(())
    });
}

#[test]
fn a_restore_at_a_time_is_the_state_before_it() {
    scenario("time", binaries(), |world| {
        let agent = world.agent()?;
        let workload = Workload::new(world.seed);
        let scene = Scene::followed(world, &agent, "app", &workload)?;
        let mut states = Vec::new();
        for n in 1..=3 {
            Sqlite::once(&scene.db, &format!("UPDATE clock SET n = {n};"))?;
            agent.ctl().sync(&scene.reference)?;
            let head = ltx::head(&scene.replica)?;
            let files = ltx::level(&scene.replica, 0)?;
            let newest = files.iter().find(|file| file.max == head);
            states.push((n, newest.map_or(0, |file| file.timestamp)));
        }
        for (n, milliseconds) in states {
            // strictly before: one millisecond after the file's own time
            let point = rfc3339(milliseconds + 1);
            let out = fresh(world, "time");
            world
                .ctl()
                .restore(&scene.replica, &out, &["--timestamp", &point])?
                .done()?;
            let have = Sqlite::once(&out, "SELECT n FROM clock;")?;
            ensure!(have == n.to_string(), "at {point}: {have}, not {n}");
            fs::remove_file(&out)?;
        }
        Ok(())
    });
}

/// Milliseconds since the epoch as RFC 3339, by SQLite.
pub(crate) fn rfc3339(milliseconds: i64) -> String {
    let seconds = milliseconds.div_euclid(1000);
    let fraction = milliseconds.rem_euclid(1000);
    let sql = format!("SELECT strftime('%Y-%m-%dT%H:%M:%S', {seconds}, 'unixepoch');");
    let text = Sqlite::once(std::path::Path::new(":memory:"), &sql).unwrap_or_default();
    format!("{text}.{fraction:03}Z")
}
