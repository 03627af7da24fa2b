//! A large database: above the lock page when it is larger than a gigabyte, and in little memory
//! however large it is.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use sqlrep_tests::world::knob;
use sqlrep_tests::{AgentOptions, Pod, PodOptions, Sqlite, World, image, ltx, say, scenario, wait};

use crate::binaries;
use crate::scene::{Scene, fresh};

/// What agent and client may take at their largest, in KiB, be the database 2 GB.
const MEMORY_KIB_MAX: u64 = 64 << 10;

/// Runs a command and says how much memory it took at its largest, in KiB.
const MEASURE: &str = "import resource, subprocess, sys
ended = subprocess.run(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(ended.returncode)";

/// The largest memory of a process that runs, in KiB.
pub(crate) fn peak(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.context("VmHWM")?.parse()?)
}

/// Restores from the directory alone; the exit code, and how much memory that took.
pub(crate) fn restore_measured(world: &World, replica: &Path, out: &Path) -> Result<(i32, u64)> {
    let mut command = Command::new("python3");
    command.args(["-c", MEASURE]).arg(&world.binaries.ctl);
    command.arg("restore").arg("--replica").arg(replica);
    let said = command.arg("-o").arg(out).output()?;
    let text = String::from_utf8_lossy(&said.stdout);
    let kib = text.trim().parse();
    let kib = kib.with_context(|| format!("{text:?} is no number"))?;
    Ok((said.status.code().context("an exit code")?, kib))
}

/// The same for one that must work.
fn restore(world: &World, replica: &Path, out: &Path) -> Result<u64> {
    let (code, kib) = restore_measured(world, replica, out)?;
    ensure!(code == 0, "restore exited with {code}");
    Ok(kib)
}

#[test]
fn a_large_database_is_snapshotted_compacted_and_restored_in_little_memory() {
    scenario("large", binaries(), |world| {
        let megabytes = knob("SQLREP_E2E_MEGABYTES", 48);
        let scene = Scene::of(
            world,
            Pod::prepare(world, PodOptions::app("app").ungated())?,
        );
        // a page a row, half of it noise
        let value = "hex(randomblob(900)) || hex(zeroblob(850))";
        let rows = megabytes * 256;
        Sqlite::once(
            &scene.db,
            &format!(
                "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; \
                 CREATE TABLE t (id INTEGER PRIMARY KEY, x TEXT); \
                 INSERT INTO t SELECT value, {value} FROM generate_series(1, {rows}); \
                 PRAGMA journal_mode = WAL;"
            ),
        )?;
        scene.pod.announce()?;
        let options = AgentOptions {
            flags: ["--levels", "1s,5s"].map(String::from).to_vec(),
            ..AgentOptions::default()
        };
        let agent = world.agent_with(options)?;
        agent.ctl().wait_following(&scene.reference)?;
        let begun = peak(agent.pid())?;
        agent.ctl().run(["snapshot", &scene.reference])?.done()?;
        let snapshotted = peak(agent.pid())?;
        // all over the file, the end and what lies beyond the lock page included
        for round in 0..3 {
            let change = format!("UPDATE t SET x = {value} WHERE id % 997 = {round};");
            Sqlite::once(&scene.db, &format!("PRAGMA busy_timeout = 30000; {change}"))?;
            agent.ctl().sync(&scene.reference)?;
        }
        wait("it is compacted", || {
            Ok(!ltx::level(&scene.replica, 1)?.is_empty())
        })?;
        agent.ctl().run(["snapshot", &scene.reference])?.done()?;
        let out = fresh(world, "agent");
        let name = out.to_str().context("UTF-8")?;
        let words = ["restore", &scene.reference, "-o", name];
        agent.ctl().run(words)?.done()?;
        image::integrity(&out)?;
        fs::remove_file(&out)?;
        let agent_kib = peak(agent.pid())?;
        let out = fresh(world, "offline");
        let client_kib = restore(world, &scene.replica, &out)?;
        let bytes = fs::metadata(&out)?.len();
        fs::remove_file(&out)?;
        say(&format!(
            "large: {} pages; the agent took at most {begun} KiB to capture, {snapshotted} with a \
             snapshot, {agent_kib} in all; a restore without it {client_kib}",
            bytes / 4096
        ));
        ensure!(bytes >= megabytes << 20, "{bytes} bytes were restored");
        ensure!(agent_kib < MEMORY_KIB_MAX, "the agent took {agent_kib} KiB");
        ensure!(
            client_kib < MEMORY_KIB_MAX,
            "the client took {client_kib} KiB"
        );
        scene.prove_equal(world, &agent)
    });
}
