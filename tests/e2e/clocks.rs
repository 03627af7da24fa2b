//! A node's clock that is set, back and forward, under a running agent and between two: nothing that is
//! kept goes, upkeep goes on, times rise, and ours and both peers restore by them.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sqlrep_tests::clock::Clock;
use sqlrep_tests::{Agent, AgentOptions, Peer, Sqlite, World, image, ltx, say, scenario, wait};

use crate::binaries;
use crate::history::{frozen, times};
use crate::scene::{Scene, fresh};
use crate::spine::rfc3339;

const DAY: i64 = 24 * 3600;

/// Upkeep within seconds, and a window in which all of the test lies.
fn start(world: &World, clock: &Clock) -> Result<Agent> {
    let options = AgentOptions::default()
        .flag("--levels", "1s,3s,9s")
        .flag("--l0-retention", "1s")
        .flag("--snapshot-interval", "5s")
        .flag("--retention", "20m")
        .flag("--verify-interval", "4s");
    world.agent_with(clock.of(options))
}

/// The newest TXID of a level.
fn reached(scene: &Scene, level: u8) -> Result<u64> {
    Ok(ltx::level(&scene.replica, level)?
        .last()
        .map_or(0, |file| file.max))
}

/// The state at a time, or the newest: ours and both peers restore the same.
fn state(world: &World, replica: &Path, time: Option<i64>) -> Result<Vec<u8>> {
    let text = time.map(|time| rfc3339(time + 1));
    let point = |flag: &'static str| text.as_deref().map_or(vec![], |text| vec![flag, text]);
    let out = fresh(world, "state");
    let ours = world.ctl().restore(replica, &out, &point("--timestamp"));
    ours?.done()?;
    let state = fs::read(&out)?;
    image::integrity(&out)?;
    fs::remove_file(&out)?;
    for peer in Peer::all(&world.binaries)? {
        peer.restore(replica, &out, &point("-timestamp"))?;
        let what = format!("{} and ours at {text:?}", peer.version);
        image::same(&what, &fs::read(&out)?, &state)?;
        fs::remove_file(&out)?;
    }
    Ok(state)
}

/// The first state that the replica keeps, by its time.
fn first(world: &World, scene: &Scene) -> Result<(i64, Vec<u8>)> {
    let replica = frozen(world, &scene.replica)?;
    let snapshots = ltx::level(&replica, 9)?;
    let time = snapshots.first().context("a snapshot")?.timestamp;
    let first = state(world, &replica, Some(time))?;
    fs::remove_dir_all(replica)?;
    Ok((time, first))
}

/// Times rise with TXIDs in every level.
fn rising(scene: &Scene) -> Result<()> {
    for level in 0..=9 {
        let files = ltx::level(&scene.replica, level)?;
        for pair in files.windows(2) {
            let [one, next] = pair else { continue };
            ensure!(one.timestamp < next.timestamp, "{one:?} and {next:?}");
        }
    }
    Ok(())
}

/// What must hold after the clock was set, while the app goes on.
fn holds(world: &World, agent: &Agent, scene: &Scene, app: &mut Sqlite) -> Result<()> {
    let (merged, whole) = (reached(scene, 1)?, reached(scene, 9)?);
    wait("it is merged, and a snapshot is written", || {
        app.run("INSERT INTO t (v) VALUES (randomblob(100));")?;
        Ok(reached(scene, 1)? > merged && reached(scene, 9)? > whole)
    })?;
    let row = agent.ctl().row(&scene.reference)?.context("it is listed")?;
    let lag = row.0["lag_seconds"].as_f64().context("a lag")?;
    ensure!((0.0..60.0).contains(&lag), "a lag of {lag} s");
    let words = row.words();
    ensure!(words.trim_matches([';', ' ']).is_empty(), "{words}");
    rising(scene)?;
    let replica = frozen(world, &scene.replica)?;
    state(world, &replica, None)?;
    // Litestream refuses a time that is newer than all.
    let (times, _) = times(&replica)?;
    let before = times.partition_point(|time| Some(time) < times.last());
    let some = times.get(before.saturating_sub(1)).filter(|_| before > 0);
    state(world, &replica, Some(*some.context("a time")?))?;
    Ok(fs::remove_dir_all(replica)?)
}

#[test]
fn a_clock_that_jumps_takes_nothing_and_stops_nothing() {
    scenario("clocks", binaries(), |world| {
        let clock = Clock::new(world)?;
        let mut agent = start(world, &clock)?;
        let scene = Scene::pod(world, "app")?;
        let mut app = Sqlite::open(&scene.db)?;
        app.run("PRAGMA journal_mode = WAL; CREATE TABLE t (n INTEGER PRIMARY KEY, v);")?;
        agent.ctl().wait_following(&scene.reference)?;
        scene.prove_equal(world, &agent)?;
        holds(world, &agent, &scene, &mut app)?;
        let (begun, kept) = first(world, &scene)?;
        for (ahead, anew) in [
            (-DAY, false),
            (DAY, false),
            (0, false),
            (365 * DAY, false),
            (0, true),
            (800 * DAY, true),
            (-DAY, true),
        ] {
            agent = if anew {
                agent.kill()?;
                clock.set(ahead)?;
                start(world, &clock)?
            } else {
                clock.set(ahead)?;
                agent
            };
            agent.ctl().wait_following(&scene.reference)?;
            // Until it was looked at, and what is due came to pass.
            sleep(Duration::from_secs(2));
            holds(world, &agent, &scene, &mut app).with_context(|| format!("at {ahead} s"))?;
            let (time, found) = first(world, &scene)?;
            ensure!(time == begun, "{ahead} s: it begins at {time}, not {begun}");
            image::same("the first state then and now", &kept, &found)?;
        }
        scene.prove_equal(world, &agent)?;
        let log = agent.log()?;
        let said = log.matches("clock is ahead of the one where").count();
        ensure!(said == 1, "said {said} times");
        let files = times(&scene.replica)?.1;
        say(&format!("clocks: {files} files at the end"));
        // What is merged leaves level 0 all the same.
        wait("level 0 is thinned out", || {
            Ok(ltx::level(&scene.replica, 0)?.len() <= 12)
        })
    });
}
