//! Golden files say how they were made: without that nobody can judge, or make, another.

use crate::tree::Tree;
use crate::{assert_kept, assert_seen};

const DIR: &str = "tests/golden/";

/// What a MANIFEST may be called.
const MANIFESTS: &[&str] = &["MANIFEST", "MANIFEST.md", "MANIFEST.json", "manifest.json"];

/// Files below `tests/golden` that no MANIFEST in a directory above them (below it) speaks for.
fn unexplained(tree: &Tree) -> Vec<String> {
    let golden = tree
        .files
        .iter()
        .filter_map(|file| file.path.strip_prefix(DIR));
    let mut findings: Vec<String> = golden
        .filter_map(|path| path.rsplit_once('/').map(|(dir, _)| dir))
        .filter(|dir| {
            let mut above = Some(*dir);
            while let Some(dir) = above {
                if MANIFESTS
                    .iter()
                    .any(|name| tree.get(&format!("{DIR}{dir}/{name}")).is_some())
                {
                    return false;
                }
                above = dir.rsplit_once('/').map(|(dir, _)| dir);
            }
            true
        })
        .map(|dir| format!("{DIR}{dir}: no MANIFEST says how these were made"))
        .collect();
    findings.dedup();
    findings
}

#[test]
fn golden_folders_have_a_manifest() {
    assert!(Tree::real().holds("tests/golden"), "there are golden files");
    assert_kept("golden", &unexplained(Tree::real()));
}

#[test]
fn a_nameless_golden_folder_is_seen() {
    let tree = Tree::of(&[
        ("tests/golden/wal/torn/wal", ""),
        ("tests/golden/ltx/MANIFEST.md", ""),
        ("tests/golden/ltx/one/1.ltx", ""),
    ]);
    let found = unexplained(&tree);
    assert_seen(&found, "tests/golden/wal/torn");
    assert_eq!(found.len(), 1, "{found:?}");
}
