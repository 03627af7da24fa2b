//! The verbs through a cluster: a stand-in API server on a real port, agents behind port-forwards.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use sqlrep_proto::v1;

use crate::agent::{database, id, parts};
use crate::fake::{Fake, Script};
use crate::support::{Run, command, finished};

/// A stand-in and its kubeconfig; it ends with this.
struct Cluster {
    server: Child,
    dir: tempfile::TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // It may have ended by itself; all that counts is that it is gone.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Cluster {
    fn start(world: &Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("world.json");
        std::fs::write(&path, world.to_string()).unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/cluster.py");
        let mut server = Command::new("python3")
            .arg(script)
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut port = String::new();
        BufReader::new(server.stdout.take().unwrap())
            .read_line(&mut port)
            .unwrap();
        let url = format!("http://127.0.0.1:{}", port.trim());
        // Two contexts: one leads to the stand-in, the other nowhere.
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "clusters": [
                {"name": "here", "cluster": {"server": url}},
                {"name": "nowhere", "cluster": {"server": "http://127.0.0.1:1"}},
            ],
            "users": [{"name": "jane", "user": {"token": "of-the-kubeconfig"}}],
            "contexts": [
                {"name": "here", "context": {"cluster": "here", "user": "jane"}},
                {"name": "nowhere", "context": {"cluster": "nowhere", "user": "jane"}},
            ],
        });
        std::fs::write(dir.path().join("config"), config.to_string()).unwrap();
        Self { server, dir }
    }

    fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("config")
    }

    fn ask(&self, arguments: &[&str]) -> Run {
        let mut command = command(arguments);
        finished(command.env("KUBECONFIG", self.kubeconfig()).output())
    }
}

/// Two living agents and what they follow, and a third whose container does not listen.
struct Three {
    one: Fake,
    two: Fake,
}

const TOKEN: &str = "made-for-sqlrep";

impl Three {
    fn start() -> Self {
        let on = |node: &str, name: &str, state| v1::Database {
            node: node.to_owned(),
            ..database(name, state)
        };
        let info = |node: &str| v1::InfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: node.to_owned(),
            ..v1::InfoResponse::default()
        };
        // The pod of mealie moves: it drains on the first node and waits on the second.
        let mealie = "home/mealie/data/mealie.db";
        let shipped = v1::SyncResponse {
            database: Some(id("media/surmai/sqlite/data.db")),
            step: Some(v1::sync_response::Step::Done(v1::Shipped { txid: 0x1b })),
        };
        let one = Fake::start(Script {
            info: info("n1"),
            databases: vec![
                on("n1", "media/surmai/sqlite/data.db", v1::State::Following),
                on("n1", mealie, v1::State::Draining),
            ],
            sync: vec![Ok(shipped)],
            ..Script::default()
        });
        let two = Fake::start(Script {
            info: info("n2"),
            databases: vec![
                on("n2", "home/vault/data/db.sqlite3", v1::State::Following),
                on("n2", mealie, v1::State::Restoring),
            ],
            restore: parts().1,
            ..Script::default()
        });
        Self { one, two }
    }

    fn world(&self) -> Value {
        json!({
            "agents": [
                {"node": "n1", "pod": "sqlrep-agent-a", "socket": self.one.socket()},
                {"node": "n2", "pod": "sqlrep-agent-b", "socket": self.two.socket()},
                {"node": "n3", "pod": "sqlrep-agent-c", "socket": null},
            ],
            "accounts": {"sqlrep/sqlrepctl": TOKEN, "media/operator": "of-media"},
        })
    }
}

#[test]
fn one_dead_node_of_three_is_one_line_and_the_list_is_whole() {
    let three = Three::start();
    for protocol in ["v5.channel.k8s.io", "v4.channel.k8s.io"] {
        let mut world = three.world();
        world["protocol"] = protocol.into();
        let run = Cluster::start(&world).ask(&["list", "-o", "json"]);
        assert_eq!(run.exit, 0, "{run:?}");
        let nodes: Vec<Value> = run
            .json()
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["node"].clone())
            .collect();
        assert_eq!(nodes, ["n1", "n2", "n2", "n1"], "{run:?}");
        let lines: Vec<&str> = run.err.lines().collect();
        assert_eq!(lines.len(), 1, "{run:?}");
        assert!(lines[0].starts_with("node n3: "), "{run:?}");
        // The kubelet's own words come on another stream, and may come too late.
        let reasons = ["connection refused", "lost the agent"];
        let named = reasons.iter().any(|reason| lines[0].contains(reason));
        assert!(named, "{run:?}");
    }
    // The kubeconfig's own token went to the API and to nobody else.
    let bearer = Some(format!("Bearer {TOKEN}"));
    assert!(
        three
            .one
            .asked()
            .tokens
            .iter()
            .all(|token| *token == bearer)
    );
}

#[test]
fn an_agent_that_stands_by_in_a_rollout_is_one_line_and_no_failure() {
    let three = Three::start();
    let mut world = three.world();
    world["agents"][2] = json!({"node": "n1", "pod": "sqlrep-agent-next", "socket": null});
    let cluster = Cluster::start(&world);
    let run = cluster.ask(&["list", "-o", "json"]);
    assert_eq!(run.exit, 0, "{run:?}");
    assert_eq!(run.err.lines().count(), 1, "{run:?}");
    assert!(
        run.err.contains("node n1: its next agent stands by"),
        "{run:?}"
    );
    let run = cluster.ask(&["sync", "surmai"]);
    assert_eq!(run.exit, 0, "{run:?}");
    let run = cluster.ask(&["check", "-o", "json"]);
    let all = run.json();
    let answers = all.as_array().unwrap().iter();
    let mut answers = answers.filter(|row| row["check"] == "answers");
    assert!(answers.next().is_none(), "{run:?}");
}

#[test]
fn agents_are_found_in_pages_and_many_silent_ones_are_few_lines() {
    let three = Three::start();
    let mut world = three.world();
    world["page"] = 2.into();
    let agents = world["agents"].as_array_mut().unwrap();
    let dead =
        |n: usize| json!({"node": format!("x{n:02}"), "pod": format!("x{n}"), "socket": null});
    agents.splice(1..1, (0..14).map(dead));
    let run = Cluster::start(&world).ask(&["list"]);
    assert_eq!(run.exit, 0, "{run:?}");
    assert!(
        run.out.contains("surmai") && run.out.contains("vault"),
        "{run:?}"
    );
    let lines: Vec<&str> = run.err.lines().collect();
    assert_eq!(lines.len(), 11, "{run:?}");
    assert!(
        lines[0].starts_with("node n3: ") && lines[1].starts_with("node x00: "),
        "{run:?}"
    );
    assert_eq!(
        lines[10],
        "5 more nodes did not answer: x09, x10, x11, x12, x13"
    );
}

#[test]
fn work_at_many_nodes_needs_few_descriptors() {
    let fakes: Vec<Fake> = (0..90)
        .map(|n| {
            let name = format!("home/app{n}/data/app.db");
            let done = v1::SyncResponse {
                database: Some(id(&name)),
                step: Some(v1::sync_response::Step::Done(v1::Shipped { txid: 7 })),
            };
            Fake::start(Script {
                databases: vec![database(&name, v1::State::Following)],
                sync: vec![Ok(done)],
                ..Script::default()
            })
        })
        .collect();
    let agents = fakes.iter().enumerate();
    let agents = agents.map(|(n, fake)| {
        json!({"node": format!("n{n}"), "pod": format!("p{n}"), "socket": fake.socket()})
    });
    let world = json!({
        "agents": agents.collect::<Vec<_>>(),
        "accounts": {"sqlrep/sqlrepctl": TOKEN},
    });
    let cluster = Cluster::start(&world);
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "ulimit -n 84; exec \"$@\"",
        "sh",
        env!("CARGO_BIN_EXE_sqlrepctl"),
    ]);
    command.args(["sync", "--all", "-o", "json"]);
    command
        .env("KUBECONFIG", cluster.kubeconfig())
        .env_remove("SQLREP_AGENT");
    let run = finished(command.output());
    assert_eq!(run.exit, 0, "{run:?}");
    assert_eq!(run.json().as_array().unwrap().len(), 90, "{run:?}");
}

#[test]
fn a_node_that_hangs_does_not_hold_the_others_up_for_ever() {
    let three = Three::start();
    let mut world = three.world();
    world["agents"][2] = json!({"node": "n3", "pod": "c", "hang": true, "socket": null});
    let run = Cluster::start(&world).ask(&["list"]);
    assert_eq!(run.exit, 0, "{run:?}");
    assert!(run.err.contains("node n3: "), "{run:?}");
    assert!(run.out.contains("vault"), "{run:?}");
}

#[test]
fn only_when_nothing_answers_is_the_cluster_unreachable() {
    let mut world = json!({
        "agents": [
            {"node": "n1", "pod": "a", "socket": null},
            {"node": "n2", "pod": "b", "socket": null, "phase": "Pending"},
        ],
        "accounts": {"sqlrep/sqlrepctl": TOKEN},
    });
    let cluster = Cluster::start(&world);
    let run = cluster.ask(&["list"]);
    assert_eq!(run.exit, 4, "{run:?}");
    assert!(run.err.contains("none of 2 agents answers"), "{run:?}");
    let nowhere = cluster.ask(&["list", "--context", "nowhere"]);
    assert_eq!(nowhere.exit, 4, "{nowhere:?}");
    let unknown = cluster.ask(&["list", "--context", "none"]);
    assert_eq!(unknown.exit, 2, "{unknown:?}");
    world["agents"] = json!([]);
    let none = Cluster::start(&world).ask(&["list"]);
    assert_eq!(none.exit, 4, "{none:?}");
    assert!(none.err.contains("--sqlrep-namespace"), "{none:?}");
}

#[test]
fn a_verb_goes_to_the_node_that_has_the_database() {
    let three = Three::start();
    let cluster = Cluster::start(&three.world());
    let run = cluster.ask(&["sync", "surmai"]);
    assert_eq!(run.exit, 0, "{run:?}");
    assert_eq!(
        three.one.asked().synced,
        [id("media/surmai/sqlite/data.db")]
    );
    assert_eq!(three.two.asked().synced, []);

    let out = three.two.out().join("copy.db");
    let run = cluster.ask(&["restore", "vault", "-o", out.to_str().unwrap()]);
    assert_eq!(run.exit, 0, "{run:?}");
    assert_eq!(std::fs::read(&out).unwrap(), parts().0);

    // Of two databases of one name the waiting one is taken over; its agent says that nobody waits.
    let run = cluster.ask(&["takeover", "mealie"]);
    assert_eq!(run.exit, 5, "{run:?}");
    let (one, two) = (three.one.asked().taken, three.two.asked().taken);
    assert_eq!((one, two), (vec![], vec![id("home/mealie/data/mealie.db")]));
}

#[test]
fn who_may_not_have_a_token_is_refused_and_told_which_permission_it_takes() {
    let three = Three::start();
    let mut world = three.world();
    world["refused"] = json!(["create serviceaccounts/token"]);
    let run = Cluster::start(&world).ask(&["list"]);
    assert_eq!(run.exit, 5, "{run:?}");
    assert!(run.err.contains("create serviceaccounts/token"), "{run:?}");

    let cluster = Cluster::start(&three.world());
    let run = cluster.ask(&["list", "--service-account", "media/none"]);
    assert_eq!(run.exit, 3, "{run:?}");
    let run = cluster.ask(&["list", "--service-account", "media/operator"]);
    assert_eq!(run.exit, 0, "{run:?}");
    let last = three.one.asked().tokens.pop().unwrap();
    assert_eq!(last.as_deref(), Some("Bearer of-media"));
}

#[test]
fn check_finds_what_is_wrong_with_a_cluster() {
    let three = Three::start();
    let pod = |name: &str, node: &str, gates: &[&str]| {
        let gates: Vec<Value> = gates.iter().map(|name| json!({"name": name})).collect();
        json!({
            "metadata": {"namespace": "media", "name": name},
            "spec": {"nodeName": node, "containers": [], "initContainers": gates},
        })
    };
    let mut world = three.world();
    world["agents"].as_array_mut().unwrap().pop();
    world["pods"] = json!([pod("well", "n1", &["sqlrep-gate", "migrate"])]);
    world["bound"] = json!(["gate.sqlrep.io", "rollout.sqlrep.io", "warnings.sqlrep.io"]);
    world["gate"] = true.into();
    let well = Cluster::start(&world).ask(&["check", "-o", "json"]);
    assert_eq!(well.exit, 0, "{well:?}");
    let names = |run: &Run, result: &str| -> Vec<String> {
        let all = run.json();
        let rows = all.as_array().unwrap().iter();
        rows.filter(|row| row["result"] == result)
            .map(|row| row["check"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(&well, "failed"), Vec::<String>::new());

    world["pods"] = json!([
        pod("late", "n1", &["migrate", "sqlrep-gate"]),
        pod("far", "n9", &[])
    ]);
    world["gate"] = false.into();
    world["bound"] = json!(["gate.sqlrep.io"]);
    world["refused"] = json!(["create pods/portforward", "create tokenreviews"]);
    world["rollouts"] = json!([{
        "metadata": {"namespace": "media", "name": "surmai"},
        "spec": {
            "replicas": 2, "selector": {},
            "template": {"metadata": {"labels": {"sqlrep.io/replicate": "true"}}},
        },
    }]);
    let ill = Cluster::start(&world).ask(&["check", "-o", "json"]);
    assert_eq!(ill.exit, 1, "{ill:?}");
    assert_eq!(
        names(&ill, "failed"),
        [
            "you may create pods/portforward",
            "agents may create tokenreviews",
            "gate",
            "coverage",
            "gate-fires",
            "strategy",
            "replicas",
        ],
        "{ill:?}"
    );
    assert_eq!(names(&ill, "warning"), ["policies"]);
    world["agents"] = three.world()["agents"].clone();
    let dead = Cluster::start(&world).ask(&["check", "-o", "json"]);
    assert!(
        names(&dead, "failed").contains(&"answers".to_owned()),
        "{dead:?}"
    );
    // Each failure comes with a hint.
    for row in ill.json().as_array().unwrap() {
        assert!(row["ok"] == true || row["hint"].is_string(), "{row}");
    }
}

#[test]
fn versions_of_all_agents_are_shown() {
    let three = Three::start();
    let run = Cluster::start(&three.world()).ask(&["version", "-o", "json"]);
    assert_eq!(run.exit, 0, "{run:?}");
    let agents = run.json()["agents"].clone();
    let nodes: Vec<&Value> = agents
        .as_array()
        .unwrap()
        .iter()
        .map(|agent| &agent["node"])
        .collect();
    assert_eq!(nodes, ["n1", "n2"]);
}
