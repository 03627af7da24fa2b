//! `snapshot`: write a snapshot to the replica now.

use serde::Serialize;

use super::{Outcomes, chosen, conclude, take, txid_text};
use crate::app::{Context, converse};
use crate::args::SeveralArgs;
use crate::failure::{Exit, Result};
use crate::options;
use crate::output::{Cell, size};

/// What is on the replica now.
#[derive(Debug, Serialize)]
struct Snapshot {
    txid: String,
    bytes: u64,
}

pub(super) fn run(args: &SeveralArgs, context: &mut Context) -> Result<Exit> {
    let endpoint = options::agent(&context.global, &context.environment)?;
    let mut outcomes = Outcomes::new();
    converse(async {
        let client = context.connect(&endpoint).await?;
        let ids = chosen(args, &client).await?;
        let bar = context.output.bar("writing snapshots");
        let output = &mut context.output;
        client
            .snapshot(&ids, |id, step| {
                take(&mut outcomes, output, &bar, id, step, |(txid, bytes)| {
                    Snapshot {
                        txid: txid_text(txid),
                        bytes,
                    }
                });
                Ok(())
            })
            .await
    })?;
    let headings = ["DATABASE", "TXID", "SIZE"];
    conclude(
        &mut outcomes,
        args.format,
        &mut context.output,
        &headings,
        |snapshot| {
            vec![
                Cell::number(snapshot.txid.trim_start_matches('0')),
                Cell::number(size(snapshot.bytes)),
            ]
        },
    )
}
