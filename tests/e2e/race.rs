//! Two agents on one replica: exactly one extends it, and the other's commits are not dropped.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use sqlrep_tests::{
    Agent, AgentOptions, Pod, PodOptions, Sqlite, Workload, World, image, ltx, pod, scenario, wait,
};

use crate::binaries;
use crate::scene::{Scene, fresh};

/// A second node: its own kubelet, manifests and state, the same replica root. It waits three
/// seconds, not thirty, for one who has claimed a replica and says nothing more.
pub(crate) fn second_node(world: &World) -> Result<(Agent, PodOptions)> {
    let kubelet = world.path("kubelet-n2");
    let pods = world.path("pods-n2");
    fs::create_dir_all(kubelet.join("pods"))?;
    fs::create_dir_all(&pods)?;
    let options = AgentOptions {
        kubelet: Some(kubelet.clone()),
        pods: Some(pods.clone()),
        ..AgentOptions::node("n2").flag("--drain-timeout", "3s")
    };
    let pod = PodOptions {
        kubelet: Some(kubelet),
        pods: Some(pods),
        node: "n2".into(),
        ..PodOptions::app("app")
    };
    Ok((world.agent_with(options)?, pod))
}

/// The only branch of a replica, which is made with its first file: a moment after the state says
/// that there is to be one.
fn branch(replica: &Path) -> Result<String> {
    let dir = replica.join(".sqlrep/branches");
    let mut names = Vec::new();
    wait("the branch is there", || {
        names.clear();
        for entry in fs::read_dir(&dir).into_iter().flatten() {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        Ok(!names.is_empty())
    })?;
    ensure!(names.len() == 1, "branches: {names:?}");
    Ok(names.swap_remove(0))
}

/// The fenced database's image is what its branch restores.
pub(crate) fn prove_branch(world: &World, scene: &Scene) -> Result<()> {
    let name = branch(&scene.replica)?;
    wait("the fenced tail is on the branch", || {
        let out = fresh(world, "branch");
        world
            .ctl()
            .restore(&scene.replica, &out, &["--branch", &name])?
            .done()?;
        let whole = image::settled(&scene.db)?;
        image::same(
            "the fenced database and its branch",
            &whole,
            &fs::read(&out)?,
        )?;
        Ok(true)
    })?;
    let said = world
        .ctl()
        .run(["history", "--replica", &scene.replica.to_string_lossy()])?;
    let said = said.done()?;
    ensure!(
        said.out.contains(&name),
        "history does not show {name}:\n{}",
        said.out
    );
    Ok(())
}

#[test]
fn when_two_begin_at_once_one_wins_and_the_other_is_a_branch() {
    scenario("race", binaries(), |world| {
        let one = world.agent()?;
        let (two, there) = second_node(world)?;
        // both have data before either agent hears of them: nobody waits at a gate
        let here = Scene::of(
            world,
            Pod::prepare(world, PodOptions::app("app").ungated())?,
        );
        let there = Scene::of(world, Pod::prepare(world, there.ungated())?);
        for (scene, salt) in [(&here, 1), (&there, 2)] {
            let workload = Workload::new(world.seed ^ salt);
            workload.init(&scene.db)?;
            Sqlite::once(&scene.db, &format!("UPDATE clock SET n = {salt}00;"))?;
        }
        here.pod.announce()?;
        there.pod.announce()?;
        let state = |agent: &Agent| -> Result<String> {
            Ok(agent
                .ctl()
                .row("app/data/app.db")?
                .map_or_else(String::new, |row| row.state()))
        };
        wait("one follows, the other is fenced", || {
            let mut states = [state(&one)?, state(&two)?];
            states.sort();
            Ok(states == ["fenced", "following"])
        })?;
        let one_won = state(&one)? == "following";
        let (winner, won, lost) = if one_won {
            (&one, &here, &there)
        } else {
            (&two, &there, &here)
        };
        won.prove_equal(world, winner)?;
        prove_branch(world, lost)?;
        let writers: Vec<u64> = ltx::level(&won.replica, 0)?
            .iter()
            .map(|file| file.node_id)
            .collect();
        ensure!(
            writers.windows(2).all(|pair| pair[0] == pair[1]),
            "two writers: {writers:x?}"
        );
        Ok(())
    });
}

#[test]
fn a_second_pod_waits_at_its_gate_while_the_first_writes() {
    scenario("handover", binaries(), |world| {
        let one = world.agent()?;
        let workload = Workload::new(world.seed);
        let scene = Scene::followed(world, &one, "app", &workload)?;
        scene.prove_equal(world, &one)?;
        let (_two, options) = second_node(world)?;
        let waiting = Pod::start(world, options)?;
        waiting.wait_phase("waiting-handover")?;
        ensure!(
            !waiting.db("app.db").exists(),
            "it was restored beside a living writer"
        );
        // the first goes on as if nothing were
        Sqlite::once(&scene.db, "UPDATE clock SET n = 5;")?;
        scene.prove_equal(world, &one)?;
        // and goes: then the second gets all of it
        let whole = image::settled(&scene.db)?;
        scene.pod.delete()?;
        waiting.wait_ready()?;
        image::same("handed over", &whole, &fs::read(waiting.db("app.db"))?)
    });
}

#[test]
fn an_owner_that_was_replaced_is_fenced_and_its_tail_is_kept() {
    scenario("fenced", binaries(), |world| {
        let one = world.agent()?;
        let workload = Workload::new(world.seed);
        let old = Scene::followed(world, &one, "app", &workload)?;
        old.prove_equal(world, &one)?;
        let head = ltx::head(&old.replica)?;
        // an administrator says that the old owner is no more, and is wrong
        let manifest = old.replica.join(".sqlrep/manifest.json");
        pod::rename(&manifest, &world.path("manifest-of-the-old-owner.json"))?;
        fs::remove_file(world.replica("app/data/.sqlrep/owner.json"))?;
        let (two, options) = second_node(world)?;
        let new = Scene::with(world, options)?;
        two.ctl().wait_following(&new.reference)?;
        ensure!(
            ltx::head(&new.replica)? > head,
            "the new owner did not claim"
        );
        // both write; only one of them extends the replica
        Sqlite::once(
            &old.db,
            "CREATE TABLE stale (x); INSERT INTO stale VALUES (randomblob(9000));",
        )?;
        Sqlite::once(&new.db, "UPDATE clock SET n = 77;")?;
        one.ctl().wait_state(&old.reference, "fenced")?;
        new.prove_equal(world, &two)?;
        let said = one.ctl().run(["sync", &old.reference])?;
        said.exits(sqlrep_tests::ctl::exit::REFUSED)?;
        prove_branch(world, &old)?;
        new.prove_equal(world, &two)?;
        new.prove_contiguous(0)
    });
}

#[test]
fn a_fenced_database_is_kept_when_a_person_says_so() {
    scenario("adopt", binaries(), |world| {
        let one = world.agent()?;
        let old = Scene::followed(world, &one, "app", &Workload::new(world.seed))?;
        old.prove_equal(world, &one)?;
        let (two, options) = second_node(world)?;
        let waiting = Pod::start(world, options)?;
        waiting.wait_phase("waiting-handover")?;
        // the first node is said to be lost, and is not
        let said = two.ctl().run(["takeover", &old.reference])?.done()?;
        ensure!(said.err.contains("TXID"), "takeover said: {}", said.err);
        waiting.wait_ready()?;
        let new = Scene::of(world, waiting);
        two.ctl().wait_following(&new.reference)?;
        Sqlite::once(
            &old.db,
            "CREATE TABLE kept (x); INSERT INTO kept VALUES (1);",
        )?;
        one.ctl().wait_state(&old.reference, "fenced")?;
        prove_branch(world, &old)?;
        // the person looks at both and wants the old one
        one.ctl().run(["adopt", &old.reference])?.done()?;
        old.prove_equal(world, &one)?;
        old.prove_contiguous(0)?;
        Sqlite::once(&new.db, "UPDATE clock SET n = 99;")?;
        two.ctl().wait_state(&new.reference, "fenced")?;
        old.prove_equal(world, &one)
    });
}
