//! `/metrics` in the Prometheus text format, rendered from the fleet's own list at each scrape:
//! there is no second set of books to keep.

mod timing;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use sqlrep_pipeline::{DatabaseStatus, Fleet, Histogram, NfsCalls, QuickCheck, RootHealth, State};

/// The content type of the format.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a scrape shows.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// The node.
    pub(crate) node: String,
    /// One row for each database.
    pub(crate) rows: Vec<DatabaseStatus>,
    /// The root.
    pub(crate) root: RootHealth,
    /// Bytes that wait in the spool.
    pub(crate) spool_bytes: u64,
    /// Bytes that the spool may hold.
    pub(crate) spool_bytes_max: u64,
    /// Databases that were not read to the end.
    pub(crate) unread_ends: u64,
    /// When the last of those was noted.
    pub(crate) last_unread_end: Option<SystemTime>,
    /// Calls on replicas.
    pub(crate) nfs: Vec<NfsCalls>,
    /// How long restores took.
    pub(crate) restores: Histogram,
    /// When it was taken.
    pub(crate) now: Instant,
}

impl Snapshot {
    /// The fleet as it is now.
    pub(crate) fn of(fleet: &Fleet) -> Self {
        let config = fleet.config();
        Self {
            node: config.node.clone(),
            rows: fleet.list(),
            root: fleet.root(),
            spool_bytes: fleet.pending_bytes(),
            spool_bytes_max: config.spool_bytes_max,
            unread_ends: fleet.unread_ends(),
            last_unread_end: fleet.last_unread_end(),
            nfs: fleet.nfs_calls(),
            restores: fleet.restore_durations(),
            now: Instant::now(),
        }
    }
}

/// Prometheus' kinds.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Gauge,
    Counter,
    Histogram,
}

/// One metric of a database.
struct PerDatabase {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    value: fn(&DatabaseStatus, &Snapshot) -> Option<f64>,
}

/// Whole numbers up to 2^53 are exact in the format's floats; past that the last digits of byte
/// counts do not matter.
#[expect(
    clippy::cast_precision_loss,
    reason = "the format knows only 64-bit floats"
)]
fn float(value: u64) -> f64 {
    value as f64
}

/// A time as seconds since 1970.
fn seconds(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

/// Whether a database's commits do not reach its replica as they should.
fn out_of_sync(row: &DatabaseStatus, all: &Snapshot) -> bool {
    match row.state {
        State::Stalled | State::Fenced | State::Unsupported => true,
        State::Found
        | State::Restoring
        | State::Snapshotting
        | State::Following
        | State::Draining
        | State::Gone => all.root.problem.is_some() && !row.in_volume,
    }
}

const PER_DATABASE: [PerDatabase; 29] = [
    PerDatabase {
        name: "sqlrep_replica_lag_seconds",
        kind: Kind::Gauge,
        help: "Age of the oldest commit that is not on the replica; 0 when there is none.",
        value: |row, all| Some(row.lag(all.now).as_secs_f64()),
    },
    PerDatabase {
        name: "sqlrep_replica_last_lag_seconds",
        kind: Kind::Gauge,
        help: "How long the last shipped change took from being seen to being on the replica.",
        value: |row, _| Some(row.last_lag?.as_secs_f64()),
    },
    PerDatabase {
        name: "sqlrep_replica_last_sync_timestamp_seconds",
        kind: Kind::Gauge,
        help: "When something was last published on the replica.",
        value: |row, _| Some(seconds(row.shipped_at?)),
    },
    PerDatabase {
        name: "sqlrep_replica_pending_bytes",
        kind: Kind::Gauge,
        help: "Captured bytes on the node that are not on the replica.",
        value: |row, _| Some(float(row.pending_bytes)),
    },
    PerDatabase {
        name: "sqlrep_replica_out_of_sync",
        kind: Kind::Gauge,
        help: "1 while the database is stalled, fenced or unsupported, or the root that its replica is on cannot be used.",
        value: |row, all| Some(out_of_sync(row, all).into()),
    },
    PerDatabase {
        name: "sqlrep_replica_txid",
        kind: Kind::Gauge,
        help: "Newest TXID on the replica.",
        value: |row, _| Some(float(row.shipped?.get())),
    },
    PerDatabase {
        name: "sqlrep_replica_files",
        kind: Kind::Gauge,
        help: "Files of the replica, as upkeep knows them.",
        value: |row, _| Some(float(row.replica.files?)),
    },
    PerDatabase {
        name: "sqlrep_replica_bytes",
        kind: Kind::Gauge,
        help: "Bytes of the replica, as upkeep knows them.",
        value: |row, _| Some(float(row.replica.bytes?)),
    },
    PerDatabase {
        name: "sqlrep_replica_snapshot_timestamp_seconds",
        kind: Kind::Gauge,
        help: "Of when the newest snapshot is.",
        value: |row, _| Some(seconds(row.replica.snapshot_at?)),
    },
    PerDatabase {
        name: "sqlrep_replica_verified_timestamp_seconds",
        kind: Kind::Gauge,
        help: "When the replica was last read back and found whole.",
        value: |row, _| Some(seconds(row.replica.verified?.0)),
    },
    PerDatabase {
        name: "sqlrep_replica_damaged",
        kind: Kind::Gauge,
        help: "1 from when a reading back found damage until the next one that finds none.",
        value: |row, _| Some(row.replica.damage.is_some().into()),
    },
    PerDatabase {
        name: "sqlrep_replica_damages_total",
        kind: Kind::Counter,
        help: "How often a part of the replica was found damaged.",
        value: |row, _| Some(float(row.replica.damages)),
    },
    PerDatabase {
        name: "sqlrep_replica_lost_points_total",
        kind: Kind::Counter,
        help: "Kept points that were lost with damaged files.",
        value: |row, _| Some(float(row.replica.lost_points)),
    },
    PerDatabase {
        name: "sqlrep_database_quick_check_timestamp_seconds",
        kind: Kind::Gauge,
        help: "When SQLite last looked at the database that the replica restores to.",
        value: |row, _| Some(seconds(row.replica.quick_check.as_ref()?.0)),
    },
    PerDatabase {
        name: "sqlrep_database_damaged",
        kind: Kind::Gauge,
        help: "1 when SQLite then found the app's database itself damaged.",
        value: |row, _| {
            let (_, _, found) = row.replica.quick_check.as_ref()?;
            Some((*found != QuickCheck::Ok).into())
        },
    },
    PerDatabase {
        name: "sqlrep_database_not_checked",
        kind: Kind::Gauge,
        help: "1 when SQLite could not be asked the last time, for lack of room or because it did not answer.",
        value: |row, _| Some(row.replica.not_checked.is_some().into()),
    },
    PerDatabase {
        name: "sqlrep_replica_upkeep_failing",
        kind: Kind::Gauge,
        help: "1 from when a piece of upkeep failed until that works again.",
        value: |row, _| Some(row.replica.error.is_some().into()),
    },
    PerDatabase {
        name: "sqlrep_replica_compactions_total",
        kind: Kind::Counter,
        help: "Files written by compaction, snapshots included.",
        value: |row, _| Some(float(row.replica.compactions)),
    },
    PerDatabase {
        name: "sqlrep_replica_removed_files_total",
        kind: Kind::Counter,
        help: "Files removed by retention.",
        value: |row, _| Some(float(row.replica.removed)),
    },
    PerDatabase {
        name: "sqlrep_database_size_bytes",
        kind: Kind::Gauge,
        help: "Size of the database.",
        value: |row, _| Some(float(row.size_bytes)),
    },
    PerDatabase {
        name: "sqlrep_database_wal_bytes",
        kind: Kind::Gauge,
        help: "Size of the database's WAL file.",
        value: |row, _| Some(float(row.wal_bytes)),
    },
    PerDatabase {
        name: "sqlrep_capture_frames_total",
        kind: Kind::Counter,
        help: "WAL frames read.",
        value: |row, _| Some(float(row.counters.frames)),
    },
    PerDatabase {
        name: "sqlrep_capture_files_total",
        kind: Kind::Counter,
        help: "L0 files written to the spool.",
        value: |row, _| Some(float(row.counters.captured_files)),
    },
    PerDatabase {
        name: "sqlrep_capture_bytes_total",
        kind: Kind::Counter,
        help: "Bytes of L0 files written to the spool.",
        value: |row, _| Some(float(row.counters.captured_bytes)),
    },
    PerDatabase {
        name: "sqlrep_ship_files_total",
        kind: Kind::Counter,
        help: "Files published on the replica.",
        value: |row, _| Some(float(row.counters.shipped_files)),
    },
    PerDatabase {
        name: "sqlrep_ship_bytes_total",
        kind: Kind::Counter,
        help: "Bytes published on the replica.",
        value: |row, _| Some(float(row.counters.shipped_bytes)),
    },
    PerDatabase {
        name: "sqlrep_checkpoints_total",
        kind: Kind::Counter,
        help: "Checkpoints that the agent ran.",
        value: |row, _| Some(float(row.counters.checkpoints)),
    },
    PerDatabase {
        name: "sqlrep_restores_total",
        kind: Kind::Counter,
        help: "Restores into the volume.",
        value: |row, _| Some(float(row.counters.restores)),
    },
    PerDatabase {
        name: "sqlrep_errors_total",
        kind: Kind::Counter,
        help: "Stages that failed and were tried again.",
        value: |row, _| Some(float(row.counters.errors)),
    },
];

const STATES: [State; 9] = [
    State::Found,
    State::Restoring,
    State::Snapshotting,
    State::Following,
    State::Draining,
    State::Gone,
    State::Stalled,
    State::Fenced,
    State::Unsupported,
];

/// The whole page.
pub(crate) fn render(all: &Snapshot) -> String {
    let mut page = String::new();
    let mut single = |name: &str, help: &str, labels: &str, value: f64| {
        heading(&mut page, name, Kind::Gauge, help);
        sample(&mut page, name, labels, value);
    };
    let build = format!(
        "version=\"{}\",node=\"{}\"",
        escape(env!("CARGO_PKG_VERSION")),
        escape(&all.node)
    );
    single(
        "sqlrep_build_info",
        "Always 1; the labels say what runs.",
        &build,
        1.0,
    );
    let usable = f64::from(all.root.problem.is_none());
    single(
        "sqlrep_replica_root_usable",
        "1 while the replica root can be used.",
        "",
        usable,
    );
    single(
        "sqlrep_spool_bytes",
        "Bytes that wait for the replica.",
        "",
        float(all.spool_bytes),
    );
    let most = float(all.spool_bytes_max);
    single(
        "sqlrep_spool_bytes_max",
        "Bytes that the spool may hold.",
        "",
        most,
    );
    let unread = "sqlrep_unread_ends_total";
    let help = "Databases that ended with their pod before they were read to the end.";
    heading(&mut page, unread, Kind::Counter, help);
    sample(&mut page, unread, "", float(all.unread_ends));
    let name = "sqlrep_unread_end_timestamp_seconds";
    heading(
        &mut page,
        name,
        Kind::Gauge,
        "When the last of those was noted; missing when there is none.",
    );
    if let Some(at) = all.last_unread_end {
        sample(&mut page, name, "", seconds(at));
    }
    timing::nfs(&mut page, &all.nfs);
    timing::restores(&mut page, &all.restores);
    states(&mut page, all);
    let rows = one_row_each(&all.rows);
    for metric in &PER_DATABASE {
        heading(&mut page, metric.name, metric.kind, metric.help);
        for (labels, row) in &rows {
            if let Some(value) = (metric.value)(row, all) {
                sample(&mut page, metric.name, labels, value);
            }
        }
    }
    page
}

fn states(page: &mut String, all: &Snapshot) {
    let name = "sqlrep_databases";
    heading(page, name, Kind::Gauge, "Databases by state.");
    for state in STATES {
        let count = all.rows.iter().filter(|row| row.state == state).count();
        let labels = format!("state=\"{state}\"");
        sample(page, name, &labels, float(count as u64));
    }
}

/// One row for each identity: a series may be on a page once only, and two pods of one app may be
/// on a node, the old one draining.
fn one_row_each(rows: &[DatabaseStatus]) -> BTreeMap<String, &DatabaseStatus> {
    let is_leaving = |row: &DatabaseStatus| matches!(row.state, State::Draining | State::Gone);
    let mut each: BTreeMap<String, &DatabaseStatus> = BTreeMap::new();
    for row in rows {
        let shown = each.entry(labels(row)).or_insert(row);
        if is_leaving(shown) && !is_leaving(row) {
            *shown = row;
        }
    }
    each
}

fn labels(row: &DatabaseStatus) -> String {
    format!(
        "namespace=\"{}\",app=\"{}\",volume=\"{}\",db=\"{}\"",
        escape(row.id.namespace()),
        escape(row.id.app()),
        escape(row.id.volume()),
        escape(&row.id.encoded_path())
    )
}

fn heading(page: &mut String, name: &str, kind: Kind, help: &str) {
    let kind = match kind {
        Kind::Gauge => "gauge",
        Kind::Counter => "counter",
        Kind::Histogram => "histogram",
    };
    writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}").expect("a String takes all");
}

fn sample(page: &mut String, name: &str, labels: &str, value: f64) {
    let (open, close) = if labels.is_empty() {
        ("", "")
    } else {
        ("{", "}")
    };
    writeln!(page, "{name}{open}{labels}{close} {value}").expect("a String takes all");
}

/// A label's value: backslash, quote and line feed are escaped.
fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::LazyLock;
    use std::time::Duration;

    use super::*;

    static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);

    fn snapshot(rows: Vec<DatabaseStatus>) -> Snapshot {
        Snapshot {
            node: "node-\"1\"".to_owned(),
            rows,
            root: RootHealth::default(),
            spool_bytes: 5,
            spool_bytes_max: 10 << 30,
            unread_ends: 0,
            last_unread_end: None,
            nfs: vec![NfsCalls {
                op: sqlrep_pipeline::NfsOp::Put,
                took: Histogram {
                    buckets: [1, 1, 2, 2, 2, 2, 2, 2],
                    count: 3,
                    sum: Duration::from_millis(90_500),
                },
                errors: 1,
                running: 4,
            }],
            restores: Histogram::default(),
            now: *BEGUN + Duration::from_secs(10),
        }
    }

    fn row(path: &str, pod: &str, state: State) -> DatabaseStatus {
        let id = sqlrep_pipeline::DbId::new("media", "surmai", "sqlite", path).unwrap();
        let mut row = DatabaseStatus::new(id, pod, pod);
        row.state = state;
        row.behind_since = Some(*BEGUN);
        row.shipped_at = Some(UNIX_EPOCH + Duration::from_secs(1_000_000));
        row
    }

    /// Name and labels of each sample, with its value; checks the form of every line.
    fn parse(page: &str) -> Vec<(String, f64)> {
        let mut typed = BTreeSet::new();
        let mut samples = Vec::new();
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(["gauge", "counter", "histogram"].contains(&kind), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                assert!(typed.insert(name.to_owned()), "{name} is declared twice");
            } else if !line.starts_with("# HELP ") {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let name = series.split('{').next().unwrap();
                let family = ["_bucket", "_sum", "_count"].iter();
                let family = family.filter_map(|part| name.strip_suffix(part));
                let mut known = family.chain([name]);
                assert!(
                    known.any(|name| typed.contains(name)),
                    "{line} comes before its type"
                );
                samples.push((series.to_owned(), value.parse().unwrap()));
            }
        }
        let series: BTreeSet<_> = samples.iter().map(|(series, _)| series).collect();
        assert_eq!(series.len(), samples.len(), "a series is on the page twice");
        samples
    }

    #[test]
    fn the_page_has_the_agreed_names_and_values() {
        let samples = parse(&render(&snapshot(vec![row(
            "data.db",
            "p",
            State::Following,
        )])));
        let value = |series: &str| {
            samples
                .iter()
                .find(|(found, _)| found == series)
                .unwrap_or_else(|| panic!("{series}"))
                .1
        };
        let of = "{namespace=\"media\",app=\"surmai\",volume=\"sqlite\",db=\"data.db\"}";
        assert!((value(&format!("sqlrep_replica_lag_seconds{of}")) - 10.0).abs() < 1e-9);
        let shipped = value(&format!("sqlrep_replica_last_sync_timestamp_seconds{of}"));
        assert!((shipped - 1_000_000.0).abs() < 1e-9);
        for name in ["sqlrep_replica_pending_bytes", "sqlrep_replica_out_of_sync"] {
            assert!(value(&format!("{name}{of}")).abs() < 1e-9);
        }
        let build = format!(
            "sqlrep_build_info{{version=\"{}\",node=\"node-\\\"1\\\"\"}}",
            env!("CARGO_PKG_VERSION")
        );
        assert!((value(&build) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_histogram_counts_up_to_everything() {
        let samples = parse(&render(&snapshot(Vec::new())));
        let put: Vec<_> = samples
            .iter()
            .filter(|(series, _)| series.starts_with("sqlrep_nfs_") && series.contains("put"))
            .map(|(series, value)| format!("{series} {value}"))
            .collect();
        let of = "sqlrep_nfs_op_duration_seconds";
        assert!(
            put.contains(&format!("{of}_bucket{{op=\"put\",le=\"0.001\"}} 1")),
            "{put:?}"
        );
        assert!(
            put.contains(&format!("{of}_bucket{{op=\"put\",le=\"60\"}} 2")),
            "{put:?}"
        );
        assert!(
            put.contains(&format!("{of}_bucket{{op=\"put\",le=\"+Inf\"}} 3")),
            "{put:?}"
        );
        assert!(
            put.contains(&format!("{of}_sum{{op=\"put\"}} 90.5")),
            "{put:?}"
        );
        assert!(
            put.contains(&format!("{of}_count{{op=\"put\"}} 3")),
            "{put:?}"
        );
        assert!(put.contains(&"sqlrep_nfs_errors_total{op=\"put\"} 1".to_owned()));
        assert!(put.contains(&"sqlrep_nfs_ops_running{op=\"put\"} 4".to_owned()));
    }

    #[test]
    fn an_old_pod_that_drains_does_not_double_the_series() {
        let rows = vec![
            row("data.db", "old", State::Draining),
            row("data.db", "new", State::Stalled),
            row("data.db", "older", State::Gone),
        ];
        let samples = parse(&render(&snapshot(rows)));
        let out: Vec<_> = samples
            .iter()
            .filter(|(series, _)| series.starts_with("sqlrep_replica_out"))
            .collect();
        assert_eq!(out.len(), 1);
        assert!((out[0].1 - 1.0).abs() < 1e-9, "the living one is shown");
    }

    #[test]
    fn an_end_that_was_not_read_has_its_time_and_upkeep_that_fails_is_shown() {
        let mut failing = row("data.db", "p", State::Following);
        failing.replica.error = Some("no space".to_owned());
        let mut all = snapshot(vec![failing]);
        let time = "sqlrep_unread_end_timestamp_seconds";
        assert!(
            !parse(&render(&all))
                .iter()
                .any(|(series, _)| series == time)
        );
        all.last_unread_end = Some(UNIX_EPOCH + Duration::from_secs(7));
        let samples = parse(&render(&all));
        let value = |name: &str| {
            samples
                .iter()
                .find(|(series, _)| series.starts_with(name))
                .unwrap()
                .1
        };
        assert!((value(time) - 7.0).abs() < 1e-9);
        assert!((value("sqlrep_replica_upkeep_failing{") - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_root_that_is_away_is_nothing_to_a_replica_in_a_volume_of_its_pod() {
        let mut own = row("own.db", "p", State::Following);
        own.in_volume = true;
        let mut all = snapshot(vec![own, row("data.db", "p", State::Following)]);
        all.root.problem = Some("not mounted".to_owned());
        let samples = parse(&render(&all));
        let out = samples
            .iter()
            .filter(|(series, _)| series.starts_with("sqlrep_replica_out"));
        let out: Vec<_> = out
            .map(|(series, value)| (series.contains("own.db"), *value > 0.5))
            .collect();
        assert_eq!(out, [(false, true), (true, false)]);
    }

    #[test]
    fn names_from_pods_cannot_break_the_page() {
        let rows = vec![row("a\"} 1\nsqlrep_fake 1\\.db", "p", State::Following)];
        let samples = parse(&render(&snapshot(rows)));
        assert!(
            !samples
                .iter()
                .any(|(series, _)| series.starts_with("sqlrep_fake"))
        );
    }
}
