//! Which crate may name which: the floors of the house, and the rooms of the heavy packages.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::tree::root;
use crate::{assert_kept, assert_seen};

/// Crate → the crates of ours it may name, in floor order.
const FLOORS: &[(&str, &[&str])] = &[
    ("sqlrep-proto", &[]),
    ("sqlrep-format", &[]),
    ("sqlrep-replica", &["sqlrep-format"]),
    ("sqlrep-spool", &["sqlrep-format", "sqlrep-replica"]),
    ("sqlrep-capture", &["sqlrep-format", "sqlrep-spool"]),
    ("sqlrep-discover", &[]),
    (
        "sqlrep-pipeline",
        &[
            "sqlrep-format",
            "sqlrep-replica",
            "sqlrep-spool",
            "sqlrep-capture",
        ],
    ),
    (
        "sqlrep-daemon",
        &["sqlrep-proto", "sqlrep-discover", "sqlrep-pipeline"],
    ),
    (
        "sqlrep-ctl",
        &["sqlrep-proto", "sqlrep-format", "sqlrep-replica"],
    ),
];

/// The crate that may name all others.
const PROOF: &str = "sqlrep-tests";

/// External package (or its prefix, with `*`) → the only crates that may depend on it.
const ROOMS: &[(&str, &[&str])] = &[
    ("lz4_flex", &["sqlrep-format"]),
    ("sled", &["sqlrep-spool"]),
    ("rusqlite", &["sqlrep-capture", PROOF]),
    ("libsqlite3-sys", &["sqlrep-capture"]),
    ("inotify", &["sqlrep-discover"]),
    ("kube*", &["sqlrep-discover", "sqlrep-daemon", "sqlrep-ctl"]),
    (
        "k8s-openapi",
        &["sqlrep-discover", "sqlrep-daemon", "sqlrep-ctl"],
    ),
    ("tower", &["sqlrep-pipeline", "sqlrep-daemon", "sqlrep-ctl"]),
    (
        "tokio*",
        &[
            "sqlrep-discover",
            "sqlrep-pipeline",
            "sqlrep-daemon",
            "sqlrep-ctl",
        ],
    ),
    ("tonic*", &["sqlrep-proto", "sqlrep-daemon", "sqlrep-ctl"]),
    ("prost*", &["sqlrep-proto", "sqlrep-daemon", "sqlrep-ctl"]),
    ("hyper*", &["sqlrep-daemon", "sqlrep-ctl"]),
    ("metrics*", &["sqlrep-pipeline", "sqlrep-daemon"]),
    ("clap*", &["sqlrep-daemon", "sqlrep-ctl"]),
    ("indicatif", &["sqlrep-ctl"]),
    ("anyhow", &["sqlrep-daemon", "sqlrep-ctl", PROOF]),
    ("tracing-subscriber", &["sqlrep-daemon"]),
];

/// Packages that are not for these crates, whatever else may have them.
const BARRED: &[(&str, &[&str])] = &[
    // format returns values and errors; it has nothing to say (L1)
    (
        "sqlrep-format",
        &["tracing", "log", "rustix", "libc", "tempfile"],
    ),
];

/// A crate and the packages it names directly. Its tests may reach any lower floor, to make what
/// they need; they keep to the rooms like all code.
struct Crate {
    name: String,
    names: Vec<String>,
    test_names: Vec<String>,
}

impl Crate {
    fn all_names(&self) -> impl Iterator<Item = &String> {
        self.names.iter().chain(&self.test_names)
    }
}

fn metadata() -> (Vec<Crate>, Vec<String>) {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--format-version",
            "1",
            "--offline",
            "--locked",
        ])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let all: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let packages = all["packages"].as_array().expect("metadata lists packages");
    let crates = packages
        .iter()
        .map(|package| {
            let all = package["dependencies"].as_array().into_iter().flatten();
            let (tests, code): (Vec<_>, Vec<_>) =
                all.partition(|dependency| dependency["kind"] == "dev");
            let names = |all: Vec<&Value>| all.iter().map(|one| text(&one["name"])).collect();
            Crate {
                name: text(&package["name"]),
                names: names(code),
                test_names: names(tests),
            }
        })
        .collect();
    // metadata sorts its members; the manifest keeps the order that the reader sees
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).expect("readable");
    let members = manifest
        .lines()
        .skip_while(|line| !line.starts_with("members"))
        .skip(1)
        .take_while(|line| !line.starts_with(']'))
        .filter_map(|line| line.trim().trim_end_matches(',').trim_matches('"').into())
        .map(|path: &str| {
            let name = Path::new(path)
                .file_name()
                .unwrap_or_default()
                .to_string_lossy();
            format!("sqlrep-{name}")
        })
        .collect();
    (crates, members)
}

fn floors(crates: &[Crate], members: &[String]) -> Vec<String> {
    let mut findings = Vec::new();
    for krate in crates.iter().filter(|krate| krate.name != PROOF) {
        let Some((_, may)) = FLOORS.iter().find(|(name, _)| *name == krate.name) else {
            findings.push(format!(
                "{} has no floor: give it one in tests/tidy",
                krate.name
            ));
            continue;
        };
        for named in krate
            .names
            .iter()
            .filter(|name| name.starts_with("sqlrep-"))
        {
            if !may.contains(&named.as_str()) {
                findings.push(format!("{} may not depend on {named}", krate.name));
            }
        }
    }
    let place = |name: &str| members.iter().position(|member| member == name);
    for krate in crates {
        for named in krate.all_names().filter(|name| name.starts_with("sqlrep-")) {
            if place(named) >= place(&krate.name) {
                findings.push(format!("members: {} stands before {named}", krate.name));
            }
        }
    }
    findings
}

fn rooms(crates: &[Crate]) -> Vec<String> {
    let is = |pattern: &str, name: &str| match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    };
    let mut findings = Vec::new();
    for krate in crates {
        for named in krate.all_names() {
            for (_, may) in ROOMS.iter().filter(|(pattern, _)| is(pattern, named)) {
                if !may.contains(&krate.name.as_str()) {
                    findings.push(format!("{} may not use {named}: only {may:?}", krate.name));
                }
            }
            let barred = |(name, what): &&(&str, &[&str])| {
                *name == krate.name && what.contains(&named.as_str())
            };
            if BARRED.iter().any(|entry| barred(&entry)) {
                findings.push(format!("{} may not use {named}", krate.name));
            }
        }
    }
    findings
}

#[test]
fn crates_name_only_lower_floors() {
    let (crates, members) = metadata();
    assert!(
        crates.len() > FLOORS.len(),
        "cargo metadata lists every crate"
    );
    assert_eq!(
        members.len(),
        crates.len(),
        "every member is read from the manifest: {members:?}"
    );
    assert_kept("floors (agent/README.md)", &floors(&crates, &members));
}

#[test]
fn heavy_packages_stay_in_their_room() {
    assert_kept("rooms (agent/README.md)", &rooms(&metadata().0));
}

#[test]
fn an_upward_edge_is_seen() {
    let krate = |name: &str, names: &[&str]| Crate {
        name: name.into(),
        names: names.iter().map(|name| (*name).into()).collect(),
        test_names: Vec::new(),
    };
    let crates = [
        krate("sqlrep-ctl", &["sqlrep-capture", "sled"]),
        krate("sqlrep-format", &["tracing"]),
        krate("sqlrep-attic", &[]),
    ];
    let members: Vec<String> = [
        "sqlrep-ctl",
        "sqlrep-capture",
        "sqlrep-format",
        "sqlrep-attic",
    ]
    .map(Into::into)
    .into();
    let found = floors(&crates, &members);
    assert_seen(&found, "sqlrep-ctl may not depend on sqlrep-capture");
    assert_seen(&found, "sqlrep-attic has no floor");
    assert_seen(&found, "members: sqlrep-ctl stands before sqlrep-capture");
    let found = rooms(&crates);
    assert_seen(&found, "sqlrep-ctl may not use sled");
    assert_seen(&found, "sqlrep-format may not use tracing");
}
