//! A rewind that is stopped before each word between agent and process in turn, and what is killed
//! then: none sampled, all of them.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sqlrep_tests::{Agent, AgentOptions, Between, World, image, poll, say, scenario, wait};

use crate::binaries;
use crate::rewind::{Large, rewind, settle};
use crate::scene::Point;

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Process,
    Agent,
    Both,
}

#[test]
fn a_rewind_of_a_wal_killed_before_any_word_is_done_or_not() {
    at_every_word("WAL");
}

#[test]
fn a_rewind_without_a_wal_killed_before_any_word_is_done_or_not() {
    at_every_word("DELETE");
}

/// What it was stays a point for as long as this may take.
fn options() -> AgentOptions {
    AgentOptions::default().flag("--l0-retention", "10h")
}

fn at_every_word(journal: &str) {
    scenario(&format!("steps-{journal}"), binaries(), |world| {
        if std::env::var_os("SQLREP_AGENT_BIN").is_some() {
            say("steps: SKIPPED, nobody can stand between an agent that was given and its process");
            return Ok(());
        }
        let mut agent = world.agent_with(options())?;
        let mut large = Large::with_pages(world, &agent, journal, 512)?;
        let between = Between::new(world)?;
        let mut words = Vec::new();
        let mut done = 0;
        for word in 0.. {
            let mut last = String::new();
            for victim in [Victim::Process, Victim::Agent, Victim::Both] {
                let round = (word, victim);
                let stopped = once(world, &mut agent, &mut large, &between, round)?;
                let Some((stopped, rewound)) = stopped else {
                    ensure!(victim == Victim::Process, "{round:?} stopped before");
                    let all = words.join(", ");
                    say(&format!(
                        "{journal}: killed before each of {all}; {done} were done"
                    ));
                    ensure!(words.len() > 6, "some words about progress: {all}");
                    return Ok(());
                };
                ensure!(
                    rewound || stopped != "done" || victim == Victim::Agent,
                    "it was done when {victim:?} was killed"
                );
                ensure!(
                    !rewound || !["ready", "lock", "locked"].contains(&stopped.as_str()),
                    "nobody told it to write before {stopped}"
                );
                done += u32::from(rewound);
                last = stopped;
            }
            words.push(last);
        }
        Ok(())
    });
}

/// One rewind that ends early. The word before which it was stopped, and whether it was done all
/// the same; `None`: it has no such word, and was done.
fn once(
    world: &World,
    agent: &mut Agent,
    large: &mut Large,
    between: &Between,
    (word, victim): (u32, Victim),
) -> Result<Option<(String, bool)>> {
    let (before, _) = settle(&large.scene, agent)?;
    between.stop_before(Some(word))?;
    let mut gone = None;
    let stopped = std::thread::scope(|scope| -> Result<Option<String>> {
        let said = scope.spawn(|| rewind(&large.scene, agent, large.then));
        let stopped = poll("it stops or ends", Duration::from_mins(1), || {
            let stopped = between.stopped();
            Ok((stopped.is_some() || said.is_finished()).then_some(stopped))
        })?;
        if stopped.is_some() {
            if victim != Victim::Agent {
                between.kill()?;
            }
            if victim != Victim::Process {
                let pid = i32::try_from(agent.pid())?;
                let pid = rustix::process::Pid::from_raw(pid).context("a process id")?;
                rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
                gone = Some(());
            }
        }
        let said = said.join().expect("no panic")?;
        ensure!(
            (said.code == 0) == stopped.is_none(),
            "{word} {victim:?}: {} {}",
            said.code,
            said.err
        );
        Ok(stopped)
    })?;
    if gone.is_some() {
        agent.ends()?;
        // It is done, or not, once the process has ended too; that may be at its last write.
        wait("the process ends", || Ok(!between.process_runs()?))?;
        *agent = world.agent_with(options())?;
        agent.ctl().wait_following(&large.scene.reference)?;
    }
    between.stop_before(None)?;
    let rewound = large.is_rewound(world)?;
    large.prove_equal(world, agent)?;
    if let Some(word) = &stopped {
        let context = || format!("before {word}, {victim:?} killed");
        for (txid, image) in [(large.then, &large.old), (before, &large.new)] {
            kept(world, large, txid, image).with_context(context)?;
        }
    }
    if rewound {
        wait("it is undone", || Ok(large.redo(agent, before).is_ok()))?;
    }
    large.new = image::settled(&large.scene.db)?;
    Ok(stopped.map(|word| {
        (
            word.split(' ').next().unwrap_or_default().to_owned(),
            rewound,
        )
    }))
}

/// A kept point restores, with ours and with both peers, just as it was.
fn kept(world: &World, large: &Large, txid: u64, image: &[u8]) -> Result<()> {
    for (who, restored) in large.scene.restore_all(world, &Point::Txid(txid))? {
        image::same(
            &format!("TXID {txid} and {who}"),
            image,
            &fs::read(&restored)?,
        )?;
        fs::remove_file(restored)?;
    }
    Ok(())
}
