//! Compaction, snapshots and retention at work under a writer: what the replica holds restores at
//! every moment, here and with the real peer, and its files stay few.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use sqlrep_tests::{Agent, AgentOptions, Peer, Workload, World, image, ltx, say, scenario, wait};

use sqlrep_tests::world::knob;

use crate::binaries;
use crate::scene::{Scene, fresh};
use crate::spine::rfc3339;

/// Everything that takes days elsewhere, within seconds.
fn hasty(world: &World) -> Result<Agent> {
    let options = AgentOptions::default()
        .flag("--levels", "1s,3s,9s")
        .flag("--l0-retention", "1s")
        .flag("--snapshot-interval", "5s")
        .flag("--retention", "12s")
        .flag("--verify-interval", "4s");
    world.agent_with(options)
}

/// The replica as it is now. Levels are taken from the bottom up: what leaves one is in the next.
#[expect(
    clippy::disallowed_methods,
    reason = "what is made here is a test's copy, and no replica"
)]
pub(crate) fn frozen(world: &World, replica: &Path) -> Result<PathBuf> {
    let copy = fresh(world, "frozen");
    for level in 0..=9 {
        let from = replica.join(format!("ltx/{level}"));
        if !from.is_dir() {
            continue;
        }
        let to = copy.join(format!("ltx/{level}"));
        fs::create_dir_all(&to)?;
        for entry in fs::read_dir(&from)? {
            let entry = entry?;
            let name = entry.file_name();
            if !name.to_string_lossy().ends_with(".ltx") {
                continue;
            }
            // A second name for the same file, its time included; one that went is in the next.
            match fs::hard_link(entry.path(), to.join(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error.into());
                }
                _ => {}
            }
        }
    }
    Ok(copy)
}

/// Every time at which a file of the replica ends, and how many files there are.
pub(crate) fn times(replica: &Path) -> Result<(Vec<i64>, usize)> {
    let mut times = Vec::new();
    let mut files = 0;
    for level in 0..=9 {
        for file in ltx::level(replica, level)? {
            times.push(file.timestamp);
            files += 1;
        }
    }
    times.sort_unstable();
    Ok((times, files))
}

/// Restores one point of a frozen replica with ours and both peers, and compares.
fn compare(world: &World, replica: &Path, time: Option<i64>, workload: &Workload) -> Result<()> {
    let text = time.map(|time| rfc3339(time + 1));
    let point = |flag: &'static str| text.as_deref().map_or(vec![], |text| vec![flag, text]);
    let ours = fresh(world, "ours");
    let said = world.ctl().restore(replica, &ours, &point("--timestamp"))?;
    said.done()?;
    workload.check_restored(&ours)?;
    for peer in Peer::all(&world.binaries)? {
        let theirs = fresh(world, peer.version);
        peer.restore(replica, &theirs, &point("-timestamp"))
            .with_context(|| format!("at {text:?}"))?;
        image::same(
            &format!("ours and litestream {} at {text:?}", peer.version),
            &fs::read(&ours)?,
            &fs::read(&theirs)?,
        )?;
        fs::remove_file(theirs)?;
    }
    fs::remove_file(ours)?;
    Ok(())
}

#[test]
fn at_any_moment_ours_and_both_peers_restore_the_same() {
    scenario("history", binaries(), |world| {
        let agent = hasty(world)?;
        let workload = Workload::new(world.seed);
        let scene = Scene::followed(world, &agent, "app", &workload)?;
        // The first files may be of a database that has no tables yet: a state, but not one that
        // the workload can judge.
        scene.prove_equal(world, &agent)?;
        let made = times(&scene.replica)?.0.last().copied();
        let writer = workload.start(world, &scene.db, 0)?;
        let mut dice = world.dice(1);
        let (mut most, mut rounds, mut points) = (0, 0, 0_usize);
        let begun = std::time::Instant::now();
        let seconds = knob("SQLREP_E2E_SECONDS", 6).max(20);
        let enough = |points: usize, seconds: u64| {
            let passed = begun.elapsed().as_secs();
            // a slow machine needs more than one look until a point is within the window
            passed >= seconds && (points > 0 || passed >= 10 * seconds)
        };
        while !enough(points, seconds) {
            let replica = frozen(world, &scene.replica)?;
            let (times, files) = times(&replica)?;
            most = most.max(files);
            compare(world, &replica, None, &workload)?;
            let newest = times.last().copied().context("the replica has files")?;
            // The window, before which nothing is promised, and strictly before the newest:
            // Litestream refuses a time that is newer than all.
            let within = |time: &&i64| (newest - 10_000..newest).contains(*time);
            let window: Vec<i64> = times.iter().filter(within).copied().collect();
            let kept = &window[window.partition_point(|time| Some(*time) <= made)..];
            if !kept.is_empty() {
                compare(
                    world,
                    &replica,
                    Some(kept[dice.usize(0..kept.len())]),
                    &workload,
                )?;
                points += 1;
            }
            fs::remove_dir_all(replica)?;
            // And from under the hands of compaction and retention.
            let out = fresh(world, "live");
            world.ctl().restore(&scene.replica, &out, &[])?.done()?;
            workload.check_restored(&out)?;
            fs::remove_file(out)?;
            rounds += 1;
        }
        ensure!(points > 0, "no point in time was compared");
        writer.quit()?;
        scene.prove_equal(world, &agent)?;
        wait("each level has files, and level 0 no old ones", || {
            for level in [1, 2, 3, 9] {
                let files = ltx::level(&scene.replica, level)?;
                ensure!(!files.is_empty(), "nothing at level {level}");
            }
            let oldest = ltx::level(&scene.replica, 0)?;
            let oldest = oldest.first().map_or(0, |file| file.min);
            ensure!(oldest > 1, "level 0 still begins at {oldest}");
            Ok(true)
        })?;
        say(&format!("history: {rounds} rounds, at most {most} files"));
        // The silence after it: the newest of each level stays, and it still is the source.
        wait("all is merged and old files are gone", || {
            let (_, files) = times(&scene.replica)?;
            Ok(files <= 12)
        })?;
        // It was compacted, thinned out and read back all the while, and nothing was amiss.
        let row = agent.ctl().row(&scene.reference)?.context("it is listed")?;
        ensure!(
            row.words().trim_matches([';', ' ']).is_empty(),
            "{}",
            row.words()
        );
        scene.prove_replica(world)
    });
}

#[test]
fn a_snapshot_on_demand_holds_what_was_committed() {
    scenario("snapshot", binaries(), |world| {
        let agent = world.agent()?;
        let workload = Workload::new(world.seed);
        let scene = Scene::followed(world, &agent, "app", &workload)?;
        let writer = workload.start(world, &scene.db, 0)?;
        writer.wait_commits(50)?;
        writer.quit()?;
        let said = agent
            .ctl()
            .run(["snapshot", &scene.reference, "-o", "json"])?;
        said.done()?;
        let snapshots = ltx::level(&scene.replica, 9)?;
        let newest = snapshots.last().context("a snapshot")?;
        ensure!(
            (newest.min, newest.max) == (1, ltx::head(&scene.replica)?),
            "{newest:?}"
        );
        // It stands alone.
        let alone = fresh(world, "alone");
        fs::create_dir_all(alone.join("ltx/9"))?;
        let name = newest.path.file_name().context("a name")?;
        let copied = Command::new("cp")
            .arg("-p")
            .arg(&newest.path)
            .arg(alone.join("ltx/9").join(name))
            .status()?;
        ensure!(copied.success(), "cp: {copied}");
        let out = fresh(world, "alone");
        world.ctl().restore(&alone, &out, &[])?.done()?;
        image::same(
            "source and snapshot",
            &image::settled(&scene.db)?,
            &fs::read(&out)?,
        )
    });
}
