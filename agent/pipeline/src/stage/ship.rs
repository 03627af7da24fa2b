//! The ship stage: L0 files from the spool to the replica, in the order of their TXIDs.
//!
//! Publishing TXID n is a compare-and-swap on the log: the name can be linked once. Losing that
//! race is not an error of ours to retry; it means that somebody else owns the replica now.

use sqlrep_format::ltx::Level;
use sqlrep_format::{Txid, TxidRange};
use sqlrep_replica::owner::{self, Publish, SpoolFile, WriterId};
use sqlrep_replica::{Manifest, ReplicaFile, Store as _, StoreError};
use sqlrep_spool::{DatabaseSpool, Entry};

use crate::error::StageError;
use crate::home::Home;
use crate::remote::Remote;
use crate::stage::sign::{Signed, sign};

/// Files that one turn on the lane ships at most: after an outage a database with a long backlog
/// lets the others in between.
const BATCH_FILES: usize = 32;

/// Where the files of one database go.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) store: Remote,
    pub(crate) writer: WriterId,
    pub(crate) spool: DatabaseSpool,
    pub(crate) home: Home,
}

/// What one turn did.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// The newest TXID that is on the replica now, if this turn shipped any.
    pub(crate) shipped: Option<Txid>,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    /// What was published, as the replica lists it.
    pub(crate) published: Vec<ReplicaFile>,
    /// How the turn ended.
    pub(crate) end: End,
}

/// How a turn ended.
#[derive(Debug, Default)]
pub(crate) enum End {
    /// Nothing is left, or the turn was full.
    #[default]
    Done,
    /// Somebody else published this TXID: we do not own the replica any more.
    Fenced {
        /// The writer's id.
        by: u64,
    },
    /// The first file of a chain, and another chain is there that has pages of another size.
    OtherChain {
        /// The writer's id.
        by: u64,
    },
    /// A file went bad in the spool before it was shipped. It and what follows on it is moved aside:
    /// what they held is to be captured anew.
    Rejected {
        /// Its TXID.
        txid: Txid,
        /// What is wrong with it.
        reason: String,
    },
    /// Something failed; what was shipped before stays shipped.
    Failed(StageError),
}

impl Target {
    /// Ships what is pending, at most [`BATCH_FILES`] files. Blocking: only on a lane.
    pub(crate) fn ship(&self, manifest: Option<Manifest>) -> Batch {
        let mut batch = Batch::default();
        match self.try_ship(&mut batch, manifest) {
            Ok(end) => batch.end = end,
            Err(error) => batch.end = End::Failed(error),
        }
        batch
    }

    fn try_ship(&self, batch: &mut Batch, manifest: Option<Manifest>) -> Result<End, StageError> {
        self.home.check()?;
        for _ in 0..BATCH_FILES {
            let Some(entry) = self.spool.first_pending() else {
                break;
            };
            if entry.txid == Txid::FIRST
                && let Some(by) = self.other_chain()?
            {
                return Ok(End::OtherChain { by });
            }
            // Never a TXID that a power failure could take from us: it would be used again.
            match self.spool.settle() {
                Err(error) if error.is_corrupt() => {
                    let (txid, reason) = (entry.txid, error.to_string());
                    return Ok(End::Rejected { txid, reason });
                }
                settled => settled?,
            }
            let file = to_publish(&entry);
            match owner::publish_l0(&self.store, self.writer, &file) {
                Ok(Publish::Fenced { by }) => return Ok(End::Fenced { by }),
                Ok(Publish::Done | Publish::AlreadyOurs) => {}
                Err(StoreError::Corrupt { path, reason }) if path == entry.path => {
                    self.spool.reject(entry.txid, &reason)?;
                    return Ok(End::Rejected {
                        txid: entry.txid,
                        reason,
                    });
                }
                Err(error) => return Err(error.into()),
            }
            self.spool.ack(entry.txid)?;
            batch.shipped = Some(entry.txid);
            batch.files += 1;
            batch.bytes += entry.bytes;
            batch.published.push(ReplicaFile {
                level: Level::L0,
                range: TxidRange::single(entry.txid),
                bytes: entry.bytes,
                modified: entry.timestamp,
            });
        }
        let Some(mut manifest) = manifest else {
            return Ok(End::Done);
        };
        manifest.head = self.head();
        Ok(match sign(&self.store, manifest, None)? {
            Signed::Done => End::Done,
            Signed::Fenced { by } => End::Fenced { by },
        })
    }

    /// The writer of a chain that the files of the spool cannot go on from: a chain has one page
    /// size.
    fn other_chain(&self) -> Result<Option<u64>, StageError> {
        let listing = self.store.list()?;
        let (Some(head), Some(position)) = (listing.head(), self.spool.position()) else {
            return Ok(None);
        };
        let header = owner::header_at(&self.store, &listing, head)?;
        Ok((header.page_size != position.page_size).then_some(header.node_id))
    }

    /// The newest TXID that is known to be on the replica.
    fn head(&self) -> Option<Txid> {
        match self.spool.first_pending() {
            Some(first) => first.txid.prev(),
            None => self.spool.position().map(|position| position.txid),
        }
    }
}

/// A file of the spool as the replica is given it.
pub(crate) fn to_publish(entry: &Entry) -> SpoolFile {
    SpoolFile {
        txid: entry.txid,
        timestamp: entry.timestamp,
        path: entry.path.clone(),
        digest: Some(entry.digest),
        content: entry.content,
    }
}
