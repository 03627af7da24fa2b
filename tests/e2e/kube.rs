//! Pods from an API server: a stand-in that speaks HTTP, and does what servers do to those who
//! watch them.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sqlrep_tests::{
    Agent, AgentOptions, ApiServer, Pod, PodOptions, Sqlite, Trouble, Workload, World, scenario,
    wait,
};

use crate::binaries;
use crate::scene::Scene;

/// A pod whose directories are there and whose object the API server has.
fn pod(world: &World, api: &ApiServer, options: PodOptions) -> Result<Pod> {
    let pod = Pod::prepare(world, options)?;
    api.put("pods", pod.document().clone());
    Ok(pod)
}

fn name(pod: &Pod) -> &str {
    pod.document()["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
}

fn agent(world: &World, api: &ApiServer) -> Result<Agent> {
    world.agent_with(AgentOptions::kube(api.kubeconfig(world)?))
}

/// A pod of `app` that is followed.
fn followed(world: &World, agent: &Agent, api: &ApiServer, app: &str) -> Result<Scene> {
    let pod = pod(world, api, PodOptions::app(app))?;
    pod.wait_ready()?;
    let scene = Scene::of(world, pod);
    Workload::new(world.seed).init(&scene.db)?;
    agent.ctl().wait_following(&scene.reference)?;
    Ok(scene)
}

/// As `kubectl delete` and a kubelet do it: the object outlives the data.
fn delete(api: &ApiServer, pod: &Pod) -> Result<()> {
    let mut ending = pod.document().clone();
    ending["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    api.put("pods", ending);
    pod.remove_data()?;
    api.delete("pods", "default", name(pod));
    Ok(())
}

#[test]
fn a_pod_of_the_api_server_is_followed_and_its_successor_gets_its_data() {
    scenario("kube", binaries(), |world| {
        let api = ApiServer::start()?;
        let agent = agent(world, &api)?;
        let scene = followed(world, &agent, &api, "app")?;
        scene.prove_equal(world, &agent)?;
        let text = fs::read_to_string(scene.replica.join(".sqlrep/manifest.json"))?;
        let manifest: Value = serde_json::from_str(&text)?;
        for (key, namespace) in [("cluster_uid", "kube-system"), ("namespace_uid", "default")] {
            ensure!(
                manifest[key] == sqlrep_tests::api::namespace_uid(namespace),
                "{key} is not that of {namespace}: {text}"
            );
        }
        Sqlite::once(
            &scene.db,
            "CREATE TABLE last (x); INSERT INTO last VALUES (4711);",
        )?;
        delete(&api, &scene.pod)?;
        let next = pod(world, &api, PodOptions::app("app"))?;
        next.wait_ready()?;
        ensure!(Sqlite::once(&next.db("app.db"), "SELECT x FROM last;")? == "4711");
        let watches = api.requests();
        let watches: Vec<_> = watches
            .iter()
            .filter(|line| line.contains("watch=true"))
            .collect();
        ensure!(
            watches
                .iter()
                .all(|line| line.contains("fieldSelector=spec.nodeName%3Dn1")
                    && line.contains("labelSelector=sqlrep.io%2Freplicate")),
            "a watch of more than this node's pods: {watches:?}"
        );
        agent.terminate()
    });
}

#[test]
fn an_older_server_is_asked_for_plain_lists() {
    scenario("plain-lists", binaries(), |world| {
        let api = ApiServer::start()?.without_streaming_lists();
        let before = pod(world, &api, PodOptions::app("before"))?;
        let agent = agent(world, &api)?;
        before.wait_ready()?;
        followed(world, &agent, &api, "after")?;
        Ok(())
    });
}

#[test]
fn an_outage_takes_nobody_away_and_a_new_list_tells_who_is_gone() {
    scenario("api-outage", binaries(), |world| {
        let api = ApiServer::start()?;
        let agent = agent(world, &api)?;
        let stays = followed(world, &agent, &api, "stays")?;
        let goes = followed(world, &agent, &api, "goes")?;
        for trouble in [Trouble::Status(500), Trouble::Silent] {
            api.trouble(trouble);
            api.cut();
            Sqlite::once(&stays.db, "CREATE TABLE IF NOT EXISTS meanwhile (x);")?;
            stays.prove_equal(world, &agent)?;
            goes.prove_equal(world, &agent)?;
        }
        api.delete_unseen("pods", "default", name(&goes.pod));
        api.trouble(Trouble::None);
        wait("the pod that is gone is let go of", || {
            Ok(agent
                .ctl()
                .row(&goes.reference)?
                .is_none_or(|row| row.state() != "following"))
        })?;
        stays.prove_equal(world, &agent)?;
        followed(world, &agent, &api, "later")?;
        Ok(())
    });
}

#[test]
fn a_watch_goes_on_after_bookmarks_cuts_and_oblivion() {
    scenario("watch", binaries(), |world| {
        let api = ApiServer::start()?;
        let agent = agent(world, &api)?;
        let first = followed(world, &agent, &api, "first")?;
        api.bookmark();
        api.cut();
        followed(world, &agent, &api, "after-cut")?;
        api.forget();
        followed(world, &agent, &api, "after-410")?;
        first.prove_equal(world, &agent)
    });
}

#[test]
fn owners_are_looked_up_where_names_do_not_tell() {
    scenario("owners", binaries(), |world| {
        let api = ApiServer::start()?;
        let object = |name: &str, uid: &str, owner: &str| {
            json!({"metadata": {"name": name, "namespace": "default", "uid": uid,
                "ownerReferences": [{"apiVersion": "x/v1", "kind": "X", "name": owner, "uid": "o",
                    "controller": true}]}})
        };
        api.put("jobs", object("nightly-by-hand", "j-1", "nightly"));
        api.put("replicasets", object("web-abc", "r-1", "web"));
        let agent = agent(world, &api)?;
        for (kind, owner, uid, app) in [
            ("Job", "nightly-by-hand", "j-1", "nightly"),
            ("ReplicaSet", "web-abc", "r-1", "web"),
            // another Job of that name: whose it was is not whose this is
            ("Job", "nightly-by-hand", "j-2", "nightly-by-hand"),
        ] {
            let options = PodOptions {
                owner: Some(
                    json!({"apiVersion": "x/v1", "kind": kind, "name": owner, "uid": uid,
                    "controller": true}),
                ),
                ..PodOptions::app("some-pod")
            };
            let pod = pod(world, &api, options)?;
            pod.wait_ready()?;
            Workload::new(world.seed).init(&pod.db("app.db"))?;
            agent
                .ctl()
                .wait_following(&format!("default/{app}/data/app.db"))?;
        }
        Ok(())
    });
}

#[test]
fn finished_and_wrongly_labelled_pods_are_told_apart() {
    scenario("labels", binaries(), |world| {
        let api = ApiServer::start()?;
        let agent = agent(world, &api)?;
        let wrong = Pod::prepare(world, PodOptions::app("wrong"))?;
        let mut document = wrong.document().clone();
        document["metadata"]["labels"]["sqlrep.io/replicate"] = json!("yes");
        api.put("pods", document);
        wait("the wrong label is said", || {
            let log = agent.log()?;
            Ok(log.contains("sqlrep.io/replicate") && log.contains("yes"))
        })?;
        ensure!(
            wrong.status()?.is_none(),
            "a pod that did not opt in was told something"
        );
        let scene = followed(world, &agent, &api, "job")?;
        let mut finished = scene.pod.document().clone();
        finished["status"]["phase"] = json!("Succeeded");
        api.put("pods", finished);
        // its volumes go although the object stays
        scene.pod.remove_data()?;
        wait("its replica is released", || {
            let text = fs::read_to_string(scene.replica.join(".sqlrep/manifest.json"))?;
            Ok(text.contains("released"))
        })
    });
}

#[test]
fn a_wrong_kubelet_root_is_said_at_once() {
    scenario("kubelet-root", binaries(), |world| {
        let api = ApiServer::start()?;
        let mut options = AgentOptions::kube(api.kubeconfig(world)?);
        options.env.push(("POD_UID".into(), "not-here".into()));
        let mut agent = Agent::spawn(world, options)?;
        let status = agent.ends()?;
        let log = agent.log()?;
        ensure!(
            !status.success() && log.contains("wrong kubeletDir"),
            "{status}: {log}"
        );
        Ok(())
    });
}

#[test]
fn a_node_that_knows_its_cluster_starts_without_the_api_server() {
    scenario("api-away", binaries(), |world| {
        let api = ApiServer::start()?;
        let agent = agent(world, &api)?;
        let scene = followed(world, &agent, &api, "app")?;
        scene.prove_equal(world, &agent)?;
        agent.terminate()?;
        api.trouble(Trouble::Status(503));
        let agent = self::agent(world, &api)?;
        let rows = agent.ctl().list()?;
        ensure!(rows.is_empty(), "followed on a guess: {rows:?}");
        Sqlite::once(
            &scene.db,
            "CREATE TABLE away (x); INSERT INTO away VALUES (1);",
        )?;
        api.trouble(Trouble::None);
        agent
            .ctl()
            .wait_following(&scene.reference)
            .context("after the outage")?;
        scene.prove_equal(world, &agent)
    });
}

/// The Events that the API server has of a pod, as reason and note.
fn events(api: &ApiServer, pod: &Pod) -> Vec<(String, String)> {
    let text = |event: &Value, key: &str| event[key].as_str().unwrap_or_default().to_owned();
    let all = api.objects("events");
    let of_pod = all
        .iter()
        .filter(|event| event["regarding"]["uid"] == pod.uid.as_str());
    of_pod
        .map(|event| (text(event, "reason"), text(event, "note")))
        .collect()
}

pub(crate) fn wait_event(api: &ApiServer, pod: &Pod, reason: &str, words: &str) -> Result<()> {
    wait(
        &format!("an Event {reason} of {} that says {words:?}", pod.app),
        || {
            let events = events(api, pod);
            Ok(events
                .iter()
                .any(|(is, note)| is == reason && note.contains(words)))
        },
    )
    .with_context(|| format!("there are {:?}", events(api, pod)))
}

#[test]
fn events_on_the_pod_tell_what_happened_to_it() {
    scenario("events", binaries(), |world| {
        let api = ApiServer::start()?;
        let agent = agent(world, &api)?;
        let scene = followed(world, &agent, &api, "app")?;
        scene.prove_equal(world, &agent)?;
        delete(&api, &scene.pod)?;
        // of another size: told before a byte is written
        let small = Pod::prepare(world, PodOptions::app("app"))?;
        let mut document = small.document().clone();
        document["spec"]["volumes"][0]["emptyDir"] = json!({"sizeLimit": "4Ki"});
        api.put("pods", document.clone());
        small.wait_phase("failed")?;
        wait_event(&api, &small, "VolumeTooSmall", "sizeLimit")?;
        crate::scene::only(&small.volume("data"), &[])?;
        document["spec"]["volumes"][0]["emptyDir"] = json!({"sizeLimit": "1Gi"});
        document["metadata"]["annotations"]["sqlrep.io/sync-interval"] = json!("soon");
        api.put("pods", document);
        small.wait_ready()?;
        wait_event(&api, &small, "Restored", "default/app/data/app.db")?;
        wait_event(&api, &small, "BadAnnotation", "soon")?;
        let mut locked = Sqlite::open(&small.db("locked.db"))?;
        locked.run("PRAGMA locking_mode = EXCLUSIVE; CREATE TABLE t (x);")?;
        wait_event(&api, &small, "Unsupported", "locking_mode=EXCLUSIVE")?;
        locked.close()?;
        let events = events(&api, &small);
        ensure!(events.len() < 10, "spam: {events:?}");
        Ok(())
    });
}

#[test]
fn what_a_pod_took_with_it_unread_is_told_to_the_next_one() {
    scenario("unread-event", binaries(), |world| {
        let api = ApiServer::start()?;
        let first = agent(world, &api)?;
        let scene = followed(world, &first, &api, "app")?;
        scene.prove_equal(world, &first)?;
        first.kill()?;
        Sqlite::once(&scene.db, "UPDATE clock SET n = 4711;")?;
        scene.pod.remove_data()?;
        api.delete("pods", "default", name(&scene.pod));
        let second = agent(world, &api)?;
        let next = pod(world, &api, PodOptions::app("app"))?;
        next.wait_ready()?;
        let said = "default/app/data/app.db: pod";
        wait_event(&api, &next, "UnreadEnd", said)?;
        // told once: the end of this one is read
        second.ctl().wait_following("app/data/app.db")?;
        delete(&api, &next)?;
        let last = pod(world, &api, PodOptions::app("app"))?;
        last.wait_ready()?;
        wait_event(&api, &last, "Restored", "app.db")?;
        let told = events(&api, &last);
        ensure!(
            told.iter().all(|(reason, _)| reason != "UnreadEnd"),
            "{told:?}"
        );
        Ok(())
    });
}

#[test]
fn an_ungated_start_beside_a_replica_is_told_and_kept_on_a_branch() {
    scenario("ungated", binaries(), |world| {
        let api = ApiServer::start()?;
        let agent = agent(world, &api)?;
        let scene = followed(world, &agent, &api, "app")?;
        scene.prove_equal(world, &agent)?;
        delete(&api, &scene.pod)?;
        wait("the replica is released", || {
            let text = fs::read_to_string(scene.replica.join(".sqlrep/manifest.json"))?;
            Ok(text.contains("released"))
        })?;
        // its app ran before anybody could restore
        let next = Pod::prepare(world, PodOptions::app("app").ungated())?;
        Workload::new(world.seed).init(&next.db("app.db"))?;
        Sqlite::once(&next.db("app.db"), "UPDATE clock SET n = 4711;")?;
        let mut document = next.document().clone();
        document["status"]["containerStatuses"] =
            json!([{"name": "app", "restartCount": 0, "state": {"running": {}}}]);
        api.put("pods", document);
        let row = agent.ctl().wait_state(&scene.reference, "fenced")?;
        ensure!(row.words().contains("adopt"), "no way out: {row:?}");
        wait_event(&api, &next, "UngatedStart", "adopt")?;
        ensure!(Sqlite::once(&next.db("app.db"), "SELECT n FROM clock;")? == "4711");
        let branches = scene.replica.join(".sqlrep/branches");
        wait("the branch holds its commits", || {
            Ok(fs::read_dir(&branches).is_ok_and(|mut found| found.next().is_some()))
        })
    });
}

#[test]
fn a_node_that_never_saw_the_root_knows_one_that_is_not_mounted() {
    scenario("cluster-root", binaries(), |world| {
        let api = ApiServer::start()?;
        let options = |node: &str, replicas: &str| -> Result<AgentOptions> {
            let mut options = AgentOptions::kube(api.kubeconfig(world)?);
            options.node = Some(node.into());
            options.replicas = Some(world.path(replicas));
            options.env.push(("POD_NAMESPACE".into(), "sqlrep".into()));
            Ok(options)
        };
        let first = world.agent_with(options("n1", "replicas")?)?;
        wait("the cluster remembers the root", || {
            Ok(!api.objects("configmaps").is_empty())
        })?;
        first.terminate()?;
        let id = api.objects("configmaps")[0]["data"]["id"].clone();
        let marker = fs::read_to_string(world.replicas().join(".sqlrep-root.json"))?;
        ensure!(
            marker.contains(id.as_str().unwrap_or("no id")),
            "{id} is not in {marker}"
        );
        // an empty directory where the share should be, on a node that is new
        fs::create_dir(world.path("unmounted"))?;
        let second = world.agent_with(options("n2", "unmounted")?)?;
        let waiting = Pod::prepare(
            world,
            PodOptions {
                node: "n2".into(),
                ..PodOptions::app("app")
            },
        )?;
        api.put("pods", waiting.document().clone());
        wait_event(&api, &waiting, "RestoreFailed", "lost its marker")?;
        ensure!(
            waiting.status()?.context("it is told")?["phase"] != "ready",
            "it was let in"
        );
        crate::scene::only(&world.path("unmounted"), &[])?;
        second.terminate()?;
        // and with the cluster silent about it, nothing is believed of a new root either
        api.refuse("configmaps");
        let third = world.agent_with(options("n3", "unmounted")?)?;
        wait("it says why it waits", || {
            Ok(third.log()?.contains("not used yet"))
        })?;
        crate::scene::only(&world.path("unmounted"), &[])
    });
}

#[test]
fn the_next_agent_stands_by_and_goes_on_where_the_last_one_ended() {
    scenario("standby", binaries(), |world| {
        let api = ApiServer::start()?;
        let one = agent(world, &api)?;
        let workload = Workload::new(world.seed);
        let scene = followed(world, &one, &api, "app")?;
        let writer = workload.start(world, &scene.db, 0)?;
        writer.wait_commits(50)?;
        let next = || -> Result<AgentOptions> {
            Ok(AgentOptions {
                log: Some("next".into()),
                ..AgentOptions::kube(api.kubeconfig(world)?)
            })
        };
        // one that is taken back while it waits goes at once
        let undone = Agent::spawn(world, next()?)?;
        wait("it stands by", || Ok(undone.log()?.contains("standing by")))?;
        undone.terminate()?;
        let two = Agent::spawn(world, next()?)?;
        wait("it stands by", || Ok(two.log()?.contains("standing by")))?;
        writer.wait_commits(50)?;
        ensure!(
            one.ctl().row(&scene.reference)?.is_some(),
            "the first agent does not answer"
        );
        one.terminate()?;
        two.ctl().wait_following(&scene.reference)?;
        writer.wait_commits(50)?;
        writer.quit()?;
        scene.prove_equal(world, &two)?;
        scene.prove_contiguous(0)
    });
}
