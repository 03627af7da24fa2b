//! `sqlrepctl`: all of it is in the library, so that tests can run it too.

use std::process::ExitCode;

fn main() -> ExitCode {
    sqlrep_ctl::run(std::env::args_os())
}
