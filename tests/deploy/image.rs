//! The image without a base: built by buildah, and its programs run in it.
//!
//! Needs static binaries, which `tests/run image` builds, and a user who may chroot.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sqlrep_tests::process::output;

use crate::tools::deploy;

/// Where buildah keeps what this test builds.
struct Buildah(PathBuf);

impl Buildah {
    fn run(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new("buildah");
        command
            .args(["--storage-driver", "vfs", "--root"])
            .arg(self.0.join("root"))
            .arg("--runroot")
            .arg(self.0.join("run"))
            .args(args);
        let output = output(&mut command)?;
        ensure!(
            output.status.success(),
            "{command:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }
}

/// Every file of a tree, by its path.
fn files(dir: &Path, prefix: &str, found: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = format!("{prefix}/{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            files(&entry.path(), &path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs static binaries: tests/run image"]
fn the_image_without_a_base_holds_two_programs_that_run() -> Result<()> {
    let binaries =
        std::env::var("SQLREP_STATIC_DIR").context("SQLREP_STATIC_DIR: tests/run image sets it")?;
    let dir = tempfile::tempdir()?;
    let context = dir.path().join("context");
    fs::create_dir(&context)?;
    for name in ["sqlrep-agent", "sqlrepctl"] {
        fs::copy(Path::new(&binaries).join(name), context.join(name))?;
    }
    let buildah = Buildah(dir.path().to_owned());
    let dockerfile = deploy("Dockerfile.scratch");
    let (file, context) = (
        dockerfile.display().to_string(),
        context.display().to_string(),
    );
    let isolation = ["--isolation", "chroot"];
    buildah.run(&[
        "bud",
        isolation[0],
        isolation[1],
        "--file",
        &file,
        "--tag",
        "sqlrep",
        &context,
    ])?;
    let container = buildah.run(&["from", "--pull-never", "sqlrep"])?;

    let root = PathBuf::from(buildah.run(&["mount", &container])?);
    let mut held = Vec::new();
    files(&root, "", &mut held)?;
    held.retain(|path| path.starts_with("/usr"));
    held.sort();
    ensure!(
        held == ["/usr/local/bin/sqlrep-agent", "/usr/local/bin/sqlrepctl"],
        "{held:?}"
    );

    let run = |args: &[&str]| {
        let volume = format!("{}:/sqlrep:ro", dir.path().join("gate").display());
        let mut all = vec![
            "run",
            isolation[0],
            isolation[1],
            "--volume",
            &volume,
            &container,
            "--",
        ];
        all.extend(args);
        buildah.run(&all)
    };
    gate_status(&dir.path().join("gate"))?;
    let version = env!("CARGO_PKG_VERSION");
    let agent = run(&["/usr/local/bin/sqlrep-agent", "--version"])?;
    ensure!(agent.contains(version), "{agent}");
    let ctl = run(&["/usr/local/bin/sqlrepctl", "--version"])?;
    ensure!(ctl.contains(version), "{ctl}");
    let opened = run(&["/usr/local/bin/sqlrep-agent", "gate", "--pod-uid", "u-1"])?;
    ensure!(opened.contains("ready"), "{opened}");
    let user = buildah.run(&["inspect", "--format", "{{.OCIv1.Config.User}}", &container])?;
    ensure!(user == "65532:65532", "the image's user is {user}");
    Ok(())
}

/// What an agent would have written for the pod `u-1`.
fn gate_status(dir: &Path) -> Result<()> {
    fs::create_dir(dir)?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let status = json!({"v": 1, "pod_uid": "u-1", "boot_id": boot.trim(), "phase": "ready"});
    fs::write(dir.join("status.json"), status.to_string())?;
    Ok(())
}
