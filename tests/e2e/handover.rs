//! A replica goes from one node to another: nothing acknowledged is lost, an owner that comes back
//! finds itself fenced, and no gate opens on less than the whole replica.
//!
//! `SQLREP_E2E_HANDOVERS` says how often (50 for the long run).

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sqlrep_tests::world::knob;
use sqlrep_tests::{
    Agent, AgentOptions, Pod, PodOptions, Sqlite, Workload, World, ltx, pod, scenario,
};

use crate::binaries;
use crate::race::{prove_branch, second_node};
use crate::scene::Scene;

const HANDOVERS: u64 = 12;

fn manifest(scene: &Scene) -> Result<Value> {
    let path = scene.replica.join(".sqlrep/manifest.json");
    Ok(serde_json::from_slice(
        &fs::read(&path).with_context(|| path.display().to_string())?,
    )?)
}

/// Waits until the first node's agent has read all that the app of a pod that ends has committed.
fn wait_read(world: &World, scene: &Scene) -> Result<()> {
    let spool = world.path("state-n1/spool/default").join(&scene.reference);
    let end = spool.join(&scene.pod.uid).join(".sqlrep/end.json");
    sqlrep_tests::wait("its tail is in the spool", || Ok(end.exists()))
}

/// The second node's pod waits, and says for whom; then a person says that the first is lost.
fn take_over(world: &World, old: &Scene, options: PodOptions, two: &Agent) -> Result<Scene> {
    let waiting = Pod::start(world, options)?;
    let status = waiting.wait_phase("waiting-handover")?;
    let message = status["message"].as_str().unwrap_or_default();
    for word in [&old.pod.uid[..5], "node n1", "since 2", "not known"] {
        ensure!(message.contains(word), "the gate says {message:?}");
    }
    ensure!(!waiting.db("app.db").exists(), "restored before its turn");
    two.ctl().run(["takeover", &old.reference])?.done()?;
    waiting.wait_ready()?;
    let new = Scene::of(world, waiting);
    two.ctl().wait_following(&new.reference)?;
    Ok(new)
}

/// After the old owner is back: it is fenced, its tail is on the branch, the new one goes on.
fn prove_fenced(world: &World, [old, new]: [&Scene; 2], [one, two]: [&Agent; 2]) -> Result<()> {
    one.ctl().wait_state(&old.reference, "fenced")?;
    prove_branch(world, old)?;
    Sqlite::once(&new.db, "UPDATE clock SET n = 77;")?;
    new.prove_equal(world, two)?;
    new.prove_contiguous(0)?;
    let owner = &manifest(new)?["owner"];
    ensure!(
        owner["pod_uid"] == new.pod.uid.as_str() && owner["state"] == "active",
        "the manifest names {owner}"
    );
    // The old pod ends in good order: that releases nothing which is not its own.
    old.pod.delete()?;
    sqlrep_tests::wait("the old pod is let go of", || {
        Ok(one.ctl().row(&old.reference)?.is_none())
    })?;
    let owner = &manifest(new)?["owner"];
    ensure!(owner["state"] == "active", "released by another: {owner}");
    Ok(())
}

#[test]
fn an_agent_that_was_killed_while_it_shipped_comes_back_fenced() {
    scenario("handover-killed", binaries(), |world| {
        let one = world.agent()?;
        let workload = Workload::new(world.seed);
        let old = Scene::followed(world, &one, "app", &workload)?;
        old.prove_equal(world, &one)?; // the replica has begun, and names its owner
        let writer = workload.start(world, &old.db, 0)?;
        writer.wait_commits(world.dice(1).u64(50..400))?;
        one.kill()?;
        writer.wait_commits(50)?;
        let (two, options) = second_node(world)?;
        let new = take_over(world, &old, options, &two)?;
        workload.check(&new.db)?;
        writer.quit()?;
        let one = world.agent()?;
        prove_fenced(world, [&old, &new], [&one, &two])
    });
}

#[test]
fn an_agent_that_stood_still_goes_on_fenced() {
    scenario("handover-frozen", binaries(), |world| {
        let one = world.agent()?;
        let workload = Workload::new(world.seed);
        let old = Scene::followed(world, &one, "app", &workload)?;
        old.prove_equal(world, &one)?; // the replica has begun, and names its owner
        let writer = workload.start(world, &old.db, 0)?;
        writer.wait_commits(world.dice(2).u64(50..400))?;
        one.freeze()?;
        writer.wait_commits(50)?;
        let (two, options) = second_node(world)?;
        let new = take_over(world, &old, options, &two)?;
        workload.check(&new.db)?;
        one.resume()?;
        writer.quit()?;
        prove_fenced(world, [&old, &new], [&one, &two])
    });
}

#[test]
fn nothing_acknowledged_is_lost_however_often_it_moves() {
    scenario("handover-often", binaries(), |world| {
        let one = world.agent()?;
        let (two, there) = second_node(world)?;
        let workload = Workload {
            close: false,
            ..Workload::new(world.seed)
        };
        let mut dice = world.dice(3);
        let mut least = None;
        let rounds = knob("SQLREP_E2E_HANDOVERS", HANDOVERS);
        for round in 0..rounds {
            let (agent, options) = if round.is_multiple_of(2) {
                (&one, PodOptions::app("app"))
            } else {
                (&two, there.clone())
            };
            let scene = Scene::with(world, options).with_context(|| format!("move {round}"))?;
            if let Some(least) = least {
                ensure!(scene.db.exists(), "move {round} starts empty");
                let have = workload.check(&scene.db)?[0];
                ensure!(
                    (least..=least + 1).contains(&have),
                    "move {round} starts with {have} commits; {least} were acknowledged"
                );
            } else {
                workload.init(&scene.db)?;
            }
            agent.ctl().wait_following(&scene.reference)?;
            let writer = workload.start(world, &scene.db, 0)?;
            writer.wait_commits(dice.u64(1..200))?;
            least = Some(writer.kill()?);
            scene.pod.delete()?;
        }
        let last = Scene::with(
            world,
            if rounds.is_multiple_of(2) {
                PodOptions::app("app")
            } else {
                there
            },
        )?;
        let have = workload.check(&last.db)?[0];
        ensure!(Some(have) >= least, "{have} of {least:?} commits arrived");
        let claims = manifest(&last)?["claims"].as_array().map_or(0, Vec::len);
        ensure!(claims as u64 == rounds, "{claims} claims in {rounds} moves");
        last.prove_contiguous(0)
    });
}

#[test]
fn a_pod_beside_a_living_one_of_its_app_is_told_what_to_change() {
    scenario("surge", binaries(), |world| {
        let agent = world.agent()?;
        let old = Scene::followed(world, &agent, "app", &Workload::new(world.seed))?;
        old.prove_equal(world, &agent)?;
        // As a Deployment without strategy Recreate does it, where no policy sets that.
        let new = Pod::start(world, PodOptions::app("app"))?;
        let status = new.wait_phase("waiting-handover")?;
        let message = status["message"].as_str().unwrap_or_default();
        for word in ["is not being deleted", "strategy: {type: Recreate}"] {
            ensure!(message.contains(word), "the gate says {message:?}");
        }
        ensure!(!new.db("app.db").exists(), "restored beside a living owner");
        old.pod.delete()?;
        new.wait_ready()?;
        let new = Scene::of(world, new);
        agent.ctl().wait_following(&new.reference)?;
        new.prove_equal(world, &agent)
    });
}

#[test]
fn a_pod_that_goes_before_its_app_began_holds_nothing() {
    scenario("handover-hasty", binaries(), |world| {
        let one = world.agent()?;
        let workload = Workload::new(world.seed);
        let scene = Scene::followed(world, &one, "app", &workload)?;
        let writer = workload.start(world, &scene.db, 0)?;
        writer.wait_commits(300)?;
        let least = writer.kill()?;
        scene.pod.delete()?;
        let mut dice = world.dice(5);
        for _ in 0..8 {
            let hasty = Pod::start(world, PodOptions::app("app"))?;
            std::thread::sleep(std::time::Duration::from_millis(dice.u64(0..150)));
            if dice.bool() {
                hasty.mark_deleted()?;
            }
            hasty.delete()?;
        }
        // The other node has nobody to ask: it waits for ever unless all of them let go.
        let (_two, there) = second_node(world)?;
        let moved = Scene::with(world, there)?;
        let have = workload.check(&moved.db)?[0];
        ensure!(
            (least..=least + 1).contains(&have),
            "{have} commits arrived; {least} were acknowledged"
        );
        moved.prove_contiguous(0)
    });
}

#[test]
fn a_listing_that_ends_before_the_release_is_not_believed() {
    scenario("handover-behind", binaries(), |world| {
        // no level above holds what is hidden
        let one = world.agent_with(AgentOptions::default().flag("--levels", "10000h"))?;
        let old = Scene::followed(world, &one, "app", &Workload::new(world.seed))?;
        Sqlite::once(&old.db, "UPDATE clock SET n = 41;")?;
        old.prove_equal(world, &one)?;
        Sqlite::once(&old.db, "UPDATE clock SET n = 42;")?;
        old.pod.delete()?;
        sqlrep_tests::wait("the replica is released", || {
            Ok(manifest(&old)?["owner"]["state"] == "released")
        })?;
        let head = ltx::head(&old.replica)?;
        let said = format!("{head:016x}");
        ensure!(manifest(&old)?["head"] == said.as_str(), "no head {said}");
        // As a share shows it whose directory cache is older than the last files.
        let newest: PathBuf = ltx::level(&old.replica, 0)?
            .pop()
            .context("level 0 has files")?
            .path;
        let hidden = world.path("hidden.ltx");
        pod::rename(&newest, &hidden)?;
        let (_two, options) = second_node(world)?;
        let waiting = Pod::start(world, options)?;
        sqlrep_tests::wait("the gate says why it waits", || {
            let status = waiting.status()?.unwrap_or_default();
            let message = status["message"].as_str().unwrap_or_default();
            Ok(status["phase"] == "restoring" && message.contains(&said))
        })?;
        ensure!(!waiting.db("app.db").exists(), "it believed the listing");
        pod::rename(&hidden, &newest)?;
        waiting.wait_ready()?;
        let n = Sqlite::once(&waiting.db("app.db"), "SELECT n FROM clock;")?;
        ensure!(n == "42", "the clock says {n}");
        Ok(())
    });
}

#[test]
fn a_tail_in_the_spool_comes_before_the_next_pod_of_its_app() {
    scenario("handover-spooled", binaries(), |world| {
        let mut agent = world.agent()?;
        let workload = Workload {
            close: false,
            ..Workload::new(world.seed)
        };
        let mut scene = Scene::followed(world, &agent, "app", &workload)?;
        for round in 0..6 {
            let writer = workload.start(world, &scene.db, 0)?;
            writer.wait_commits(20)?;
            // The share is away while the pod ends, and the agent dies before it is back.
            pod::rename(&world.replicas(), &world.path("the-share"))?;
            writer.wait_commits(100)?;
            let least = writer.kill()?;
            scene.pod.mark_deleted()?;
            scene.pod.remove_data()?;
            wait_read(world, &scene)?;
            agent.kill()?;
            pod::rename(&world.path("the-share"), &world.replicas())?;
            // The next agent hears of the next pod as soon as of anything; of the old one, every
            // other time, only that it is still going.
            let next = Pod::start(world, PodOptions::app("app"))?;
            if round % 2 == 0 {
                scene.pod.remove_manifest()?;
            }
            agent = world.agent()?;
            if round % 2 == 1 {
                scene.pod.remove_manifest()?;
            }
            next.wait_ready()?;
            scene = Scene::of(world, next);
            let have = workload.check(&scene.db)?[0];
            ensure!(
                (least..=least + 1).contains(&have),
                "round {round} starts with {have} commits; {least} were acknowledged"
            );
            agent.ctl().wait_following(&scene.reference)?;
        }
        ensure!(!scene.replica.join(".sqlrep/branches").exists(), "a branch");
        Ok(())
    });
}

/// The share has no room for this database: its place is taken.
fn refuse(world: &World, database: &str) -> Result<PathBuf> {
    let place = world.replica(database);
    fs::create_dir_all(place.parent().context("it has a parent")?)?;
    fs::write(&place, "no directory")?;
    Ok(place)
}

/// The pod of another node waits, and says so in these words.
fn waits(pod: &Pod, words: &[&str]) -> Result<()> {
    let status = pod.wait_phase("waiting-handover")?;
    let message = status["message"].as_str().unwrap_or_default();
    for word in words {
        ensure!(message.contains(word), "{word:?} is not in {message:?}");
    }
    ensure!(fs::read_dir(pod.volume("data"))?.next().is_none());
    Ok(())
}

#[test]
fn what_has_no_file_on_the_share_yet_is_waited_for() {
    scenario("handover-unseen", binaries(), |world| {
        let one = world.agent()?;
        let (_two, there) = second_node(world)?;
        let workload = Workload::new(world.seed);
        let old = Scene::pod(world, "app")?;
        let refused = refuse(world, "app/data/app.db")?;
        workload.init(&old.db)?;
        let writer = workload.start(world, &old.db, 0)?;
        writer.wait_commits(100)?;
        let least = writer.kill()?;
        one.ctl().wait_state(&old.reference, "stalled")?;
        old.pod.delete()?;
        let moved = Pod::start(world, there)?;
        let note = world.replica("app/data/.sqlrep/owner.json");
        let path = note.display().to_string();
        waits(&moved, &["node n1", "to release default/app/data,", &path])?;
        // What its agent knows of that outlives it.
        wait_read(world, &old)?;
        one.kill()?;
        let _one = world.agent()?;
        waits(&moved, &["node n1"])?;
        fs::remove_file(&refused)?;
        moved.wait_ready()?;
        let moved = Scene::of(world, moved);
        let have = workload.check(&moved.db)?[0];
        ensure!(
            (least..=least + 1).contains(&have),
            "it starts with {have} commits; {least} were acknowledged"
        );
        ensure!(!moved.replica.join(".sqlrep/branches").exists(), "a branch");
        let owner: Value = serde_json::from_slice(&fs::read(&note)?)?;
        ensure!(owner["owner"]["pod_uid"] == moved.pod.uid.as_str());
        moved.pod.delete()?;
        sqlrep_tests::wait("the volume is given back", || Ok(!note.exists()))
    });
}

#[test]
fn a_released_replica_says_nothing_of_another_one_of_its_volume() {
    scenario("handover-second", binaries(), |world| {
        let one = world.agent()?;
        let (two, there) = second_node(world)?;
        let old = Scene::followed(world, &one, "app", &Workload::new(world.seed))?;
        old.prove_equal(world, &one)?;
        let refused = refuse(world, "app/data/more.db")?;
        let more = old.pod.db("more.db");
        Sqlite::once(
            &more,
            "PRAGMA journal_mode = WAL; CREATE TABLE t AS SELECT 7 AS n;",
        )?;
        one.ctl().wait_state("app/data/more.db", "stalled")?;
        old.pod.delete()?;
        sqlrep_tests::wait("the replica is released", || {
            Ok(manifest(&old)?["owner"]["state"] == "released")
        })?;
        let moved = Pod::start(world, there)?;
        waits(&moved, &["node n1", "to release default/app/data,"])?;
        let row = two.ctl().wait_state(&old.reference, "stalled")?;
        ensure!(row.words().contains("node n1"), "{row:?}");
        fs::remove_file(&refused)?;
        moved.wait_ready()?;
        let n = Sqlite::once(&moved.db("more.db"), "SELECT n FROM t;")?;
        ensure!(n == "7", "{n}");
        let moved = Scene::of(world, moved);
        two.ctl().wait_following(&moved.reference)?;
        moved.prove_equal(world, &two)
    });
}
