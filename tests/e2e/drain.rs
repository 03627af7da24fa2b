//! SIGTERM: what is committed is shipped before the agent ends.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sqlrep_tests::{AgentOptions, Pod, PodOptions, Sqlite, Workload, image, scenario, wait};

use crate::binaries;
use crate::scene::{Scene, fresh};

#[test]
fn a_terminated_agent_ships_everything_first() {
    scenario("drain", binaries(), |world| {
        // an interval so long that only the drain can have shipped the last commits
        let slow = AgentOptions::default().flag("--sync-interval", "10m");
        let agent = world.agent_with(slow)?;
        let workload = Workload::new(world.seed);
        let scene = Scene::followed(world, &agent, "app", &workload)?;
        let mut writer = workload.start(world, &scene.db, 0)?;
        writer.wait_commits(500)?;
        writer.pause()?;
        let begun = Instant::now();
        agent.terminate()?;
        ensure!(
            begun.elapsed() < Duration::from_secs(20),
            "it took {:?}",
            begun.elapsed()
        );
        scene.prove_replica(world)?;
        // and while the app writes on: all that was acknowledged when the signal came
        let agent = world.agent()?;
        agent.ctl().wait_following(&scene.reference)?;
        writer.resume()?;
        writer.wait_commits(100)?;
        let least = writer.acknowledged()?;
        agent.terminate()?;
        let out = fresh(world, "drained");
        world.ctl().restore(&scene.replica, &out, &[])?.done()?;
        ensure!(workload.check_restored(&out)?[0] >= least);
        Ok(())
    });
}

#[test]
fn an_agent_that_let_go_of_a_database_left_nothing_in_the_pod() {
    scenario("clean", binaries(), |world| {
        let agent = world.agent()?;
        let scene = Scene::followed(world, &agent, "app", &Workload::new(world.seed))?;
        scene.prove_equal(world, &agent)?;
        let dir = scene.db.parent().context("a volume")?;
        crate::scene::only(dir, &["app.db", "app.db-wal", "app.db-shm"])?;
        agent.terminate()?;
        Sqlite::once(&scene.db, "UPDATE clock SET n = 1;")?;
        // our descriptors are gone: the app's last close can tidy up as it does alone
        crate::scene::only(dir, &["app.db"])
    });
}

#[test]
fn nothing_of_a_vanished_pod_stays_open() {
    scenario("descriptors", binaries(), |world| {
        let agent = world.agent()?;
        let scene = Scene::followed(world, &agent, "app", &Workload::new(world.seed))?;
        let open = || -> Result<usize> {
            let dir = format!("/proc/{}/fd", agent.pid());
            let links = fs::read_dir(dir)?
                .flatten()
                .filter_map(|fd| fs::read_link(fd.path()).ok());
            Ok(links
                .filter(|to| to.to_string_lossy().contains(&scene.pod.uid))
                .count())
        };
        ensure!(open()? > 0, "the agent has the database open");
        let whole = image::settled(&scene.db)?;
        scene.pod.delete()?;
        wait("every descriptor is closed", || Ok(open()? == 0))?;
        wait("its end is shipped", || {
            Ok(agent.ctl().row(&scene.reference)?.is_none())
        })?;
        let out = fresh(world, "after");
        world.ctl().restore(&scene.replica, &out, &[])?.done()?;
        image::same("after the pod", &whole, &fs::read(out)?)
    });
}

#[test]
fn a_pod_that_terminates_is_followed_to_its_end_before_the_agent_ends() {
    scenario("drain-ending", binaries(), |world| {
        let mut agent = world.agent()?;
        let workload = Workload::new(world.seed);
        let scene = Scene::followed(world, &agent, "app", &workload)?;
        let writer = workload.start(world, &scene.db, 0)?;
        writer.wait_commits(100)?;
        scene.pod.mark_deleted()?;
        wait("the agent knows that the pod terminates", || {
            Ok(agent.log()?.contains("pod terminates"))
        })?;
        agent.ask_to_end()?;
        wait("the agent knows that it is to end", || {
            Ok(agent.log()?.contains("told to stop"))
        })?;
        // the app uses its grace, as apps do
        writer.wait_commits(300)?;
        let least = writer.kill()?;
        scene.pod.delete()?;
        agent.terminate()?;
        let out = fresh(world, "ended");
        world.ctl().restore(&scene.replica, &out, &[])?.done()?;
        let have = workload.check_restored(&out)?[0];
        ensure!(have >= least, "{have} of {least} commits");
        Ok(())
    });
}

#[test]
fn what_ended_while_no_agent_ran_is_said_and_counted() {
    const SAID: &str = "ended while no agent followed it";
    scenario("unread-end", binaries(), |world| {
        let agent = world.agent()?;
        let workload = Workload::new(world.seed);
        let seen = Scene::followed(world, &agent, "seen", &workload)?;
        seen.prove_equal(world, &agent)?;
        seen.pod.delete()?;
        wait("it is let go of", || {
            Ok(agent.ctl().row(&seen.reference)?.is_none())
        })?;
        let unseen = Scene::followed(world, &agent, "unseen", &workload)?;
        unseen.prove_equal(world, &agent)?;
        agent.kill()?;
        Sqlite::once(&unseen.db, "UPDATE clock SET n = 4711;")?;
        unseen.pod.delete()?;
        let agent = world.agent()?;
        wait("it is said", || Ok(agent.log()?.contains(SAID)))?;
        let lines = agent.log()?;
        let lines: Vec<_> = lines.lines().filter(|line| line.contains(SAID)).collect();
        ensure!(
            lines.len() == 1 && lines[0].contains("unseen/data/app.db"),
            "{lines:?}"
        );
        // what was read is on the replica, which is free for the next pod
        let next = Scene::pod(world, "unseen")?;
        ensure!(next.db.exists(), "the next pod starts empty");
        Ok(())
    });
}

#[test]
fn what_its_app_let_nobody_read_before_it_went_is_said() {
    const SAID: &str = "its files went before they could be read";
    scenario("unread-locked", binaries(), |world| {
        let scene = Scene::of(world, Pod::start(world, PodOptions::app("app").ungated())?);
        let mut app = Sqlite::open(&scene.db)?;
        app.run("PRAGMA journal_mode = WAL; PRAGMA locking_mode = EXCLUSIVE; CREATE TABLE t (x);")?;
        let agent = world.agent()?;
        // First it waits for the lock, and then it says so.
        wait("it is locked out", || {
            let row = agent.ctl().row(&scene.reference)?;
            let state = row.map(|row| row.state()).unwrap_or_default();
            Ok(state == "snapshotting" || state == "stalled")
        })?;
        scene.pod.delete()?;
        wait("it is said", || Ok(agent.log()?.contains(SAID)))?;
        let log = agent.log()?;
        let said = log.lines().find(|line| line.contains(SAID)).unwrap_or("");
        ensure!(
            said.contains("db=default/app/data/app.db") && said.contains("busy"),
            "{said}"
        );
        Ok(())
    });
}
