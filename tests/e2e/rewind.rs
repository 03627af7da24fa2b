//! A running app's database goes back to an earlier state, under open connections.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use sqlrep_tests::ctl::exit;
use sqlrep_tests::wait::PATIENCE;
use sqlrep_tests::{Agent, Orm, Said, Sqlite, Workload, World, image, ltx, poll, say};
use sqlrep_tests::{scenario, wait};

use crate::binaries;
use crate::scene::{Point, Scene, fresh};

/// Rewinds as a script would.
pub(crate) fn rewind(scene: &Scene, agent: &Agent, txid: u64) -> Result<Said> {
    let txid = format!("{txid:x}");
    let words = ["restore", &scene.reference, "--in-place", "--txid", &txid];
    agent.ctl().run(words.into_iter().chain(["--yes"]))
}

/// The TXID that undoes a rewind, as it was said.
fn undo(said: &Said) -> Result<u64> {
    let words = said.err.split_whitespace().collect::<Vec<_>>();
    let at = words.iter().position(|word| *word == "--txid");
    let txid = at.and_then(|at| words.get(at + 1));
    let txid = txid.with_context(|| format!("how to undo it was not said: {}", said.err))?;
    Ok(u64::from_str_radix(txid, 16)?)
}

/// Everything is on the replica: its head, and what the database holds.
pub(crate) fn settle(scene: &Scene, agent: &Agent) -> Result<(u64, Vec<u8>)> {
    agent.ctl().sync(&scene.reference)?;
    Ok((ltx::head(&scene.replica)?, image::settled(&scene.db)?))
}

/// The same content. The number of the schema (bytes 40 to 43) went on by one: connections that
/// know another schema by the old number must read it anew.
fn same_content(what: &str, then: &[u8], now: &[u8]) -> Result<()> {
    let without = |image: &[u8]| {
        let mut image = image.to_vec();
        image[40..44].fill(0); // the schema's number
        image[60..64].fill(0); // the app's own, by which a test makes a commit
        image
    };
    image::same(what, &without(then), &without(now))
}

/// The process that the agent has for a rewind.
fn process_of(agent: &Agent) -> Result<Option<i32>> {
    process_for(agent, "rewind")
}

/// The process that the agent has for one of its own verbs.
pub(crate) fn process_for(agent: &Agent, verb: &str) -> Result<Option<i32>> {
    let tasks = format!("/proc/{0}/task", agent.pid());
    for task in fs::read_dir(tasks)? {
        let children = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace() {
            let line = fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
            if line.split(|byte| *byte == 0).nth(1) == Some(verb.as_bytes()) {
                return Ok(Some(child.parse()?));
            }
        }
    }
    Ok(None)
}

fn wait_process(agent: &Agent) -> Result<i32> {
    poll("a process rewinds", Duration::from_secs(30), || {
        process_of(agent)
    })
}

/// The same for a rewind that was asked for in a thread; nothing where it was over before anybody saw
/// its process.
fn process_within<T>(agent: &Agent, asked: &ScopedJoinHandle<'_, T>) -> Result<Option<i32>> {
    poll("a process rewinds", PATIENCE, || {
        let over = asked.is_finished();
        let found = process_of(agent)?;
        Ok((found.is_some() || over).then_some(found))
    })
}

fn kill(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        kill_process(pid, Signal::KILL).ok(); // it may have ended by now
    }
}

#[test]
fn a_rewind_is_seen_by_open_connections_and_can_be_undone() {
    for journal in ["WAL", "DELETE"] {
        scenario(&format!("rewind-{journal}"), binaries(), |world| {
            let workload = Workload {
                journal,
                timeout: 30,
                ..Workload::new(world.seed)
            };
            let agent = world.agent()?;
            let scene = Scene::followed(world, &agent, "app", &workload)?;
            let mut writer = workload.start(world, &scene.db, 0)?;
            writer.wait_commits(30)?;
            writer.pause()?;
            let (then, image_then) = settle(&scene, &agent)?;
            let mut reader = Sqlite::open(&scene.db)?;
            let count = "PRAGMA busy_timeout = 30000; SELECT sum(commits) FROM progress;";
            let old = reader.run(count)?;
            writer.resume()?;
            writer.wait_commits(60)?;
            writer.pause()?;
            let (now, image_now) = settle(&scene, &agent)?;
            ensure!(reader.run(count)? != old, "the app went on");

            let said = rewind(&scene, &agent, then)?.done()?;
            ensure!(undo(&said)? == now, "{now} was the newest: {}", said.err);
            ensure!(
                reader.run(count)? == old,
                "an open connection sees the old rows"
            );
            let image = image::settled(&scene.db)?;
            same_content("rewound", &image_then, &image)?;
            ensure!(
                image_then[40..44] != image[40..44],
                "the schema's number stayed"
            );
            workload.check(&scene.db)?;
            scene.prove_equal(world, &agent)?;

            rewind(&scene, &agent, now)?.done()?;
            same_content("undone", &image_now, &image::settled(&scene.db)?)?;
            // the writer has had its connection open all the time, and goes on
            writer.resume()?;
            writer.wait_commits(10)?;
            writer.pause()?;
            workload.check(&scene.db)?;
            ensure!(
                agent.log()?.contains("rewound"),
                "the agent's log does not tell of it"
            );
            scene.prove_equal(world, &agent)?;
            scene.prove_contiguous(0)
        });
    }
}

#[test]
fn a_rewind_under_a_writer_loses_no_commit_before_it() {
    scenario("rewind-busy", binaries(), |world| {
        let workload = Workload {
            timeout: 30,
            ..Workload::new(world.seed)
        };
        let agent = world.agent()?;
        let scene = Scene::followed(world, &agent, "app", &workload)?;
        let mut writer = workload.start(world, &scene.db, 0)?;
        writer.wait_commits(20)?;
        agent.ctl().sync(&scene.reference)?;
        let then = ltx::head(&scene.replica)?;
        for round in 0..4 {
            writer.wait_commits(20)?;
            let acknowledged = writer.acknowledged()?;
            let before = undo(&rewind(&scene, &agent, then)?.done()?)?;
            if round == 0 {
                // Whatever was committed until the very moment can be had back.
                for (who, restored) in scene.restore_all(world, &Point::Txid(before))? {
                    let have = workload.check_restored(&restored)?[0];
                    ensure!(
                        have >= acknowledged,
                        "{who}: {have} of {acknowledged} commits"
                    );
                }
            }
        }
        writer.wait_commits(20)?;
        let said = writer.pause()?;
        ensure!(said["busy"] == 0, "the app was refused: {said}");
        image::integrity(&settled_copy(world, &scene)?)?;
        scene.prove_equal(world, &agent)?;
        scene.prove_contiguous(0)
    });
}

#[test]
fn an_app_on_sqlalchemy_goes_on_after_a_rewind() {
    for journal in ["WAL", "DELETE"] {
        scenario(&format!("rewind-orm-{journal}"), binaries(), |world| {
            let agent = world.agent()?;
            let scene = Scene::pod(world, "app")?;
            let mut app = Orm::start(world, &scene.db, journal)?;
            agent.ctl().wait_following(&scene.reference)?;
            wait("the app commits", || Ok(app.count()?.1 > 40))?;
            agent.ctl().sync(&scene.reference)?;
            let then = ltx::head(&scene.replica)?;
            for _ in 0..3 {
                let (_, made) = app.count()?;
                wait("the app commits", || Ok(app.count()?.1 > made + 40))?;
                let patient = "PRAGMA busy_timeout = 300000;"; // beside threads without pauses
                Sqlite::once(&scene.db, &format!("{patient} CREATE TABLE mark (x);"))?;
                rewind(&scene, &agent, then)?.done()?;
                let marks = "SELECT count(*) FROM sqlite_master WHERE name = 'mark';";
                let marks = Sqlite::once(&scene.db, &format!("{patient} {marks}"))?;
                ensure!(marks.ends_with('0'), "what came later is still there");
            }
            let made = app.stop()?;
            say(&format!("{journal}: {made} transactions by SQLAlchemy"));
            image::integrity(&settled_copy(world, &scene)?)?;
            scene.prove_equal(world, &agent)?;
            scene.prove_contiguous(0)
        });
    }
}

/// What the live database holds, as a file of its own.
fn settled_copy(world: &World, scene: &Scene) -> Result<std::path::PathBuf> {
    let copy = world.path("settled.db");
    fs::write(&copy, image::settled(&scene.db)?)?;
    Ok(copy)
}

#[test]
fn a_rewind_that_is_not_meant_or_does_not_fit_is_refused() {
    scenario("rewind-refused", binaries(), |world| {
        let agent = world.agent()?;
        let scene = Scene::pod(world, "app")?;
        Sqlite::once(&scene.db, "CREATE TABLE t (x); INSERT INTO t VALUES (1);")?;
        agent.ctl().wait_following(&scene.reference)?;
        agent.ctl().sync(&scene.reference)?;
        let add = "PRAGMA busy_timeout = 5000; INSERT INTO t VALUES (2);";
        Sqlite::once(&scene.db, add)?;
        agent.ctl().sync(&scene.reference)?;
        let before = fs::read(&scene.db).context("read the database")?;
        let ctl = agent.ctl();
        let place = ["restore", &scene.reference, "--in-place"];
        // nobody was asked, and nobody said yes
        let asked = ctl.run(place.into_iter().chain(["--txid", "1"]))?;
        asked.exits(exit::USAGE)?.says(&["--yes"])?;
        let which = ctl.run(place.into_iter().chain(["--yes"]))?;
        which.exits(exit::USAGE)?.says(&["--timestamp"])?;
        rewind(&scene, &agent, 0xffff)?.exits(exit::NOT_FOUND)?;
        ensure!(fs::read(&scene.db)? == before, "it was written to");
        // another journal mode than at that time
        let wal = "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL;";
        Sqlite::once(&scene.db, wal)?;
        wait("the WAL is followed", || {
            Ok(ctl.sync(&scene.reference).is_ok() && scene.prove_replica(world).is_ok())
        })?;
        let (head, _) = settle(&scene, &agent)?;
        rewind(&scene, &agent, 1)?
            .exits(exit::REFUSED)?
            .says(&["with a WAL", "without a WAL"])?;
        ensure!(Sqlite::once(&scene.db, "SELECT count(*) FROM t;")? == "2");
        scene.prove_equal(world, &agent)?;
        ensure!(
            ltx::head(&scene.replica)? == head,
            "something was committed"
        );
        Ok(())
    });
}

/// Runs a command at a terminal, where one answer is given to its question. Says all that it showed,
/// and ends as it did.
const AT_A_TERMINAL: &str = r#"import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[2], sys.argv[2:])
seen, answered = b"", False
while True:
    try:
        more = os.read(terminal, 4096)
    except OSError:
        break
    if not more:
        break
    seen += more
    if b"[y/N]" in seen and not answered:
        os.write(terminal, sys.argv[1].encode() + b"\n")
        answered = True
sys.stdout.buffer.write(seen)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"#;

#[test]
fn at_a_terminal_it_asks_first_and_only_a_yes_is_one() {
    scenario("rewind-asks", binaries(), |world| {
        let agent = world.agent()?;
        let scene = Scene::pod(world, "app")?;
        Sqlite::once(&scene.db, "PRAGMA journal_mode = WAL; CREATE TABLE t (x);")?;
        agent.ctl().wait_following(&scene.reference)?;
        let (then, _) = settle(&scene, &agent)?;
        let mut app = Sqlite::open(&scene.db)?;
        app.run("INSERT INTO t VALUES (1);")?;
        settle(&scene, &agent)?;
        let socket = format!("unix:{}", world.path("n1.sock").display());
        let then = format!("{then:x}");
        for (answer, code, rows) in [
            ("", exit::REFUSED, "1"),
            ("no", exit::REFUSED, "1"),
            ("y", exit::DONE, "0"),
        ] {
            let said = std::process::Command::new("python3")
                .args(["-c", AT_A_TERMINAL, answer])
                .arg(&world.binaries.ctl)
                .args(["--agent", &socket, "restore", &scene.reference])
                .args(["--in-place", "--txid", &then])
                .output()?;
            let shown = String::from_utf8_lossy(&said.stdout).into_owned();
            ensure!(
                said.status.code() == Some(code),
                "{answer:?}: {}: {shown}",
                said.status
            );
            ensure!(
                shown.contains("Write the state of TXID") && shown.contains(&scene.reference),
                "what is asked: {shown}"
            );
            ensure!(
                code == exit::DONE || shown.contains("nothing was done"),
                "{shown}"
            );
            ensure!(
                app.run("SELECT count(*) FROM t;")?.trim() == rows,
                "{shown}"
            );
        }
        scene.prove_equal(world, &agent)
    });
}

#[test]
fn the_database_of_a_pod_that_terminates_is_left_alone() {
    scenario("rewind-terminating", binaries(), |world| {
        let agent = world.agent()?;
        let scene = Scene::pod(world, "app")?;
        let mut app = Sqlite::open(&scene.db)?;
        app.run("PRAGMA journal_mode = WAL; CREATE TABLE t (x);")?;
        agent.ctl().wait_following(&scene.reference)?;
        let (then, _) = settle(&scene, &agent)?;
        // Told to end while it waits for the app's lock: nothing is written any more.
        app.run("INSERT INTO t VALUES (1); BEGIN IMMEDIATE; INSERT INTO t VALUES (2);")?;
        let refused = std::thread::scope(|scope| {
            let refused = scope.spawn(|| rewind(&scene, &agent, then));
            wait_process(&agent)?;
            scene.pod.mark_deleted()?;
            let refused = refused.join().expect("no panic");
            app.run("COMMIT;")?;
            refused
        })?;
        refused
            .exits(exit::REFUSED)?
            .says(&["the pod terminates"])?;
        wait("the process is gone", || Ok(process_of(&agent)?.is_none()))?;
        // And asked only then.
        rewind(&scene, &agent, then)?
            .exits(exit::REFUSED)?
            .says(&["the pod terminates"])?;
        ensure!(
            app.run("SELECT count(*) FROM t;")?.trim() == "2",
            "it was written to"
        );
        app.close()?;
        scene.pod.delete()?;
        let next = Scene::pod(world, "app")?;
        ensure!(Sqlite::once(&next.db, "SELECT count(*) FROM t;")? == "2");
        Ok(())
    });
}

/// The app's own user, where there is one.
const APP: (u32, u32) = (4711, 4712);

#[test]
fn a_locked_database_is_refused_and_the_process_has_no_rights() {
    scenario("rewind-locked", binaries(), |world| {
        let root = rustix::process::geteuid().is_root();
        let agent = world.agent()?;
        let scene = Scene::pod(world, "app")?;
        if root {
            let volume = scene.pod.volume("data");
            std::os::unix::fs::chown(volume, Some(APP.0), Some(APP.1))?;
        }
        let mut app = Sqlite::open_as(&scene.db, root.then_some(APP))?;
        app.run("PRAGMA journal_mode = WAL; CREATE TABLE t (x); INSERT INTO t VALUES (1);")?;
        agent.ctl().wait_following(&scene.reference)?;
        let (then, _) = settle(&scene, &agent)?;
        app.run("INSERT INTO t VALUES (2); BEGIN IMMEDIATE; INSERT INTO t VALUES (3);")?;
        let refused = std::thread::scope(|scope| {
            let refused = scope.spawn(|| rewind(&scene, &agent, then));
            let process = wait_process(&agent)?;
            if root {
                wait("the process is confined", || is_confined(process, &scene))?;
            }
            refused.join().expect("no panic")
        })?;
        refused
            .exits(exit::REFUSED)?
            .says(&["is locked", "nothing was written"])?;
        app.run("COMMIT;")?;
        ensure!(
            app.run("SELECT count(*) FROM t;")?.trim() == "3",
            "it was written to"
        );

        rewind(&scene, &agent, then)?.done()?;
        ensure!(
            app.run("SELECT count(*) FROM t;")?.trim() == "1",
            "it was not"
        );
        if root {
            for end in ["", "-wal", "-shm"] {
                let facts = fs::metadata(image::beside(&scene.db, end))?;
                ensure!((facts.uid(), facts.gid()) == APP, "{end} changed hands");
            }
        }
        wait("the process is gone", || Ok(process_of(&agent)?.is_none()))?;
        scene.prove_equal(world, &agent)
    });
}

/// Whether a process is the app's user, within the volume, without any capability.
fn is_confined(pid: i32, scene: &Scene) -> Result<bool> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap_or_default()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    let (uid, gid) = APP;
    let facts = [
        line("Uid:") == format!("{uid} {uid} {uid} {uid}"),
        line("Gid:") == format!("{gid} {gid} {gid} {gid}"),
        line("Groups:").is_empty(),
        line("CapEff:") == "0000000000000000",
        line("CapPrm:") == "0000000000000000",
        line("NoNewPrivs:") == "1",
        fs::read_link(format!("/proc/{pid}/root"))? == scene.pod.volume("data"),
    ];
    Ok(facts.into_iter().all(|fact| fact))
}

/// An app whose database is large enough that writing over it takes a while; the TXID of one
/// content, what it was, and what it is now.
pub(crate) struct Large {
    pub(crate) scene: Scene,
    pub(crate) then: u64,
    pub(crate) old: Vec<u8>,
    pub(crate) new: Vec<u8>,
}

impl Large {
    fn make(world: &World, agent: &Agent, journal: &str) -> Result<Self> {
        Self::with_pages(world, agent, journal, 4096)
    }

    /// 8000 rows of nearly a page each.
    pub(crate) fn with_pages(
        world: &World,
        agent: &Agent,
        journal: &str,
        bytes: u32,
    ) -> Result<Self> {
        let scene = Scene::pod(world, "app")?;
        let blob = format!("randomblob({})", bytes / 4 * 3);
        let size = format!("PRAGMA page_size = {bytes}; PRAGMA journal_mode = {journal};");
        let fill = format!("INSERT INTO t SELECT {blob} FROM generate_series(1, 8000);");
        Sqlite::once(&scene.db, &format!("{size} CREATE TABLE t (x); {fill}"))?;
        agent.ctl().wait_following(&scene.reference)?;
        let (then, old) = settle(&scene, agent)?;
        let change = format!("PRAGMA busy_timeout = 30000; UPDATE t SET x = {blob};");
        Sqlite::once(&scene.db, &change)?;
        let (_, new) = settle(&scene, agent)?;
        Ok(Self {
            scene,
            then,
            old,
            new,
        })
    }

    /// It has one content or the other, whole: says whether it was rewound.
    ///
    /// As a connection sees it: a commit whose writer was killed before it published it stands in
    /// the WAL, and would count if nobody had the database open. The next writer writes over it.
    pub(crate) fn is_rewound(&self, world: &World) -> Result<bool> {
        let copy = fresh(world, "seen");
        let words = format!(".timeout 30000\n.backup '{}'", copy.display());
        let mut app = Sqlite::open(&self.scene.db)?;
        app.run(&words)?;
        app.close()?;
        let now = fs::read(&copy)?;
        if same_content("not rewound", &self.new, &now).is_ok() {
            return Ok(false);
        }
        same_content("rewound", &self.old, &now).map(|()| true)
    }

    /// The app commits, and the replica holds just what the database does.
    pub(crate) fn prove_equal(&self, world: &World, agent: &Agent) -> Result<()> {
        let commit = "PRAGMA busy_timeout = 30000; PRAGMA user_version = 1;";
        Sqlite::once(&self.scene.db, commit)?;
        self.scene.prove_equal(world, agent)
    }

    /// Back to where it was.
    pub(crate) fn redo(&self, agent: &Agent, before: u64) -> Result<()> {
        rewind(&self.scene, agent, before)?.done().map(drop)
    }
}

#[test]
fn a_rewind_whose_process_is_killed_is_done_or_not() {
    for journal in ["WAL", "DELETE"] {
        scenario(&format!("rewind-killed-{journal}"), binaries(), |world| {
            let agent = world.agent()?;
            let mut large = Large::make(world, &agent, journal)?;
            let mut dice = world.dice(7);
            let (mut done, mut killed) = (0, 0);
            let rounds = 6;
            for _ in 0..rounds {
                let (before, _) = settle(&large.scene, &agent)?;
                let said = std::thread::scope(|scope| {
                    let said = scope.spawn(|| rewind(&large.scene, &agent, large.then));
                    if let Some(process) = process_within(&agent, &said)? {
                        std::thread::sleep(Duration::from_millis(dice.u64(0..400)));
                        kill(process);
                        killed += 1;
                    }
                    said.join().expect("no panic")
                })?;
                let rewound = large.is_rewound(world)?;
                ensure!(
                    rewound || said.code != exit::DONE,
                    "it was said to be done, and is not: {}",
                    said.err
                );
                large.prove_equal(world, &agent)?;
                if rewound {
                    done += 1;
                    large.redo(&agent, before)?;
                    large.new = image::settled(&large.scene.db)?;
                }
            }
            say(&format!(
                "{journal}: {done} of {rounds} rewinds were done, of which {killed} were killed"
            ));
            ensure!(killed > 0, "nobody was killed");
            rewind(&large.scene, &agent, large.then)?.done()?;
            large.scene.prove_equal(world, &agent)
        });
    }
}

#[test]
fn a_rewind_whose_agent_is_killed_is_done_or_not() {
    scenario("rewind-agent-killed", binaries(), |world| {
        let mut agent = world.agent()?;
        let mut large = Large::make(world, &agent, "WAL")?;
        let (mut dice, mut killed) = (world.dice(8), 0);
        for _ in 0..4 {
            let (before, _) = settle(&large.scene, &agent)?;
            let ctl = agent.ctl();
            let txid = format!("{:x}", large.then);
            let reference = large.scene.reference.clone();
            let words = [
                "restore",
                &reference,
                "--in-place",
                "--yes",
                "--txid",
                &txid,
            ];
            let process = std::thread::scope(|scope| -> Result<Option<i32>> {
                let said = scope.spawn(|| ctl.run(words));
                let process = process_within(&agent, &said)?;
                std::thread::sleep(Duration::from_millis(dice.u64(0..400)));
                agent.kill()?;
                said.join().expect("no panic")?;
                Ok(process)
            })?;
            if let Some(process) = process {
                killed += 1;
                // Nobody tells it to go on: it ends by itself.
                wait("the process ends", || {
                    Ok(!Path::new(&format!("/proc/{process}/cmdline")).exists())
                })?;
            }
            agent = world.agent()?;
            agent.ctl().wait_following(&large.scene.reference)?;
            let rewound = large.is_rewound(world)?;
            large.prove_equal(world, &agent)?;
            if rewound {
                large.redo(&agent, before)?;
                large.new = image::settled(&large.scene.db)?;
            }
        }
        ensure!(killed > 0, "nobody was killed while a process rewound");
        rewind(&large.scene, &agent, large.then)?.done()?;
        large.scene.prove_equal(world, &agent)
    });
}
