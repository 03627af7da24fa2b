//! Bad input: a clear word, nothing lost, and the rest goes on.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sqlrep_tests::ctl::exit;
use sqlrep_tests::{
    Agent, AgentOptions, Pod, PodOptions, Sqlite, Workload, World, image, ltx, scenario, wait,
};

use crate::binaries;
use crate::scene::{Scene, fresh};

#[test]
fn an_unknown_or_ambiguous_reference_is_told_apart() {
    scenario("references", binaries(), |world| {
        let agent = world.agent()?;
        let workload = Workload::new(world.seed);
        for app in ["left", "right"] {
            Scene::followed(world, &agent, app, &workload)?;
        }
        let out = fresh(world, "none");
        let to = out.to_string_lossy().into_owned();
        let restore = |reference: &str| agent.ctl().run(["restore", reference, "-o", to.as_str()]);
        restore("nowhere")?
            .exits(exit::NOT_FOUND)?
            .says(&["nowhere"])?;
        let said = restore("app.db")?.exits(exit::REFUSED)?;
        said.says(&["default/left/data/app.db", "default/right/data/app.db"])?;
        ensure!(!out.exists(), "a file was left");
        agent
            .ctl()
            .run(["sync", "nowhere"])?
            .exits(exit::NOT_FOUND)?;
        Ok(())
    });
}

#[test]
fn an_output_that_exists_is_left_alone() {
    scenario("overwrite", binaries(), |world| {
        let agent = world.agent()?;
        let scene = Scene::followed(world, &agent, "app", &Workload::new(world.seed))?;
        scene.prove_equal(world, &agent)?;
        let out = world.path("precious.db");
        fs::write(&out, "precious")?;
        let to = out.to_string_lossy().into_owned();
        let said = agent.ctl().run(["restore", &scene.reference, "-o", &to])?;
        said.exits(exit::REFUSED)?
            .says(&["precious.db", "exists"])?;
        let said = world.ctl().restore(&scene.replica, &out, &[])?;
        said.exits(exit::REFUSED)?
            .says(&["precious.db", "exists"])?;
        ensure!(fs::read(&out)? == b"precious", "it was overwritten");
        world
            .ctl()
            .restore(&scene.replica, &out, &["--force"])?
            .done()?;
        image::same("forced", &image::settled(&scene.db)?, &fs::read(&out)?)
    });
}

#[test]
fn a_point_outside_the_range_names_the_range() {
    scenario("range", binaries(), |world| {
        let agent = world.agent()?;
        let scene = Scene::followed(world, &agent, "app", &Workload::new(world.seed))?;
        Sqlite::once(&scene.db, "UPDATE clock SET n = 1;")?;
        scene.prove_equal(world, &agent)?;
        let files = ltx::level(&scene.replica, 0)?;
        let first = files.first().context("there are files")?;
        // the year, at least, of the oldest point must be in the words
        let year = Sqlite::once(
            Path::new(":memory:"),
            &format!(
                "SELECT strftime('%Y-%m-%dT%H:%M', {}, 'unixepoch');",
                first.timestamp / 1000
            ),
        )?;
        let out = fresh(world, "range");
        let said = world.ctl().restore(
            &scene.replica,
            &out,
            &["--timestamp", "2001-01-01T00:00:00Z"],
        )?;
        said.exits(exit::NOT_FOUND)?.says(&[&year])?;
        let to = out.to_string_lossy().into_owned();
        let at = [
            "restore",
            &scene.reference,
            "-o",
            &to,
            "--timestamp",
            "2001-01-01T00:00:00Z",
        ];
        agent
            .ctl()
            .run(at)?
            .exits(exit::NOT_FOUND)?
            .says(&[&year])?;
        let said = world
            .ctl()
            .restore(&scene.replica, &out, &["--txid", "ffff"])?;
        said.exits(exit::NOT_FOUND)?.says(&["ffff"])?;
        let said = world
            .ctl()
            .restore(&scene.replica, &out, &["--timestamp", "yesterdayish"])?;
        said.exits(exit::USAGE)?.says(&["yesterdayish"])?;
        ensure!(!out.exists());
        Ok(())
    });
}

#[test]
fn a_replica_that_is_not_there_is_not_found() {
    scenario("no-replica", binaries(), |world| {
        let out = fresh(world, "none");
        let said = world
            .ctl()
            .restore(&world.path("nothing-here"), &out, &[])?;
        said.exits(exit::NOT_FOUND)?.says(&["nothing-here"])?;
        fs::create_dir(world.path("empty"))?;
        let said = world.ctl().restore(&world.path("empty"), &out, &[])?;
        said.exits(exit::NOT_FOUND)?.says(&["empty"])?;
        ensure!(!out.exists());
        Ok(())
    });
}

#[test]
fn an_agent_that_is_not_there_is_unreachable() {
    scenario("unreachable", binaries(), |world| {
        let socket = format!("unix:{}", world.path("nobody.sock").display());
        let said = world.ctl().run(["--agent", &socket, "list"])?;
        said.exits(exit::UNREACHABLE)?.says(&["nobody.sock"])?;
        world
            .ctl()
            .run(["list", "--no-such-flag"])?
            .exits(exit::USAGE)?;
        Ok(())
    });
}

#[test]
fn a_state_dir_belongs_to_one_agent() {
    scenario("state-dir", binaries(), |world| {
        let agent = world.agent()?;
        let options = AgentOptions {
            state: Some(world.path("state-n1")),
            ..AgentOptions::node("second")
        };
        let mut second = Agent::spawn(world, options)?;
        ensure!(!second.ends()?.success(), "two agents share a state dir");
        let log = second.log()?;
        for word in ["state-n1", &agent.pid().to_string()] {
            ensure!(
                log.contains(word),
                "the refusal does not name {word}:\n{log}"
            );
        }
        Scene::followed(world, &agent, "app", &Workload::new(world.seed)).map(drop)
    });
}

#[test]
fn what_is_no_database_is_nobodys_business() {
    scenario("no-database", binaries(), |world| {
        let agent = world.agent()?;
        let scene = Scene::pod(world, "app")?;
        fs::write(scene.pod.db("noise.db"), vec![0x5a; 20_000])?;
        fs::write(scene.pod.db("empty.db"), "")?;
        let mut header = b"SQLite format 3\0\x10\x00\x02\x02\x00\x40\x20\x20".to_vec();
        header.extend([0xff; 5000]);
        fs::write(scene.pod.db("header-only.db"), &header)?;
        fs::write(scene.pod.db("cut.db"), &header[..50])?;
        Workload::new(world.seed).init(&scene.db)?;
        agent.ctl().wait_following(&scene.reference)?;
        scene.prove_equal(world, &agent)?;
        for row in agent.ctl().list()? {
            let sound = row.reference().ends_with("/app.db");
            ensure!(
                sound || row.state() != "following",
                "junk is followed: {row:?}"
            );
        }
        ensure!(
            fs::read(scene.pod.db("header-only.db"))? == header,
            "junk was written to"
        );
        Ok(())
    });
}

#[test]
fn a_database_that_turns_to_junk_leaves_its_replica_whole() {
    scenario("junk", binaries(), |world| {
        let agent = world.agent()?;
        let scene = Scene::followed(world, &agent, "app", &Workload::new(world.seed))?;
        let other = Scene::followed(world, &agent, "other", &Workload::new(world.seed))?;
        scene.prove_equal(world, &agent)?;
        let whole = image::settled(&scene.db)?;
        for end in ["-wal", "-shm"] {
            fs::remove_file(image::beside(&scene.db, end)).ok();
        }
        fs::write(scene.pod.db("junk"), [0x5a; 9000])?;
        sqlrep_tests::pod::rename(&scene.pod.db("junk"), &scene.db)?;
        wait("it is no longer followed", || {
            Ok(agent
                .ctl()
                .row(&scene.reference)?
                .is_none_or(|row| row.state() != "following"))
        })?;
        let out = fresh(world, "junk");
        world.ctl().restore(&scene.replica, &out, &[])?.done()?;
        image::same("before the junk", &whole, &fs::read(&out)?)?;
        Sqlite::once(&other.db, "UPDATE clock SET n = 3;")?;
        other.prove_equal(world, &agent)
    });
}

#[test]
fn a_truncated_wal_loses_nothing_that_was_shipped() {
    scenario("truncated-wal", binaries(), |world| {
        let agent = world.agent()?;
        let workload = Workload {
            close: false,
            autocheckpoint: 0,
            ..Workload::new(world.seed)
        };
        let scene = Scene::followed(world, &agent, "app", &workload)?;
        let mut writer = workload.start(world, &scene.db, 0)?;
        writer.wait_commits(300)?;
        writer.pause()?;
        scene.prove_equal(world, &agent)?;
        let commits = writer.kill()?;
        let whole = image::settled(&scene.db)?;
        let wal = image::beside(&scene.db, "-wal");
        let bytes = fs::metadata(&wal)?.len();
        File::options().write(true).open(&wal)?.set_len(bytes / 2)?;
        // the app comes back on what is left: whatever follows, it is the state after a commit
        let mut app = Sqlite::open(&scene.db)?;
        app.run("SELECT count(*) FROM clock;").ok();
        drop(app);
        let out = fresh(world, "truncated");
        let head = ltx::level(&scene.replica, 0)?;
        let known = head
            .iter()
            .map(|file| file.max)
            .max()
            .context("there are files")?;
        world
            .ctl()
            .restore(&scene.replica, &out, &["--txid", &format!("{known:016x}")])?
            .done()?;
        let have = workload.check_restored(&out)?[0];
        ensure!(have <= commits);
        // every point that was shipped is there still
        let all: Vec<_> = ltx::level(&scene.replica, 0)?;
        ensure!(
            all.windows(2).all(|pair| pair[0].max + 1 == pair[1].min),
            "a gap: {all:?}"
        );
        let best = fresh(world, "best");
        let before = all.iter().rev().find_map(|file| {
            let point = format!("{:016x}", file.max);
            world
                .ctl()
                .restore(&scene.replica, &best, &["--txid", &point, "--force"])
                .ok()?;
            let image = fs::read(&best).ok()?;
            image::same("", &whole, &image).is_ok().then_some(file.max)
        });
        ensure!(
            before.is_some(),
            "the state before the damage cannot be restored any more"
        );
        Ok(())
    });
}

#[test]
fn a_replica_of_another_cluster_is_not_touched() {
    scenario("cluster", binaries(), |world| {
        // no upkeep is under way when the pod ends
        let agent = world.agent_with(AgentOptions::default().flag("--levels", "10000h"))?;
        let scene = Scene::followed(world, &agent, "app", &Workload::new(world.seed))?;
        scene.prove_equal(world, &agent)?;
        wait("there is the first snapshot", || {
            Ok(!ltx::level(&scene.replica, 9)?.is_empty())
        })?;
        scene.pod.delete()?;
        let path = scene.replica.join(".sqlrep/manifest.json");
        let released = || -> Result<Value> { Ok(serde_json::from_slice(&fs::read(&path)?)?) };
        wait("the replica is released", || {
            Ok(released()?["owner"]["state"] == "released")
        })?;
        let mut manifest = released()?;
        manifest["cluster_uid"] = json!("11111111-2222-3333-4444-555555555555");
        fs::write(&path, serde_json::to_vec(&manifest)?)?;
        let before = ltx::below(&scene.replica)?;
        let next = Pod::start(world, PodOptions::app("app"))?;
        wait("the gate says so", || {
            let words = next
                .status()?
                .map(|status| status.to_string().to_lowercase());
            Ok(words.is_some_and(|words| words.contains("cluster")))
        })?;
        ensure!(
            next.status()?
                .is_none_or(|status| status["phase"] != "ready"),
            "it opened"
        );
        ensure!(!next.db("app.db").exists(), "it was restored");
        // An app that does not wait for its gate: what it writes goes nowhere near that replica.
        let made = "PRAGMA journal_mode = WAL; CREATE TABLE t (x);";
        Sqlite::once(&next.db("app.db"), made)?;
        wait("the state says so", || {
            let row = agent.ctl().row(&scene.reference)?;
            Ok(row.is_some_and(|row| {
                row.state() == "stalled" && row.words().contains("two apps must not share")
            }))
        })?;
        ensure!(ltx::below(&scene.replica)? == before, "it was written to");
        Ok(())
    });
}

#[test]
fn a_bad_annotation_is_named_and_the_rest_goes_on() {
    scenario("annotation", binaries(), |world| {
        let agent = world.agent()?;
        let options = PodOptions::app("app")
            .annotate("sync-interval", "sometimes")
            .annotate("restore", "perhaps");
        let scene = Scene::with(world, options)?;
        Workload::new(world.seed).init(&scene.db)?;
        agent.ctl().wait_following(&scene.reference)?;
        scene.prove_equal(world, &agent)?;
        let log = agent.log()?;
        for words in [
            "sqlrep.io/sync-interval",
            "sometimes",
            "sqlrep.io/restore",
            "perhaps",
        ] {
            ensure!(log.contains(words), "nothing is said of {words}:\n{log}");
        }
        for accepted in ["auto", "never", "required"] {
            ensure!(
                log.contains(accepted),
                "it does not say that {accepted} is accepted"
            );
        }
        Ok(())
    });
}

#[test]
fn a_broken_manifest_does_not_stop_the_others() {
    scenario("manifest", binaries(), |world| {
        let agent = world.agent()?;
        fs::write(world.pods().join("broken.json"), "{\"kind\": \"Pod\", ")?;
        fs::write(
            world.pods().join("other.yaml"),
            "apiVersion: v1\nkind: ConfigMap\n",
        )?;
        let scene = Scene::followed(world, &agent, "app", &Workload::new(world.seed))?;
        scene.prove_equal(world, &agent)?;
        ensure!(
            agent.log()?.contains("broken.json"),
            "nothing is said of it"
        );
        Ok(())
    });
}

#[test]
fn a_required_restore_without_a_replica_fails() {
    scenario("required", binaries(), |world| {
        let agent = world.agent()?;
        let pod = Pod::start(
            world,
            PodOptions::app("app").annotate("restore", "required"),
        )?;
        let status = pod.wait_phase("failed")?;
        let words = status["message"].as_str().unwrap_or_default();
        ensure!(
            words.contains("app"),
            "it does not say what is missing: {status}"
        );
        drop(agent);
        Ok(())
    });
}

#[test]
fn wrong_flags_are_told_before_anything_is_touched() {
    scenario("flags", binaries(), |world| -> Result<()> {
        for (flag, value) in [("--sync-interval", "soon"), ("--listen", "0.0.0.0:7777")] {
            let mut agent = Agent::spawn(world, AgentOptions::node("wrong").flag(flag, value))?;
            ensure!(!agent.ends()?.success(), "{flag} {value} was accepted");
            let log = agent.log()?;
            ensure!(
                log.contains(flag.trim_start_matches('-')),
                "{flag} is not named:\n{log}"
            );
            ensure!(
                !world.path("state-wrong").exists(),
                "the state dir was made"
            );
        }
        untouched(world)
    });
}

fn untouched(world: &World) -> Result<()> {
    crate::scene::only(&world.replicas(), &[])
}
