//! Databases without a WAL: rollback journals of every kind.
//!
//! `SQLREP_E2E_SECONDS` says how long each app writes, `SQLREP_E2E_KILLS` how often one is killed.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sqlrep_tests::world::knob;
use sqlrep_tests::{Sqlite, Workload, World, image, ltx, poll, say, scenario, wait};

use crate::binaries;
use crate::scene::{Point, Scene, fresh};

const SECONDS: u64 = 6;
const KILLS: u64 = 8;

#[test]
fn an_app_with_a_deleted_journal() {
    run("delete", |seed| Workload {
        journal: "DELETE",
        vacuum: 300,
        timeout: 5,
        ..Workload::new(seed)
    });
}

#[test]
fn two_apps_with_a_truncated_journal_on_small_pages() {
    run("truncate", |seed| Workload {
        journal: "TRUNCATE",
        page_size: 512,
        writers: 2,
        // two writers without pauses starve each other, also without us
        timeout: 600,
        ..Workload::new(seed)
    });
}

#[test]
fn an_app_with_a_persistent_journal_on_large_pages() {
    run("persist", |seed| Workload {
        journal: "PERSIST",
        page_size: 65536,
        vacuum: 200,
        timeout: 5,
        ..Workload::new(seed)
    });
}

/// With a busy timeout nobody may be refused.
fn run(name: &str, make: impl FnOnce(u64) -> Workload) {
    scenario(&format!("rollback-{name}"), binaries(), |world| {
        let workload = make(world.seed);
        let agent = world.agent()?;
        let scene = Scene::followed(world, &agent, "app", &workload)?;
        let mut writers = workload.start_all(world, &scene.db)?;
        let seconds = Duration::from_secs(knob("SQLREP_E2E_SECONDS", SECONDS));
        let end = Instant::now() + seconds;
        let mut dice = world.dice(7);
        let mut next = Instant::now();
        poll(
            "the time is over",
            seconds * 10 + Duration::from_mins(1),
            || {
                if next < Instant::now() {
                    for (who, restored) in scene.restore_all(world, &Point::Latest)? {
                        workload.check_restored(&restored).context(who)?;
                        fs::remove_file(restored)?;
                    }
                    next = Instant::now() + Duration::from_millis(dice.u64(500..3000));
                }
                Ok((Instant::now() > end).then_some(()))
            },
        )?;
        let mut commits = Vec::new();
        for writer in &mut writers {
            let said = writer.pause()?;
            say(&format!("rollback-{name}: {said}"));
            ensure!(said["busy"] == 0, "the app was refused: {said}");
            commits.push(said["commits"].as_u64().context("commits are counted")?);
        }
        scene.prove_equal(world, &agent)?;
        ensure!(
            workload.check(&scene.db)? == commits,
            "the source lost commits"
        );
        let journal = Sqlite::once(&scene.db, "PRAGMA journal_mode;")?;
        ensure!(journal != "wal", "its journal mode was changed");
        let files = ltx::level(&scene.replica, 0)?;
        let pages: u64 = files.iter().map(|file| file.pages).sum();
        let all: u64 = files.iter().map(|file| u64::from(file.commit)).sum();
        say(&format!(
            "rollback-{name}: {} files, {pages} pages of {all}",
            files.len()
        ));
        share(world, &scene, name)?;
        scene.prove_contiguous(0)
    });
}

/// Files of which the pages are counted: each costs a restore.
const SHARES: usize = 150;

/// From one captured state to the next: the pages that differ, and those that were shipped.
fn share(world: &World, scene: &Scene, name: &str) -> Result<()> {
    let files = ltx::level(&scene.replica, 0)?;
    let (mut changed, mut shipped, mut all) = (0, 0, 0);
    let mut before: Option<Vec<u8>> = None;
    for file in files.iter().rev().take(SHARES).rev() {
        let out = fresh(world, "state");
        let txid = format!("{:x}", file.max);
        world
            .ctl()
            .restore(&scene.replica, &out, &["--txid", &txid])?
            .done()?;
        let after = fs::read(&out)?;
        fs::remove_file(out)?;
        if let Some(before) = before {
            let size = image::page_size(&after)?;
            let mut pages = before.chunks(size);
            let differs = |page: &&[u8]| pages.next() != Some(*page);
            changed += after.chunks(size).filter(differs).count() as u64;
            shipped += file.pages;
            all += u64::from(file.commit);
        }
        before = Some(after);
    }
    let percent = |pages: u64| pages * 1000 / all.max(1);
    let (of_changed, of_shipped) = (percent(changed), percent(shipped));
    say(&format!(
        "rollback-{name}: of {all} pages in {} states {changed} had changed ({}.{} %), and {shipped} \
         were shipped ({}.{} %)",
        files.len().min(SHARES),
        of_changed / 10,
        of_changed % 10,
        of_shipped / 10,
        of_shipped % 10,
    ));
    ensure!(
        shipped == changed,
        "{shipped} pages shipped, {changed} changed"
    );
    Ok(())
}

#[test]
fn an_app_without_patience_is_hardly_ever_refused() {
    scenario("rollback-impatient", binaries(), |world| {
        let workload = Workload {
            journal: "DELETE",
            timeout: 0,
            pause: 0.002,
            ..Workload::new(world.seed)
        };
        let agent = world.agent()?;
        let scene = Scene::followed(world, &agent, "app", &workload)?;
        let mut writer = workload.start(world, &scene.db, 0)?;
        let end = Instant::now() + Duration::from_secs(knob("SQLREP_E2E_SECONDS", SECONDS));
        poll("the time is over", Duration::from_mins(20), || {
            Ok((Instant::now() > end).then_some(()))
        })?;
        let said = writer.pause()?;
        say(&format!("rollback-impatient: {said}"));
        let (busy, commits) = (said["busy"].as_u64(), said["commits"].as_u64());
        let (busy, commits) = busy.zip(commits).context("both are counted")?;
        ensure!(
            busy * 20 <= commits + 40,
            "the app was refused often: {said}"
        );
        scene.prove_equal(world, &agent)
    });
}

#[test]
fn what_ships_is_what_changed() {
    scenario("rollback-share", binaries(), |world| {
        let workload = Workload {
            journal: "DELETE",
            ..Workload::new(world.seed)
        };
        let agent = world.agent()?;
        let scene = Scene::followed(world, &agent, "app", &workload)?;
        let mut writer = workload.start(world, &scene.db, 0)?;
        writer.wait_commits(20)?;
        writer.pause()?;
        let (mut changed, mut shipped) = (0, 0);
        for _ in 0..10 {
            agent.ctl().sync(&scene.reference)?;
            let (before, head) = (image::settled(&scene.db)?, ltx::head(&scene.replica)?);
            // one commit, made at once: there is one file of it
            let update = "PRAGMA busy_timeout = 5000; UPDATE clock SET n = n + 1;";
            Sqlite::once(&scene.db, update)?;
            agent.ctl().sync(&scene.reference)?;
            let after = image::settled(&scene.db)?;
            let size = image::page_size(&after)?;
            changed += before
                .chunks(size)
                .zip(after.chunks(size))
                .filter(|(before, after)| before != after)
                .count() as u64;
            let files = ltx::level(&scene.replica, 0)?;
            let new = files.iter().filter(|file| file.min > head);
            shipped += new.map(|file| file.pages).sum::<u64>();
        }
        say(&format!("{shipped} pages shipped, {changed} changed"));
        ensure!(shipped == changed, "{shipped} shipped, {changed} changed");
        scene.prove_equal(world, &agent)
    });
}

#[test]
fn an_app_that_dies_in_a_commit_leaves_the_state_before_it() {
    scenario("rollback-killed", binaries(), |world| {
        let agent = world.agent()?;
        let mut dice = world.dice(8);
        let journal = *dice
            .choice(&["DELETE", "TRUNCATE", "PERSIST"])
            .expect("three");
        let workload = Workload {
            journal,
            timeout: 5,
            ..Workload::new(world.seed)
        };
        let scene = Scene::followed(world, &agent, "app", &workload)?;
        let mut hot = 0;
        for _ in 0..knob("SQLREP_E2E_KILLS", KILLS) {
            let writer = workload.start(world, &scene.db, 0)?;
            writer.wait_commits(dice.u64(1..15))?;
            let acknowledged = writer.kill()?;
            let left = fs::read(image::beside(&scene.db, "-journal"));
            hot += u32::from(left.is_ok_and(|left| left.first().is_some_and(|byte| *byte != 0)));
            // nobody is left to repair the file: what is proven is read past the journal
            agent.ctl().sync(&scene.reference)?;
            scene.prove_replica(world)?;
            let (_, restored) = scene
                .restore_all(world, &Point::Latest)?
                .pop()
                .context("somebody restores")?;
            let have = workload.check_restored(&restored)?[0];
            ensure!(
                (acknowledged..=acknowledged + 1).contains(&have),
                "{have} commits are on the replica, {acknowledged} were acknowledged"
            );
        }
        say(&format!("{journal}: {hot} kills left a hot journal"));
        scene.prove_equal(world, &agent)
    });
}

#[test]
fn a_pod_without_a_wal_moves_to_the_next_node_with_all_it_committed() {
    scenario("rollback-vanish", binaries(), |world| {
        let agent = world.agent()?;
        let workload = Workload {
            journal: "DELETE",
            ..Workload::new(world.seed)
        };
        let scene = Scene::followed(world, &agent, "app", &workload)?;
        let mut dice = world.dice(9);
        let writer = workload.start(world, &scene.db, 0)?;
        writer.wait_commits(dice.u64(1..30))?;
        let commits = writer.quit()?["commits"].as_u64().context("counted")?;
        // as long as a kubelet takes at least from the last container's end to the volume's
        std::thread::sleep(Duration::from_millis(200));
        scene.pod.delete()?;
        let next = Scene::pod(world, "app")?;
        let have = workload.check(&next.db)?[0];
        ensure!(have == commits, "{have} of {commits} commits are back");

        // killed at full speed, and gone in the same moment: some may be missing, none is torn
        agent.ctl().wait_following(&next.reference)?;
        let writer = workload.start(world, &next.db, 0)?;
        writer.wait_commits(dice.u64(1..30))?;
        let acknowledged = writer.kill()?;
        next.pod.delete()?;
        let last = Scene::pod(world, "app")?;
        let have = workload.check(&last.db)?[0];
        say(&format!(
            "{have} of {acknowledged} commits of a pod that vanished are back"
        ));
        ensure!(
            (commits..=acknowledged + 1).contains(&have),
            "{have} commits are back, of {acknowledged}"
        );
        Ok(())
    });
}

#[test]
fn the_journal_mode_may_change() {
    scenario("rollback-switch", binaries(), |world| {
        let agent = world.agent()?;
        let scene = Scene::pod(world, "app")?;
        Sqlite::once(&scene.db, "CREATE TABLE t (x); INSERT INTO t VALUES (1);")?;
        agent.ctl().wait_following(&scene.reference)?;
        scene.prove_equal(world, &agent)?;
        ensure!(
            Sqlite::once(&scene.db, "PRAGMA journal_mode;")? == "delete",
            "it was changed"
        );
        let mut app = Sqlite::open(&scene.db)?;
        app.run(
            "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; INSERT INTO t VALUES (2);",
        )?;
        wait("the WAL is captured", || {
            Ok(agent.ctl().sync(&scene.reference).is_ok() && scene.prove_replica(world).is_ok())
        })?;
        app.run("INSERT INTO t VALUES (3);")?;
        scene.prove_equal(world, &agent)?;
        app.close()?;
        scene.prove_contiguous(0)
    });
}

#[test]
fn a_database_that_stays_locked_is_unsupported_and_says_why() {
    scenario("rollback-exclusive", binaries(), |world| {
        let agent = world.agent()?;
        let scene = Scene::pod(world, "app")?;
        let mut app = Sqlite::open(&scene.db)?;
        app.run("PRAGMA locking_mode = EXCLUSIVE; CREATE TABLE t (x); INSERT INTO t VALUES (1);")?;
        let row = agent.ctl().wait_state(&scene.reference, "unsupported")?;
        ensure!(
            row.words().contains("locking_mode=EXCLUSIVE"),
            "no reason: {row:?}"
        );
        app.run("PRAGMA locking_mode = NORMAL; INSERT INTO t VALUES (2);")?;
        agent.ctl().wait_following(&scene.reference)?;
        scene.prove_equal(world, &agent)
    });
}
