//! kubectl, helm and promtool, as `tests/run setup` fetched them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use sqlrep_tests::process::output;

use crate::objects::Objects;

/// The name that the API server's discovery has for what Kubernetes 1.36 brings.
const MUTATING: &str = "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy";

/// A path in `deploy/`.
pub(crate) fn deploy(path: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = tests.parent().expect("the tests package lies in the root");
    root.join("deploy").join(path)
}

/// A tool; `SQLREP_TOOLS_DIR` names another place for it.
fn tool(name: &str) -> Result<PathBuf> {
    let beside = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("tools");
    let dir = std::env::var_os("SQLREP_TOOLS_DIR").map_or(beside, PathBuf::from);
    let path = dir.join(name);
    ensure!(
        path.exists(),
        "{} is not there: tests/run setup fetches it",
        path.display()
    );
    Ok(path)
}

fn stdout_of(command: &mut Command) -> Result<String> {
    said(command, output)
}

fn said(command: &mut Command, run: impl FnOnce(&mut Command) -> Result<Output>) -> Result<String> {
    let output = run(command)?;
    let [said, words] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    ensure!(output.status.success(), "{command:?}: {said}{words}");
    String::from_utf8(output.stdout).context("what was rendered is text")
}

/// What promtool says in a directory; an error when it is not content.
pub(crate) fn promtool(dir: &Path, args: &[&str]) -> Result<String> {
    stdout_of(Command::new(tool("promtool")?).args(args).current_dir(dir))
}

/// What promtool says of this input.
pub(crate) fn promtool_reading(args: &[&str], input: File) -> Result<String> {
    let mut command = Command::new(tool("promtool")?);
    said(command.args(args).stdin(input), |command| {
        Ok(command.output()?)
    })
}

/// What `kubectl kustomize` makes of a directory.
pub(crate) fn kustomize(dir: &Path) -> Result<Objects> {
    let text = stdout_of(Command::new(tool("kubectl")?).arg("kustomize").arg(dir))?;
    Objects::read(&text)
}

/// What `deploy/kustomization.yaml` renders after edits like those that its comments ask for.
pub(crate) fn installation(edits: &[(&str, &str)]) -> Result<Objects> {
    let dir = tempfile::tempdir()?;
    // kustomize refuses absolute paths and what lies outside of the directory
    let copied = Command::new("cp")
        .arg("-R")
        .arg(deploy(""))
        .arg(dir.path().join("deploy"))
        .status()?;
    ensure!(copied.success(), "deploy/ was not copied");
    let file = dir.path().join("deploy/kustomization.yaml");
    let mut text = std::fs::read_to_string(&file)?;
    for (from, to) in edits {
        ensure!(text.contains(from), "kustomization.yaml holds no `{from}`");
        text = text.replace(from, to);
    }
    std::fs::write(&file, text)?;
    kustomize(&dir.path().join("deploy"))
}

/// The chart with these values, for a cluster that has the policies or has not.
pub(crate) fn helm_text(values: &[&str], has_policies: bool) -> Result<String> {
    let mut command = Command::new(tool("helm")?);
    command.args(["template", "sqlrep", "--namespace", "sqlrep"]);
    command.arg(deploy("helm/sqlrep"));
    if has_policies {
        command.args(["--kube-version", "1.36.0", "--api-versions", MUTATING]);
    } else {
        command.args(["--kube-version", "1.33.0"]);
    }
    for value in values {
        command.args(["--set", value]);
    }
    stdout_of(&mut command)
}

/// The chart's objects.
pub(crate) fn helm(values: &[&str], has_policies: bool) -> Result<Objects> {
    Objects::read(&helm_text(values, has_policies)?)
}
