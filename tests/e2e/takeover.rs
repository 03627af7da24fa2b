//! A replica that Litestream wrote is taken over, extended, and can be taken back.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use sqlrep_tests::{Peer, PodOptions, Workload, World, image, ltx, scenario, wait};

use crate::binaries;
use crate::scene::{Scene, fresh};

#[test]
fn a_replica_of_0_5_9_is_taken_over_and_taken_back() {
    scenario("takeover-0.5.9", binaries(), |world| {
        there_and_back(world, 0)
    });
}

#[test]
fn a_replica_of_0_5_17_is_taken_over_and_taken_back() {
    scenario("takeover-0.5.17", binaries(), |world| {
        there_and_back(world, 1)
    });
}

fn there_and_back(world: &World, which: usize) -> Result<()> {
    let peer = Peer::all(&world.binaries)?.swap_remove(which);
    let workload = Workload {
        pause: 0.001,
        ..Workload::new(world.seed)
    };
    let replica = world.replica("app/data/app.db");
    // there: the peer writes the replica, where the agent will look for it
    let before = world.path("before.db");
    workload.init(&before)?;
    let first = peer_writes(world, &peer, &workload, &before, &replica)?;
    let handed = ltx::head(&replica)?;
    ensure!(handed > 1, "the peer wrote {handed} files");

    // ours: a new pod gets the data, its app goes on, the chain goes on at the next TXID
    let agent = world.agent()?;
    let scene = Scene::with(world, PodOptions::app("app"))?;
    ensure!(
        workload.check(&scene.db)? == [first],
        "the pod did not start with the peer's data"
    );
    image::same_files(
        "what the peer left and what the pod got",
        &scene.db,
        &before,
    )?;
    agent.ctl().wait_following(&scene.reference)?;
    let writer = workload.start(world, &scene.db, 0)?;
    writer.wait_commits(300)?;
    let said = writer.quit()?;
    let second = said["commits"].as_u64().context("commits are counted")?;
    scene.prove_equal(world, &agent)?;
    let ours: Vec<_> = ltx::level(&replica, 0)?
        .into_iter()
        .filter(|file| file.min > handed)
        .collect();
    ensure!(
        ours.first().is_some_and(|file| file.min == handed + 1),
        "not the next TXID: {ours:?}"
    );
    ensure!(
        ours.iter().all(|file| file.node_id != 0),
        "our files do not name their writer"
    );
    scene.prove_contiguous(handed)?;
    agent.terminate()?;

    // back: the peer restores it and goes on, in the same replica
    let after = world.path("after.db");
    peer.restore(&replica, &after, &[])?;
    ensure!(workload.check(&after)? == [second]);
    let left = ltx::head(&replica)?;
    let third = peer_writes(world, &peer, &workload, &after, &replica)?;
    ensure!(ltx::head(&replica)? > left, "the peer did not go on");
    ensure!(third > second);
    for (who, out) in scene.restore_all(world, &crate::scene::Point::Latest)? {
        ensure!(
            workload.check_restored(&out)? == [third],
            "{who} does not restore the end"
        );
    }
    Ok(())
}

/// An app writes `db` while the peer replicates it; returns the commits that are on the replica.
pub(crate) fn peer_writes(
    world: &World,
    peer: &Peer,
    workload: &Workload,
    db: &Path,
    replica: &Path,
) -> Result<u64> {
    let mut process = peer.replicate(world, db, replica)?;
    // Both open it at once: whoever comes while the other recovers its WAL-index waits.
    let patient = Workload {
        timeout: 30,
        ..workload.clone()
    };
    let mut writer = patient.start(world, db, 0)?;
    let head = ltx::head(replica)?;
    writer.wait_commits(300)?;
    wait("the peer ships", || Ok(ltx::head(replica)? > head + 2))?;
    writer.pause()?;
    let commits = writer.acknowledged()?;
    // the peer's last sync: its signal handler ships what is left
    wait("the peer has all of it", || {
        let out = fresh(world, "peer");
        peer.restore(replica, &out, &[])?;
        let have = workload.check_restored(&out)?;
        fs::remove_file(out)?;
        Ok(have == [commits])
    })?;
    process.signal(Signal::TERM)?;
    process.wait(Duration::from_mins(1))?;
    // leaves as an app does whose node goes away with it
    writer.quit()?;
    Ok(commits)
}
