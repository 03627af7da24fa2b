//! Documents: one title each, no line numbers that rot, links that lead somewhere, a true tree.

use crate::tree::{SourceFile, Tree};
use crate::{assert_kept, assert_seen};

/// What the top level holds besides what its tree in README.md lists.
const UNLISTED: &[&str] = &["Cargo.lock", "LICENSE"];

/// The fixed top level.
const TOP: &[&str] = &[
    "Cargo.toml",
    "README.md",
    "agent/",
    "ctl/",
    "deploy/",
    "proto/",
    "tests/",
];

/// The lines of a document that are not in a fenced block, with their numbers.
fn prose(file: &SourceFile) -> Vec<(usize, &str)> {
    let mut fenced = false;
    let mut lines = Vec::new();
    for (number, line) in file.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            lines.push((number, line));
        }
    }
    lines
}

fn titles(tree: &Tree) -> Vec<String> {
    tree.ending(".md")
        .map(|file| {
            let titles = prose(file)
                .iter()
                .filter(|(_, line)| line.starts_with("# "))
                .count();
            (file, titles)
        })
        .filter(|(_, titles)| *titles != 1)
        .map(|(file, titles)| format!("{}: {titles} titles, not one", file.path))
        .collect()
}

fn line_numbers(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for file in tree.ending(".md") {
        for (number, line) in file.lines() {
            for end in [".rs:", ".py:", ".proto:", ".go:"] {
                let rots = line.match_indices(end).any(|(at, _)| {
                    line[at + end.len()..].starts_with(|c: char| c.is_ascii_digit())
                });
                if rots {
                    findings.push(format!(
                        "{}: line {number}: name the symbol, not the line of a file",
                        file.path
                    ));
                }
            }
        }
    }
    findings
}

fn links(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for file in tree.ending(".md") {
        let dir = file.path.rsplit_once('/').map_or("", |(dir, _)| dir);
        for (number, line) in prose(file) {
            for (at, _) in line.match_indices("](") {
                let target = line[at + 2..]
                    .split([')', '#', ' '])
                    .next()
                    .unwrap_or_default();
                // rustdoc's own links (a crate's README is its front page) are checked by rustdoc
                let file_like = target.contains('/') || target.contains('.');
                if target.contains("://") || target.contains("::") || !file_like {
                    continue;
                }
                let path = resolve(dir, target);
                if !path
                    .as_deref()
                    .is_some_and(|path| path.is_empty() || tree.holds(path))
                {
                    findings.push(format!("{}: line {number}: no {target}", file.path));
                }
            }
        }
    }
    findings
}

/// `dir` and `target` as one path from the root; none when it leads out of the root.
fn resolve(dir: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = dir.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The paths that the fenced block under `## The tree` names: two blanks of indent a level.
fn drawn(readme: &SourceFile) -> Vec<String> {
    let mut paths = Vec::new();
    let mut stack: Vec<String> = Vec::new();
    let block = readme
        .text
        .lines()
        .skip_while(|line| *line != "## The tree");
    let block = block.skip_while(|line| !line.starts_with("```")).skip(1);
    for line in block.take_while(|line| !line.starts_with("```")) {
        let name = line.split_whitespace().next().unwrap_or_default();
        if name.is_empty() {
            continue;
        }
        let depth = (line.len() - line.trim_start().len()) / 2;
        stack.truncate(depth);
        stack.push(name.trim_end_matches('/').to_string());
        paths.push(stack.join("/"));
    }
    paths
}

fn readme_tree(tree: &Tree) -> Vec<String> {
    let Some(readme) = tree.get("README.md") else {
        return vec!["README.md: missing".into()];
    };
    let drawn = drawn(readme);
    let mut findings: Vec<String> = drawn
        .iter()
        .filter(|path| !tree.holds(path))
        .map(|path| format!("README.md: the tree names {path}, which is not there"))
        .collect();
    let mut expect = |path: String| {
        if !drawn.contains(&path) {
            findings.push(format!("README.md: the tree leaves out {path}"));
        }
    };
    for name in tree.children("") {
        if !name.starts_with('.') && !UNLISTED.contains(&name.as_str()) {
            expect(name.trim_end_matches('/').to_string());
        }
    }
    for dir in tree
        .children("agent")
        .iter()
        .filter(|name| name.ends_with('/'))
    {
        expect(format!("agent/{}", dir.trim_end_matches('/')));
    }
    findings
}

fn top_level(tree: &Tree) -> Vec<String> {
    let top = tree.children("");
    let mut findings: Vec<String> = top
        .iter()
        .map(String::as_str)
        .filter(|name| !name.starts_with('.') && !UNLISTED.contains(name) && !TOP.contains(name))
        .map(|name| format!("{name} does not belong at the top level"))
        .collect();
    findings.extend(
        TOP.iter()
            .filter(|name| !top.iter().any(|have| have == *name))
            .map(|name| format!("the top level lacks {name}")),
    );
    findings
}

/// Names of tests in `tests/README.md` (words in backticks with two underscores or more) that no
/// Rust file defines.
fn named_tests(tree: &Tree) -> Vec<String> {
    let Some(page) = tree.get("tests/README.md") else {
        return vec!["tests/README.md: missing".into()];
    };
    let is_name = |word: &&str| {
        word.chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            && word.matches('_').count() > 1
    };
    let names = page.text.split('`').skip(1).step_by(2).filter(is_name);
    let defined = |name: &str| {
        let definition = format!("fn {name}(");
        tree.ending(".rs")
            .any(|file| file.text.contains(&definition))
    };
    names
        .filter(|name| !defined(name))
        .map(|name| format!("tests/README.md: there is no test {name}"))
        .collect()
}

#[test]
fn tests_that_are_named_exist() {
    assert_kept("tests by name", &named_tests(Tree::real()));
}

#[test]
fn each_document_has_one_title() {
    assert_kept("titles", &titles(Tree::real()));
}

#[test]
fn documents_name_symbols_not_lines() {
    assert_kept("line numbers", &line_numbers(Tree::real()));
}

#[test]
fn links_lead_to_files() {
    assert_kept("links", &links(Tree::real()));
}

#[test]
fn the_tree_in_the_readme_is_the_real_one() {
    assert_kept("tree", &readme_tree(Tree::real()));
}

#[test]
fn the_top_level_is_fixed() {
    assert_kept("top level", &top_level(Tree::real()));
}

#[test]
fn broken_documents_are_seen() {
    let readme = "# A\n\n# B\n\nSee db.rs:149 and [x](gone/y.md), [up](../../out.md).\n\n\
                  ## The tree\n\n```text\nproto/   here\nagent/\n  attic/\n```\n";
    let tree = Tree::of(&[
        ("README.md", readme),
        ("agent/format/src/lib.rs", ""),
        ("proto/Cargo.toml", ""),
        ("shed/x", ""),
        (
            "tests/README.md",
            "# T\n`a_test_that_is_there`, `a_test_that_is_gone`, `one_mark`\n",
        ),
        ("tests/e2e/x.rs", "fn a_test_that_is_there() {}"),
        (
            "ctl/README.md",
            "# One\n```sh\n# a comment\n```\n[root](../README.md) [item](Store::put)\n",
        ),
    ]);
    let found = titles(&tree);
    assert_seen(&found, "README.md: 2 titles");
    assert_eq!(
        found.len(),
        1,
        "a comment in a fenced block is no title: {found:?}"
    );
    assert_seen(&line_numbers(&tree), "README.md: line 5");
    let found = links(&tree);
    assert_seen(&found, "gone/y.md");
    assert_seen(&found, "out.md");
    assert_eq!(found.len(), 2, "{found:?}");
    let found = readme_tree(&tree);
    assert_seen(&found, "names agent/attic");
    assert_seen(&found, "leaves out agent/format");
    assert_seen(&found, "leaves out shed");
    let found = named_tests(&tree);
    assert_seen(&found, "a_test_that_is_gone");
    assert_eq!(found.len(), 1, "{found:?}");
    assert_seen(&top_level(&tree), "shed/ does not belong");
    assert_seen(&top_level(&tree), "lacks deploy/");
}
