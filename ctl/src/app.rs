//! From the command line to an exit code; reads as a table of contents.

use std::ffi::OsString;
use std::future::Future;
use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Cli, Global};
use crate::client::{Client, Endpoint};
use crate::cmd;
use crate::failure::{Exit, Failure, Result};
use crate::options::Environment;
use crate::output::Output;
use crate::when::Clock;

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

impl Context {
    /// Connects to an agent.
    pub(crate) async fn connect(&self, endpoint: &Endpoint) -> Result<Client> {
        let token = self.environment.token.as_deref();
        Client::connect(endpoint, token, self.global.timeout).await
    }
}

/// Runs sqlrepctl with these arguments; the first is the name of the program.
pub fn run<I, T>(arguments: I) -> ExitCode
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let environment = Environment::of_process();
    let output = Output::standard(&environment);
    match Cli::try_parse_from(arguments) {
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
