//! What a node allows runs out: inotify watches, descriptors. And five hundred databases at once.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sqlrep_tests::process::output;
use sqlrep_tests::{
    Agent, AgentOptions, Pod, PodOptions, Sqlite, Workload, World, image, ltx, poll, say, scenario,
};

use crate::binaries;
use crate::large::peak;
use crate::scene::{Scene, fresh};

/// Databases that are there when the agent begins, and in how many pods.
const DATABASES: usize = 500;
const PODS: usize = 50;
/// Descriptors that an agent gets: enough for itself and a few databases.
const DESCRIPTORS: usize = 160;

/// A shell that leaves the agent in it a limit of inotify, which each user namespace has of its own.
fn within_limit(what: &str, most: u32) -> String {
    format!(
        "exec unshare --user --map-root-user \
         sh -c 'echo {most} > /proc/sys/user/max_inotify_{what} && exec \"$@\"' sh \"$@\""
    )
}

fn may_limit() -> bool {
    let mut command = Command::new("unshare");
    let tried = output(command.args(["--user", "--map-root-user", "true"]));
    tried.is_ok_and(|tried| tried.status.success())
}

/// An agent that cannot be told of what happens in a volume, and why it says so.
fn follows_without_hints(world: &World, what: &str, most: u32, word: &str) -> Result<()> {
    if !may_limit() {
        say("limits: SKIPPED, no user namespace is to be had here");
        return Ok(());
    }
    let options = AgentOptions {
        within: Some(within_limit(what, most)),
        ..AgentOptions::default()
    };
    let agent = world.agent_with(options)?;
    let workload = Workload::new(world.seed);
    let begun = Instant::now();
    let scene = Scene::followed(world, &agent, "app", &workload)?;
    let found = begun.elapsed();
    let mut writer = workload.start(world, &scene.db, 0)?;
    writer.wait_commits(300)?;
    let said = writer.pause()?;
    ensure!(said["busy"] == 0, "the app noticed: {said}");
    scene.prove_equal(world, &agent)?;
    let later = scene.db.with_file_name("later.db");
    Sqlite::once(&later, "CREATE TABLE t (x); INSERT INTO t VALUES (1);")?;
    agent.ctl().wait_following("app/data/later.db")?;
    say(&format!(
        "{most} inotify {what}: found in {found:?}, the next in {:?}",
        begun.elapsed()
    ));
    let log = agent.log()?;
    ensure!(log.contains(word), "it does not say {word}: {log}");
    scene.pod.delete()?;
    poll("the pod is let go of", Duration::from_mins(1), || {
        Ok(agent.ctl().row(&scene.reference)?.is_none().then_some(()))
    })?;
    agent.terminate()
}

#[test]
fn an_agent_that_gets_no_inotify_watch_follows_all_the_same() {
    scenario("limits-watches", binaries(), |world| {
        follows_without_hints(world, "watches", 1, "fs.inotify.max_user_watches")
    });
}

#[test]
fn an_agent_that_gets_no_inotify_instance_follows_all_the_same() {
    scenario("limits-instances", binaries(), |world| {
        follows_without_hints(world, "instances", 0, "fs.inotify.max_user_instances")
    });
}

/// A pod with databases that stand in its volume before the agent hears of them.
fn crowd(world: &World, app: &str, databases: usize) -> Result<Pod> {
    let pod = Pod::prepare(world, PodOptions::app(app).ungated())?;
    for number in 0..databases {
        let sql = format!(
            "PRAGMA journal_mode = wal; CREATE TABLE t (x); INSERT INTO t VALUES ('{app}/{number}');"
        );
        Sqlite::once(&pod.db(&format!("{number}.db")), &sql)?;
    }
    Ok(pod)
}

/// Waits until an agent follows so many databases, and says how long it took.
fn wait_all(agent: &Agent, most: Duration, databases: usize) -> Result<Duration> {
    let begun = Instant::now();
    let mut last = 0;
    let followed = poll("all are followed", most, || {
        let rows = agent.ctl().list()?;
        last = rows.iter().filter(|row| row.state() == "following").count();
        Ok((last == databases).then_some(()))
    });
    ensure!(followed.is_ok(), "{last} of {databases} are followed");
    Ok(begun.elapsed())
}

/// Each replica restores to what its database holds.
fn prove_each(world: &World, pods: &[Pod], databases: usize) -> Result<()> {
    for pod in pods {
        for number in 0..databases {
            let replica = world.replica(&format!("{}/data/{number}.db", pod.app));
            let out = fresh(world, "crowd");
            world.ctl().restore(&replica, &out, &[])?.done()?;
            let source = image::settled(&pod.db(&format!("{number}.db")))?;
            image::same(&replica.display().to_string(), &source, &fs::read(&out)?)?;
            fs::remove_file(out)?;
        }
    }
    Ok(())
}

#[test]
fn five_hundred_databases_at_once_are_followed_by_an_agent_that_begins() {
    scenario("limits-crowd", binaries(), |world| {
        let each = DATABASES / PODS;
        let mut pods = Vec::new();
        for number in 0..PODS {
            pods.push(crowd(world, &format!("app{number}"), each)?);
        }
        for pod in &pods {
            pod.announce()?;
        }
        // As container runtimes begin processes: it takes what it may have.
        let options = AgentOptions {
            within: Some("ulimit -Sn 1024; exec \"$@\"".into()),
            ..AgentOptions::default()
        };
        let agent = world.agent_with(options)?;
        let first = wait_all(&agent, Duration::from_mins(3), DATABASES)?;
        let memory = peak(agent.pid())?;
        agent.kill()?;
        // What was committed while no agent looked, in each of them.
        for pod in &pods {
            for number in 0..each {
                let sql = "INSERT INTO t VALUES (randomblob(100));";
                Sqlite::once(&pod.db(&format!("{number}.db")), sql)?;
            }
        }
        let agent = world.agent()?;
        let again = wait_all(&agent, Duration::from_mins(3), DATABASES)?;
        let fds = fs::read_dir(format!("/proc/{}/fd", agent.pid()))?.count();
        let heads = || -> Result<bool> {
            for pod in &pods {
                for number in 0..each {
                    let replica = world.replica(&format!("{}/data/{number}.db", pod.app));
                    if ltx::head(&replica)? < 2 {
                        return Ok(false);
                    }
                }
            }
            Ok(true)
        };
        poll("all is shipped", Duration::from_mins(2), || {
            Ok(heads()?.then_some(()))
        })?;
        say(&format!(
            "{DATABASES} databases: followed in {first:?}, after a kill in {again:?}, {memory} KiB, \
             {fds} descriptors"
        ));
        prove_each(world, &pods, each)?;
        agent.terminate()
    });
}

#[test]
fn an_agent_without_descriptors_says_so_and_loses_nothing() {
    scenario("limits-descriptors", binaries(), |world| {
        let options = AgentOptions {
            within: Some(format!("ulimit -n {DESCRIPTORS}; exec \"$@\"")),
            ..AgentOptions::default()
        };
        let agent = world.agent_with(options)?;
        let workload = Workload::new(world.seed);
        let scene = Scene::followed(world, &agent, "first", &workload)?;
        let mut writer = workload.start(world, &scene.db, 0)?;
        let mut pods = Vec::new();
        for number in 0..6 {
            pods.push(crowd(world, &format!("app{number}"), 8)?);
        }
        for pod in &pods {
            pod.announce()?;
        }
        poll("it is said", Duration::from_mins(1), || {
            Ok(agent.log()?.contains("Too many open files").then_some(()))
        })?;
        // It lives, and so does the app, and a person can ask.
        writer.wait_commits(500)?;
        let listed = poll("it answers", Duration::from_mins(1), || {
            Ok(agent.ctl().list().ok())
        })?;
        let followed = listed.iter().filter(|row| row.state() == "following");
        say(&format!(
            "{DESCRIPTORS} descriptors: {} of {} listed are followed",
            followed.count(),
            listed.len()
        ));
        let said = writer.pause()?;
        ensure!(said["busy"] == 0, "the app noticed: {said}");
        agent.kill()?;
        let agent = world.agent()?;
        wait_all(&agent, Duration::from_mins(2), 6 * 8 + 1)?;
        scene.prove_equal(world, &agent)?;
        scene.prove_contiguous(0)?;
        for pod in &pods {
            for number in 0..8 {
                agent.ctl().sync(&format!("{}/data/{number}.db", pod.app))?;
            }
        }
        prove_each(world, &pods, 8)?;
        agent.terminate()
    });
}
