//! `sqlrep-agent demo`: the whole story on this machine.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sqlrep_tests::process::output;
use sqlrep_tests::{say, scenario};

use crate::binaries;

#[test]
fn the_demo_is_short_ends_well_and_leaves_nothing() {
    scenario("demo", binaries(), |world| -> Result<()> {
        let dir = world.path("demo");
        fs::create_dir(&dir)?;
        let begun = Instant::now();
        let output = output(
            Command::new(&world.binaries.agent)
                .arg("demo")
                .arg("--dir")
                .arg(&dir),
        )?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.success(),
            "{}\n{text}\n{words}",
            output.status
        );
        ensure!(
            begun.elapsed() < Duration::from_secs(30),
            "it took {:?}",
            begun.elapsed()
        );
        ensure!(
            text.to_lowercase().contains("equal"),
            "it does not say that both are equal: {text}"
        );
        crate::scene::only(&dir, &[])?;
        say(&format!(
            "the demo took {:.1} s",
            begun.elapsed().as_secs_f32()
        ));
        Ok(())
    });
}
