//! Replicas in a volume of the pod (`sqlrep.io/target-volume`). The share is a directory of the test,
//! bound to where the kubelet would mount it: whatever pod mounts it sees the same, and a mount that
//! is held cannot be unmounted. Mounting takes root; without it the tests say so and prove nothing.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sqlrep_tests::pod::rename;
use sqlrep_tests::process::output;
use sqlrep_tests::wait::{PATIENCE, poll};
use sqlrep_tests::{
    Agent, AgentOptions, ApiServer, Peer, Pod, PodOptions, Workload, World, ltx, say, scenario,
};

use crate::binaries;
use crate::scene::{Point, Scene, only};
use crate::takeover::peer_writes;

/// Where the kubelet mounts the inline share `replica`.
const INLINE: &str = "kubernetes.io~nfs/replica";

/// A share bound to the place of a pod's volume; gone when dropped.
struct Mount(PathBuf);

impl Mount {
    fn bind(share: &Path, to: &Path) -> Result<Self> {
        fs::create_dir_all(to)?;
        mount(&["--bind"], &[share, to])?;
        Ok(Self(to.to_owned()))
    }

    /// Again and again: it is refused while somebody writes in it, as the agent does now and then.
    fn read_only(&self) -> Result<()> {
        poll("the volume becomes read-only", PATIENCE, || {
            mount(&["-o", "remount,bind,ro"], &[&self.0]).map(Some)
        })
    }

    /// Whether it went: it does not while somebody has something open in it.
    fn unmount(&self) -> Result<bool> {
        let mut command = Command::new("umount");
        Ok(output(command.arg(&self.0))?.status.success())
    }

    /// Again and again, as the kubelet does.
    fn goes(&self) -> Result<Duration> {
        let begun = Instant::now();
        poll("the volume can be unmounted", PATIENCE, || {
            Ok(self.unmount()?.then_some(()))
        })?;
        Ok(begun.elapsed())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Unmounted already, where all went well.
        output(Command::new("umount").arg("-l").arg(&self.0)).ok();
    }
}

fn mount(flags: &[&str], paths: &[&Path]) -> Result<()> {
    let mut command = Command::new("mount");
    let mounted = output(command.args(flags).args(paths))?;
    let err = String::from_utf8_lossy(&mounted.stderr);
    ensure!(mounted.status.success(), "mount: {err}");
    Ok(())
}

/// Runs a scenario that mounts.
fn mounting(name: &str, run: impl FnOnce(&World) -> Result<()>) {
    if !rustix::process::geteuid().is_root() {
        say(&format!("{name}: only root may mount; nothing was proven"));
        return;
    }
    scenario(name, binaries(), run);
}

/// A share, empty.
fn share(world: &World, name: &str) -> Result<PathBuf> {
    let path = world.path(name);
    fs::create_dir_all(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
    Ok(path)
}

fn inline(app: &str) -> PodOptions {
    PodOptions::app(app).target(json!({"nfs": {"server": "nas", "path": "/x"}}))
}

/// A pod whose volume is mounted, and the scene of its database.
fn started(world: &World, share: &Path, app: &str) -> Result<(Scene, Mount)> {
    let pod = Pod::prepare(world, inline(app))?;
    let mount = Mount::bind(share, &pod.below(INLINE))?;
    pod.announce()?;
    pod.wait_ready()?;
    Ok((of(world, share, pod), mount))
}

fn of(world: &World, share: &Path, pod: Pod) -> Scene {
    Scene {
        replica: share.join("app.db"),
        ..Scene::of(world, pod)
    }
}

/// A database of which the last commits could not be shipped when its app was killed, for the share
/// was read-only by then; and how many it has at least.
fn unshipped(
    world: &World,
    agent: &Agent,
    share: &Path,
    workload: &Workload,
    commits: u64,
) -> Result<(Scene, Mount, u64)> {
    let (scene, mount) = started(world, share, "app")?;
    workload.init(&scene.db)?;
    agent.ctl().wait_following(&scene.reference)?;
    agent.ctl().sync(&scene.reference)?;
    mount.read_only()?;
    let writer = workload.start(world, &scene.db, 0)?;
    writer.wait_commits(commits)?;
    let least = writer.kill()?;
    Ok((scene, mount, least))
}

/// Waits until the gate says this.
fn gate_says(pod: &Pod, words: &str) -> Result<()> {
    let mut last = Value::Null;
    let found = poll(&format!("the gate says {words:?}"), PATIENCE, || {
        last = pod.status()?.unwrap_or_default();
        let said = last["message"].as_str().unwrap_or_default();
        Ok(said.contains(words).then_some(()))
    });
    found.with_context(|| format!("last: {last}"))?;
    ensure!(last["phase"] != "ready", "it opened: {last}");
    Ok(())
}

/// The number of commits that a pod starts with is what was acknowledged, or one more.
fn starts_with(workload: &Workload, scene: &Scene, least: u64) -> Result<()> {
    let have = workload.check(&scene.db)?[0];
    ensure!(
        (least..=least + 1).contains(&have),
        "it starts with {have} commits; {least} were acknowledged"
    );
    Ok(())
}

/// Whether the root has a replica of it, and not only the note that it is elsewhere.
fn on_root(world: &World) -> bool {
    world.replica("app/data/app.db/ltx").exists()
}

/// Copies a replica as a person does, in place of what is there; at once, for the pod waits already.
fn copy(world: &World, from: &Path, to: &Path) -> Result<()> {
    let aside = world.path("aside");
    let mut command = Command::new("cp");
    let copied = output(command.arg("-a").args([from, &aside]))?;
    ensure!(copied.status.success(), "cp: {copied:?}");
    fs::remove_dir_all(to).ok();
    rename(&aside, to)
}

/// A pod goes as the kubelet takes it down: how long its volume was held.
fn ends(pod: &Pod, mount: &Mount) -> Result<Duration> {
    pod.mark_deleted()?;
    pod.remove_empty_dirs()?;
    let took = mount.goes()?;
    pod.delete()?;
    Ok(took)
}

#[test]
fn an_app_keeps_its_replica_in_a_volume_of_its_own() {
    mounting("target", |world| {
        let (agent, nas) = (world.agent()?, share(world, "nas")?);
        let (scene, mount) = started(world, &nas, "app")?;
        let workload = Workload::new(world.seed);
        workload.init(&scene.db)?;
        agent.ctl().wait_following(&scene.reference)?;
        let writer = workload.start(world, &scene.db, 0)?;
        writer.wait_commits(100)?;
        let commits = writer.quit()?["commits"].as_u64().unwrap_or_default();
        scene.prove_equal(world, &agent)?;
        only(&nas, &["app.db", ".sqlrep", ".sqlrep-root.json"])?;
        ensure!(!on_root(world), "it is on the root too");
        let agent_says = |args: &[&str]| agent.ctl().run(args.iter().copied());
        for verb in ["history", "verify", "snapshot"] {
            agent_says(&[verb, &scene.reference])?.done()?;
        }
        let out = world.path("out.db");
        let args = ["restore", &scene.reference, "-o", &out.to_string_lossy()];
        agent_says(&args)?.done()?;
        ensure!(workload.check_restored(&out)? == [commits]);
        ensure!(!mount.unmount()?, "it is not held");
        ends(&scene.pod, &mount)?;
        poll("its row goes", PATIENCE, || {
            Ok(agent.ctl().row(&scene.reference)?.is_none().then_some(()))
        })?;
        agent_says(&["history", "default/app/data/app.db"])?
            .exits(3)?
            .says(&["sqlrep.io/target-volume", "--replica"])?;
        agent.terminate()
    });
}

#[test]
fn the_volume_of_a_deleted_pod_is_held_until_its_tail_is_shipped() {
    mounting("target-drain", |world| {
        let (agent, nas) = (world.agent()?, share(world, "nas")?);
        let workload = Workload::new(world.seed);
        let mut least = 0;
        for round in 0..4 {
            let (scene, mount) = started(world, &nas, "app")?;
            if round == 0 {
                workload.init(&scene.db)?;
            } else {
                starts_with(&workload, &scene, least).with_context(|| format!("pod {round}"))?;
            }
            agent.ctl().wait_following(&scene.reference)?;
            let writer = workload.start(world, &scene.db, 0)?;
            writer.wait_commits(200)?;
            scene.pod.mark_deleted()?;
            writer.wait_commits(100)?;
            least = writer.kill()?;
            scene.pod.remove_empty_dirs()?;
            let took = mount.goes()?;
            // what is there at this moment is all there will be: nobody can reach it any more
            let manifest = fs::read_to_string(scene.replica.join(".sqlrep/manifest.json"))?;
            ensure!(
                manifest.contains("released"),
                "unmounted before: {manifest}"
            );
            say(&format!(
                "unmounted {} ms after the data went",
                took.as_millis()
            ));
            scene.pod.delete()?;
            scene.prove_contiguous(0)?;
        }
        Ok(())
    });
}

#[test]
fn a_sidecars_replica_moves_over_with_its_history_and_back() {
    mounting("target-takeover", |world| {
        let peer = Peer::all(&world.binaries)?.swap_remove(1);
        let nas = share(world, "nas")?;
        let replica = nas.join("app.db");
        let workload = Workload {
            pause: 0.001,
            ..Workload::new(world.seed)
        };
        let before = world.path("before.db");
        workload.init(&before)?;
        let first = peer_writes(world, &peer, &workload, &before, &replica)?;
        let handed = ltx::head(&replica)?;
        // as a sidecar that runs as an ordinary user leaves it
        let mut chown = Command::new("chown");
        output(chown.args(["-R", "1000:1001"]).arg(&replica))?;

        let agent = world.agent()?;
        let (scene, mount) = started(world, &nas, "app")?;
        let got = fs::metadata(&scene.db)?;
        let owner = (got.uid(), got.gid(), got.mode() & 0o777);
        ensure!(
            owner == (1000, 1001, 0o660),
            "the app cannot open it: {owner:?}"
        );
        ensure!(workload.check(&scene.db)? == [first], "not the peer's data");
        agent.ctl().wait_following(&scene.reference)?;
        let writer = workload.start(world, &scene.db, 0)?;
        writer.wait_commits(300)?;
        let second = writer.quit()?["commits"].as_u64().unwrap_or_default();
        scene.prove_equal(world, &agent)?;
        scene.prove_contiguous(handed)?;
        for (who, out) in scene.restore_all(world, &Point::Txid(handed))? {
            let have = workload.check_restored(&out)?;
            ensure!(have == [first], "{who} restores {have:?} at an old TXID");
        }
        ends(&scene.pod, &mount)?;

        let after = world.path("after.db");
        peer.restore(&replica, &after, &[])?;
        ensure!(workload.check(&after)? == [second]);
        let third = peer_writes(world, &peer, &workload, &after, &replica)?;
        ensure!(third > second);
        for (who, out) in scene.restore_all(world, &Point::Latest)? {
            let have = workload.check_restored(&out)?;
            ensure!(have == [third], "{who} restores {have:?}");
        }
        // and over again: the peer was its last owner
        let (again, _mount) = started(world, &nas, "app")?;
        ensure!(workload.check(&again.db)? == [third]);
        Ok(())
    });
}

#[test]
fn a_directory_that_is_no_mount_is_not_believed() {
    mounting("target-late", |world| {
        let (agent, nas) = (world.agent()?, share(world, "nas")?);
        let workload = Workload::new(world.seed);
        let (scene, mount) = started(world, &nas, "app")?;
        workload.init(&scene.db)?;
        agent.ctl().wait_following(&scene.reference)?;
        let writer = workload.start(world, &scene.db, 0)?;
        writer.wait_commits(50)?;
        let least = writer.kill()?;
        ends(&scene.pod, &mount)?;
        // the kubelet makes the directory, and takes its time to mount; meanwhile others go on
        let pod = Pod::prepare(world, inline("app"))?;
        let place = pod.below(INLINE);
        fs::create_dir_all(&place)?;
        pod.announce()?;
        gate_says(&pod, "is not mounted")?;
        Scene::followed(world, &agent, "other", &workload)?.prove_equal(world, &agent)?;
        only(&place, &[])?;
        only(&pod.volume("data"), &[])?;
        let _mount = Mount::bind(&nas, &place)?;
        pod.wait_ready()?;
        starts_with(&workload, &of(world, &nas, pod), least)
    });
}

#[test]
fn what_was_not_shipped_in_time_waits_for_the_next_pod() {
    mounting("target-left", |world| {
        let options = AgentOptions::default().flag("--drain-timeout", "2s");
        let (agent, nas) = (world.agent_with(options.clone())?, share(world, "nas")?);
        let workload = Workload::new(world.seed);
        let (scene, mount, least) = unshipped(world, &agent, &nas, &workload, 200)?;
        let head = ltx::head(&scene.replica)?;
        let took = ends(&scene.pod, &mount)?;
        ensure!(took > Duration::from_secs(1), "let go of after {took:?}");
        let left = agent.ctl().wait_state(&scene.reference, "stalled")?;
        ensure!(left.words().contains("spool"), "{left:?}");
        let taken = agent.ctl().run(["takeover", &scene.reference])?;
        taken.exits(5)?.says(&["goes out before the next pod"])?;
        // an agent that starts anew does not put it on the root
        agent.terminate()?;
        let agent = world.agent_with(options)?;
        agent.ctl().wait_state(&scene.reference, "stalled")?;
        ensure!(!on_root(world), "it is on the root");
        ensure!(ltx::head(&scene.replica)? == head);
        let (next, _mount) = started(world, &nas, "app")?;
        starts_with(&workload, &next, least)?;
        agent.ctl().wait_following(&next.reference)?;
        next.prove_equal(world, &agent)?;
        next.prove_contiguous(0)
    });
}

/// An agent with a share whose pod ended before its last commits were shipped, and how many there are
/// at least.
fn left(world: &World) -> Result<(Agent, PathBuf, Workload, (Scene, u64))> {
    let options = AgentOptions::default().flag("--drain-timeout", "1s");
    let (agent, nas) = (world.agent_with(options)?, share(world, "nas")?);
    let workload = Workload::new(world.seed);
    let (scene, mount, least) = unshipped(world, &agent, &nas, &workload, 100)?;
    ends(&scene.pod, &mount)?;
    agent.ctl().wait_state(&scene.reference, "stalled")?;
    Ok((agent, nas, workload, (scene, least)))
}

/// What was left is on the replica, and nowhere else any more.
fn went_out(
    world: &World,
    agent: &Agent,
    scene: &Scene,
    workload: &Workload,
    least: u64,
) -> Result<()> {
    poll("what was left is shipped", PATIENCE, || {
        Ok(agent.ctl().row(&scene.reference)?.is_none().then_some(()))
    })?;
    scene.prove_contiguous(0)?;
    let out = world.path("out.db");
    world.ctl().restore(&scene.replica, &out, &[])?.done()?;
    let have = workload.check_restored(&out)?[0];
    ensure!((least..=least + 1).contains(&have), "{have} of {least}");
    Ok(())
}

#[test]
fn what_was_left_goes_out_with_any_pod_that_brings_the_volume() {
    mounting("target-left-shared", |world| {
        let (agent, nas, workload, (scene, least)) = left(world)?;
        // its app does not come back; another one has the same volume, if not the same replica
        let other = Pod::prepare(world, inline("other"))?;
        let _mount = Mount::bind(&nas, &other.below(INLINE))?;
        other.announce()?;
        went_out(world, &agent, &scene, &workload, least)
    });
}

#[test]
fn what_was_left_goes_out_with_a_pod_that_has_the_volume_already() {
    mounting("target-left-beside", |world| {
        let options = AgentOptions::default().flag("--drain-timeout", "1s");
        let (agent, nas) = (world.agent_with(options)?, share(world, "nas")?);
        let workload = Workload::new(world.seed);
        let (_other, _mount) = started(world, &nas, "other")?;
        let (scene, mount, least) = unshipped(world, &agent, &nas, &workload, 100)?;
        ends(&scene.pod, &mount)?;
        went_out(world, &agent, &scene, &workload, least)
    });
}

#[test]
fn what_was_left_waits_on_when_a_pod_brings_the_volume_in_vain() {
    mounting("target-left-vain", |world| {
        let (agent, nas, workload, (scene, least)) = left(world)?;
        // another app brings the volume, in which that replica cannot be come by, and goes
        let other = Pod::prepare(world, inline("other"))?;
        let (kept, hidden) = (world.path("kept"), nas.join("app.db"));
        rename(&hidden, &kept)?;
        fs::write(&hidden, "no directory")?;
        let vain = Mount::bind(&nas, &other.below(INLINE))?;
        other.announce()?;
        let says = |in_spool: bool| {
            poll("what is left is told", PATIENCE, || {
                let row = agent.ctl().row(&scene.reference)?.context("it is left")?;
                let waits = row.words().contains("wait in the spool");
                Ok((waits == in_spool).then_some(()))
            })
        };
        says(false)?;
        other.mark_deleted()?;
        other.remove_empty_dirs()?;
        says(true)?;
        vain.goes()?;
        fs::remove_file(&hidden)?;
        rename(&kept, &hidden)?;
        other.delete()?;
        let (next, _mount) = started(world, &nas, "app")?;
        starts_with(&workload, &next, least)?;
        agent.ctl().wait_following(&next.reference)?;
        next.prove_equal(world, &agent)?;
        next.prove_contiguous(0)
    });
}

#[test]
fn an_app_whose_replicas_are_to_move_waits_until_they_did() {
    mounting("target-moved", |world| {
        let (agent, nas) = (world.agent()?, share(world, "nas")?);
        let workload = Workload::new(world.seed);
        let (on_share, in_volume) = (world.replica("app/data/app.db"), nas.join("app.db"));
        let first = Scene::followed(world, &agent, "app", &workload)?;
        let writes = |scene: &Scene| {
            agent.ctl().wait_following(&scene.reference)?;
            let writer = workload.start(world, &scene.db, 0)?;
            writer.wait_commits(50)?;
            writer.kill()
        };
        let mut least = writes(&first)?;
        first.pod.delete()?;

        // the annotation comes: what the share has is not in the volume
        let pod = Pod::prepare(world, inline("app"))?;
        let mount = Mount::bind(&nas, &pod.below(INLINE))?;
        pod.announce()?;
        gate_says(&pod, "copy that directory to app.db/ in the volume")?;
        let row = agent.ctl().wait_state("app/data/app.db", "stalled")?;
        ensure!(row.words().contains("without its newest state"), "{row:?}");
        only(&pod.volume("data"), &[])?;
        only(&nas, &[".sqlrep", ".sqlrep-root.json"])?;
        copy(world, &on_share, &in_volume)?;
        pod.wait_ready()?;
        let second = of(world, &nas, pod);
        starts_with(&workload, &second, least)?;
        least = writes(&second)?;
        ends(&second.pod, &mount)?;

        // the annotation goes: what the share has is old
        let third = Pod::start(world, PodOptions::app("app"))?;
        gate_says(&third, "in volume replica of its pods")?;
        only(&third.volume("data"), &[])?;
        // an agent that is new knows it too
        agent.terminate()?;
        let agent = world.agent()?;
        gate_says(&third, "in volume replica of its pods")?;
        copy(world, &in_volume, &on_share)?;
        third.wait_ready()?;
        let third = Scene::of(world, third);
        starts_with(&workload, &third, least)?;
        agent.ctl().wait_following(&third.reference)?;
        let writer = workload.start(world, &third.db, 0)?;
        writer.wait_commits(50)?;
        least = writer.kill()?;
        third.pod.delete()?;

        // and comes again: what the volume has is old now, and is not wanted any more
        let pod = Pod::prepare(world, inline("app"))?;
        let _mount = Mount::bind(&nas, &pod.below(INLINE))?;
        pod.announce()?;
        gate_says(&pod, "only has TXID")?;
        only(&pod.volume("data"), &[])?;
        copy(world, &on_share, &in_volume)?;
        pod.wait_ready()?;
        starts_with(&workload, &of(world, &nas, pod), least)
    });
}

#[test]
fn another_volume_in_its_place_is_refused() {
    mounting("target-other", |world| {
        let (agent, nas) = (world.agent()?, share(world, "nas")?);
        let workload = Workload::new(world.seed);
        let (scene, mount) = started(world, &nas, "app")?;
        workload.init(&scene.db)?;
        agent.ctl().wait_following(&scene.reference)?;
        agent.ctl().sync(&scene.reference)?;
        ends(&scene.pod, &mount)?;
        let empty = share(world, "empty")?;
        let pod = Pod::prepare(world, inline("app"))?;
        let wrong = Mount::bind(&empty, &pod.below(INLINE))?;
        pod.announce()?;
        gate_says(&pod, "is not the volume that it was")?;
        only(&empty, &[])?;
        only(&pod.volume("data"), &[])?;
        ends(&pod, &wrong)?;
        let (next, _mount) = started(world, &nas, "app")?;
        workload.check(&next.db).map(drop)
    });
}

#[test]
fn two_apps_do_not_share_a_replica_in_one_volume() {
    mounting("target-shared", |world| {
        let (agent, nas) = (world.agent()?, share(world, "nas")?);
        let workload = Workload::new(world.seed);
        let (scene, _mount) = started(world, &nas, "one")?;
        workload.init(&scene.db)?;
        agent.ctl().wait_following(&scene.reference)?;
        agent.ctl().sync(&scene.reference)?;
        let pod = Pod::prepare(world, inline("two"))?;
        let _second = Mount::bind(&nas, &pod.below(INLINE))?;
        pod.announce()?;
        gate_says(&pod, "default/one/data/app.db")?;
        scene.prove_equal(world, &agent)
    });
}

#[test]
fn what_lies_in_the_volume_does_not_lead_out_of_it() {
    mounting("target-links", |world| {
        let (agent, nas) = (world.agent()?, share(world, "nas")?);
        let elsewhere = share(world, "elsewhere")?;
        symlink("../elsewhere", nas.join("app.db"))?;
        let (scene, _mount) = started(world, &nas, "app")?;
        let workload = Workload::new(world.seed);
        workload.init(&scene.db)?;
        let row = agent.ctl().wait_state(&scene.reference, "stalled")?;
        ensure!(!row.words().is_empty());
        only(&elsewhere, &[])?;
        // a replica at the top would be nobody's, and the app would start without it
        fs::create_dir_all(nas.join("ltx/0"))?;
        let pod = Pod::prepare(world, inline("top"))?;
        let _second = Mount::bind(&nas, &pod.below(INLINE))?;
        pod.announce()?;
        gate_says(&pod, "at its top")
    });
}

/// An API server that has a claim and its volume.
fn claims() -> Result<ApiServer> {
    let api = ApiServer::start()?;
    api.put(
        "persistentvolumeclaims",
        json!({"metadata": {"name": "c", "namespace": "default", "uid": "claim-1"},
            "spec": {"volumeName": "pv-1"}}),
    );
    let bound = json!({"name": "c", "namespace": "default", "uid": "claim-1"});
    api.put(
        "persistentvolumes",
        json!({"metadata": {"name": "pv-1", "uid": "pv-uid-1"},
            "spec": {"claimRef": bound, "local": {"path": "/x"}}}),
    );
    Ok(api)
}

/// A pod of a node whose replicas are behind a claim.
fn claimed(world: &World, node: &str, claim: &str) -> Result<Pod> {
    let source = json!({"persistentVolumeClaim": {"claimName": claim}});
    let options = PodOptions {
        node: node.into(),
        ..PodOptions::app("app").target(source)
    };
    Pod::prepare(world, options)
}

/// Where the kubelet mounts what is behind that claim.
const CLAIMED: &str = "kubernetes.io~local-volume/pv-1";

fn in_cluster(world: &World, api: &ApiServer, node: &str) -> Result<Agent> {
    let mut options = AgentOptions::node(node);
    options.kubeconfig = Some(api.kubeconfig(world)?);
    options.env.push(("POD_NAMESPACE".into(), "sqlrep".into()));
    world.agent_with(options)
}

/// Waits until a kind of objects has one like this.
fn wait_object(api: &ApiServer, kind: &str, like: impl Fn(&Value) -> bool) -> Result<()> {
    poll(&format!("one of {kind} is as it must be"), PATIENCE, || {
        Ok(api.objects(kind).iter().any(&like).then_some(()))
    })
}

#[test]
fn a_claim_is_followed_to_its_volume_and_the_cluster_remembers_it() {
    mounting("target-claim", |world| {
        let (api, nas) = (claims()?, share(world, "nas")?);
        let agent = in_cluster(world, &api, "n1")?;
        let pod = claimed(world, "n1", "c")?;
        let mount = Mount::bind(&nas, &pod.below(CLAIMED))?;
        api.put("pods", pod.document().clone());
        pod.wait_ready()?;
        let scene = of(world, &nas, pod);
        let workload = Workload::new(world.seed);
        workload.init(&scene.db)?;
        agent.ctl().wait_following(&scene.reference)?;
        agent.ctl().sync(&scene.reference)?;
        wait_object(&api, "configmaps", |map| {
            let meta = &map["metadata"];
            let owner = &meta["ownerReferences"][0]["uid"];
            meta["name"] == "sqlrep-target-pv-uid-1" && owner == "pv-uid-1"
        })?;
        scene.pod.remove_empty_dirs()?;
        mount.goes()?;
        scene.pod.remove_data()?;
        let meta = &scene.pod.document()["metadata"];
        api.delete("pods", "default", meta["name"].as_str().unwrap_or_default());
        agent.terminate()?;
        // a node that never saw the volume knows by the cluster that this is not it
        let _agent = in_cluster(world, &api, "n2")?;
        let empty = share(world, "empty")?;
        let pod = claimed(world, "n2", "c")?;
        let _wrong = Mount::bind(&empty, &pod.below(CLAIMED))?;
        api.put("pods", pod.document().clone());
        gate_says(&pod, "is not the volume that it was")?;
        only(&empty, &[])
    });
}

#[test]
fn a_claim_that_leads_nowhere_is_said_on_the_pod() {
    scenario("target-nowhere", binaries(), |world| {
        let api = claims()?;
        let agent = in_cluster(world, &api, "n1")?;
        let pod = claimed(world, "n1", "missing")?;
        api.put("pods", pod.document().clone());
        gate_says(&pod, "there is none of that name")?;
        wait_object(&api, "events", |event| {
            let note = event["note"].as_str().unwrap_or_default();
            event["reason"] == "BadAnnotation" && note.contains("missing")
        })?;
        // it is looked at again: somebody made the claim
        api.put(
            "persistentvolumeclaims",
            json!({"metadata": {"name": "missing", "namespace": "default", "uid": "claim-2"},
                "spec": {}}),
        );
        gate_says(&pod, "is not bound")?;
        // one that runs already is followed, and what is to be done is said where people look
        let running = claimed(world, "n1", "lost")?;
        Workload::new(world.seed).init(&running.db("app.db"))?;
        let mut document = running.document().clone();
        document["status"]["containerStatuses"] =
            json!([{"name": "app", "restartCount": 0, "state": {"running": {}}}]);
        api.put("pods", document);
        let row = agent.ctl().wait_state("app/data/app.db", "stalled")?;
        for words in [
            "there is none of that name",
            "waits in the spool of this node",
        ] {
            ensure!(row.words().contains(words), "no {words:?}: {row:?}");
        }
        wait_object(&api, "events", |event| {
            let note = event["note"].as_str().unwrap_or_default();
            event["reason"] == "BadAnnotation" && note.contains("lost")
        })
    });
}
