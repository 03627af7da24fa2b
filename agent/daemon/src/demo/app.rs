//! The app of the demo: writes rows until its standard input is closed, then counts them.
//!
//! It is a process of its own, as an app is. It ends with its parent, because that closes its
//! standard input too.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlrep_pipeline::demo::{digest, write};

use crate::args::DemoAppArgs;
use crate::telemetry::complain;

/// Rows and a digest over all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) rows: u64,
    pub(super) digest: String,
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rows, digest {}", self.rows, self.digest)
    }
}

impl FromStr for Count {
    type Err = anyhow::Error;

    /// Reads what [`run`] prints.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (rows, digest) = text
            .trim()
            .split_once(' ')
            .ok_or_else(|| anyhow::anyhow!("the app printed {text:?} instead of its rows"))?;
        Ok(Self {
            rows: rows.parse()?,
            digest: digest.to_owned(),
        })
    }
}

/// Runs `sqlrep-agent demo-app`.
pub(crate) fn run(args: &DemoAppArgs) -> ExitCode {
    match write_and_count(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("demo app: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn write_and_count(args: &DemoAppArgs) -> anyhow::Result<()> {
    if !args.digest {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        std::thread::spawn(move || {
            let mut rest = Vec::new();
            // However reading ends, nobody speaks to us any more.
            drop(io::stdin().take(1).read_to_end(&mut rest));
            flag.store(true, Ordering::Relaxed);
        });
        write(&args.db, args.rows_per_second, &stop)?;
    }
    let found = digest(&args.db)?;
    writeln!(io::stdout(), "{} {:016x}", found.rows, found.hash)?;
    Ok(())
}
