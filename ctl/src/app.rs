//! From the command line to an exit code; reads as a table of contents.

use std::ffi::{OsStr, OsString};
use std::future::Future;
use std::path::Path;
use std::process::ExitCode;

use clap::{Command, CommandFactory as _, FromArgMatches as _};

use crate::args::{Cli, Global};
use crate::cmd;
use crate::failure::{Exit, Failure, Result};
use crate::options::Environment;
use crate::output::Output;
use crate::when::Clock;

/// How kubectl's users call us.
const PLUGIN: &str = "kubectl sqlrep";

/// What a command works with.
#[derive(Debug)]
pub(crate) struct Context {
    /// What holds for every verb.
    pub(crate) global: Global,
    /// The part of the environment that matters.
    pub(crate) environment: Environment,
    /// Where things are printed.
    pub(crate) output: Output,
    /// The time.
    pub(crate) clock: Clock,
}

/// Runs sqlrepctl with these arguments; the first is the name of the program.
pub fn run<I, T>(arguments: I) -> ExitCode
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let environment = Environment::of_process();
    let output = Output::standard(&environment);
    let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
    let parsed = command(arguments.first())
        .try_get_matches_from(arguments)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    match parsed {
        Ok(cli) => perform(cli, environment, output).into(),
        // Help and the version are answers, not errors; clap knows where each is printed. That
        // it cannot be printed is nothing that could be told.
        Err(error) => {
            let _ = error.print();
            if error.use_stderr() {
                Exit::Usage.into()
            } else {
                Exit::Done.into()
            }
        }
    }
}

/// The command line. As a plugin of kubectl it speaks of itself as it was called.
fn command(program: Option<&OsString>) -> Command {
    let program = program.and_then(|program| Path::new(program).file_name());
    if program == Some(OsStr::new("kubectl-sqlrep")) {
        renamed(Cli::command().bin_name(PLUGIN))
    } else {
        Cli::command()
    }
}

fn renamed(command: Command) -> Command {
    let help = command.get_after_help().map(ToString::to_string);
    let command = match help {
        Some(help) => command.after_help(help.replace("sqlrepctl ", "kubectl sqlrep ")),
        None => command,
    };
    command.mut_subcommands(renamed)
}

/// Runs one command.
pub(crate) fn perform(cli: Cli, environment: Environment, output: Output) -> Exit {
    let mut context = Context {
        global: cli.global,
        environment,
        output,
        clock: Clock::system(),
    };
    match cmd::run(cli.verb, &mut context) {
        Ok(exit) => exit,
        Err(failure) if failure.is_broken_pipe() => Exit::Done,
        Err(failure) => {
            context.output.failure(&failure);
            failure.exit
        }
    }
}

/// Runs a conversation with an agent. Interrupted, it ends in order: temp files go.
pub(crate) fn converse<T>(conversation: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed("cannot start").caused_by(error))?;
    runtime.block_on(async {
        tokio::select! {
            ended = conversation => ended,
            _ = tokio::signal::ctrl_c() => Err(Failure::failed("interrupted")),
        }
    })
}
