//! Runs the real binary, and keeps golden replicas at hand.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, UNIX_EPOCH};
use std::{fs, io};

use serde_json::Value;

/// What a run of sqlrepctl left behind.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) exit: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Run {
    /// Standard output as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Runs sqlrepctl as if in a clean environment.
pub(crate) fn sqlrepctl<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Run {
    finished(command(arguments).output())
}

/// The same with a variable set.
pub(crate) fn sqlrepctl_with<S: AsRef<std::ffi::OsStr>>(
    arguments: &[S],
    variable: (&str, &str),
) -> Run {
    finished(command(arguments).env(variable.0, variable.1).output())
}

pub(crate) fn command<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sqlrepctl"));
    command.args(arguments).env("TZ", "UTC");
    for name in [
        "SQLREP_AGENT",
        "SQLREP_TOKEN",
        "SQLREP_NAMESPACE",
        "NO_COLOR",
        "KUBERNETES_SERVICE_HOST",
    ] {
        command.env_remove(name);
    }
    // No cluster, unless a test brings one.
    command.env("KUBECONFIG", "/nonexistent/kubeconfig");
    command
}

pub(crate) fn finished(output: io::Result<Output>) -> Run {
    let output = output.expect("the binary was built");
    Run {
        exit: output.status.code().expect("it exits by itself"),
        out: String::from_utf8(output.stdout).expect("output is UTF-8"),
        err: String::from_utf8(output.stderr).expect("words are UTF-8"),
    }
}

/// Where the golden replicas lie.
pub(crate) fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/litestream")
}

/// The manifest of a golden case.
pub(crate) fn manifest(case: &Path) -> Value {
    serde_json::from_slice(&fs::read(case.join("manifest.json")).unwrap()).unwrap()
}

/// Copies a golden replica, with the times that its manifest says: a checkout loses them.
pub(crate) fn copy_replica(case: &Path, to: &Path) {
    for file in manifest(case)["files"].as_array().unwrap() {
        let path = Path::new(file["path"].as_str().unwrap());
        let target = to.join(path.strip_prefix("replica").unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(case.join(path), &target).unwrap();
        let time = UNIX_EPOCH + Duration::from_millis(file["mtime_ms"].as_u64().unwrap());
        fs::File::options()
            .write(true)
            .open(&target)
            .unwrap()
            .set_modified(time)
            .unwrap();
    }
}

/// Everything in a directory, by name.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
