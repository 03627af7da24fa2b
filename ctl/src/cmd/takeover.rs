//! `takeover`: make the waiting pod the owner of its replica.

use crate::agents::{Agents, Meant};
use crate::app::{Context, converse};
use crate::args::OneArgs;
use crate::database::short;
use crate::failure::{Exit, Result};
use crate::options;
use crate::reference::Named as _;

pub(super) fn run(args: &OneArgs, context: &mut Context) -> Result<Exit> {
    let reach = options::agents(&context.global, &context.environment)?;
    let (id, (txid, before)) = converse(async {
        let agents = Agents::find(context, &reach).await?;
        let found = agents.live(&args.reference, Meant::Waiting, &mut context.output);
        let (client, id) = found.await?;
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
