//! From the arguments of a process to its exit code.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Cli, Command, LogFormat, RewindArgs, RunArgs};
use crate::shutdown::Until;
use crate::telemetry::complain;
use crate::{app, demo, gate, telemetry};

/// Wrong arguments or environment.
const EXIT_USAGE: u8 = 2;

/// Runs `sqlrep-agent` with these arguments, the first of which is the program's name.
///
/// Exit codes: 0 done, 1 failed, 2 usage.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() && telemetry::format_in(&args) == LogFormat::Json => {
            telemetry::write_as(LogFormat::Json);
            complain(error.to_string().trim_end());
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(EXIT_USAGE));
        }
        Err(error) => {
            // Nobody is left to be told that the terminal is gone.
            drop(error.print());
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(EXIT_USAGE));
        }
    };
    match cli.command {
        Command::Gate(args) => gate::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Rewind(args) => rewind(args),
        Command::QuickCheck { file } => quick_check(&file),
        Command::DemoApp(args) => demo::app::run(&args),
        Command::Run(args) => run_agent(*args, Until::Signal),
        Command::DemoAgent(args) => run_agent(*args, Until::SignalOrEndOfInput),
    }
}

fn run_agent(args: RunArgs, until: Until) -> ExitCode {
    telemetry::write_as(args.log_format);
    match args.check() {
        Ok(config) => {
            telemetry::start(config.log_format);
            app::run(config, until)
        }
        Err(error) => {
            complain(&error.to_string());
            ExitCode::from(EXIT_USAGE)
        }
    }
}

/// The agent hears the rest on its end of standard output.
fn rewind(args: RewindArgs) -> ExitCode {
    match sqlrep_pipeline::rewind_process(args.source, args.volume, args.path) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!(
                "a rewind was left by the agent that began it: {error}"
            ));
            ExitCode::FAILURE
        }
    }
}

/// The agent hears the rest on its end of standard output.
fn quick_check(file: &Path) -> ExitCode {
    match sqlrep_pipeline::quick_check_process(file) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!(
                "a check was left by the agent that began it: {error}"
            ));
            ExitCode::FAILURE
        }
    }
}
