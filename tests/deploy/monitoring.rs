//! Alerts and the dashboard ask for metrics that the agent has.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Result, ensure};

use crate::tools::deploy;

/// The words of a text that begin as our metrics do.
fn metrics(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'))
        .filter(|word| word.starts_with("sqlrep_"))
        .map(|word| word.strip_suffix("_bucket").unwrap_or(word))
        .collect()
}

#[test]
fn alerts_and_the_dashboard_name_metrics_that_exist() -> Result<()> {
    let mut source = String::new();
    for file in ["metrics.rs", "metrics/timing.rs"] {
        source += &fs::read_to_string(deploy("../agent/daemon/src").join(file))?;
    }
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
        metrics("rate(sqlrep_a_total[5m]) > x_sqlrep + sqlrep_b_bucket"),
        BTreeSet::from(["sqlrep_a_total", "sqlrep_b"])
    );
}
