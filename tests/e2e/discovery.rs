//! What is found, what it is called, and what is said of what cannot be captured.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use sqlrep_tests::{Pod, PodOptions, Sqlite, Workload, image, pod, scenario, wait};

use crate::binaries;
use crate::scene::{Scene, fresh};

#[test]
fn databases_are_found_wherever_and_whenever_they_appear() {
    scenario("appear", binaries(), |world| {
        let agent = world.agent()?;
        let options = PodOptions {
            volumes: vec!["data".into(), "more".into()],
            ..PodOptions::app("app")
        };
        let pod = Pod::start(world, options)?;
        pod.wait_ready()?;
        let deep = pod.db("deep/er/second.db");
        fs::create_dir_all(deep.parent().expect("it has a parent"))?;
        let made = [
            (pod.db("first.sqlite3"), "data/first.sqlite3"),
            (deep, "data/deep/er/second.db"),
        ];
        let made = made
            .into_iter()
            .chain([(pod.volume("more").join("x"), "more/x")]);
        for (path, name) in made {
            Sqlite::once(&path, "PRAGMA journal_mode = WAL; CREATE TABLE t (x);")?;
            let reference = format!("app/{name}");
            agent.ctl().wait_following(&reference)?;
            agent.ctl().sync(&reference)?;
            let out = fresh(world, "found");
            world
                .ctl()
                .restore(&world.replica(&reference), &out, &[])?
                .done()?;
            image::same(name, &image::settled(&path)?, &fs::read(&out)?)?;
        }
        Ok(())
    });
}

#[test]
fn a_pod_is_named_for_its_deployment() {
    scenario("identity", binaries(), |world| {
        let agent = world.agent()?;
        let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
            "name": "surmai-5d4f8c7b6", "uid": "u", "controller": true});
        let options = PodOptions {
            namespace: "media".into(),
            owner: Some(owner),
            ..PodOptions::app("surmai-5d4f8c7b6-x2x4z")
        };
        let pod = Pod::start(world, options)?;
        pod.wait_ready()?;
        Workload::new(world.seed).init(&pod.db("data.db"))?;
        agent.ctl().wait_following("media/surmai/data/data.db")?;
        agent.ctl().sync("surmai")?;
        ensure!(
            world
                .replicas()
                .join("media/surmai/data/data.db/ltx/0")
                .is_dir()
        );
        Ok(())
    });
}

#[test]
fn only_what_the_pod_names_is_taken() {
    scenario("policy", binaries(), |world| {
        let agent = world.agent()?;
        let options = PodOptions::app("app")
            .annotate("databases", "*.db")
            .annotate("exclude", "cache*");
        let pod = Pod::start(world, options)?;
        pod.wait_ready()?;
        for name in ["cache.db", "other.sqlite", "app.db"] {
            Sqlite::once(
                &pod.db(name),
                "PRAGMA journal_mode = WAL; CREATE TABLE t (x);",
            )?;
        }
        agent.ctl().wait_following("app/data/app.db")?;
        agent.ctl().sync("app/data/app.db")?;
        let rows = agent.ctl().list()?;
        ensure!(rows.len() == 1, "more than app.db is listed: {rows:?}");
        crate::scene::only(&world.replica("app/data"), &[".sqlrep", "app.db"])
    });
}

#[test]
fn a_database_that_is_replaced_or_removed_is_noticed() {
    scenario("replaced", binaries(), |world| {
        let agent = world.agent()?;
        let workload = Workload::new(world.seed);
        let scene = Scene::followed(world, &agent, "app", &workload)?;
        scene.prove_equal(world, &agent)?;
        // an app that restores its own copy: another inode under the same name
        // beside the volume: renaming a database that is being followed leaves its WAL behind
        let other = world.path("incoming.db");
        Workload::new(world.seed).init(&other)?;
        Sqlite::once(&other, "UPDATE clock SET n = 4711;")?;
        pod::rename(&other, &scene.db)?;
        for end in ["-wal", "-shm"] {
            fs::remove_file(image::beside(&scene.db, end)).ok();
        }
        wait("the new database is on the replica", || {
            if agent
                .ctl()
                .row(&scene.reference)?
                .is_none_or(|row| row.state() != "following")
            {
                return Ok(false);
            }
            if agent.ctl().sync(&scene.reference).is_err() {
                return Ok(false);
            }
            let out = fresh(world, "replaced");
            world.ctl().restore(&scene.replica, &out, &[])?.done()?;
            Ok(Sqlite::once(&out, "SELECT n FROM clock;")? == "4711")
        })?;
        scene.prove_equal(world, &agent)?;
        // removed: the replica stays as it was
        let whole = image::settled(&scene.db)?;
        for end in ["", "-wal", "-shm"] {
            fs::remove_file(image::beside(&scene.db, end)).ok();
        }
        wait("the database is no longer followed", || {
            Ok(agent
                .ctl()
                .row(&scene.reference)?
                .is_none_or(|row| row.state() != "following"))
        })?;
        let out = fresh(world, "removed");
        world.ctl().restore(&scene.replica, &out, &[])?.done()?;
        image::same("after the removal", &whole, &fs::read(&out)?)
    });
}

#[test]
fn a_wal_that_is_deleted_under_its_app_blinds_nobody() {
    scenario("bare", binaries(), |world| {
        let agent = world.agent()?;
        let scene = Scene::followed(world, &agent, "app", &Workload::new(world.seed))?;
        let on_replica = |n: &str| {
            wait(&format!("n = {n} is on the replica"), || {
                let out = fresh(world, "bare");
                world.ctl().restore(&scene.replica, &out, &[])?.done()?;
                Ok(Sqlite::once(&out, "SELECT n FROM clock;")? == n)
            })
        };
        let mut old = Sqlite::open(&scene.db)?;
        old.run("UPDATE clock SET n = 1001;")?;
        on_replica("1001")?;
        let beside = ["-wal", "-shm"].map(|end| image::beside(&scene.db, end));
        for file in &beside {
            fs::remove_file(file)?;
        }
        old.run("UPDATE clock SET n = 1002;")?;
        on_replica("1002")?;
        wait("the state says what happened", || {
            let row = agent.ctl().row(&scene.reference)?;
            Ok(row.is_some_and(|row| row.0.to_string().contains("was deleted while")))
        })?;
        old.run("UPDATE clock SET n = 1003;")?;
        on_replica("1003")?;
        ensure!(
            beside.iter().all(|file| !file.exists()),
            "the agent made files beside a database that has lost its own"
        );
        // its last close copies what only the deleted WAL held
        old.close()?;
        Sqlite::once(&scene.db, "UPDATE clock SET n = n + 1;")?;
        on_replica("1004")?;
        agent.ctl().wait_following(&scene.reference)?;
        scene.prove_equal(world, &agent)
    });
}

#[test]
fn a_healthy_agent_serves_its_health_and_its_figures() {
    scenario("figures", binaries(), |world| -> Result<()> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .port();
        let address = format!("127.0.0.1:{port}");
        let agent =
            world.agent_with(sqlrep_tests::AgentOptions::default().flag("--metrics", &address))?;
        let scene = Scene::followed(world, &agent, "app", &Workload::new(world.seed))?;
        scene.prove_equal(world, &agent)?;
        for path in ["/healthz", "/readyz"] {
            ensure!(get(&address, path)?.starts_with("HTTP/1.1 200"), "{path}");
        }
        let metrics = get(&address, "/metrics")?;
        for name in ["sqlrep_replica_lag_seconds", "sqlrep_spool_bytes"] {
            ensure!(metrics.contains(name), "no {name} in\n{metrics}");
        }
        Ok(())
    });
}

#[test]
fn each_line_of_a_json_log_is_an_object_and_says_which_database_and_stage() {
    scenario("json", binaries(), |world| -> Result<()> {
        let mut options = sqlrep_tests::AgentOptions::default().flag("--log-format", "json");
        let level = "sqlrep=debug,sqlrep_pipeline=debug,sqlrep_daemon=debug";
        options.env.push(("RUST_LOG".into(), level.into()));
        let agent = world.agent_with(options)?;
        let scene = Scene::followed(world, &agent, "app", &Workload::new(world.seed))?;
        agent.ctl().sync(&scene.reference)?;
        let mut log = String::new();
        wait("the stages were run", || {
            log = agent.log()?;
            let stages = ["decide", "settle", "ship", "snapshot"];
            let run =
                |stage: &str| log.contains(&format!("\"stage\":\"{stage}\",\"name\":\"stage\""));
            Ok(stages.iter().all(|stage| run(stage)))
        })?;
        agent.terminate()?;
        let mut shipped = false;
        for line in log.lines() {
            let line: serde_json::Value =
                serde_json::from_str(line).with_context(|| line.to_owned())?;
            ensure!(
                line["timestamp"].is_string() && line["level"].is_string(),
                "{line}"
            );
            if line["fields"]["message"] == "ran" && line["span"]["stage"] == "ship" {
                shipped = true;
                ensure!(line["fields"]["elapsed_ms"].is_u64(), "{line}");
                let outer = &line["spans"][0];
                ensure!(outer["db"] == "default/app/data/app.db", "{line}");
                ensure!(
                    outer["pod"].is_string() && outer["volume"] == "data",
                    "{line}"
                );
            }
        }
        ensure!(shipped, "no run of a stage was told");
        Ok(())
    });
}

fn get(address: &str, path: &str) -> Result<String> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address)?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
