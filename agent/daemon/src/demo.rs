//! The whole story on this machine: an app writes on one node, its pod is deleted, a new pod on
//! another node gets everything back. The agents are those of `run`, in processes of their own.

pub(crate) mod app;
mod client;
mod scene;

use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::args::DemoArgs;
use crate::shutdown::{Stop, Until};
use app::Count;
use scene::{Node, Pod, World};

/// How long the app writes on the first node.
const WRITES: Duration = Duration::from_secs(3);

/// How long it goes on writing on the second.
const WRITES_ON: Duration = Duration::from_secs(1);

/// Rows that the app commits per second, one transaction each.
const ROWS_PER_SECOND: u32 = 200;

/// Runs `sqlrep-agent demo`: 0 when everything came back, else 1.
pub(crate) fn run(args: &DemoArgs) -> ExitCode {
    let mut narrator = Narrator::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let told = match runtime {
        Ok(runtime) => runtime.block_on(perform(args, &mut narrator)),
        Err(error) => Err(error.into()),
    };
    match told {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            narrator.line("");
            narrator.line("Stopped. Nothing is left behind.");
            ExitCode::FAILURE
        }
        Err(error) => {
            narrator.line("");
            narrator.line(&format!("The demo FAILED: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Plays the story; `false` when it was interrupted. Everything it made is gone afterwards.
async fn perform(args: &DemoArgs, narrator: &mut Narrator) -> anyhow::Result<bool> {
    let mut stop = Stop::new(Until::Signal).context("cannot listen for signals")?;
    let world = World::new(args.dir.as_deref(), args.verbose)?;
    let played = tokio::select! {
        _ = stop.next() => Ok(false),
        played = story(&world, narrator) => played.map(|()| true),
    };
    if played.is_err() {
        for line in world.last_words() {
            narrator.line(&line);
        }
    }
    world.remove().await?;
    played
}

async fn story(world: &World, narrator: &mut Narrator) -> anyhow::Result<()> {
    narrator.line("sqlrep demo: one app, two nodes, one NAS.");
    narrator.line(&format!(
        "All of it is in {}, and removed at the end.",
        world.dir().display()
    ));
    narrator.line("");

    let node_a = world.node("node-a").await?;
    narrator.step(
        "node-a",
        "an agent runs here, as a DaemonSet would start it",
    );
    let (pod, written) = first_life(&node_a, narrator).await?;
    first_death(&node_a, pod, narrator).await?;

    let node_b = world.node("node-b").await?;
    narrator.step(
        "node-b",
        "another node: its own agent, its own empty disk, the same NAS",
    );
    let restored = second_life(&node_b, &written, narrator).await?;

    narrator.line("");
    narrator.line(&format!("  on node-a, when its pod was deleted: {written}"));
    narrator.line(&format!(
        "  on node-b, before the app started:   {restored}"
    ));
    if restored != written {
        bail!("the two databases differ");
    }
    narrator.line("");
    narrator.line(&format!(
        "Both are EQUAL: not one row of {} was lost, and the only change to the app was the label",
        written.rows
    ));
    narrator.line("sqlrep.io/replicate: \"true\".");
    where_it_was(world, &node_b, narrator);
    Ok(())
}

/// The app starts on an empty volume and writes; the agent follows.
async fn first_life(node: &Node, narrator: &mut Narrator) -> anyhow::Result<(Pod, Count)> {
    let pod = node.create_pod("notes-7d9f-abcde")?;
    narrator.step(
        "kubelet",
        &format!("pod {} lands on node-a; its volume is empty", pod.name()),
    );
    let gate = pod.wait_for_gate().await?;
    narrator.step(
        "gate",
        &format!("{gate}: no replica yet, so the app may start empty"),
    );
    let app = pod.start_app(ROWS_PER_SECOND)?;
    narrator.step(
        "app",
        &format!("commits row after row to {}", pod.shown_db()),
    );
    tokio::time::sleep(WRITES).await;
    let row = node.database("following").await?;
    narrator.step(
        "agent",
        &format!(
            "follows {}: TXID {} is on the NAS, the newest commit {} away from it",
            client::name(&row),
            row.shipped_txid(),
            client::lag(&row)
        ),
    );
    let written = app.finish().await?;
    narrator.step(
        "app",
        &format!("is told to stop; its last commit was row {}", written.rows),
    );
    Ok((pod, written))
}

/// The pod is deleted: its directory goes before anything more was asked of the agent.
async fn first_death(node: &Node, pod: Pod, narrator: &mut Narrator) -> anyhow::Result<()> {
    let held = pod.remove_directory()?;
    narrator.step(
        "kubelet",
        &format!("pod deleted: the volume ({held} files) is gone from disk"),
    );
    pod.remove_manifest()?;
    let manifest = node.wait_for_release().await?;
    narrator.step(
        "agent",
        "read the tail from the files it still had open, shipped it,",
    );
    narrator.step("", &format!("and let go of the replica: {manifest}"));
    Ok(())
}

/// A new pod on another node gets the database back, checks it, and goes on.
async fn second_life(
    node: &Node,
    written: &Count,
    narrator: &mut Narrator,
) -> anyhow::Result<Count> {
    let pod = node.create_pod("notes-7d9f-fghij")?;
    narrator.step(
        "kubelet",
        &format!("pod {} lands on node-b; its volume is empty", pod.name()),
    );
    let gate = pod.wait_for_gate().await?;
    narrator.step(
        "gate",
        &format!("{gate}: the database is back, the app may start"),
    );
    let restored = pod.count().await?;
    if restored != *written {
        return Ok(restored);
    }
    let app = pod.start_app(ROWS_PER_SECOND)?;
    tokio::time::sleep(WRITES_ON).await;
    let after = app.finish().await?;
    let row = node.database("following").await?;
    narrator.step(
        "app",
        &format!(
            "went on where it was: {} rows now, and TXID {} is on the NAS",
            after.rows,
            row.shipped_txid()
        ),
    );
    if after.rows <= restored.rows {
        bail!("the app could not go on writing on node-b");
    }
    Ok(restored)
}

fn where_it_was(world: &World, node: &Node, narrator: &mut Narrator) {
    narrator.line("");
    narrator.line("Where it was:");
    narrator.line(&format!("  the replica   {}", world.replica().display()));
    narrator.line(&format!(
        "  the databases {}",
        node.shown_volumes().display()
    ));
    narrator.line("On a real NAS it stays, and restores on any machine, with the cluster gone:");
    narrator
        .line("  sqlrepctl restore --replica <dir> -o app.db    (litestream restore works too)");
}

/// Tells the story with the time since its beginning.
#[derive(Debug)]
struct Narrator {
    begun: Instant,
    colour: bool,
    out: io::Stdout,
}

impl Narrator {
    fn new() -> Self {
        Self {
            begun: Instant::now(),
            colour: io::stdout().is_terminal(),
            out: io::stdout(),
        }
    }

    /// One step: who, and what happened. Nobody: the step before goes on.
    fn step(&mut self, who: &str, what: &str) {
        let seconds = self.begun.elapsed().as_secs_f64();
        let (bold, plain) = if self.colour {
            ("\x1b[1m", "\x1b[0m")
        } else {
            ("", "")
        };
        if who.is_empty() {
            self.line(&format!("                    {what}"));
        } else {
            self.line(&format!("  {seconds:5.1} s  {bold}{who:<8}{plain}  {what}"));
        }
    }

    fn line(&mut self, text: &str) {
        // A closed pipe ends the reading, not the demo: it still has to clean up.
        drop(writeln!(self.out, "{text}"));
    }
}

/// A path for people: relative to the demo's directory.
fn shorten(path: &Path, base: &Path) -> String {
    path.strip_prefix(base)
        .unwrap_or(path)
        .display()
        .to_string()
}

#[cfg(test)]
mod tests;
