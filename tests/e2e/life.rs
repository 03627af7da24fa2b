//! Whether the owner of a replica still lives, as the API server has it: what the next node waits
//! for, what it says meanwhile, and when it goes on without a person.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sqlrep_tests::{
    Agent, AgentOptions, ApiServer, Pod, PodOptions, Sqlite, Trouble, Workload, World, scenario,
    wait,
};

use crate::binaries;
use crate::scene::Scene;

/// What the API server says of a node.
fn node(api: &ApiServer, ready: &str, taint: Option<&str>) {
    let taints: Vec<Value> = taint
        .iter()
        .map(|key| json!({"key": key, "effect": "NoExecute"}))
        .collect();
    api.put(
        "nodes",
        json!({"metadata": {"name": "n1"}, "spec": {"taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": ready,
                "message": "Kubelet stopped posting node status."}]}}),
    );
}

/// Both nodes, and a pod on the second one that wants what the first one has: its agent died, and
/// let go of nothing.
struct Stage {
    api: ApiServer,
    old: Scene,
    new: Pod,
    _two: Agent,
}

impl Stage {
    fn set(world: &World, drain: &str) -> Result<Self> {
        let api = ApiServer::start()?;
        node(&api, "True", None);
        let one = world.agent_with(AgentOptions::kube(api.kubeconfig(world)?))?;
        let pod = Pod::prepare(world, PodOptions::app("app"))?;
        api.put("pods", pod.document().clone());
        pod.wait_ready()?;
        let old = Scene::of(world, pod);
        Workload::new(world.seed).init(&old.db)?;
        one.ctl().wait_following(&old.reference)?;
        Sqlite::once(&old.db, "UPDATE clock SET n = 4711;")?;
        old.prove_equal(world, &one)?;
        one.kill()?;

        let kubelet = world.path("kubelet-n2");
        fs::create_dir_all(kubelet.join("pods"))?;
        let options = AgentOptions {
            node: Some("n2".into()),
            kubelet: Some(kubelet.clone()),
            ..AgentOptions::kube(api.kubeconfig(world)?)
        };
        let two = world.agent_with(options.flag("--drain-timeout", drain))?;
        let options = PodOptions {
            kubelet: Some(kubelet),
            node: "n2".into(),
            ..PodOptions::app("app")
        };
        let new = Pod::prepare(world, options)?;
        api.put("pods", new.document().clone());
        Ok(Self {
            api,
            old,
            new,
            _two: two,
        })
    }

    /// The second pod's gate is shut, and says why.
    fn waits(&self, words: &[&str]) -> Result<()> {
        wait(&format!("the gate says {words:?}"), || {
            let status = self.new.status()?.unwrap_or_default();
            ensure!(status["phase"] != "ready", "it opened: {status}");
            let said = status["message"].as_str().unwrap_or_default();
            Ok(status["phase"] == "waiting-handover"
                && words.iter().all(|word| said.contains(word)))
        })
        .with_context(|| format!("it says {:?}", self.new.status()))
    }

    /// The gate opens, on all that the first one shipped.
    fn goes(&self) -> Result<()> {
        self.new.wait_ready()?;
        let n = Sqlite::once(&self.new.db("app.db"), "SELECT n FROM clock;")?;
        ensure!(n == "4711", "the clock says {n}");
        Ok(())
    }

    fn name(&self) -> &str {
        let name = &self.old.pod.document()["metadata"]["name"];
        name.as_str().unwrap_or_default()
    }
}

#[test]
fn an_owner_is_waited_for_while_it_may_write_and_taken_from_once_it_is_gone() {
    scenario("life-gone", binaries(), |world| {
        let stage = Stage::set(world, "2s")?;
        let api = &stage.api;
        stage.waits(&[stage.name(), "node n1", "which is alive", "since 2"])?;
        api.trouble(Trouble::Status(500));
        stage.waits(&["is not known"])?;
        api.trouble(Trouble::None);
        node(api, "Unknown", None);
        stage.waits(&["Kubelet stopped posting", "kubectl taint node n1"])?;
        node(api, "True", None);
        let mut ending = stage.old.pod.document().clone();
        ending["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        api.put("pods", ending);
        stage.waits(&["which is being deleted"])?;
        api.delete("pods", "default", stage.name());
        stage.waits(&["which is gone", "after 2s"])?;
        stage.goes()
    });
}

#[test]
fn a_pod_of_that_name_with_another_uid_is_another_pod() {
    scenario("life-namesake", binaries(), |world| {
        let stage = Stage::set(world, "2s")?;
        stage.waits(&["which is alive"])?;
        let mut namesake = stage.old.pod.document().clone();
        namesake["metadata"]["uid"] = json!("11111111-1111-4111-8111-111111111111");
        stage.api.put("pods", namesake);
        stage.waits(&["which is gone"])?;
        stage.goes()
    });
}

#[test]
fn a_node_that_somebody_vouches_for_is_not_waited_for() {
    scenario("life-out-of-service", binaries(), |world| {
        // so long that only the taint can open the gate
        let stage = Stage::set(world, "1h")?;
        node(
            &stage.api,
            "Unknown",
            Some("node.kubernetes.io/unreachable"),
        );
        stage.waits(&["whose node is lost"])?;
        let vouched = "node.kubernetes.io/out-of-service";
        node(&stage.api, "Unknown", Some(vouched));
        stage.goes()
    });
}
