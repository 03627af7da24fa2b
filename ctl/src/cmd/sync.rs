//! `sync`: capture and ship now, and wait until it is on the replica.

use serde::Serialize;

use super::{Outcomes, chosen, conclude, take, txid_text};
use crate::app::{Context, converse};
use crate::args::SeveralArgs;
use crate::failure::{Exit, Result};
use crate::options;
use crate::output::Cell;

/// What is on the replica now.
#[derive(Debug, Serialize)]
struct Shipped {
    txid: String,
}

pub(super) fn run(args: &SeveralArgs, context: &mut Context) -> Result<Exit> {
    let endpoint = options::agent(&context.global, &context.environment)?;
    let mut outcomes = Outcomes::new();
    converse(async {
        let client = context.connect(&endpoint).await?;
        let ids = chosen(args, &client).await?;
        let bar = context.output.bar("shipping");
        let output = &mut context.output;
        client
            .sync(&ids, |id, step| {
                take(&mut outcomes, output, &bar, id, step, |txid| Shipped {
                    txid: txid_text(txid),
                });
                Ok(())
            })
            .await
    })?;
    conclude(
        &mut outcomes,
        args.format,
        &mut context.output,
        &["DATABASE", "TXID"],
        |shipped| vec![Cell::number(shipped.txid.trim_start_matches('0'))],
    )
}
