//! Reads the golden files for tests: the only place of this crate that opens a file.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// A directory below `tests/golden`.
pub(crate) fn dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/golden")
        .join(name)
}

/// The bytes of a file.
#[expect(
    clippy::disallowed_methods,
    reason = "golden files are read, and in tests only"
)]
pub(crate) fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A JSON file.
pub(crate) fn json(path: &Path) -> Value {
    serde_json::from_slice(&bytes(path)).unwrap()
}

/// The folders of a directory, sorted.
pub(crate) fn folders(path: &Path) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = std::fs::read_dir(path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    folders
}

/// All LTX files below a directory, sorted.
pub(crate) fn ltx_files(path: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "ltx"))
        .collect();
    for folder in folders(path) {
        // The folder of all levels is itself named ltx.
        files.retain(|file| *file != folder);
        files.extend(ltx_files(&folder));
    }
    files.sort();
    files
}
