//! The database that a replica restores to, as SQLite sees it: damage that the app's own database has
//! is told apart from damage of the replica, and a hostile one harms nobody.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use sqlrep_tests::ctl::exit;
use sqlrep_tests::{
    Agent, AgentOptions, ApiServer, Pod, PodOptions, Said, Sqlite, Workload, ltx, poll, say,
    scenario, wait,
};

use crate::binaries;
use crate::kube as cluster;
use crate::rewind::process_for;
use crate::scene::{Point, Scene};

fn verify(agent: &Agent, scene: &Scene, more: &[&str]) -> Result<Said> {
    let words = ["verify", &scene.reference, "-o", "json"];
    agent.ctl().run(words.iter().chain(more))
}

/// What SQLite said, by the word.
fn word(said: &Said) -> Result<String> {
    let rows = said.json()?;
    let word = rows[0]["quick_check"].as_str();
    Ok(word.context("no word of SQLite")?.to_owned())
}

fn metric(agent: &Agent, port: u16, name: &str) -> Result<f64> {
    crate::damage::metric(port, name).with_context(|| format!("{name} of {}", agent.node()))
}

#[test]
#[expect(clippy::too_many_lines, reason = "one story")]
fn damage_that_the_app_committed_is_said_to_be_its_own_and_where_it_was_sound() {
    scenario("inspect-own", binaries(), |world| {
        let api = ApiServer::start()?;
        let port = crate::damage::free_port()?;
        let options = AgentOptions::kube(api.kubeconfig(world)?)
            .flag("--verify-interval", "1s")
            .flag("--metrics", &format!("127.0.0.1:{port}"));
        let agent = world.agent_with(options)?;
        let pod = Pod::prepare(world, PodOptions::app("app"))?;
        api.put("pods", pod.document().clone());
        pod.wait_ready()?;
        let scene = Scene::of(world, pod);
        let mut app = Sqlite::open(&scene.db)?;
        app.run(
            "PRAGMA journal_mode=wal; CREATE TABLE a (x); CREATE TABLE b (x); \
             INSERT INTO a SELECT randomblob(3000) FROM generate_series(1, 50);",
        )?;
        agent.ctl().wait_following(&scene.reference)?;
        agent.ctl().sync(&scene.reference)?;
        let sound = ltx::head(&scene.replica)?;
        let said = verify(&agent, &scene, &[])?.done()?;
        ensure!(word(&said)? == "ok", "{said:?}");
        wait("the scrub had it looked at", || {
            let checked = "sqlrep_database_quick_check_timestamp_seconds";
            Ok(metric(&agent, port, checked).is_ok_and(|at| at > 1.0)
                && metric(&agent, port, "sqlrep_database_damaged")? < 0.5)
        })?;
        // Two tables in the same pages: what a bug or a wrong tool commits.
        app.run(
            "PRAGMA writable_schema=on; UPDATE sqlite_schema SET rootpage=(SELECT rootpage FROM \
             sqlite_schema WHERE name='a') WHERE name='b';",
        )?;
        agent.ctl().sync(&scene.reference)?;
        let said = verify(&agent, &scene, &[])?.exits(exit::FAILED)?;
        let said = said.says(&[
            "the app's database itself is damaged",
            "reference to page",
            "history",
        ])?;
        ensure!(
            word(&said)? == "damaged" && said.json()?[0]["ok"] == true,
            "{said:?}"
        );
        wait("the scrub sees it too", || {
            Ok(metric(&agent, port, "sqlrep_database_damaged")? > 0.5)
        })?;
        ensure!(
            metric(&agent, port, "sqlrep_replica_damaged")? < 0.5,
            "the replica is whole"
        );
        cluster::wait_event(&api, &scene.pod, "DatabaseDamaged", "itself is damaged")?;
        let row = agent.ctl().row(&scene.reference)?.context("a row")?;
        ensure!(row.words().contains("itself is damaged"), "{}", row.words());
        // It is replicated as it is, and where it was sound is found by asking.
        for (_, restored) in scene.restore_all(world, &Point::Latest)? {
            let found = Sqlite::once(&restored, "PRAGMA quick_check;")?;
            ensure!(found.contains("reference to page"), "{found}");
        }
        let point = format!("{sound:x}");
        let said = verify(&agent, &scene, &["--txid", &point])?.done()?;
        ensure!(word(&said)? == "ok", "{said:?}");
        // Mended by the app, it is sound again.
        app.run(
            "UPDATE sqlite_schema SET rootpage=(SELECT max(rootpage) + 1 FROM sqlite_schema) \
             WHERE name='b'; DELETE FROM sqlite_schema WHERE name='b';",
        )?;
        app.close()?;
        Sqlite::once(&scene.db, "VACUUM;")?;
        agent.ctl().sync(&scene.reference)?;
        wait("it is found sound again", || {
            Ok(metric(&agent, port, "sqlrep_database_damaged")? < 0.5)
        })?;
        ensure!(
            word(&verify(&agent, &scene, &[])?.done()?)? == "ok",
            "{said:?}"
        );
        let scratch = fs::read_dir(world.path("state-n1/scratch"))?.count();
        ensure!(scratch == 0, "{scratch} scratch files are left");
        Ok(())
    });
}

/// A database whose schema keeps whoever checks it busy for minutes: each row has a column that is to
/// be worked out, and must not be NULL.
fn endless(db: &Path) -> Result<()> {
    Sqlite::once(
        db,
        "CREATE TABLE t (x, y); INSERT INTO t SELECT value, 1 FROM generate_series(1, 50000); \
         PRAGMA writable_schema=on; UPDATE sqlite_schema SET sql = \
         'CREATE TABLE t (x, y, z AS (length(hex(zeroblob(4000000 + x)))) NOT NULL)';",
    )?;
    Ok(())
}

/// What the kernel says of a process.
fn status(pid: i32, field: &str) -> Result<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let words = line.context("a field")?.split_whitespace();
    Ok(words.collect::<Vec<_>>().join(" "))
}

/// It may take a little memory and time, write nothing, open nothing, start nothing, and goes first.
fn limited(process: i32) -> Result<()> {
    let limits = fs::read_to_string(format!("/proc/{process}/limits"))?;
    let hard = |name: &str| -> Result<u64> {
        let line = limits.lines().find_map(|line| line.strip_prefix(name));
        let words = line.with_context(|| format!("no {name}: {limits}"))?;
        let number = words.split_whitespace().nth(1).context("a limit")?;
        number.parse().with_context(|| format!("{name}: {number}"))
    };
    for (name, most) in [
        ("Max cpu time", 60),
        ("Max data size", 100 << 20),
        ("Max file size", 0),
        ("Max core file size", 0),
        ("Max processes", 0),
        ("Max open files", 0),
    ] {
        let limit = hard(name)?;
        ensure!(limit <= most, "{name}: {limit}");
    }
    let score = fs::read_to_string(format!("/proc/{process}/oom_score_adj"))?;
    ensure!(score.trim() == "1000", "oom_score_adj is {score}");
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("fields")?;
    let nice = fields.split_whitespace().nth(16).context("a nice value")?;
    ensure!(nice == "19", "it is as nice as {nice}");
    Ok(())
}

#[test]
#[expect(clippy::too_many_lines, reason = "one story")]
fn a_hostile_schema_is_looked_at_without_rights_and_its_process_may_be_killed() {
    scenario("inspect-hostile", binaries(), |world| {
        let mut agent = world.agent()?;
        let neighbour = Scene::followed(world, &agent, "good", &Workload::new(world.seed))?;
        let scene = Scene::pod(world, "evil")?;
        endless(&scene.db)?;
        agent.ctl().wait_following(&scene.reference)?;
        agent.ctl().sync(&scene.reference)?;
        let checks = |agent: &Agent| {
            poll("the process", Duration::from_mins(1), || {
                process_for(agent, "quick-check")
            })
        };
        // It ends by itself, when its time is over; the neighbour does not wait for it.
        let begun = Instant::now();
        let (process, said) = std::thread::scope(|scope| {
            let asked = scope.spawn(|| verify(&agent, &scene, &[]));
            let process = checks(&agent)?;
            wait("it has given up its rights", || {
                Ok(status(process, "Seccomp:")? == "2")
            })?;
            ensure!(status(process, "NoNewPrivs:")? == "1", "it may gain rights");
            ensure!(
                status(process, "CapEff:")? == "0000000000000000",
                "it has capabilities"
            );
            ensure!(
                status(process, "CapPrm:")? == "0000000000000000",
                "it has capabilities"
            );
            if rustix::process::geteuid().is_root() {
                ensure!(
                    status(process, "Uid:")? == "65534 65534 65534 65534",
                    "it is somebody"
                );
                ensure!(status(process, "Groups:")?.is_empty(), "it is in groups");
                let root = fs::read_link(format!("/proc/{process}/root"))?;
                ensure!(root != Path::new("/"), "it sees the system");
            }
            limited(process)?;
            let open = fs::read_dir(format!("/proc/{process}/fd"))?.count();
            ensure!(open <= 4, "{open} descriptors are open");
            let said = verify(&agent, &neighbour, &[])?.done()?;
            ensure!(word(&said)? == "ok", "{said:?}");
            let runs = Path::new(&format!("/proc/{process}/exe")).exists();
            ensure!(runs, "the neighbour waited");
            let said = asked.join().expect("a thread that does not panic")?;
            Ok::<_, anyhow::Error>((process, said))
        })?;
        say(&format!(
            "process {process} was over after {:?}",
            begun.elapsed()
        ));
        let said = said
            .done()?
            .says(&["not looked at by SQLite", "without a word"])?;
        ensure!(word(&said)? == "not-checked", "{said:?}");
        // Killed, it has said nothing good either.
        let said = std::thread::scope(|scope| {
            let asked = scope.spawn(|| verify(&agent, &scene, &[]));
            let process = checks(&agent)?;
            kill_process(Pid::from_raw(process).context("a pid")?, Signal::KILL)?;
            asked.join().expect("a thread that does not panic")
        })?;
        ensure!(
            word(&said.done()?)? == "not-checked",
            "a killed process said something"
        );
        // It goes with its agent, and the scratch file with the next one's start.
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| verify(&agent, &scene, &[]));
            let process = checks(&agent)?;
            let pid = Pid::from_raw(i32::try_from(agent.pid())?).context("a pid")?;
            wait("it has given up its rights", || {
                Ok(status(process, "Seccomp:")? == "2")
            })?;
            kill_process(pid, Signal::KILL)?;
            // By itself it would go as well, but not before its ten seconds of processor time are over.
            poll("it is gone with its agent", Duration::from_secs(5), || {
                Ok((!Path::new(&format!("/proc/{process}/exe")).exists()).then_some(()))
            })?;
            asked.join().expect("a thread that does not panic")
        })?;
        agent.ends()?;
        agent = world.agent()?;
        agent.ctl().wait_following(&neighbour.reference)?;
        let scratch = fs::read_dir(world.path("state-n1/scratch"))?.count();
        ensure!(scratch == 0, "{scratch} scratch files are left");
        neighbour.prove_equal(world, &agent)
    });
}
