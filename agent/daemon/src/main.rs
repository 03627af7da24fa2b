//! `sqlrep-agent`: all of it is [`sqlrep_daemon::run`].

use std::process::ExitCode;

fn main() -> ExitCode {
    sqlrep_daemon::run(std::env::args_os())
}
