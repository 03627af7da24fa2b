//! What a Rust file looks like here: its size, its name, its first line, and what it may call.

use crate::tree::Tree;
use crate::{assert_kept, assert_seen};

/// A file past this is two files.
const LINES_MAX: usize = 800;

/// Names that say nothing about what is inside.
const BANNED_MODULES: &[&str] = &[
    "util", "utils", "common", "helper", "helpers", "misc", "manager", "types",
];

/// Words in code → the files (by prefix) that may hold them. `""` alone would allow all.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("sled::", &["agent/spool/src/ledger"]),
    ("lz4_flex::", &["agent/format/src/ltx"]),
    ("rusqlite::", &["agent/capture/", "tests/"]),
    ("inotify::", &["agent/discover/src/watch"]),
    ("tonic::", &["proto/", "agent/daemon/", "ctl/"]),
    (
        "kube::",
        &[
            "agent/discover/",
            "agent/daemon/src/auth",
            "agent/daemon/src/cluster",
            "agent/daemon/src/events",
            "ctl/src/cluster",
        ],
    ),
    // adopt publishes the gate's status file, which is no part of a replica
    (
        "renameat",
        &[
            "agent/replica/src/durable",
            "agent/daemon/src/adopt/",
            "tests/",
        ],
    ),
];

/// Tests that stand apart from the code they test: not counted, they have a file of their own.
fn is_test(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/src/") && path.contains("/tests/")
}

fn sizes(tree: &Tree) -> Vec<String> {
    tree.ending(".rs")
        .filter(|file| !is_test(&file.path))
        .map(|file| (file, file.text.lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(file, lines)| format!("{}: {lines} lines, more than {LINES_MAX}", file.path))
        .collect()
}

fn names(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for file in tree.ending(".rs") {
        if file.name() == "mod.rs" {
            findings.push(format!(
                "{}: write foo.rs beside foo/, never mod.rs",
                file.path
            ));
        }
        let parts = file.path.trim_end_matches(".rs").split('/');
        for part in parts.filter(|part| BANNED_MODULES.contains(part)) {
            findings.push(format!(
                "{}: {part:?} says nothing; name the thing",
                file.path
            ));
        }
        for (number, line) in file.lines() {
            let mut words = line
                .split_whitespace()
                .skip_while(|word| word.starts_with("pub"));
            let module = (words.next() == Some("mod"))
                .then(|| words.next())
                .flatten();
            let module = module.unwrap_or_default().trim_end_matches([';', '{']);
            if BANNED_MODULES.contains(&module) {
                findings.push(format!("{}: line {number}: module {module:?}", file.path));
            }
        }
    }
    findings
}

fn purposes(tree: &Tree) -> Vec<String> {
    tree.ending(".rs")
        .filter(|file| {
            // a crate root may include its README instead, which says more
            let first = file.text.lines().next().unwrap_or_default();
            !(first.starts_with("//!") && first.len() > 4
                || first.starts_with("#![doc = include_str!("))
        })
        .map(|file| format!("{}: does not begin with //! and its purpose", file.path))
        .collect()
}

fn calls(tree: &Tree) -> Vec<String> {
    let unbounded = ["unbounded", "_channel"].concat();
    let mut findings = Vec::new();
    let code = |path: &str| !path.starts_with("tests/tidy/") && !is_test(path);
    for file in tree.ending(".rs").filter(|file| code(&file.path)) {
        for (number, line) in file.lines() {
            let code = line.split("//").next().unwrap_or_default();
            if code.contains(&unbounded) {
                findings.push(format!(
                    "{}: line {number}: a queue without a bound",
                    file.path
                ));
            }
            for (word, places) in ONLY_IN.iter().filter(|(word, _)| names_path(code, word)) {
                if !places.iter().any(|place| file.path.starts_with(place)) {
                    findings.push(format!(
                        "{}: line {number}: {word} outside {places:?}",
                        file.path
                    ));
                }
            }
        }
    }
    findings
}

/// Whether the code holds `word` at the beginning of a path (`sled::`, not `assembled::`).
fn names_path(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

fn crate_roots(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for file in tree
        .ending("src/lib.rs")
        .filter(|file| !file.path.starts_with("tests/"))
    {
        // proto's root is generated code; capture's one room of unsafe is ffi.rs
        if file.path.starts_with("proto/") {
            continue;
        }
        let forbids = file.text.contains("#![forbid(unsafe_code)]");
        if !forbids && !file.path.starts_with("agent/capture/") {
            findings.push(format!("{}: lacks #![forbid(unsafe_code)]", file.path));
        }
        if !file.text.contains("include_str!(\"../README.md\")") {
            findings.push(format!("{}: the README is not the front page", file.path));
        }
        for (number, line) in file.lines() {
            let word = line
                .trim_start_matches("pub(crate) ")
                .trim_start_matches("pub ");
            let word = word.split([' ', '(', '<']).next().unwrap_or_default();
            if [
                "fn", "struct", "enum", "trait", "impl", "const", "static", "type",
            ]
            .contains(&word)
            {
                findings.push(format!("{}: line {number}: a {word} in lib.rs", file.path));
            }
        }
    }
    findings
}

#[test]
fn files_stay_readable() {
    assert_kept("sizes", &sizes(Tree::real()));
}

#[test]
fn modules_are_named_for_what_they_hold() {
    assert_kept("module names", &names(Tree::real()));
}

#[test]
fn every_file_says_its_purpose_first() {
    assert_kept("first lines", &purposes(Tree::real()));
}

#[test]
fn calls_stay_in_their_room() {
    assert_kept("calls", &calls(Tree::real()));
}

#[test]
fn crate_roots_hold_names_only() {
    assert_kept("crate roots", &crate_roots(Tree::real()));
}

#[test]
fn broken_sources_are_seen() {
    let long = format!("//! Long.\n{}", "x\n".repeat(LINES_MAX));
    let queue = format!(
        "//! Q.\nlet (a, b) = {}();\n",
        ["unbounded", "_channel"].concat()
    );
    let tree = Tree::of(&[
        ("agent/x/src/long.rs", &long),
        ("agent/x/src/long/tests.rs", &long),
        ("agent/x/src/mod.rs", "//! M.\n"),
        ("agent/x/src/utils.rs", "//! U.\npub(crate) mod helpers;\n"),
        ("agent/x/src/bare.rs", "use std::fs;\n"),
        ("agent/x/src/queue.rs", &queue),
        (
            "agent/x/src/db.rs",
            "//! D.\nlet tree = sled::open(path); // assembled::here\n",
        ),
        ("agent/x/src/lib.rs", "//! X.\nmod db;\npub fn run() {}\n"),
    ]);
    let found = sizes(&tree);
    assert_seen(&found, "agent/x/src/long.rs");
    assert_eq!(found.len(), 1, "tests are not counted: {found:?}");
    assert_seen(&names(&tree), "mod.rs");
    assert_seen(&names(&tree), "\"utils\"");
    assert_seen(&names(&tree), "module \"helpers\"");
    assert_seen(&purposes(&tree), "bare.rs");
    assert_seen(&calls(&tree), "queue.rs: line 2");
    assert_seen(&calls(&tree), "db.rs: line 2: sled::");
    assert_seen(&crate_roots(&tree), "forbid(unsafe_code)");
    assert_seen(&crate_roots(&tree), "line 3: a fn in lib.rs");
    assert_seen(&crate_roots(&tree), "README is not the front page");
    assert!(!names_path("let x = assembled::y", "sled::"));
}
