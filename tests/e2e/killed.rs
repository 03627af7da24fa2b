//! The agent killed at any instant resumes: no gap, no duplicate, and only what changed is shipped.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sqlrep_tests::world::knob;
use sqlrep_tests::{
    Agent, AgentOptions, Pod, PodOptions, Sqlite, Workload, World, image, ltx, say, scenario, wait,
};

use crate::binaries;
use crate::scene::Scene;

#[test]
fn kill_9_at_random_moments_leaves_no_gap() {
    scenario("killed", binaries(), |world| {
        let mut dice = world.dice(3);
        let workload = Workload {
            autocheckpoint: [1000, 20, 0][dice.usize(..3)],
            vacuum: 400,
            timeout: 0,
            ..Workload::new(world.seed)
        };
        let mut agent = patient_agent(world)?;
        let scene = Scene::followed(world, &agent, "app", &workload)?;
        let mut writer = workload.start(world, &scene.db, 0)?;
        for round in 0..knob("SQLREP_E2E_KILLS", 8) {
            // the instant itself is the random input here, not a wait for anything
            thread::sleep(Duration::from_millis(dice.u64(5..900)));
            agent.kill()?;
            if round % 2 == 0 {
                writer.wait_commits(dice.u64(1..500))?;
            }
            agent = patient_agent(world)?;
        }
        let said = writer.pause()?;
        ensure!(said["busy"] == 0, "the app was refused: {said}");
        agent.ctl().wait_following(&scene.reference)?;
        scene.prove_equal(world, &agent)?;
        scene.prove_contiguous(0)?;
        one_writer_wrote_it_all(&scene)
    });
}

/// An agent that never comes to the size of a WAL at which it takes the write lock: an app without
/// patience sees that, and it is not what is tried here.
fn patient_agent(world: &World) -> Result<Agent> {
    world.agent_with(AgentOptions::default().flag("--wal-limit", "64Gi"))
}

fn one_writer_wrote_it_all(scene: &Scene) -> Result<()> {
    let writers: BTreeSet<u64> = ltx::level(&scene.replica, 0)?
        .iter()
        .map(|file| file.node_id)
        .collect();
    ensure!(
        writers.len() == 1,
        "{} writers for one agent: {writers:x?}",
        writers.len()
    );
    Ok(())
}

/// A database of some megabytes that is wholly on the replica.
fn large(world: &World, agent: &Agent) -> Result<Scene> {
    let scene = Scene::followed(world, agent, "app", &Workload::new(world.seed))?;
    let sql = "CREATE TABLE big (id INTEGER PRIMARY KEY, body BLOB);\
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000)\
        INSERT INTO big SELECT i, randomblob(3000) FROM n;";
    Sqlite::once(&scene.db, sql)?;
    scene.prove_equal(world, agent)?;
    Ok(scene)
}

/// Changes a few rows while no agent looks, and lets SQLite put all of it into the file: after the
/// last close there is no WAL left that could tell what changed.
fn change_unseen(scene: &Scene) -> Result<u64> {
    let before = image::settled(&scene.db)?;
    Sqlite::once(
        &scene.db,
        "UPDATE big SET body = randomblob(3000) WHERE id IN (7, 1500, 3999);",
    )?;
    Sqlite::once(&scene.db, "PRAGMA wal_checkpoint(TRUNCATE);")?;
    let after = image::settled(&scene.db)?;
    let pages = before
        .chunks(4096)
        .zip(after.chunks(4096))
        .filter(|(a, b)| a != b)
        .count();
    ensure!((3..20).contains(&pages), "a few pages: {pages}");
    Ok(u64::try_from(pages)?)
}

fn ships_only(world: &World, stop: impl FnOnce(Agent) -> Result<()>) -> Result<()> {
    let agent = world.agent()?;
    let scene = large(world, &agent)?;
    let head = ltx::head(&scene.replica)?;
    stop(agent)?;
    let changed = change_unseen(&scene)?;
    let agent = world.agent()?;
    agent.ctl().wait_following(&scene.reference)?;
    scene.prove_equal(world, &agent)?;
    let new: Vec<_> = ltx::level(&scene.replica, 0)?
        .into_iter()
        .filter(|file| file.min > head)
        .collect();
    let pages: u64 = new.iter().map(|file| file.pages).sum();
    let bytes: u64 = new.iter().map(|file| file.bytes).sum();
    say(&format!(
        "{changed} pages changed, {pages} pages in {bytes} bytes were shipped"
    ));
    ensure!(!new.is_empty(), "nothing was shipped");
    ensure!(
        pages <= changed + 2,
        "{pages} pages were shipped for {changed} that changed"
    );
    let snapshots = ltx::level(&scene.replica, 9)?;
    ensure!(
        snapshots.iter().all(|file| file.max <= head),
        "a new snapshot was shipped"
    );
    scene.prove_contiguous(0)
}

/// The files of a volume that are no database of the app, with their sizes.
fn strangers(scene: &Scene) -> Result<Vec<(String, u64)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(scene.pod.volume("data"))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("app.db")
            && let Ok(facts) = entry.metadata()
        {
            found.push((name, facts.len()));
        }
    }
    Ok(found)
}

#[test]
fn a_restore_that_is_killed_begins_anew_and_no_half_of_it_is_seen() {
    scenario("restore-killed", binaries(), |world| {
        let agent = world.agent()?;
        let old = large(world, &agent)?;
        let sql = "INSERT INTO big SELECT id + 100000 * k, randomblob(3000) FROM big, \
            (SELECT 1 AS k UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5);";
        Sqlite::once(&old.db, sql)?; // 70 MB
        old.prove_equal(world, &agent)?;
        let rows = Sqlite::once(&old.db, "SELECT count(*), sum(length(body)) FROM big;")?;
        old.pod.delete()?;
        wait("the old pod is let go of", || {
            Ok(agent.ctl().row(&old.reference)?.is_none())
        })?;
        let mut agent = agent;
        let new = Scene::of(world, Pod::start(world, PodOptions::app("app"))?);
        let mut dice = world.dice(5);
        let mut halves = 0;
        for _ in 0..4 {
            let half = dice.u64(1..50) << 20;
            wait("the restore is under way", || {
                let seen = strangers(&new)?.iter().any(|(_, bytes)| *bytes > half);
                Ok(seen || new.db.exists())
            })?;
            agent.kill()?;
            let done = new.db.exists();
            halves += u32::from(!done);
            let status = new.pod.status()?;
            let phase = status.as_ref().map(|status| status["phase"].clone());
            ensure!(
                done || phase.as_ref().is_none_or(|phase| phase != "ready"),
                "the gate opened beside half a database: {status:?}"
            );
            agent = world.agent()?;
        }
        ensure!(halves > 0, "no restore was killed: all were faster");
        say(&format!("{halves} restores killed"));
        new.pod.wait_ready()?;
        let found = Sqlite::once(&new.db, "SELECT count(*), sum(length(body)) FROM big;")?;
        ensure!(found == rows, "{found} instead of {rows}");
        agent.ctl().wait_following(&new.reference)?;
        new.prove_equal(world, &agent)?;
        let left = strangers(&new)?;
        ensure!(left.is_empty(), "left behind: {left:?}");
        Ok(())
    });
}

#[test]
fn after_kill_9_only_changed_pages_ship() {
    scenario("delta-killed", binaries(), |world| {
        ships_only(world, Agent::kill)
    });
}

#[test]
fn after_a_drain_only_changed_pages_ship() {
    scenario("delta-drained", binaries(), |world| {
        ships_only(world, Agent::terminate)
    });
}

#[test]
fn after_a_restart_without_a_change_nothing_ships() {
    scenario("quiet-restart", binaries(), |world| {
        let agent = world.agent()?;
        let scene = large(world, &agent)?;
        let head = ltx::head(&scene.replica)?;
        agent.kill()?;
        let agent = world.agent()?;
        agent.ctl().wait_following(&scene.reference)?;
        scene.prove_equal(world, &agent)?;
        ensure!(
            ltx::head(&scene.replica)? == head,
            "something was shipped for nothing"
        );
        Ok(())
    });
}

#[test]
fn a_spool_that_was_deleted_costs_time_not_data() {
    scenario("spool-lost", binaries(), |world| {
        let agent = world.agent()?;
        let scene = large(world, &agent)?;
        agent.terminate()?;
        let changed = change_unseen(&scene)?;
        std::fs::remove_dir_all(world.path("state-n1").join("ledger"))
            .context("the ledger lies in the state dir")?;
        let agent = world.agent()?;
        agent.ctl().wait_following(&scene.reference)?;
        scene.prove_equal(world, &agent)?;
        say(&format!("ledger lost, {changed} pages changed"));
        scene.prove_contiguous(0)
    });
}
