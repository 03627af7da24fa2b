//! The text files of the checkout, read once, or a handful of made-up ones for the self-tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Directories that hold no text of the project: build output, history, corpora.
const SKIPPED: &[&str] = &[
    ".git",
    "target",
    "tests/fuzz/target",
    "tests/fuzz/corpus",
    "tests/fuzz/artifacts",
];

/// Below these only names count: the files are inputs made by programs, not text we wrote.
const DATA: &[&str] = &["tests/golden/"];

/// One file: its path from the root with `/`, and its text (empty for data and binary files).
#[derive(Debug, Clone)]
pub(crate) struct SourceFile {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl SourceFile {
    /// The last part of the path.
    pub(crate) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    /// Lines with their numbers from 1.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text
            .lines()
            .enumerate()
            .map(|(index, line)| (index + 1, line))
    }
}

/// The files a check looks at.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    pub(crate) files: Vec<SourceFile>,
}

impl Tree {
    /// The real checkout.
    pub(crate) fn real() -> &'static Self {
        static REAL: OnceLock<Tree> = OnceLock::new();
        REAL.get_or_init(|| {
            let mut tree = Self::default();
            tree.collect(&root(), "");
            tree.files.sort_by(|a, b| a.path.cmp(&b.path));
            tree
        })
    }

    /// A made-up tree for a self-test.
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let files = files
            .iter()
            .map(|(path, text)| SourceFile {
                path: (*path).into(),
                text: (*text).into(),
            })
            .collect();
        Self { files }
    }

    /// The files whose name ends so.
    pub(crate) fn ending<'a>(&'a self, end: &'a str) -> impl Iterator<Item = &'a SourceFile> {
        self.files
            .iter()
            .filter(move |file| file.path.ends_with(end))
    }

    /// The file at this path.
    pub(crate) fn get(&self, path: &str) -> Option<&SourceFile> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Whether a file or a directory stands at this path.
    pub(crate) fn holds(&self, path: &str) -> bool {
        let inside = format!("{}/", path.trim_end_matches('/'));
        self.files
            .iter()
            .any(|file| file.path == path || file.path.starts_with(&inside))
    }

    /// The direct children of a directory (`""` is the root), directories with a `/` at the end.
    pub(crate) fn children(&self, dir: &str) -> Vec<String> {
        let prefix = if dir.is_empty() {
            String::new()
        } else {
            format!("{dir}/")
        };
        let mut names: Vec<String> = self
            .files
            .iter()
            .filter_map(|file| file.path.strip_prefix(&prefix))
            .map(|rest| match rest.split_once('/') {
                Some((dir, _)) => format!("{dir}/"),
                None => rest.to_string(),
            })
            .collect();
        names.sort();
        names.dedup();
        names
    }

    fn collect(&mut self, dir: &Path, prefix: &str) {
        let entries = fs::read_dir(dir).expect("a directory of the checkout is readable");
        for entry in entries {
            let entry = entry.expect("an entry of the checkout is readable");
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{prefix}{name}");
            let kind = entry
                .file_type()
                .expect("an entry of the checkout has a type");
            if SKIPPED.contains(&path.as_str()) || name == "__pycache__" {
                continue;
            }
            if kind.is_dir() {
                self.collect(&entry.path(), &format!("{path}/"));
            } else {
                let data = DATA.iter().any(|dir| path.starts_with(dir));
                let text = if data {
                    None
                } else {
                    fs::read_to_string(entry.path()).ok()
                };
                self.files.push(SourceFile {
                    path,
                    text: text.unwrap_or_default(),
                });
            }
        }
    }
}

/// The root of the checkout.
pub(crate) fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests
        .parent()
        .expect("the tests package lies in the root")
        .to_path_buf()
}

#[test]
fn the_real_tree_is_seen() {
    let tree = Tree::real();
    assert!(
        tree.get("Cargo.toml")
            .is_some_and(|file| !file.text.is_empty())
    );
    assert!(tree.holds("agent/format/src"));
    assert!(!tree.holds("target") && !tree.holds(".git"));
    assert!(tree.children("").contains(&"agent/".to_string()));
}
