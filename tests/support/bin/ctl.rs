//! `sqlrepctl`, built in this package so that Cargo tells the suites where it is.

use std::process::ExitCode;

fn main() -> ExitCode {
    sqlrep_ctl::run(std::env::args_os())
}
