//! Replicas by the real peer restore to what the peer restores; broken ones are refused with words.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sqlrep_tests::process::output;
use sqlrep_tests::{World, ltx, scenario};

use crate::binaries;
use crate::scene::fresh;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/litestream");

#[test]
fn replicas_of_the_peer_restore_to_its_own_result() {
    scenario("golden", binaries(), |world| {
        let mut restored = 0;
        for version in ["0.5.9", "0.5.17"] {
            for case in dirs(&Path::new(GOLDEN).join(version))? {
                let manifest: Value =
                    serde_json::from_slice(&fs::read(case.join("manifest.json"))?)?;
                let replica = copied(world, &case.join("replica"))?;
                for wanted in manifest["restores"]
                    .as_array()
                    .context("restores are listed")?
                {
                    restored += prove(world, &replica, wanted)
                        .with_context(|| format!("{}: {wanted}", case.display()))?;
                }
            }
        }
        ensure!(restored > 60, "only {restored} restores were proven");
        Ok(())
    });
}

/// One restore of a manifest; 1 when it was one that must succeed.
fn prove(world: &World, replica: &Path, wanted: &Value) -> Result<u32> {
    let args = wanted["args"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    // the peer's flags with one dash are ours with two
    let args: Vec<String> = args
        .map(|arg| {
            if arg.starts_with('-') {
                format!("-{arg}")
            } else {
                arg.into()
            }
        })
        .collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let out = fresh(world, "golden");
    let said = world.ctl().restore(replica, &out, &args)?;
    // after the newest file: the peer's two forms differ, and to restore the newest is right
    let Some(sum) = wanted["sha256"].as_str() else {
        said.done()?;
        return Ok(0);
    };
    said.done()?;
    ensure!(sha256(&out)? == sum, "restored something else");
    fs::remove_file(out)?;
    Ok(1)
}

#[test]
fn files_of_an_independent_writer_restore() {
    scenario("golden-writer", binaries(), |world| {
        let dir = Path::new(GOLDEN).join("python-writer");
        let manifest: BTreeMap<String, Value> =
            serde_json::from_slice(&fs::read(dir.join("manifest.json"))?)?;
        ensure!(manifest.len() >= 5);
        for (case, facts) in manifest {
            let replica = copied(world, &dir.join(&case).join("replica"))?;
            let out = fresh(world, &case);
            world.ctl().restore(&replica, &out, &[])?.done()?;
            ensure!(
                Some(sha256(&out)?.as_str()) == facts["restored_sha256"].as_str(),
                "{case}"
            );
        }
        Ok(())
    });
}

#[test]
fn broken_replicas_are_refused_by_name_and_reason() {
    // what a reader of the message must find: the file, or the TXIDs between which one is missing
    let cases: [(&str, &[&str]); 9] = [
        ("bad-magic", &[".ltx"]),
        ("checksum-tracked-valid-but-rejected", &[".ltx", "checksum"]),
        ("file-checksum-flipped", &[".ltx", "checksum"]),
        ("gap-at-3", &["0000000000000002", "0000000000000004"]),
        ("no-snapshot-starts-at-2", &["0000000000000002"]),
        ("page-byte-flipped", &[".ltx"]),
        ("trailing-2-bytes", &[".ltx"]),
        ("truncated-5", &[".ltx"]),
        ("zero-length", &[".ltx", "truncated"]),
    ];
    scenario("golden-broken", binaries(), |world| {
        let negative = Path::new(GOLDEN).join("negative");
        ensure!(
            dirs(&negative)?.len() == cases.len(),
            "every case is looked at"
        );
        for (case, words) in cases {
            let replica = copied(world, &negative.join(case).join("replica"))?;
            let out = fresh(world, case);
            let said = world.ctl().restore(&replica, &out, &[])?;
            ensure!(said.code != 0, "{case} was restored");
            said.says(words).with_context(|| case.to_string())?;
            ensure!(!out.exists(), "{case} left a file");
            let verify = world
                .ctl()
                .run(["verify", "--replica", &replica.to_string_lossy()])?;
            ensure!(verify.code != 0, "{case} was verified: {}", verify.out);
        }
        Ok(())
    });
}

#[test]
fn a_changed_byte_of_a_page_is_seen_in_files_of_every_kind() {
    scenario("golden-damage", binaries(), |world| {
        let mut seen = 0;
        for writer in ["0.5.9", "0.5.17", "python-writer"] {
            for path in ltx::below(&Path::new(GOLDEN).join(writer))? {
                let facts = ltx::facts(&path)?;
                if facts.min > 1 || facts.pages == 0 {
                    continue;
                }
                // such a file is a replica by itself
                let replica = fresh(world, "alone");
                let level = replica.join("ltx/0");
                fs::create_dir_all(&level)?;
                let copy = level.join(path.file_name().context("a name")?);
                fs::copy(&path, &copy)?;
                let verify = ["verify", "--replica", &replica.to_string_lossy()];
                world.ctl().run(verify)?.done()?;
                ltx::damage(&copy)?;
                let said = world.ctl().run(verify)?;
                ensure!(said.code != 0, "{} was verified", path.display());
                said.says(&[&copy.to_string_lossy()])?;
                seen += 1;
            }
        }
        ensure!(seen > 10, "only {seen} files were damaged");
        Ok(())
    });
}

fn dirs(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    let mut dirs: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    dirs.sort();
    Ok(dirs)
}

/// A copy with the times put back that a checkout loses: mtime is the header's timestamp.
fn copied(world: &World, replica: &Path) -> Result<PathBuf> {
    let to = world.path(&format!("golden-{:012x}", fastrand::u64(..1 << 48)));
    for from in ltx::below(replica)? {
        let path = to.join(from.strip_prefix(replica)?);
        fs::create_dir_all(path.parent().context("a file has a directory")?)?;
        fs::copy(&from, &path)?;
        let bytes = fs::read(&from)?;
        if let Some(Ok(time)) = bytes.get(32..40).map(<[u8; 8]>::try_from) {
            let time = UNIX_EPOCH + Duration::from_millis(u64::from_be_bytes(time).min(1 << 42));
            File::options()
                .write(true)
                .open(&path)?
                .set_modified(time)?;
        }
    }
    Ok(to)
}

fn sha256(path: &Path) -> Result<String> {
    let output = output(Command::new("sha256sum").arg(path))?;
    ensure!(output.status.success(), "sha256sum {}", path.display());
    let text = String::from_utf8(output.stdout)?;
    Ok(text.split_whitespace().next().unwrap_or_default().into())
}
