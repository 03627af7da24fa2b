//! Callers that are no clients: silent ones on every place, and a thousand at once.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use sqlrep_tests::ctl::Ctl;
use sqlrep_tests::process::Process;
use sqlrep_tests::{Agent, AgentOptions, Sqlite, Workload, World, say, scenario, wait};

use crate::binaries;
use crate::damage::free_port;
use crate::large::peak;
use crate::scene::Scene;

/// How HTTP/2 begins, and the empty SETTINGS that follow.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Connections that an agent has at once on one socket.
const PLACES: usize = 64;

/// An agent that is served on a port too, with a database; and who asks there.
fn served(world: &World) -> Result<(Agent, Scene, u16, Ctl)> {
    let port = free_port()?;
    let options = AgentOptions::default().flag("--listen", &format!("127.0.0.1:{port}"));
    let agent = world.agent_with(options)?;
    let scene = Scene::followed(world, &agent, "app", &Workload::new(world.seed))?;
    let ctl = Ctl::new(&world.binaries.ctl, Some(format!("127.0.0.1:{port}")));
    ensure!(ctl.list()?.len() == 1, "the port is not served");
    Ok((agent, scene, port, ctl))
}

/// Files that an agent has open and nobody else can see: those of restores on their way to callers.
fn scratch(agent: &Agent) -> Result<usize> {
    let open = fs::read_dir(format!("/proc/{}/fd", agent.pid()))?;
    let open = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let scratch = |path: &std::path::PathBuf| {
        let path = path.to_string_lossy();
        path.contains("/scratch/restore-") && path.ends_with(" (deleted)")
    };
    Ok(open.filter(scratch).count())
}

fn descriptors(agent: &Agent) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{}/fd", agent.pid()))?.count())
}

#[test]
fn who_says_nothing_or_half_a_word_holds_no_place() {
    scenario("wire-silent", binaries(), |world| {
        let (agent, scene, port, ctl) = served(world)?;
        let mut silent = Vec::new();
        for number in 0..PLACES + 20 {
            let mut socket = TcpStream::connect(("127.0.0.1", port))?;
            if number % 2 == 0 {
                socket.write_all(&PREFACE[..20])?;
            }
            silent.push(socket);
        }
        let begun = Instant::now();
        wait("a client is served", || {
            Ok(ctl.list().is_ok_and(|rows| rows.len() == 1))
        })?;
        let took = begun.elapsed();
        say(&format!(
            "served after {took:?} behind {} silent callers",
            silent.len()
        ));
        ensure!(
            took > Duration::from_secs(5),
            "the places were not taken: {took:?}"
        );
        ensure!(
            agent.ctl().list()?.len() == 1,
            "the unix socket has places of its own"
        );
        scene.prove_equal(world, &agent)
    });
}

#[test]
fn a_thousand_callers_at_once_are_answered_in_bounded_memory_and_descriptors() {
    scenario("wire-thousand", binaries(), |world| {
        let limit = getrlimit(Resource::Nofile);
        let wanted = Rlimit {
            current: limit.maximum.map(|most| most.min(8192)),
            ..limit
        };
        setrlimit(Resource::Nofile, wanted)?;
        let (agent, scene, port, ctl) = served(world)?;
        let (fds, memory) = (descriptors(&agent)?, peak(agent.pid())?);
        let answered = AtomicUsize::new(0);
        let mut most = 0;
        std::thread::scope(|scope| {
            let callers: Vec<_> = (0..1000)
                .map(|_| {
                    scope.spawn(|| -> Result<()> {
                        let mut socket = TcpStream::connect(("127.0.0.1", port))?;
                        socket.set_read_timeout(Some(Duration::from_mins(1)))?;
                        socket.write_all(PREFACE)?;
                        let mut settings = [0; 9];
                        socket.read_exact(&mut settings)?;
                        answered.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(200));
                        Ok(())
                    })
                })
                .collect();
            while !callers
                .iter()
                .all(std::thread::ScopedJoinHandle::is_finished)
            {
                most = most.max(descriptors(&agent)?);
                std::thread::sleep(Duration::from_millis(20));
            }
            callers
                .into_iter()
                .try_for_each(|caller| caller.join().expect("no panic"))
        })?;
        let grown = peak(agent.pid())?;
        say(&format!(
            "{} answered; {fds} descriptors, at most {most}; {memory} KiB, at most {grown}",
            answered.load(Ordering::Relaxed)
        ));
        ensure!(
            answered.load(Ordering::Relaxed) == 1000,
            "not all were answered"
        );
        ensure!(most <= fds + PLACES + 8, "{most} descriptors");
        ensure!(grown < memory + (32 << 10), "{grown} KiB");
        ensure!(ctl.list()?.len() == 1, "it serves no more");
        scene.prove_equal(world, &agent)
    });
}

#[test]
fn a_restore_that_nobody_reads_hinders_nobody_and_ends_with_its_caller() {
    scenario("wire-unread", binaries(), |world| {
        let (agent, scene, port, ctl) = served(world)?;
        Sqlite::once(
            &scene.db,
            "CREATE TABLE big (x); INSERT INTO big SELECT randomblob(1000000) FROM \
             generate_series(1, 64);",
        )?;
        agent.ctl().sync(&scene.reference)?;
        let mut command = Command::new(&world.binaries.ctl);
        command.args(["--agent", &format!("127.0.0.1:{port}"), "restore"]);
        command
            .args([&scene.reference, "-o"])
            .arg(world.path("never.db"));
        let mut caller = Process::logged("a client", &mut command, &world.path("ctl.log"))?;
        while scratch(&agent)? == 0 {
            ensure!(
                caller.ended()?.is_none(),
                "it ended before it could be stopped"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        caller.signal(Signal::STOP)?;
        std::thread::sleep(Duration::from_secs(1));
        ensure!(scratch(&agent)? == 1, "it had read all of it");
        ensure!(ctl.list()?.len() == 1, "others wait for it");
        agent.ctl().sync(&scene.reference)?;
        caller.kill()?;
        wait("the restore is let go of", || Ok(scratch(&agent)? == 0))
    });
}
