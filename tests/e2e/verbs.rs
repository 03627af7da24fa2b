//! What `sqlrepctl` says of a healthy database, with an agent and without.

use std::fs;

use anyhow::{Context, Result, ensure};
use sqlrep_tests::ctl::exit;
use sqlrep_tests::{Sqlite, Workload, image, scenario, wait};

use crate::binaries;
use crate::scene::{Scene, fresh};

#[test]
fn the_same_is_said_with_an_agent_and_without() {
    scenario("verbs", binaries(), |world| {
        let agent = world.agent()?;
        let scene = Scene::followed(world, &agent, "app", &Workload::new(world.seed))?;
        Sqlite::once(&scene.db, "UPDATE clock SET n = 1;")?;
        scene.prove_equal(world, &agent)?;
        let root = world.replicas().to_string_lossy().into_owned();
        let replica = scene.replica.to_string_lossy().into_owned();
        let name = format!("default/{}", scene.reference);

        let points = |history: &serde_json::Value| -> Result<Vec<String>> {
            let points = history["points"]
                .as_array()
                .filter(|points| !points.is_empty());
            let points = points.with_context(|| format!("no points in {history}"))?;
            Ok(points
                .iter()
                .map(|point| format!("{} {}", point["txid"], point["time"]))
                .collect())
        };
        let online = ["history", &scene.reference, "-o", "json"];
        let offline = ["history", "--replica", &replica, "-o", "json"];
        // Between the two a step of a level may have come.
        wait("both say the same", || {
            let online = agent.ctl().run(online)?.done()?.json()?;
            let offline = world.ctl().run(offline)?.done()?.json()?;
            ensure!(points(&online)? == points(&offline)?, "{online}\n{offline}");
            Ok(true)
        })?;

        for ctl in [agent.ctl(), world.ctl()] {
            let mut args = vec!["verify", &scene.reference];
            if ctl.is_offline() {
                args.extend(["--replica", &root]);
            }
            let said = ctl.run(args)?.done()?;
            ensure!(said.out.contains(&name), "verify said {}", said.out);
        }
        let listed = world
            .ctl()
            .run(["list", "--replica", &root, "-o", "json"])?
            .done()?;
        ensure!(
            listed.out.contains("app.db"),
            "list --replica said {}",
            listed.out
        );

        // a root and a REF, and the replica's own directory, lead to the same file
        let source = image::settled(&scene.db)?;
        for args in [vec![root.as_str(), &scene.reference], vec![&replica]] {
            let out = fresh(world, "verbs");
            let to = out.to_string_lossy().into_owned();
            let head = ["restore", "-o", &to, "--replica"];
            world.ctl().run(head.into_iter().chain(args))?.done()?;
            image::same("restored offline", &source, &fs::read(&out)?)?;
        }
        let version = agent.ctl().run(["version", "-o", "json"])?.done()?.json()?;
        ensure!(
            version["client"].is_string() && version["agent"].is_object(),
            "{version}"
        );
        let checked = agent.ctl().run(["check"])?;
        if checked.code == exit::DONE {
            return Ok(());
        }
        // An agent probes its root once when it starts, which may be a bad moment of the disk: the
        // next one probes again.
        agent.kill()?;
        world.agent()?.ctl().run(["check"])?.done().map(drop)
    });
}

#[test]
fn a_replica_without_a_pod_is_listed_alike() {
    scenario("listed", binaries(), |world| {
        let agent = world.agent()?;
        let scene = Scene::followed(world, &agent, "app", &Workload::new(world.seed))?;
        scene.prove_equal(world, &agent)?;
        let root = world.replicas().to_string_lossy().into_owned();
        scene.pod.delete()?;
        wait("its row goes", || {
            Ok(agent.ctl().row(&scene.reference)?.is_none())
        })?;
        let first = |said: serde_json::Value| {
            let row = &said[0];
            (row["files"].as_u64(), row["bytes"].as_u64())
        };
        // What its upkeep was at may end between the two.
        wait("both say the same", || {
            let online = agent.ctl().run(["list", "--replicas", "-o", "json"])?;
            let offline = world
                .ctl()
                .run(["list", "--replica", &root, "-o", "json"])?;
            let online = first(online.done()?.json()?);
            let offline = first(offline.done()?.json()?);
            ensure!(
                online == offline && online.0 > Some(0),
                "{online:?}, and {offline:?} without an agent"
            );
            Ok(true)
        })
    });
}

#[test]
fn a_damaged_replica_is_not_verified() {
    scenario("verify", binaries(), |world| {
        let agent = world.agent()?;
        let scene = Scene::followed(world, &agent, "app", &Workload::new(world.seed))?;
        scene.prove_equal(world, &agent)?;
        agent.ctl().run(["verify", &scene.reference])?.done()?;
        let files = sqlrep_tests::ltx::level(&scene.replica, 0)?;
        let path = &files.last().context("there are files")?.path;
        sqlrep_tests::ltx::damage(path)?;
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        wait("the damage is said", || {
            // a snapshot that was taken before the damage would stand in for the file
            for level in 1..=9 {
                fs::remove_dir_all(scene.replica.join("ltx").join(level.to_string())).ok();
            }
            let said = agent.ctl().run(["verify", &scene.reference])?;
            Ok(said.code != 0 && said.err.contains(&name))
        })
    });
}

#[test]
fn what_a_pod_makes_cannot_lead_out_of_its_volume() {
    scenario("outside", binaries(), |world| {
        let secret = world.path("secret.db");
        let make =
            "PRAGMA journal_mode = WAL; CREATE TABLE t (x); INSERT INTO t VALUES ('secret');";
        Sqlite::once(&secret, make)?;
        let agent = world.agent()?;
        let scene = Scene::pod(world, "app")?;
        let link = |name: &str| std::os::unix::fs::symlink(&secret, scene.pod.db(name));
        link("link.db")?;
        std::os::unix::fs::symlink(world.path(""), scene.pod.db("up"))?;
        // a second name for a file outside: it has the content, and one inode more to be wary of
        hard_link(&secret, &scene.pod.db("second-name.db"))?;
        let fifo = std::process::Command::new("mkfifo")
            .arg(scene.pod.db("pipe.db"))
            .status()?;
        ensure!(fifo.success(), "mkfifo");
        let odd = scene.pod.db("an odd name; rm -rf ~ \u{1b}[31m.db");
        for db in [&scene.db, &odd] {
            Workload::new(world.seed).init(db)?;
        }
        agent.ctl().wait_following(&scene.reference)?;
        scene.prove_equal(world, &agent)?;
        for row in agent.ctl().list()? {
            let name = row.reference();
            let mine = name.ends_with("/app.db") || name.contains("odd");
            ensure!(mine || row.state() != "following", "{name} is followed");
        }
        // nothing of the file outside is on the replica, and nothing was made beside it
        for file in sqlrep_tests::ltx::below(&world.replicas())? {
            let name = file.to_string_lossy().into_owned();
            ensure!(
                name.contains("/app.db/") || name.contains("odd"),
                "{name} was replicated"
            );
        }
        ensure!(
            !image::beside(&secret, "-shm").exists(),
            "something opened the file outside"
        );
        // what people see of an odd name cannot drive their terminal
        let said = agent.ctl().run(["list"])?.done()?;
        ensure!(
            !said.out.contains('\u{1b}'),
            "an escape sequence reached the terminal"
        );
        Ok(())
    });
}

#[test]
fn a_second_name_of_a_followed_database_is_said_and_loses_nothing() {
    scenario("second-name", binaries(), |world| {
        let agent = world.agent()?;
        let workload = Workload::new(world.seed);
        let scene = Scene::followed(world, &agent, "app", &workload)?;
        scene.prove_equal(world, &agent)?;
        let said = |names: &str| {
            wait("what is said of its names", || {
                let row = agent.ctl().row(&scene.reference)?.context("it is listed")?;
                ensure!(row.state() == "following", "{}", row.words());
                let words = row.words();
                let right = if names.is_empty() {
                    words.trim_matches([';', ' ']).is_empty()
                } else {
                    words.contains(names)
                };
                Ok(right)
            })
        };
        let other = scene.pod.db("other.db");
        for _ in 0..2 {
            // Nobody writes meanwhile: the link alone is noticed.
            hard_link(&scene.db, &other)?;
            said("2 names (hard links)")?;
            let writer = workload.start(world, &scene.db, 0)?;
            writer.wait_commits(100)?;
            writer.quit()?;
            scene.prove_equal(world, &agent)?;
            said("2 names (hard links)")?;
            fs::remove_file(&other)?;
            said("")?;
            scene.prove_equal(world, &agent)?;
        }
        let rows = agent.ctl().list()?;
        ensure!(rows.len() == 1, "{} databases are listed", rows.len());
        let log = agent.log()?;
        let told = log
            .matches("is a second name (hard link) of app.db")
            .count();
        ensure!(told == 2, "told {told} times");
        Ok(())
    });
}

#[expect(clippy::disallowed_methods, reason = "tests play a hostile pod")]
fn hard_link(from: &std::path::Path, to: &std::path::Path) -> std::io::Result<()> {
    fs::hard_link(from, to)
}
