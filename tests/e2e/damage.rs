//! A replica that goes bad: it is noticed, mended from whatever still has the pages, at last from the
//! live database, and what is lost is said.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sqlrep_tests::ctl::exit;
use sqlrep_tests::{
    Agent, AgentOptions, ApiServer, Pod, PodOptions, Workload, World, image, ltx, poll, say,
    scenario, wait,
};

use crate::binaries;
use crate::kube as cluster;
use crate::scene::{Point, Scene, fresh};
use crate::spine::rfc3339;

/// The spool's copies of what was shipped go, but for the newest, which always stays.
fn forget(world: &World) -> Result<()> {
    let mut files = ltx::below(&world.path("state-n1/spool"))?;
    files.sort();
    files.pop();
    files
        .into_iter()
        .try_for_each(|file| Ok(fs::remove_file(file)?))
}

/// What the metrics page has of a name.
pub(crate) fn metric(port: u16, name: &str) -> Result<f64> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    let line = page
        .lines()
        .find(|line| line.starts_with(&format!("{name}{{")));
    let value = line.and_then(|line| line.rsplit(' ').next());
    value
        .context("the metric is on the page")?
        .parse()
        .context("a number")
}

pub(crate) fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port())
}

/// Waits until a reading back found the replica whole after damage was found.
fn wait_whole(agent: &Agent, scene: &Scene, port: u16) -> Result<()> {
    wait("it is mended, and read back whole", || {
        let damaged = metric(port, "sqlrep_replica_damaged")?;
        let told = metric(port, "sqlrep_replica_damages_total")?;
        let verified = agent.ctl().run(["verify", &scene.reference])?;
        Ok(damaged < 0.5 && told > 0.5 && verified.code == exit::DONE)
    })
}

/// An app whose replica is to be damaged.
struct Patient {
    api: ApiServer,
    port: u16,
    agent: Agent,
    scene: Scene,
    workload: Workload,
}

impl Patient {
    fn new(world: &World, journal: &'static str) -> Result<Self> {
        let api = ApiServer::start()?;
        let port = free_port()?;
        let options = AgentOptions::kube(api.kubeconfig(world)?)
            .flag("--verify-interval", "2s")
            .flag("--levels", "10000h") // no step of it ends meanwhile
            .flag("--metrics", &format!("127.0.0.1:{port}"));
        let agent = world.agent_with(options)?;
        let pod = Pod::prepare(world, PodOptions::app("app"))?;
        api.put("pods", pod.document().clone());
        pod.wait_ready()?;
        let workload = Workload {
            journal,
            timeout: 30,
            ..Workload::new(world.seed)
        };
        let scene = Scene::of(world, pod);
        workload.init(&scene.db)?;
        agent.ctl().wait_following(&scene.reference)?;
        Ok(Self {
            api,
            port,
            agent,
            scene,
            workload,
        })
    }

    fn metric(&self, name: &str) -> Result<f64> {
        metric(self.port, name)
    }

    /// The state after a TXID.
    fn state(&self, world: &World, txid: u64) -> Result<std::path::PathBuf> {
        let out = fresh(world, "state");
        let point = ["--txid", &format!("{txid:x}")];
        world
            .ctl()
            .restore(&self.scene.replica, &out, &point)?
            .done()?;
        Ok(out)
    }

    /// What was lost, as it was said in the log, on the page of metrics and in an Event: what is from the
    /// victim up to the snapshot that stands in, for its app wrote on meanwhile.
    fn said(&self, victim: &ltx::Facts, snapshot: &ltx::Facts) -> Result<()> {
        let log = self.agent.log()?;
        let mut lines = log.lines();
        let line = lines.find(|line| line.contains("is damaged") && line.contains("kept points"));
        let line = line.context("the loss is not in the log")?;
        let name = victim.path.file_name().context("a name")?.to_string_lossy();
        let first = format!("TXID {:016x}", victim.max);
        for words in [&*name, "a new snapshot of the live database", &first] {
            ensure!(line.contains(words), "{words:?} is not in {line}");
        }
        let counted = self.metric("sqlrep_replica_lost_points_total")?;
        say(&format!(
            "{counted} points lost; the damage is at TXID {:x}, what stands in at {:x}",
            victim.max, snapshot.max
        ));
        let lost = u32::try_from(snapshot.max - victim.max)?;
        ensure!(
            (counted - f64::from(lost)).abs() < 0.5,
            "{lost} were lost, {counted} said"
        );
        cluster::wait_event(&self.api, &self.scene.pod, "ReplicaDamaged", "kept points")
    }
}

#[test]
fn when_nothing_has_the_pages_the_live_database_stands_in() {
    for journal in ["WAL", "DELETE"] {
        scenario(&format!("damage-{journal}"), binaries(), |world| {
            let patient = Patient::new(world, journal)?;
            let (agent, scene) = (&patient.agent, &patient.scene);
            let mut writer = patient.workload.start(world, &scene.db, 0)?;
            poll("some files", Duration::from_mins(2), || {
                Ok((ltx::head(&scene.replica)? > 8).then_some(()))
            })?;
            writer.pause()?;
            agent.ctl().sync(&scene.reference)?;
            let files = ltx::level(&scene.replica, 0)?;
            let victim = files[files.len() / 2].clone();
            let (head, sound) = (ltx::head(&scene.replica)?, victim.max - 1);
            let then = patient.state(world, sound)?;
            forget(world)?;
            ltx::damage(&victim.path)?;
            // A person who looks finds it too, and the agent then looks at once; if it did not before.
            let verified = agent.ctl().run(["verify", &scene.reference])?;
            let seen = verified.code != exit::DONE;
            let mended = patient.metric("sqlrep_replica_damages_total")? > 0.5;
            ensure!(seen || mended, "it was not seen");
            writer.resume()?;
            let snapshot = poll("a fresh snapshot", Duration::from_mins(2), || {
                let mut snapshots = ltx::level(&scene.replica, 9)?.into_iter();
                Ok(snapshots.find(|file| file.min == 1 && file.max > head))
            })?;
            wait_whole(agent, scene, patient.port)?;
            writer.pause()?;
            scene.prove_equal(world, agent)?;
            patient.said(&victim, &snapshot)?;
            // What is before the damage is there as ever.
            let again = patient.state(world, sound)?;
            image::same_files("the state before the damage", &then, &again)?;
            let aside = fs::read_dir(scene.replica.join(".sqlrep/damaged"))?.count();
            ensure!(aside == 1 && !victim.path.exists(), "it is in the chain");
            // What is lost is refused; a point in time there gives the state before it.
            let out = fresh(world, "lost");
            let point = ["--txid", &format!("{:x}", victim.max)];
            let lost = world.ctl().restore(&scene.replica, &out, &point)?;
            lost.exits(exit::NOT_FOUND)?;
            let time = rfc3339(victim.timestamp + 1);
            let early = world
                .ctl()
                .restore(&scene.replica, &out, &["--timestamp", &time])?;
            early.done()?;
            image::same_files("a point in time among what is lost", &then, &out)?;
            ensure!(snapshot.path.exists(), "what stands in is gone again");
            Ok(())
        });
    }
}

/// Nobody mends while no owner runs; whoever runs next knows what was found, and does not wait for the
/// replica's turn to be read back, which is a day away.
#[test]
fn damage_that_is_found_while_no_owner_runs_is_mended_by_the_next() {
    scenario("damage-noted", binaries(), |world| {
        let port = free_port()?;
        let start = || {
            let options = AgentOptions::node("n1")
                .flag("--levels", "10000h") // no step of it meets the damage
                .flag("--metrics", &format!("127.0.0.1:{port}"));
            world.agent_with(options)
        };
        let agent = start()?;
        let workload = Workload::new(world.seed);
        let scene = Scene::followed(world, &agent, "app", &workload)?;
        let mut writer = workload.start(world, &scene.db, 0)?;
        poll("some files", Duration::from_mins(2), || {
            Ok((ltx::head(&scene.replica)? > 8).then_some(()))
        })?;
        writer.pause()?;
        agent.ctl().sync(&scene.reference)?;
        agent.kill()?;
        let files = ltx::level(&scene.replica, 0)?;
        let victim = files[files.len() / 2].clone();
        let head = ltx::head(&scene.replica)?;
        forget(world)?;
        ltx::damage(&victim.path)?;
        // Another node's agent is asked about it, and ends.
        let other = world.agent_with(AgentOptions::node("n2"))?;
        let verified = other.ctl().run(["verify", &scene.reference])?;
        ensure!(verified.code != exit::DONE, "it was not seen");
        other.kill()?;
        let agent = start()?;
        agent.ctl().wait_following(&scene.reference)?;
        writer.resume()?;
        poll("a fresh snapshot", Duration::from_mins(2), || {
            let mut snapshots = ltx::level(&scene.replica, 9)?.into_iter();
            Ok(snapshots.find(|file| file.min == 1 && file.max > head))
        })?;
        wait_whole(&agent, &scene, port)?;
        writer.pause()?;
        scene.prove_equal(world, &agent)?;
        let noted = scene.replica.join(".sqlrep/doubt.json").exists();
        ensure!(!noted, "it is whole, and said to be damaged");
        Ok(())
    });
}

#[test]
fn a_replica_of_which_nothing_is_whole_is_made_anew_and_lives_on() {
    scenario("damage-all", binaries(), |world| {
        let port = free_port()?;
        let options = AgentOptions::default()
            .flag("--levels", "1s,3s,9s")
            .flag("--l0-retention", "1s")
            .flag("--snapshot-interval", "5s")
            .flag("--retention", "12s")
            .flag("--verify-interval", "3s")
            .flag("--metrics", &format!("127.0.0.1:{port}"));
        let agent = world.agent_with(options)?;
        let workload = Workload::new(world.seed);
        let scene = Scene::followed(world, &agent, "app", &workload)?;
        let mut writer = workload.start(world, &scene.db, 0)?;
        poll("a history", Duration::from_mins(2), || {
            Ok((ltx::level(&scene.replica, 2)?.len() > 1
                && ltx::level(&scene.replica, 9)?.len() > 1)
                .then_some(()))
        })?;
        agent.freeze()?; // what it mends meanwhile would be damaged again
        let mut damaged = HashSet::new();
        for level in 0..=9 {
            for file in ltx::level(&scene.replica, level)? {
                // The first file may be the first snapshot too, under another name.
                if damaged.insert(fs::metadata(&file.path)?.ino()) {
                    ltx::damage(&file.path)?;
                }
            }
        }
        agent.resume()?;
        say(&format!("{} files were damaged", damaged.len()));
        wait_whole(&agent, &scene, port)?;
        // And from then on it lives as ever: compacted, thinned out, read back.
        let snapshots = ltx::level(&scene.replica, 9)?;
        let stands_in = snapshots.last().context("a snapshot")?.max;
        poll("later snapshots", Duration::from_mins(2), || {
            let later = ltx::level(&scene.replica, 9)?;
            Ok((later.iter().filter(|file| file.max > stands_in).count() > 1).then_some(()))
        })?;
        for (who, restored) in scene.restore_all(world, &Point::Latest)? {
            workload.check_restored(&restored).context(who)?;
        }
        writer.pause()?;
        scene.prove_equal(world, &agent)?;
        wait("old files are gone", || {
            let count = |level| Ok::<_, anyhow::Error>(ltx::level(&scene.replica, level)?.len());
            Ok((0..=9).map(count).sum::<Result<usize>>()? <= 14)
        })?;
        scene.prove_replica(world)
    });
}
