//! How long things take, as histograms.

use std::time::Duration;

use sqlrep_pipeline::{BUCKETS, Histogram, NfsCalls};

use super::{Kind, float, heading, sample};

/// The calls on replicas, by operation.
pub(super) fn nfs(page: &mut String, calls: &[NfsCalls]) {
    let name = "sqlrep_nfs_op_duration_seconds";
    let help = "How long calls on replicas took, well or not.";
    heading(page, name, Kind::Histogram, help);
    for calls in calls {
        histogram(page, name, &labels(calls), &calls.took);
    }
    let name = "sqlrep_nfs_errors_total";
    heading(page, name, Kind::Counter, "Calls on replicas that failed.");
    for calls in calls {
        sample(page, name, &labels(calls), float(calls.errors));
    }
    let name = "sqlrep_nfs_ops_running";
    let help = "Calls on replicas that are under way: one that stays hangs.";
    heading(page, name, Kind::Gauge, help);
    for calls in calls {
        sample(page, name, &labels(calls), float(calls.running));
    }
}

/// Restores into volumes of pods.
pub(super) fn restores(page: &mut String, took: &Histogram) {
    let name = "sqlrep_restore_duration_seconds";
    let help = "How long restores into volumes of pods took, those that went well.";
    heading(page, name, Kind::Histogram, help);
    histogram(page, name, "", took);
}

fn labels(calls: &NfsCalls) -> String {
    format!("op=\"{}\"", calls.op.as_str())
}

fn histogram(page: &mut String, name: &str, labels: &str, took: &Histogram) {
    let bucket = format!("{name}_bucket");
    let comma = if labels.is_empty() { "" } else { "," };
    let mut at_most = |bound: &str, count: u64| {
        let labels = format!("{labels}{comma}le=\"{bound}\"");
        sample(page, &bucket, &labels, float(count));
    };
    for (bound, count) in BUCKETS.iter().map(Duration::as_secs_f64).zip(took.buckets) {
        at_most(&bound.to_string(), count);
    }
    at_most("+Inf", took.count);
    sample(page, &format!("{name}_sum"), labels, took.sum.as_secs_f64());
    sample(page, &format!("{name}_count"), labels, float(took.count));
}
