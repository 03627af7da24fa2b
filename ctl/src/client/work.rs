//! Calls that work on data: each database of a call gets exactly one end, whatever the agent does.

use std::collections::BTreeSet;

use serde::Serialize;
use sqlrep_format::Txid;
use sqlrep_proto::v1;
use tonic::Code;

use super::{Client, Messages, convert, status};
use crate::database::{Id, Wanted};
use crate::failure::{Failure, Result};
use crate::reference::Named as _;

/// A step of one database in a call on several.
#[derive(Debug)]
pub(crate) enum Step<D> {
    /// How far it is, in bytes; a total of 0 is unknown.
    Progress(u64, u64),
    /// It worked.
    Done(D),
    /// It did not.
    Failed(Failure),
}

/// What SQLite says of a state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(
    rename_all = "kebab-case",
    tag = "quick_check",
    content = "quick_check_lines"
)]
pub(crate) enum QuickCheck {
    /// It is sound.
    Ok,
    /// It is damaged, and how.
    Damaged(Vec<String>),
    /// Nobody knows, and why.
    NotChecked(Vec<String>),
}

impl QuickCheck {
    /// In a word.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Damaged(_) => "damaged",
            Self::NotChecked(_) => "not checked",
        }
    }
}

/// A state that was proven restorable.
#[derive(Clone, Debug)]
pub(crate) struct Verified {
    /// The state.
    pub(crate) txid: Txid,
    /// Files read.
    pub(crate) files: u64,
    /// Pages of the database.
    pub(crate) pages: u64,
    /// Bytes read.
    pub(crate) bytes: u64,
    /// Checksum over all pages.
    pub(crate) checksum: u64,
    /// What SQLite says of it.
    pub(crate) check: QuickCheck,
}

/// A live database that was rewound.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rewound {
    /// The state whose content it has.
    pub(crate) from: Txid,
    /// The state that it had before.
    pub(crate) before: Txid,
    /// The state that it has now.
    pub(crate) txid: Txid,
}

/// Passes steps on until every database has its end.
async fn drive<M, D>(
    mut messages: Messages<M>,
    ids: &[Id],
    read: impl Fn(M) -> Result<(Option<v1::DatabaseId>, Step<D>)>,
    mut on: impl FnMut(&Id, Step<D>) -> Result<()>,
) -> Result<()> {
    let mut open: BTreeSet<&Id> = ids.iter().collect();
    while let Some(message) = messages.next().await? {
        let (id, step) = read(message)?;
        let id = convert::id(id)?;
        let ended = !matches!(step, Step::Progress(..));
        if !open.contains(&id) || (ended && !open.remove(&id)) {
            return Err(convert::nonsense(&format!(
                "{} was not asked for",
                id.name()
            )));
        }
        on(&id, step)?;
    }
    for id in open {
        on(
            id,
            Step::Failed(convert::nonsense("the answer ended before its result")),
        )?;
    }
    Ok(())
}

fn failed<D>(failed: &v1::Failure) -> Step<D> {
    Step::Failed(status::answered(
        "failed",
        Code::from_i32(failed.code),
        &failed.message,
    ))
}

fn progress<D>(at: v1::Progress) -> Step<D> {
    Step::Progress(at.bytes_done, at.bytes_total)
}

impl Client {
    /// Captures and ships now.
    pub(crate) async fn sync(
        &self,
        ids: &[Id],
        on: impl FnMut(&Id, Step<Txid>) -> Result<()>,
    ) -> Result<()> {
        use v1::sync_response::Step as S;
        let databases = ids.iter().map(convert::to_id).collect();
        let (request, until) = self.request(v1::SyncRequest { databases }, None);
        let call = async { self.databases().sync(request).await };
        let messages = Self::stream("cannot capture and ship", until, call).await?;
        let read = |message: v1::SyncResponse| {
            let step = match message.step {
                Some(S::Done(done)) => Step::Done(convert::txid(done.txid)?),
                Some(S::Failed(why)) => failed(&why),
                Some(S::Captured(_)) | None => Step::Progress(0, 0),
            };
            Ok((message.database, step))
        };
        drive(messages, ids, read, on).await
    }

    /// Writes snapshots now; the result is the state and the size of the file.
    pub(crate) async fn snapshot(
        &self,
        ids: &[Id],
        on: impl FnMut(&Id, Step<(Txid, u64)>) -> Result<()>,
    ) -> Result<()> {
        use v1::snapshot_response::Step as S;
        let databases = ids.iter().map(convert::to_id).collect();
        let (request, until) = self.request(v1::SnapshotRequest { databases }, None);
        let call = async { self.databases().snapshot(request).await };
        let messages = Self::stream("cannot write a snapshot", until, call).await?;
        let read = |message: v1::SnapshotResponse| {
            let step = match message.step {
                Some(S::Done(done)) => Step::Done((convert::txid(done.txid)?, done.bytes)),
                Some(S::Failed(why)) => failed(&why),
                Some(S::Progress(at)) => progress(at),
                None => Step::Progress(0, 0),
            };
            Ok((message.database, step))
        };
        drive(messages, ids, read, on).await
    }

    /// Reads replicas back.
    pub(crate) async fn verify(
        &self,
        ids: &[Id],
        wanted: Wanted,
        branch: Option<&str>,
        on: impl FnMut(&Id, Step<Verified>) -> Result<()>,
    ) -> Result<()> {
        use v1::verify_response::Step as S;
        let message = v1::VerifyRequest {
            databases: ids.iter().map(convert::to_id).collect(),
            point: convert::to_point(wanted),
            branch: branch.unwrap_or_default().to_owned(),
        };
        let (request, until) = self.request(message, None);
        let call = async { self.databases().verify(request).await };
        let messages = Self::stream("cannot verify", until, call).await?;
        let read = |message: v1::VerifyResponse| {
            let step = match message.step {
                Some(S::Done(done)) => Step::Done(Verified {
                    txid: convert::txid(done.txid)?,
                    files: u64::from(done.files),
                    pages: u64::from(done.pages),
                    bytes: done.bytes,
                    checksum: done.checksum,
                    check: convert::quick_check(done.quick_check).unwrap_or_else(|| {
                        convert::not_checked("this agent is too old to ask SQLite")
                    }),
                }),
                Some(S::Failed(why)) => failed(&why),
                Some(S::Progress(at)) => progress(at),
                None => Step::Progress(0, 0),
            };
            Ok((message.database, step))
        };
        drive(messages, ids, read, on).await
    }

    /// Rewinds a live database.
    pub(crate) async fn restore_in_place(
        &self,
        id: &Id,
        wanted: Wanted,
        branch: Option<&str>,
        mut on: impl FnMut(u64, u64),
    ) -> Result<Rewound> {
        use v1::restore_in_place_response::Step as S;
        let message = v1::RestoreInPlaceRequest {
            database: Some(convert::to_id(id)),
            point: convert::to_point(wanted),
            branch: branch.unwrap_or_default().to_owned(),
        };
        let (request, until) = self.request(message, None);
        let call = async { self.databases().restore_in_place(request).await };
        let mut steps = Self::stream("cannot restore in place", until, call).await?;
        while let Some(message) = steps.next().await? {
            match message.step {
                Some(S::Done(done)) => {
                    return Ok(Rewound {
                        from: convert::txid(done.from_txid)?,
                        before: convert::txid(done.before_txid)?,
                        txid: convert::txid(done.txid)?,
                    });
                }
                Some(S::Progress(at)) => on(at.bytes_done, at.bytes_total),
                None => {}
            }
        }
        Err(convert::nonsense("a rewind that neither worked nor failed"))
    }
}
