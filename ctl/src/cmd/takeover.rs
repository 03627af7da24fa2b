//! `takeover`: make the waiting pod the owner of its replica.

use super::one_database;
use crate::app::{Context, converse};
use crate::args::OneArgs;
use crate::database::short;
use crate::failure::{Exit, Result};
use crate::options;
use crate::reference::Named as _;

pub(super) fn run(args: &OneArgs, context: &mut Context) -> Result<Exit> {
    let endpoint = options::agent(&context.global, &context.environment)?;
    let (id, (txid, before)) = converse(async {
        let client = context.connect(&endpoint).await?;
        let id = one_database(&client, &args.reference).await?;
        let taken = client.takeover(&id).await?;
        Ok((id, taken))
    })?;
    let from = if before.is_empty() {
        String::new()
    } else {
        format!(" from {before}")
    };
    context
        .output
        .note(&format!("took {}{from} at TXID {}", id.name(), short(txid)));
    Ok(Exit::Done)
}
