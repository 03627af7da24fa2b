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
