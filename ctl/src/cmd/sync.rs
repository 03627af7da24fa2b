//! `sync`: capture and ship now, and wait until it is on the replica.

use serde::Serialize;
use sqlrep_format::Txid;

use super::{conclude, perform, txid_text};
use crate::agents::Job;
use crate::app::{Context, converse};
use crate::args::SeveralArgs;
use crate::client::{Client, Step};
use crate::database::Id;
use crate::failure::{Exit, Result};
use crate::output::Cell;

/// What is on the replica now.
#[derive(Debug, Serialize)]
struct Shipped {
    txid: String,
}

/// The job.
struct CaptureAndShip;

impl Job for CaptureAndShip {
    type Done = Txid;

    async fn run(
        &self,
        client: &Client,
        ids: &[Id],
        on: impl FnMut(&Id, Step<Txid>) -> Result<()>,
    ) -> Result<()> {
        client.sync(ids, on).await
    }
}

pub(super) fn run(args: &SeveralArgs, context: &mut Context) -> Result<Exit> {
    let mut outcomes = converse(perform(
        &CaptureAndShip,
        args,
        context,
        "shipping",
        |txid| Shipped {
            txid: txid_text(txid),
        },
    ))?;
    conclude(
        &mut outcomes,
        args.format,
        &mut context.output,
        &["DATABASE", "TXID"],
        |shipped| vec![Cell::number(shipped.txid.trim_start_matches('0'))],
    )
}
