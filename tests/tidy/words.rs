//! Words that do not belong in the text of the project.

use crate::tree::{SourceFile, Tree};
use crate::{assert_kept, assert_seen};

/// Hosts of package registries and paths of one machine, in pieces so that this file holds none.
/// Whoever builds chooses the registry; a script that names one breaks behind a mirror.
const PLACES: &[&[&str]] = &[
    &["pypi", ".org"],
    &["python", "hosted.org"],
    &["crates", ".io"],
    &["registry.", "npmjs"],
    &["proxy.", "golang.org"],
    &["deb.", "debian.org"],
    &["/ro", "ot/"],
    &["/ho", "me/"],
    &["/wo", "rk/"],
    &["..", "/shared/"],
];

/// Files that cargo writes.
const GENERATED: &[&str] = &["Cargo.lock"];

fn ours(tree: &Tree) -> impl Iterator<Item = &SourceFile> {
    tree.files
        .iter()
        .filter(|file| !GENERATED.contains(&file.name()))
}

fn places(tree: &Tree) -> Vec<String> {
    let places: Vec<String> = PLACES.iter().map(|pieces| pieces.concat()).collect();
    let mut findings = Vec::new();
    for file in ours(tree) {
        for (number, line) in file.lines() {
            for place in places.iter().filter(|place| line.contains(*place)) {
                findings.push(format!("{}: line {number}: {place}", file.path));
            }
        }
    }
    findings
}

/// Work left for later without an issue that holds it: `TODO(#12)` is fine.
fn loose_ends(tree: &Tree) -> Vec<String> {
    let marks = [
        ["TO", "DO"].concat(),
        ["FIX", "ME"].concat(),
        ["XX", "X"].concat(),
    ];
    let mut findings = Vec::new();
    for file in ours(tree) {
        for (number, line) in file.lines() {
            for mark in &marks {
                let loose = line.match_indices(mark).any(|(at, _)| {
                    let alone = |c: Option<char>| !c.is_some_and(char::is_alphanumeric);
                    let after = &line[at + mark.len()..];
                    alone(line[..at].chars().next_back())
                        && alone(after.chars().next())
                        && !after.starts_with("(#")
                });
                if loose {
                    findings.push(format!(
                        "{}: line {number}: {mark} without an issue",
                        file.path
                    ));
                }
            }
        }
    }
    findings
}

#[test]
fn no_machine_and_no_registry_is_named() {
    assert_kept("places", &places(Tree::real()));
}

#[test]
fn nothing_is_left_for_later_without_an_issue() {
    assert_kept("loose ends", &loose_ends(Tree::real()));
}

#[test]
fn broken_words_are_seen() {
    let host = ["pip install -i https://", "pypi", ".org/simple x\n"].concat();
    let later = ["// TO", "DO later\n// TO", "DO(#12): held by an issue\n"].concat();
    let tree = Tree::of(&[("run", &host), ("a.rs", &later), ("Cargo.lock", &host)]);
    let found = places(&tree);
    assert_seen(&found, "run: line 1");
    assert_eq!(found.len(), 1, "what cargo writes is not ours: {found:?}");
    let found = loose_ends(&tree);
    assert_seen(&found, "a.rs: line 1");
    assert_eq!(found.len(), 1, "{found:?}");
}
