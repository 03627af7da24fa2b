//! Alerts and the dashboard ask for metrics that the agent has.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Result, ensure};

use crate::tools::deploy;

/// The words of a text that begin as our metrics do.
fn metrics(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'))
        .filter(|word| word.starts_with("sqlrep_"))
        .collect()
}

#[test]
fn alerts_and_the_dashboard_name_metrics_that_exist() -> Result<()> {
    let source = fs::read_to_string(deploy("../agent/daemon/src/metrics.rs"))?;
    let known = metrics(&source);
    for file in ["rules.yaml", "dashboard.json"] {
        let text = fs::read_to_string(deploy("components/monitoring").join(file))?;
        let asked = metrics(&text);
        ensure!(asked.len() > 3, "{file} asks for {asked:?} only");
        let unknown: Vec<_> = asked.difference(&known).collect();
        ensure!(unknown.is_empty(), "{file}: the agent has no {unknown:?}");
    }
    Ok(())
}

#[test]
fn an_unknown_metric_is_seen() {
    assert_eq!(
        metrics("rate(sqlrep_a_total[5m]) > x_sqlrep"),
        BTreeSet::from(["sqlrep_a_total"])
    );
}
