//! `completion`: a script for a shell.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::app::Context;
use crate::args::Cli;
use crate::failure::{Exit, Result};

pub(super) fn run(shell: Shell, context: &mut Context) -> Result<Exit> {
    // Into memory first: the generator panics when its reader goes away.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "sqlrepctl", &mut script);
    context.output.raw(&script)?;
    Ok(Exit::Done)
}
