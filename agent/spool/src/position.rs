//! Where a database stands: the last TXID in the spool, and the place in the WAL that it reaches.

use std::io;

use sqlrep_format::wal::{self, Salts, WalChecksum};
use sqlrep_format::{Checksum, PageCount, PageSize, Pgno, Timestamp, Txid, ltx};

/// The end of what is captured, as a place in the WAL file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalPlace {
    /// The WAL's generation of frames.
    pub salts: Salts,
    /// How many frames lie before the place.
    pub frames: u32,
    /// The running checksum of the last of them; not known when the place was derived from an
    /// L0 header after the ledger was lost.
    pub checksum: Option<WalChecksum>,
}

impl WalPlace {
    /// The place at which an L0 file's span of the WAL ends; `None` when the header claims none
    /// or one that is no whole number of frames.
    pub(crate) fn at_end(span: &ltx::WalSpan, page_size: PageSize) -> Option<Self> {
        let frame_bytes = wal::FRAME_HEADER_BYTES as u64 + u64::from(page_size.get());
        let body = span
            .offset
            .checked_add(span.size)?
            .checked_sub(wal::HEADER_BYTES as u64)?;
        if span.size == 0 || !body.is_multiple_of(frame_bytes) {
            return None;
        }
        let frames = u32::try_from(body / frame_bytes).ok()?;
        Some(Self {
            salts: span.salts,
            frames,
            checksum: None,
        })
    }
}

/// The state after the newest L0 file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The newest TXID. The next L0 file carries the one after it.
    pub txid: Txid,
    /// The timestamp of the newest TXID.
    pub timestamp: Timestamp,
    /// The size of the database.
    pub commit: PageCount,
    /// The page size of the chain.
    pub page_size: PageSize,
    /// How far the WAL is captured; `None` when that is not known.
    pub wal: Option<WalPlace>,
    /// The checksum over all pages; `None` when page checksums are not known, for the ledger was
    /// lost: then a resync ships the full state, or [`crate::DatabaseSpool::rebuild_from`] is
    /// called first.
    pub checksum: Option<Checksum>,
}

/// A replica's head that a spool takes over after a restore or a takeover.
pub struct Seed<'a> {
    /// The head. The next L0 file carries the TXID after it.
    pub txid: Txid,
    /// The head's timestamp.
    pub timestamp: Timestamp,
    /// The size of the database at the head.
    pub commit: PageCount,
    /// The page size of the chain.
    pub page_size: PageSize,
    /// The checksum of every page but the lock page, ascending.
    pub checksums: &'a mut dyn Iterator<Item = io::Result<(Pgno, Checksum)>>,
}

impl std::fmt::Debug for Seed<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seed")
            .field("txid", &self.txid)
            .field("timestamp", &self.timestamp)
            .field("commit", &self.commit)
            .field("page_size", &self.page_size)
            .finish_non_exhaustive()
    }
}
