//! Alerts and the dashboard, judged by Prometheus' own tool over what a real agent exports.
//!
//! `alerts/` has a file for each alert: series over time, and when it must fire and must not. They
//! are promtool's own format; the rules are taken out of the object that Kubernetes gets.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sqlrep_tests::{AgentOptions, Binaries, Pod, PodOptions, Sqlite, World, scenario, wait};

use crate::tools::{deploy, promtool};

/// What Prometheus adds to each series of an agent: `podmonitor.yaml`, and the operator.
const ADDED: [&str; 7] = [
    "container",
    "endpoint",
    "instance",
    "job",
    "namespace",
    "node",
    "pod",
];

/// What a person must find on the dashboard.
const SHOWN: [&str; 24] = [
    "sqlrep_build_info",
    "sqlrep_capture_bytes_total",
    "sqlrep_capture_files_total",
    "sqlrep_checkpoints_total",
    "sqlrep_database_damaged",
    "sqlrep_database_quick_check_timestamp_seconds",
    "sqlrep_databases",
    "sqlrep_errors_total",
    "sqlrep_nfs_errors_total",
    "sqlrep_nfs_op_duration_seconds_bucket",
    "sqlrep_nfs_ops_running",
    "sqlrep_replica_damaged",
    "sqlrep_replica_lag_seconds",
    "sqlrep_replica_last_sync_timestamp_seconds",
    "sqlrep_replica_out_of_sync",
    "sqlrep_replica_pending_bytes",
    "sqlrep_replica_root_usable",
    "sqlrep_replica_verified_timestamp_seconds",
    "sqlrep_restore_duration_seconds_bucket",
    "sqlrep_restores_total",
    "sqlrep_ship_bytes_total",
    "sqlrep_ship_files_total",
    "sqlrep_spool_bytes",
    "sqlrep_unread_ends_total",
];

/// A page of metrics.
#[derive(Debug)]
struct Page {
    text: String,
}

impl Page {
    /// Of an agent that follows a database and has read its replica back.
    fn of_an_agent(world: &World) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let agent = world.agent_with(
            AgentOptions::default()
                .flag("--verify-interval", "1s")
                .flag("--metrics", &format!("127.0.0.1:{port}")),
        )?;
        let pod = Pod::start(world, PodOptions::app("app"))?;
        pod.wait_ready()?;
        let sql = "PRAGMA journal_mode=wal; CREATE TABLE t (x); INSERT INTO t VALUES (1);";
        Sqlite::once(&pod.db("app.db"), sql)?;
        agent.ctl().wait_following("app/data/app.db")?;
        agent.ctl().sync("app/data/app.db")?;
        let mut text = String::new();
        wait("a replica was read back and looked at", || {
            text = get(port)?;
            let last = "\nsqlrep_database_quick_check_timestamp_seconds{";
            Ok(text.contains(last) && text.contains("\nsqlrep_replica_verified_timestamp"))
        })?;
        Ok(Self { text })
    }

    /// Each sample: the series and its value.
    fn samples(&self) -> impl Iterator<Item = (&str, &str)> {
        let lines = self.text.lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(|line| line.rsplit_once(' '))
    }

    /// The names of the labels of each metric, none of those that have no sample.
    fn labels(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let declared = self.text.lines();
        let declared = declared.filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        let mut known: BTreeMap<_, _> = declared.map(|name| (name, BTreeSet::new())).collect();
        known.extend(self.samples().map(|(series, _)| labels_of(series)));
        known
    }
}

fn get(port: u16) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, page) = answer.split_once("\r\n\r\n").context("no answer")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
    ensure!(head.contains("text/plain; version=0.0.4"), "{head}");
    Ok(page.to_owned())
}

/// A series' name, and the names of its labels. No value here holds a comma.
fn labels_of(series: &str) -> (&str, BTreeSet<&str>) {
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let labels = labels.trim_end_matches('}').split(',');
    let labels = labels.filter_map(|label| Some(label.split_once('=')?.0));
    (name, labels.collect())
}

/// Metrics of ours that a text asks for.
fn metrics(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'))
        .filter(|word| word.starts_with("sqlrep_"))
        .collect()
}

fn monitoring(file: &str) -> Result<String> {
    Ok(fs::read_to_string(
        deploy("components/monitoring").join(file),
    )?)
}

/// The rules, as Prometheus reads them.
fn rules() -> Result<Value> {
    let object: Value = serde_norway::from_str(&monitoring("rules.yaml")?)?;
    Ok(object["spec"].clone())
}

fn alerts(rules: &Value) -> BTreeSet<&str> {
    let rules = rules.pointer("/groups/0/rules").and_then(Value::as_array);
    let names = rules
        .into_iter()
        .flatten()
        .map(|rule| rule["alert"].as_str());
    names.flatten().collect()
}

/// The files of `alerts/`.
fn cases() -> Result<Vec<PathBuf>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/alerts");
    let files = fs::read_dir(dir)?.map(|entry| Ok(entry?.path()));
    files.collect()
}

/// Every expression of the dashboard, for all namespaces.
fn panels() -> Result<Vec<(String, String)>> {
    let board: Value = serde_json::from_str(&monitoring("dashboard.json")?)?;
    let mut found = Vec::new();
    for panel in board["panels"].as_array().context("no panels")? {
        for target in panel["targets"].as_array().context("no targets")? {
            let words = [&panel["title"], &target["expr"]].map(Value::as_str);
            let [Some(title), Some(expr)] = words else {
                anyhow::bail!("{panel}: no title or no expression");
            };
            found.push((title.to_owned(), expr.replace("$namespace", ".*")));
        }
    }
    Ok(found)
}

fn binaries() -> Binaries {
    Binaries::new(
        env!("CARGO_BIN_EXE_agent"),
        env!("CARGO_BIN_EXE_ctl"),
        env!("CARGO_TARGET_TMPDIR"),
    )
}

#[test]
fn each_alert_fires_when_it_should_and_is_silent_when_it_should_be() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let rules = rules()?;
    fs::write(dir.path().join("rules.yaml"), rules.to_string())?;
    promtool(dir.path(), &["check", "rules", "rules.yaml"])?;
    let (mut fire, mut silent) = (BTreeSet::new(), BTreeSet::new());
    let files = cases()?;
    for file in &files {
        let text = fs::read_to_string(file)?;
        let name = file.file_name().and_then(|name| name.to_str());
        let name = name.context("a name that is no text")?;
        fs::write(dir.path().join(name), &text)?;
        promtool(dir.path(), &["test", "rules", name])?;
        let cases: Value = serde_norway::from_str(&text)?;
        for case in cases["tests"].as_array().into_iter().flatten() {
            for test in case["alert_rule_test"].as_array().into_iter().flatten() {
                let expected = test["exp_alerts"].as_array().map_or(0, Vec::len);
                let seen = if expected > 0 { &mut fire } else { &mut silent };
                seen.insert(test["alertname"].as_str().unwrap_or_default().to_owned());
            }
        }
    }
    for (what, seen) in [("fires", fire), ("is silent", silent)] {
        let missing: Vec<_> = alerts(&rules)
            .into_iter()
            .filter(|alert| !seen.contains(*alert))
            .collect();
        ensure!(missing.is_empty(), "no test in which {missing:?} {what}");
    }
    Ok(())
}

#[test]
fn an_agent_exports_what_alerts_and_the_dashboard_ask_for() {
    scenario("monitoring", binaries(), |world| {
        let page = Page::of_an_agent(world)?;
        let known = page.labels();
        fs::write(world.path("page"), &page.text)?;
        let input = File::open(world.path("page"))?;
        crate::tools::promtool_reading(&["check", "metrics"], input)?;
        for file in ["rules.yaml", "dashboard.json"] {
            let text = monitoring(file)?;
            let asked = metrics(&text);
            let unknown: Vec<_> = asked
                .iter()
                .filter(|name| !known.contains_key(*name))
                .collect();
            ensure!(unknown.is_empty(), "{file}: the agent has no {unknown:?}");
        }
        let board = monitoring("dashboard.json")?;
        let shown = metrics(&board);
        let hidden: Vec<_> = SHOWN.iter().filter(|name| !shown.contains(*name)).collect();
        ensure!(hidden.is_empty(), "no panel shows {hidden:?}");
        series_are_the_agents(&known)?;
        every_panel_shows_something(world, &page)
    });
}

/// The series of the tests of alerts have the labels that an agent gives them, and of those that
/// Prometheus adds any.
fn series_are_the_agents(known: &BTreeMap<&str, BTreeSet<&str>>) -> Result<()> {
    let mut seen = 0;
    for file in cases()? {
        let cases: Value = serde_norway::from_str(&fs::read_to_string(&file)?)?;
        for case in cases["tests"].as_array().into_iter().flatten() {
            for input in case["input_series"].as_array().into_iter().flatten() {
                let series = input["series"].as_str().context("no series")?;
                let (name, labels) = labels_of(series);
                if !name.starts_with("sqlrep_") {
                    continue;
                }
                seen += 1;
                let own = known.get(name);
                let own = own.with_context(|| format!("the agent has no {name}"))?;
                let other: Vec<_> = labels.difference(own).collect();
                ensure!(
                    own.is_subset(&labels) && other.iter().all(|label| ADDED.contains(label)),
                    "{}: {series}: an agent's has {own:?}",
                    file.display()
                );
            }
        }
    }
    ensure!(seen > 50, "only {seen} series were looked at");
    Ok(())
}

/// Each expression of the dashboard, over the page as if it had been scraped for twenty minutes.
fn every_panel_shows_something(world: &World, page: &Page) -> Result<()> {
    let series = page.samples().map(|(series, value)| {
        let (open, labels) = series.split_once('{').unwrap_or((series, "}"));
        let comma = if labels == "}" { "" } else { "," };
        let node = if labels.contains("node=") {
            ""
        } else {
            "node=\"n1\","
        };
        let added = format!("{node}instance=\"10.0.0.1:9464\"{comma}");
        json!({"series": format!("{open}{{{added}{labels}"), "values": format!("{value}+0x20")})
    });
    let panels = panels()?;
    let tests = panels.iter().map(|(_, expr)| {
        json!({
            "expr": format!("count({expr}) > bool 0"),
            "eval_time": "20m",
            "exp_samples": [{"labels": "{}", "value": 1}],
        })
    });
    let case = json!({
        "rule_files": [],
        "tests": [{
            "interval": "1m",
            "input_series": series.collect::<Vec<_>>(),
            "promql_expr_test": tests.collect::<Vec<_>>(),
        }],
    });
    fs::write(world.path("panels.yaml"), case.to_string())?;
    ensure!(panels.len() > 20, "only {} expressions", panels.len());
    promtool(&world.path(""), &["test", "rules", "panels.yaml"])?;
    Ok(())
}

#[test]
fn a_series_that_an_agent_does_not_have_is_seen() {
    let known = BTreeMap::from([(
        "sqlrep_replica_lag_seconds",
        BTreeSet::from(["db", "application"]),
    )]);
    let error = series_are_the_agents(&known).unwrap_err().to_string();
    assert!(error.contains("sqlrep_"), "{error}");
    assert_eq!(
        labels_of("a{b=\"c\",d=\"e\"}"),
        ("a", BTreeSet::from(["b", "d"]))
    );
    assert_eq!(
        metrics("rate(sqlrep_a_total[5m]) > x_sqlrep + sqlrep_b_bucket"),
        BTreeSet::from(["sqlrep_a_total", "sqlrep_b_bucket"])
    );
}
