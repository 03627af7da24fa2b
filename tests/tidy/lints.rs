//! Clippy's configuration: the nearest file replaces the root's, so each must repeat it whole.

use crate::tree::Tree;
use crate::{assert_kept, assert_seen};

const ROOT: &str = ".clippy.toml";

/// Root settings that a nested file lacks. Entries of a list are lines, so lines are compared.
fn shared_lines(tree: &Tree) -> Vec<String> {
    let Some(root) = tree.get(ROOT) else {
        return vec![format!("{ROOT}: missing")];
    };
    let mut findings = Vec::new();
    for file in tree.ending("clippy.toml").filter(|file| file.path != ROOT) {
        for line in root.text.lines().map(str::trim) {
            let matters = !line.is_empty() && !line.starts_with('#');
            if matters && !file.text.lines().any(|have| have.trim() == line) {
                findings.push(format!("{}: lacks the root's line {line}", file.path));
            }
        }
    }
    findings
}

/// Crates that do not take the workspace's lints.
fn inherits(tree: &Tree) -> Vec<String> {
    tree.ending("Cargo.toml")
        .filter(|file| file.path != "Cargo.toml" && !file.path.starts_with("tests/fuzz/"))
        .filter(|file| !file.text.contains("[lints]\nworkspace = true"))
        .map(|file| format!("{}: does not take the workspace's lints", file.path))
        .collect()
}

#[test]
fn clippy_files_share_the_root_lines() {
    assert_kept("clippy.toml", &shared_lines(Tree::real()));
}

#[test]
fn every_crate_takes_the_lints() {
    assert_kept("[lints]", &inherits(Tree::real()));
}

#[test]
fn broken_settings_are_seen() {
    let tree = Tree::of(&[
        (ROOT, "# why\ntoo-many-lines-threshold = 70\n"),
        (
            "agent/format/clippy.toml",
            "too-many-lines-threshold = 700\n",
        ),
        ("agent/format/Cargo.toml", "[package]\n"),
    ]);
    assert_seen(&shared_lines(&tree), "too-many-lines-threshold = 70");
    assert_seen(&inherits(&tree), "agent/format/Cargo.toml");
}
