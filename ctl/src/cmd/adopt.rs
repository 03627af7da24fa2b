//! `adopt`: take an ungated database, or a Litestream replica, into the replica.

use crate::agents::{Agents, Meant};
use crate::app::{Context, converse};
use crate::args::AdoptArgs;
use crate::database::short;
use crate::failure::{Exit, Result};
use crate::options;
use crate::reference::Named as _;

pub(super) fn run(args: &AdoptArgs, context: &mut Context) -> Result<Exit> {
    let reach = options::agents(&context.global, &context.environment)?;
    let (id, txid) = converse(async {
        let agents = Agents::find(context, &reach).await?;
        let found = agents.live(&args.reference, Meant::Waiting, &mut context.output);
        let (client, id) = found.await?;
        let txid = client.adopt(&id, args.litestream.as_deref()).await?;
        Ok((id, txid))
    })?;
    context
        .output
        .note(&format!("adopted {} at TXID {}", id.name(), short(txid)));
    Ok(Exit::Done)
}
