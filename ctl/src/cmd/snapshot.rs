//! `snapshot`: write a snapshot to the replica now.

use serde::Serialize;
use sqlrep_format::Txid;

use super::{conclude, perform, txid_text};
use crate::agents::Job;
use crate::app::{Context, converse};
use crate::args::SeveralArgs;
use crate::client::{Client, Step};
use crate::database::Id;
use crate::failure::{Exit, Result};
use crate::output::{Cell, size};

/// What is on the replica now.
#[derive(Debug, Serialize)]
struct Snapshot {
    txid: String,
    bytes: u64,
}

/// The job.
struct WriteSnapshot;

impl Job for WriteSnapshot {
    type Done = (Txid, u64);

    async fn run(
        &self,
        client: &Client,
        ids: &[Id],
        on: impl FnMut(&Id, Step<(Txid, u64)>) -> Result<()>,
    ) -> Result<()> {
        client.snapshot(ids, on).await
    }
}

pub(super) fn run(args: &SeveralArgs, context: &mut Context) -> Result<Exit> {
    let written = |(txid, bytes)| Snapshot {
        txid: txid_text(txid),
        bytes,
    };
    let job = perform(&WriteSnapshot, args, context, "writing snapshots", written);
    let mut outcomes = converse(job)?;
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
