//! What many agents ask of an API server. Minutes long and about figures, so only on demand:
//! `tests/benches/fleet/watch`.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sqlrep_tests::{AgentOptions, ApiServer, Trouble, say, scenario};

use crate::binaries;

/// A number out of the environment.
fn number(name: &str, usual: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// What came since the last look: by kind, as a line; and when the watches began.
struct Tally<'a> {
    api: &'a ApiServer,
    seen: usize,
    sent: u64,
    begun: Instant,
}

impl<'a> Tally<'a> {
    fn new(api: &'a ApiServer) -> Self {
        let (seen, sent) = (api.arrivals().len(), api.sent());
        let begun = Instant::now();
        Self {
            api,
            seen,
            sent,
            begun,
        }
    }

    /// Requests since the beginning, each with how long after it came.
    fn requests(&self) -> Vec<(Duration, String)> {
        let all = self.api.arrivals().split_off(self.seen);
        let after = |at: Instant| at.saturating_duration_since(self.begun);
        all.into_iter()
            .map(|(at, text)| (after(at), text))
            .collect()
    }

    fn say(&self, what: &str, agents: u64) {
        let seconds = self.begun.elapsed().as_secs_f64();
        let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
        for (_, request) in self.requests() {
            *kinds.entry(kind(&request)).or_default() += 1;
        }
        let each: Vec<String> = kinds
            .iter()
            .map(|(kind, count)| format!("{kind} {count}"))
            .collect();
        let bytes = self.api.sent() - self.sent;
        say(&format!(
            "{what}: {agents} agents, {seconds:.0} s, {bytes} bytes sent; {}",
            each.join(", ")
        ));
    }

    /// When after the beginning watches were asked for: how many in each second, and in milliseconds
    /// the first, half of them, and the last.
    fn say_watches(&self, what: &str) -> usize {
        let requests = self.requests().into_iter();
        let watches = requests.filter(|(_, request)| kind(request) == "watch pods");
        let mut times: Vec<u128> = watches.map(|(at, _)| at.as_millis()).collect();
        times.sort_unstable();
        let mut seconds: BTreeMap<u128, usize> = BTreeMap::new();
        for time in &times {
            *seconds.entry(time / 1000).or_default() += 1;
        }
        let few = [times.first(), times.get(times.len() / 2), times.last()];
        say(&format!(
            "{what}: watches asked for at {few:?} ms, in each second {seconds:?}"
        ));
        times.len()
    }
}

/// A request without what differs from agent to agent.
fn kind(request: &str) -> String {
    let (method, target) = request.split_once(' ').unwrap_or((request, ""));
    let path = target.split('?').next().unwrap_or_default();
    let kinds = [
        "pods",
        "events",
        "configmaps",
        "namespaces",
        "replicasets",
        "nodes",
    ];
    let kind = kinds.iter().find(|kind| path.contains(&format!("/{kind}")));
    let kind = kind.copied().unwrap_or(path);
    let verb = if target.contains("watch=true") {
        "watch"
    } else {
        method
    };
    format!("{verb} {kind}")
}

#[test]
#[ignore = "takes minutes and prints figures: tests/benches/fleet/watch"]
fn what_many_agents_ask_of_an_api_server() {
    let agents = number("SQLREP_FLEET_AGENTS", 60);
    let steady = Duration::from_secs(number("SQLREP_FLEET_SECONDS", 330));
    scenario("fleet", binaries(), |world| {
        let api = ApiServer::start()?;
        let begin = Tally::new(&api);
        let running: Result<Vec<_>> = (0..agents)
            .map(|agent| {
                let mut options = AgentOptions::kube(api.kubeconfig(world)?);
                options.node = Some(format!("n{agent}"));
                world.agent_with(options)
            })
            .collect();
        let running = running?;
        begin.say("start", agents);

        let tally = Tally::new(&api);
        sleep(steady);
        tally.say("steady", agents);
        tally.say_watches("steady");

        rollout(&api, agents)?;

        // Watches are cut, and the next server is there at once: behind a load balancer.
        let tally = Tally::new(&api);
        api.cut();
        sleep(Duration::from_secs(10));
        tally.say("watches cut", agents);
        let most = tally.say_watches("watches cut");
        ensure!(most > 0, "nobody came back");

        // Nobody is there for half a minute.
        api.trouble(Trouble::Away);
        api.cut();
        sleep(Duration::from_secs(30));
        let tally = Tally::new(&api);
        api.trouble(Trouble::None);
        sleep(Duration::from_secs(70));
        tally.say("away for 30 s", agents);
        tally.say_watches("away for 30 s");
        drop(running);
        Ok(())
    });
}

/// Ten pods of each node go through what a rollout does to them.
fn rollout(api: &ApiServer, agents: u64) -> Result<()> {
    let tally = Tally::new(api);
    let pod = |agent: u64, number: u64, turn: u64| {
        let name = format!("app-{agent}-{number}");
        // What a pod has beside what is read of it.
        let conditions: Vec<_> = (0..4).map(|n| json!({"type": format!("Condition{n}"), "status": "True", "lastTransitionTime": "2026-11-26T15:00:00Z"})).collect();
        json!({
            "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"),
                "labels": {"sqlrep.io/replicate": "true", "app": "notes"},
                "managedFields": [{"manager": "kubelet", "fieldsV1": {"x": "y".repeat(3000)}}]},
            "spec": {"nodeName": format!("n{agent}"),
                "containers": [{"name": "app", "image": "notes:1", "env": (0..20).map(|n| json!({"name": format!("V{n}"), "value": "v".repeat(60)})).collect::<Vec<_>>()}],
                "volumes": [{"name": "data", "emptyDir": {}}]},
            "status": {"phase": if turn < 2 { "Pending" } else { "Running" }, "conditions": conditions},
        })
    };
    for turn in 0..4 {
        for agent in 0..agents {
            for number in 0..10 {
                api.put("pods", pod(agent, number, turn));
            }
        }
        sleep(Duration::from_secs(2));
    }
    for agent in 0..agents {
        for number in 0..10 {
            api.delete("pods", "default", &format!("app-{agent}-{number}"));
        }
    }
    sleep(Duration::from_secs(10));
    let bytes = pod(0, 0, 0).to_string().len();
    tally.say(
        &format!("rollout of ten pods a node, of {bytes} bytes each, four changes and an end"),
        agents,
    );
    tally
        .requests()
        .first()
        .context("no agent asked who owns a pod")
        .map(drop)
}
