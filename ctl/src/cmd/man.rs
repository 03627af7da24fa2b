//! `man`: manual pages, made of the same words as `--help`.

use clap::CommandFactory as _;
use clap_mangen::Man;

use crate::app::Context;
use crate::args::Cli;
use crate::failure::{Exit, Failure, Result};

pub(super) fn run(verb: Option<&str>, context: &mut Context) -> Result<Exit> {
    let mut all = Cli::command();
    all.build();
    let command = match verb {
        None => all,
        Some(verb) => all.find_subcommand(verb).cloned().ok_or_else(|| {
            Failure::usage(format!("there is no verb {verb}"))
                .hint("`sqlrepctl --help` lists those there are")
        })?,
    };
    // Into memory first: who reads a page may go away.
    let mut page = Vec::new();
    Man::new(command)
        .render(&mut page)
        .map_err(|error| Failure::failed("cannot write the page").caused_by(error))?;
    context.output.raw(&page)?;
    Ok(Exit::Done)
}
