//! `sqlrep-agent`, built in this package so that Cargo tells the suites where it is.

use std::process::ExitCode;

fn main() -> ExitCode {
    sqlrep_daemon::run(std::env::args_os())
}
