//! A pod as an enemy, beside one that is none: the agent stays small, says what it refuses, and the
//! neighbour notices nothing.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use sqlrep_tests::{
    Agent, AgentOptions, Pod, PodOptions, Sqlite, Workload, World, image, pod, poll, say, scenario,
    wait,
};

use crate::binaries;
use crate::large::{peak, restore_measured};
use crate::scene::{Scene, fresh};

/// Files that the enemy makes, and directories in one another.
const FLOOD: usize = 100_000;
const DEEP: usize = 1_000;
/// What looks like a database and is none, with dice for bytes.
const CRAFTED: usize = 200;
/// Files of a replica that were changed; each is a run of the client.
const TAMPERED: usize = 60;
/// What the agent may take at its largest: 1,000 databases of one volume are followed.
const MEMORY_KIB_MAX: u64 = 192 << 10;
/// What the client may take for a small database, whatever a file of its replica claims.
const CLIENT_KIB_MAX: u64 = 64 << 10;
/// A thread and some descriptors for each of those.
const DESCRIPTORS_MAX: usize = 12_000;
/// Of one core, once everything was looked at.
const CPU_SHARE_MAX: f64 = 0.5;
/// How long the neighbour waits for a commit of its to be on the share.
const SYNC_MAX: Duration = Duration::from_secs(20);

/// User and system time of a process, in seconds.
fn cpu(agent: &Agent) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", agent.pid()))?;
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .context("a name")?
        .1
        .split_whitespace()
        .collect();
    let ticks: u32 = fields[11].parse::<u32>()? + fields[12].parse::<u32>()?;
    // a hundred a second on every Linux that Rust runs on
    Ok(f64::from(ticks) / 100.0)
}

fn descriptors(agent: &Agent) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{}/fd", agent.pid()))?.count())
}

/// Special files and links under names of databases, to what is not the pod's.
fn specials(dir: &Path, theirs: &Path) -> Result<()> {
    fs::create_dir(dir)?;
    for (name, target) in [
        ("shadow.db", Path::new("/etc/shadow")),
        ("theirs.db", theirs),
    ] {
        symlink(target, dir.join(name))?;
    }
    symlink(
        theirs.parent().context("a volume")?,
        dir.join("their-volume"),
    )?;
    symlink("..", dir.join("up"))?;
    symlink("loop", dir.join("loop"))?;
    hard_link(theirs, &dir.join("second-name.db"))?;
    // one that nobody follows, for a claimed inode is not looked at under any name: it comes into their
    // volume with two names
    let idle = dir.join("idle.db");
    Sqlite::once(&idle, "CREATE TABLE t (x);")?;
    hard_link(&idle, &theirs.with_file_name("idle.txt"))?;
    fs::create_dir(dir.join("dir.db"))?;
    for (name, kind) in [("fifo.db", FileType::Fifo), ("socket.db", FileType::Socket)] {
        mknodat(CWD, dir.join(name), kind, Mode::RWXU, 0)?;
    }
    // only root makes devices: memory, and the kernel's log
    if rustix::process::geteuid().is_root() {
        let device = rustix::fs::makedev(1, 1);
        mknodat(
            CWD,
            dir.join("device.db"),
            FileType::CharacterDevice,
            Mode::RWXU,
            device,
        )?;
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "tests play a hostile pod")]
fn hard_link(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::hard_link(from, to)
}

/// Databases with headers, WALs and journals that dice made; a sound one is their beginning.
fn crafted(world: &World, dir: &Path) -> Result<()> {
    fs::create_dir(dir)?;
    let sound = dir.join("sound.db");
    Workload::new(world.seed).init(&sound)?;
    let image = fs::read(&sound)?;
    let mut dice = world.dice(7);
    for number in 0..CRAFTED {
        let path = dir.join(format!("crafted{number}.db"));
        let mut bytes = image.clone();
        for _ in 0..dice.usize(1..12) {
            // after the magic, so that it is taken for a database
            bytes[dice.usize(16..100)] = dice.u8(..);
        }
        bytes.truncate(dice.usize(100..bytes.len()));
        fs::write(&path, bytes)?;
        for end in ["-wal", "-shm", "-journal"] {
            if dice.bool() {
                let mut noise = vec![0; dice.usize(0..40_000)];
                dice.fill(&mut noise);
                fs::write(dir.join(format!("crafted{number}.db{end}")), noise)?;
            }
        }
    }
    Ok(())
}

/// Ten terabytes that are all holes, with a header that says so too.
fn sparse(path: &Path) -> Result<()> {
    Sqlite::once(path, "CREATE TABLE t (x);")?;
    let file = File::options().write(true).open(path)?;
    let pages: u32 = 2_684_354_560;
    file.write_all_at(&pages.to_be_bytes(), 28)?;
    if file.set_len(u64::from(pages) * 4096).is_err() {
        say("hostile: this file system holds no sparse file of ten terabytes; it is left out");
        fs::remove_file(path)?;
    }
    Ok(())
}

/// Many files, some of them databases by their first bytes, and a tree that is deeper than a path.
fn flood(dir: &Path) -> Result<()> {
    fs::create_dir(dir)?;
    for number in 0..FLOOD {
        let file = File::create(dir.join(format!("{number}.db")))?;
        if number % 20 == 0 {
            file.write_all_at(b"SQLite format 3\0", 0)?;
        }
    }
    let mut deep = dir.to_owned();
    for _ in 0..DEEP {
        deep.push("d");
    }
    Ok(fs::create_dir_all(deep)?)
}

/// Databases by names that a terminal, a path or a text would stumble over.
fn odd_names(dir: &Path) -> Result<Vec<String>> {
    fs::create_dir(dir)?;
    let names: [&[u8]; 4] = [
        b"a\nb.db",
        b"\x1b[2J\x07.db",
        b"\xff\xfe.db",
        b"%2e%2e%2f.db",
    ];
    for name in names {
        let path = dir.join(OsStr::from_bytes(name));
        let odd = rusqlite::Connection::open(&path)?;
        odd.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (x);")?;
    }
    Ok(vec![
        "a%0".into(),
        "%1".into(),
        "%FF".to_lowercase(),
        "%252".into(),
    ])
}

#[test]
fn a_hostile_pod_costs_little_and_its_neighbour_nothing() {
    scenario("hostile", binaries(), |world| {
        let agent = world.agent()?;
        let workload = Workload::new(world.seed);
        let good = Scene::followed(world, &agent, "good", &workload)?;
        good.prove_equal(world, &agent)?;
        let (memory, open) = (peak(agent.pid())?, descriptors(&agent)?);

        let enemy = Pod::prepare(world, PodOptions::app("enemy").ungated())?;
        specials(&enemy.db("specials"), &good.db)?;
        crafted(world, &enemy.db("crafted"))?;
        sparse(&enemy.db("sparse.db"))?;
        let odd = odd_names(&enemy.db("odd"))?;
        enemy.announce()?;
        let more = PodOptions::app("flood").ungated();
        let more = Pod::prepare(world, more)?;
        flood(&more.db("flood"))?;
        more.announce()?;
        let mut writer = workload.start(world, &good.db, 0)?;
        poll("the names are found", Duration::from_mins(2), || {
            let names: Vec<String> = agent
                .ctl()
                .list()?
                .iter()
                .map(sqlrep_tests::ctl::Row::reference)
                .collect();
            let found = odd
                .iter()
                .filter(|odd| names.iter().any(|name| name.contains(*odd)));
            Ok((found.count() > 0 || names.len() > 100).then_some(()))
        })?;
        std::thread::sleep(Duration::from_secs(20));
        let (begun, before) = (Instant::now(), cpu(&agent)?);
        writer.pause()?;
        std::thread::sleep(Duration::from_secs(10));
        let share = (cpu(&agent)? - before) / begun.elapsed().as_secs_f64();
        let asked = Instant::now();
        good.prove_equal(world, &agent)?;
        let proven = asked.elapsed();
        let (most, now) = (peak(agent.pid())?, descriptors(&agent)?);
        say(&format!(
            "hostile: memory {memory} KiB, then at most {most}; descriptors {open}, then {now}; \
             {:.1} % of a core; the neighbour was proven in {:.1} s; {} databases are listed",
            share * 100.0,
            proven.as_secs_f64(),
            agent.ctl().list()?.len()
        ));
        ensure!(most < MEMORY_KIB_MAX, "{most} KiB of memory");
        ensure!(now < DESCRIPTORS_MAX, "{now} descriptors");
        ensure!(share < CPU_SHARE_MAX, "{share} of a core");
        ensure!(proven < SYNC_MAX, "the neighbour waited {proven:?}");
        refused(world, &agent)?;
        let said = agent.ctl().run(["list"])?.done()?;
        ensure!(
            !said.out.contains('\u{1b}'),
            "an escape sequence reached the terminal"
        );
        Ok(())
    });
}

/// What the enemy linked to is neither followed nor on the share, and the log says why.
fn refused(world: &World, agent: &Agent) -> Result<()> {
    for row in agent.ctl().list()? {
        let name = row.reference();
        let special = name.contains("specials") || name.contains("sparse");
        ensure!(!special || row.state() != "following", "{name} is followed");
    }
    for file in sqlrep_tests::ltx::below(&world.replicas())? {
        let name = file.to_string_lossy().into_owned();
        ensure!(
            !name.contains("specials") && !name.contains("sparse"),
            "{name} was replicated"
        );
        ensure!(file.starts_with(world.replicas()), "{name}");
    }
    let log = agent.log()?;
    for said in [
        "idle.db",
        "more than 20000 files",
        "sparse.db is refused",
        "shadow.db",
    ] {
        ensure!(log.contains(said), "the log does not say {said}");
    }
    Ok(())
}

#[test]
fn annotations_that_are_made_to_lead_out_are_named_and_lead_nowhere() {
    scenario("injection", binaries(), |world| {
        let agent = world.agent_with(AgentOptions::default())?;
        let wrong = [
            ("app", "../../../etc"),
            ("app", "a/b"),
            ("app", "a\nINFO forged"),
            ("volumes", "../data"),
            ("databases", "../**"),
            ("databases", "/etc/shadow"),
            ("sync-interval", "-1s"),
            ("retention", "99999999999999999999d"),
            ("restore", "required; auto"),
            ("journal-mode", "wal'; ATTACH '/etc/shadow' AS x; --"),
        ];
        let mut pods = Vec::new();
        for (number, (key, value)) in wrong.iter().enumerate() {
            let options = PodOptions::app(&format!("wrong{number}")).annotate(key, value);
            let pod = Pod::prepare(world, options.ungated())?;
            Sqlite::once(&pod.db("app.db"), "CREATE TABLE t (x);")?;
            pod.announce()?;
            pods.push(pod);
        }
        let good = Scene::followed(world, &agent, "good", &Workload::new(world.seed))?;
        good.prove_equal(world, &agent)?;
        wait("every wrong value is named", || {
            let log = agent.log()?;
            Ok(wrong
                .iter()
                .all(|(key, _)| log.contains(&format!("sqlrep.io/{key}"))))
        })?;
        for line in agent.log()?.lines() {
            ensure!(
                !line.starts_with("INFO forged"),
                "a line was forged: {line}"
            );
        }
        for entry in fs::read_dir(world.replicas())? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            ensure!(
                [".sqlrep-root.json", "default"].contains(&name.as_str()),
                "{name}"
            );
        }
        for file in sqlrep_tests::ltx::below(&world.replicas())? {
            ensure!(
                file.starts_with(world.replicas().join("default")),
                "{}",
                file.display()
            );
        }
        Ok(())
    });
}

#[test]
fn a_volume_that_is_exchanged_for_a_link_while_it_is_restored_to_gets_nothing() {
    scenario("exchanged", binaries(), |world| {
        let agent = world.agent()?;
        let scene = Scene::followed(world, &agent, "app", &Workload::new(world.seed))?;
        scene.prove_equal(world, &agent)?;
        scene.pod.delete()?;
        let outside = world.path("outside");
        fs::create_dir(&outside)?;
        // the name of the database, and the directory that it is to be put into
        let next = Pod::prepare(world, PodOptions::app("app"))?;
        symlink(outside.join("app.db"), next.db("app.db"))?;
        next.announce()?;
        std::thread::sleep(Duration::from_secs(3));
        ensure!(
            fs::read_dir(&outside)?.next().is_none(),
            "something was put outside"
        );
        next.delete()?;
        let next = Pod::prepare(world, PodOptions::app("app"))?;
        let data = next.volume("data");
        pod::rename(&data, &world.path("moved"))?;
        symlink(&outside, &data)?;
        next.announce()?;
        std::thread::sleep(Duration::from_secs(3));
        ensure!(
            fs::read_dir(&outside)?.next().is_none(),
            "something was put outside"
        );
        ensure!(
            next.status()?
                .is_none_or(|status| status["phase"] != "ready"),
            "the gate opened without the data"
        );
        fs::remove_file(&data)?;
        pod::rename(&world.path("moved"), &data)?;
        next.wait_ready()?;
        ensure!(next.db("app.db").is_file(), "nothing was put back");
        Ok(())
    });
}

/// A file of the replica with some bytes as the dice have it: the header, the index or the end, for
/// what lies in between is under checksums that everybody reads last.
fn tampered(bytes: &[u8], dice: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let length = bytes.len();
    for _ in 0..dice.usize(1..6) {
        let at = match dice.u8(..3) {
            0 => dice.usize(..100),
            1 => dice.usize(length.saturating_sub(64)..length),
            _ => dice.usize(..length),
        };
        bytes[at] = if dice.bool() { 0xff } else { dice.u8(..) };
    }
    if dice.u8(..4) == 0 {
        bytes.truncate(dice.usize(..length));
    }
    bytes
}

#[test]
fn a_crafted_file_in_a_replica_is_refused_in_little_memory() {
    scenario("crafted-ltx", binaries(), |world| {
        let agent = world.agent()?;
        let scene = Scene::followed(world, &agent, "app", &Workload::new(world.seed))?;
        scene.prove_equal(world, &agent)?;
        agent.kill()?;
        let file = sqlrep_tests::ltx::level(&scene.replica, 0)?;
        let path = file.last().context("there are files")?.path.clone();
        for level in 1..=9 {
            fs::remove_dir_all(scene.replica.join("ltx").join(level.to_string())).ok();
        }
        let sound = fs::read(&path)?;
        let whole = fresh(world, "whole");
        ensure!(restore_measured(world, &scene.replica, &whole)?.0 == 0);
        let mut dice = world.dice(3);
        let (mut refused, mut most) = (0, 0);
        for _ in 0..TAMPERED {
            let crafted = tampered(&sound, &mut dice);
            if crafted == sound {
                continue;
            }
            fs::write(&path, crafted)?;
            let out = fresh(world, "crafted");
            let (code, kib) = restore_measured(world, &scene.replica, &out)?;
            if code == 0 {
                // The checksums cover pages, and some bytes can be others for the same pages.
                image::same_files("what is taken for sound", &whole, &out)?;
                continue;
            }
            ensure!(code == 1, "exit code {code}");
            ensure!(!out.exists(), "something was restored");
            (refused, most) = (refused + 1, kib.max(most));
        }
        say(&format!(
            "crafted-ltx: {refused} refused, at most {most} KiB of memory"
        ));
        ensure!(
            refused > TAMPERED / 2 && most < CLIENT_KIB_MAX,
            "{refused}, {most} KiB"
        );
        fs::write(&path, sound)?;
        let (code, _) = restore_measured(world, &scene.replica, &fresh(world, "sound"))?;
        ensure!(code == 0, "the sound one is refused too");
        Ok(())
    });
}
