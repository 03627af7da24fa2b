//! `sqlrep-agent`, built in this package so that Cargo tells the suites where it is.

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    sqlrep_tests::between::play(&args).unwrap_or_else(|| sqlrep_daemon::run(args.into_iter()))
}
