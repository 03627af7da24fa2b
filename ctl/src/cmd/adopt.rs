//! `adopt`: take an ungated database, or a Litestream replica, into the replica.

use super::one_database;
use crate::app::{Context, converse};
use crate::args::AdoptArgs;
use crate::database::short;
use crate::failure::{Exit, Result};
use crate::options;
use crate::reference::Named as _;

pub(super) fn run(args: &AdoptArgs, context: &mut Context) -> Result<Exit> {
    let endpoint = options::agent(&context.global, &context.environment)?;
    let (id, txid) = converse(async {
        let client = context.connect(&endpoint).await?;
        let id = one_database(&client, &args.reference).await?;
        let txid = client.adopt(&id, args.litestream.as_deref()).await?;
        Ok((id, txid))
    })?;
    context
        .output
        .note(&format!("adopted {} at TXID {}", id.name(), short(txid)));
    Ok(Exit::Done)
}
