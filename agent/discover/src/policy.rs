//! Annotations → [`Policy`], with every wrong value named (DESIGN §4.1).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::time::Duration;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::{identity, target};

/// The label that opts a pod in, with the value `"true"`.
pub(crate) const REPLICATE: &str = "sqlrep.io/replicate";
/// Everything below is ours: a key we do not know is a typing error, and is reported.
const PREFIX: &str = "sqlrep.io/";
const VOLUMES: &str = "sqlrep.io/volumes";
const DATABASES: &str = "sqlrep.io/databases";
const EXCLUDE: &str = "sqlrep.io/exclude";
const APP: &str = "sqlrep.io/app";
const SYNC_INTERVAL: &str = "sqlrep.io/sync-interval";
const SNAPSHOT_INTERVAL: &str = "sqlrep.io/snapshot-interval";
const RETENTION: &str = "sqlrep.io/retention";
const JOURNAL_MODE: &str = "sqlrep.io/journal-mode";
pub(crate) const TARGET_VOLUME: &str = "sqlrep.io/target-volume";
const RESTORE: &str = "sqlrep.io/restore";
const ANNOTATIONS: [&str; 10] = [
    VOLUMES,
    DATABASES,
    EXCLUDE,
    APP,
    SYNC_INTERVAL,
    SNAPSHOT_INTERVAL,
    RETENTION,
    JOURNAL_MODE,
    TARGET_VOLUME,
    RESTORE,
];

/// How many globs one annotation may hold; each costs a match for every file of every scan.
const GLOBS_MAX: usize = 64;
/// How long one glob may be; a compiled one is many times larger.
const GLOB_BYTES_MAX: usize = 256;
/// How much of a wrong value is repeated in the report.
const VALUE_CHARS_MAX: usize = 120;
/// How many wrong values of one pod are reported; annotations may be 256 KiB in all.
const BAD_VALUES_MAX: usize = 32;
/// Ten years: past every use, and far from any overflow in arithmetic on milliseconds.
const DURATION_MAX: Duration = Duration::from_hours(24 * 3650);
/// Below this an interval is only a burden on the replica.
const SYNC_INTERVAL_MIN: Duration = Duration::from_millis(10);
/// Snapshots and retention shorter than this are typing errors.
const LONG_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// What one pod asks for. The default is what a pod with the label alone gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The emptyDirs to look in; `None` is all.
    pub volumes: Option<BTreeSet<String>>,
    /// Which files to look at; `None` is every SQLite file.
    pub databases: Option<Globs>,
    /// Which files to leave alone, stronger than `databases`.
    pub exclude: Option<Globs>,
    /// How often to ship under load; `None` is the agent's flag, as with the next two.
    pub sync_interval: Option<Duration>,
    /// How often to write a snapshot.
    pub snapshot_interval: Option<Duration>,
    /// How long restore points are kept.
    pub retention: Option<Duration>,
    /// What to do with a database that is not in WAL mode.
    pub journal: Journal,
    /// Whether to restore before the app starts.
    pub restore: Restore,
    /// The volume of the pod that holds the replicas instead of the agent's root.
    pub target_volume: Option<String>,
}

/// `sqlrep.io/journal-mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Journal {
    /// The app's choice stands.
    #[default]
    Keep,
    /// Convert the database to WAL.
    Wal,
}

/// `sqlrep.io/restore`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Restore {
    /// Restore when there is a replica.
    #[default]
    Auto,
    /// Start as the volume is.
    Never,
    /// Fail where there is no replica.
    Required,
}

/// A value that was not accepted; the default holds in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadValue {
    /// The whole key.
    pub key: String,
    /// The value as found, shortened past 120 characters.
    pub value: String,
    /// What would have been accepted, in words.
    pub accepted: String,
}

impl BadValue {
    pub(crate) fn new(key: &str, value: &str, accepted: impl Into<String>) -> Self {
        let mut shown: String = value.chars().take(VALUE_CHARS_MAX).collect();
        if shown.len() < value.len() {
            shown.push('…');
        }
        Self {
            key: key.to_owned(),
            value: shown,
            accepted: accepted.into(),
        }
    }

    /// Whether the wrong value leaves open *which replica* the pod belongs to. Its default could
    /// let an app start empty beside its data (G3). A wrong `restore` is not among them: its
    /// default restores whatever there is.
    pub fn leaves_restore_uncertain(&self) -> bool {
        matches!(self.key.as_str(), APP | TARGET_VOLUME)
    }
}

/// A compiled list of globs, equal when written equally.
#[derive(Clone)]
pub struct Globs {
    written: Vec<String>,
    set: GlobSet,
}

/// As written: a compiled glob fills screens.
impl fmt::Debug for Globs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.written.fmt(f)
    }
}

impl PartialEq for Globs {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written
    }
}

impl Eq for Globs {}

impl Globs {
    /// Whether a path, relative to the volume, matches one of them. `*` stops at `/`, `**` does
    /// not.
    pub fn matches(&self, path: &Path) -> bool {
        self.set.is_match(path)
    }

    /// The globs as written.
    pub fn written(&self) -> &[String] {
        &self.written
    }
}

impl Policy {
    /// Whether the file at `path` (relative to the volume) is one to look at.
    pub fn wants(&self, path: &Path) -> bool {
        self.databases
            .as_ref()
            .is_none_or(|globs| globs.matches(path))
            && !self
                .exclude
                .as_ref()
                .is_some_and(|globs| globs.matches(path))
    }

    /// Whether the pod asked for this very file by a glob, so that silence about it would puzzle.
    pub fn names(&self, path: &Path) -> bool {
        self.databases
            .as_ref()
            .is_some_and(|globs| globs.matches(path))
            && self.wants(path)
    }

    /// Whether databases are looked for in this emptyDir.
    pub fn selects_volume(&self, name: &str) -> bool {
        self.volumes
            .as_ref()
            .is_none_or(|volumes| volumes.contains(name))
    }
}

/// The volumes a pod has, by what may be said about them in annotations.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PodVolumes<'a> {
    /// Its emptyDirs, without the gate's.
    pub(crate) empty_dirs: &'a [String],
    /// Those that could hold its replicas.
    pub(crate) targets: &'a [String],
}

/// What the annotations of a pod say.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    /// The policy, with defaults in place of wrong values.
    pub(crate) policy: Policy,
    /// `sqlrep.io/app`, checked.
    pub(crate) app: Option<String>,
    /// Every wrong value, in the order of their keys.
    pub(crate) bad: Vec<BadValue>,
}

/// Reads every `sqlrep.io/` annotation.
pub(crate) fn parse(annotations: &BTreeMap<String, String>, volumes: PodVolumes<'_>) -> Parsed {
    let mut parsed = Parsed::default();
    for (key, value) in annotations
        .iter()
        .filter(|(key, _)| key.starts_with(PREFIX))
    {
        let before = parsed.bad.len();
        apply(&mut parsed, key, value, volumes);
        if before >= BAD_VALUES_MAX {
            parsed.bad.truncate(BAD_VALUES_MAX);
        }
    }
    one_volume_for_target(&mut parsed, annotations, volumes);
    parsed
}

/// One annotation into the policy.
fn apply(parsed: &mut Parsed, key: &str, value: &str, volumes: PodVolumes<'_>) {
    let Parsed { policy, app, bad } = parsed;
    let mut wrong = |accepted: String| bad.push(BadValue::new(key, value, accepted));
    let trimmed = value.trim();
    match key {
        VOLUMES => policy.volumes = Some(volume_list(trimmed, volumes.empty_dirs, &mut wrong)),
        DATABASES => policy.databases = globs(value, &mut wrong),
        EXCLUDE => policy.exclude = globs(value, &mut wrong),
        APP if identity::is_dns_subdomain(trimmed) => *app = Some(trimmed.to_owned()),
        APP => wrong("a DNS-1123 name: lower-case letters, digits, '-' and '.'".into()),
        SYNC_INTERVAL => policy.sync_interval = duration(trimmed, SYNC_INTERVAL_MIN, &mut wrong),
        SNAPSHOT_INTERVAL => {
            policy.snapshot_interval = duration(trimmed, LONG_INTERVAL_MIN, &mut wrong);
        }
        RETENTION => policy.retention = duration(trimmed, LONG_INTERVAL_MIN, &mut wrong),
        JOURNAL_MODE => match trimmed {
            "keep" => policy.journal = Journal::Keep,
            "wal" => policy.journal = Journal::Wal,
            _ => wrong("keep or wal".into()),
        },
        RESTORE => match trimmed {
            "auto" => policy.restore = Restore::Auto,
            "never" => policy.restore = Restore::Never,
            "required" => policy.restore = Restore::Required,
            _ => wrong("auto, never or required".into()),
        },
        TARGET_VOLUME if volumes.targets.iter().any(|name| name == trimmed) => {
            policy.target_volume = Some(trimmed.to_owned());
        }
        TARGET_VOLUME => wrong(format!("{}: {}", target::ACCEPTED, listed(volumes.targets))),
        REPLICATE => wrong(format!(
            "nothing here: {REPLICATE} is a label, put it under metadata.labels"
        )),
        _ => wrong(format!(
            "no such annotation; there are {}",
            ANNOTATIONS.join(", ")
        )),
    }
}

/// A replica in a volume of the pod has no volume part in its path, so it holds one emptyDir's
/// databases only.
fn one_volume_for_target(
    parsed: &mut Parsed,
    annotations: &BTreeMap<String, String>,
    volumes: PodVolumes<'_>,
) {
    let policy = &mut parsed.policy;
    let selected = volumes
        .empty_dirs
        .iter()
        .filter(|name| policy.selects_volume(name))
        .count();
    if selected == 1 || policy.target_volume.take().is_none() {
        return;
    }
    let value = annotations.get(TARGET_VOLUME).map_or("", String::as_str);
    parsed.bad.push(BadValue::new(
        TARGET_VOLUME,
        value,
        format!(
            "exactly one emptyDir beside it, but {selected} are selected; name one of {} in {VOLUMES}",
            listed(volumes.empty_dirs)
        ),
    ));
}

/// The opt-in label: `None` when the pod is not in.
pub(crate) fn opted_in(label: Option<&str>) -> Result<bool, BadValue> {
    match label {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => Err(BadValue::new(
            REPLICATE,
            other,
            "\"true\" (opts in) or \"false\"",
        )),
    }
}

/// Names of emptyDirs; those that the pod does not have are reported and left out.
fn volume_list(
    value: &str,
    empty_dirs: &[String],
    wrong: &mut impl FnMut(String),
) -> BTreeSet<String> {
    let named = value
        .split(|c: char| c == ',' || c.is_whitespace())
        .filter(|s| !s.is_empty());
    let (known, unknown): (Vec<&str>, Vec<&str>) =
        named.partition(|name| empty_dirs.iter().any(|dir| dir == name));
    if known.is_empty() || !unknown.is_empty() {
        wrong(format!(
            "emptyDir volumes of this pod: {}",
            listed(empty_dirs)
        ));
    }
    known.into_iter().map(str::to_owned).collect()
}

/// Globs; wrong ones are reported and left out. When none is right the default holds.
fn globs(value: &str, wrong: &mut impl FnMut(String)) -> Option<Globs> {
    let mut written = Vec::new();
    let mut set = GlobSetBuilder::new();
    let all = split_globs(value);
    if all.is_empty() || all.len() > GLOBS_MAX {
        wrong(format!(
            "1 to {GLOBS_MAX} globs separated by commas, like *.db, data/**/*.sqlite"
        ));
    }
    for text in all.into_iter().take(GLOBS_MAX) {
        if text.len() > GLOB_BYTES_MAX {
            wrong(format!("globs of at most {GLOB_BYTES_MAX} bytes each"));
            continue;
        }
        let relative = text.trim_start_matches("./");
        match GlobBuilder::new(relative).literal_separator(true).build() {
            Ok(glob) if !relative.starts_with('/') => {
                set.add(glob);
                written.push(relative.to_owned());
            }
            Ok(_) => wrong(format!(
                "globs relative to the volume; {text:?} begins with /"
            )),
            Err(error) => wrong(format!("globs like *.db; in {text:?}: {}", error.kind())),
        }
    }
    match set.build() {
        Ok(set) if !written.is_empty() => Some(Globs { written, set }),
        Ok(_) => None,
        Err(error) => {
            wrong(format!("fewer or simpler globs: {}", error.kind()));
            None
        }
    }
}

/// Splits at commas and white space, but not within `{a,b}` or `[,]`.
fn split_globs(value: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    value
        .split(move |c: char| {
            match c {
                '{' | '[' => depth += 1,
                '}' | ']' => depth = depth.saturating_sub(1),
                _ => {}
            }
            c.is_whitespace() || (c == ',' && depth == 0)
        })
        .filter(|text| !text.is_empty())
        .collect()
}

/// A duration within bounds.
fn duration(value: &str, min: Duration, wrong: &mut impl FnMut(String)) -> Option<Duration> {
    match humantime::parse_duration(value) {
        Ok(duration) if (min..=DURATION_MAX).contains(&duration) => Some(duration),
        _ => {
            wrong(format!(
                "a duration like 1s, 24h or 7d, from {} to 3650d",
                humantime::format_duration(min)
            ));
            None
        }
    }
}

/// A list in words.
fn listed(names: &[String]) -> String {
    if names.is_empty() {
        "it has none".to_owned()
    } else {
        names.join(", ")
    }
}

#[cfg(test)]
mod tests;
