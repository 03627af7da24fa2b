//! Law L3, seen by the kernel: whatever discovery does, our read mark stays.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sqlrep_tests::{Sqlite, Workload, image, locks, scenario, wait};

use crate::binaries;
use crate::scene::Scene;

#[test]
fn a_scan_does_not_drop_our_locks() {
    scenario("locks", binaries(), |world| {
        let agent = world.agent()?;
        let scene = Scene::followed(world, &agent, "app", &Workload::new(world.seed))?;
        let mut app = Sqlite::open(&scene.db)?;
        app.run("UPDATE clock SET n = n + 1;")?;
        agent.ctl().sync(&scene.reference)?;
        wait("the read mark is held", || {
            locks::holds_read_mark(agent.pid(), &scene.db)
        })?;
        for round in 0..5 {
            // Every one of these makes a scan due; a new database proves that one has been done.
            fs::write(scene.pod.db("notes.txt"), format!("{round}"))?;
            let other = scene.pod.db(&format!("other-{round}.db"));
            Sqlite::once(&other, "PRAGMA journal_mode = WAL; CREATE TABLE t (x);")?;
            let end = Instant::now() + Duration::from_secs(20);
            loop {
                let held = locks::holds_read_mark(agent.pid(), &scene.db)?;
                ensure!(held, "round {round}: no read mark is held after a scan");
                let name = format!("app/data/other-{round}.db");
                if agent
                    .ctl()
                    .row(&name)?
                    .is_some_and(|row| row.state() == "following")
                {
                    break;
                }
                ensure!(Instant::now() < end, "other-{round}.db was not found");
            }
        }
        cannot_be_reset(&scene, &mut app)
    });
}

/// What the lock is for: nobody can reset the WAL while it is held.
fn cannot_be_reset(scene: &Scene, app: &mut Sqlite) -> Result<()> {
    let wal = image::beside(&scene.db, "-wal");
    // bytes 16 to 24 of its header: the salts, which every reset changes
    let salts = || -> Result<Option<Vec<u8>>> { Ok(fs::read(&wal)?.get(16..24).map(Into::into)) };
    app.run("UPDATE clock SET n = n + 1;")?;
    let before = salts()?;
    let said = app.run("PRAGMA wal_checkpoint(TRUNCATE);")?;
    ensure!(
        said.starts_with('1'),
        "a truncating checkpoint was not refused: {said}"
    );
    ensure!(before.is_some() && salts()? == before, "the WAL was reset");
    Ok(())
}
