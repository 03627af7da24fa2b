//! What goes into the spool, and what stands in it.

use std::io;
use std::path::PathBuf;

use sqlrep_format::{Checksum, PageCount, PageSize, Pgno, Pos, Timestamp, Txid, ltx};

use crate::WalPlace;

/// An L0 file that is to be written.
#[derive(Clone, Copy, Debug)]
pub struct Draft {
    /// The TXID after the position's.
    pub txid: Txid,
    /// Later than the position's.
    pub timestamp: Timestamp,
    /// The page size of the chain.
    pub page_size: PageSize,
    /// The size of the database after this file.
    pub commit: PageCount,
    /// The part of the WAL that the file covers, for its header.
    pub wal: ltx::WalSpan,
    /// Where capture goes on; kept by the ledger.
    pub place: Option<WalPlace>,
    /// The writer, for the header.
    pub node_id: u64,
}

/// The pages of a draft.
pub trait PageSource {
    /// Fills `page` with the next page and gives its number, ascending; `None` at the end. An
    /// error abandons the draft.
    fn next(&mut self, page: &mut [u8]) -> io::Result<Option<Pgno>>;

    /// Fills `pages` with the next pages, each of `page_size`, and appends their numbers: as many as
    /// there is room for, fewer only at the end.
    fn fill(
        &mut self,
        page_size: PageSize,
        pages: &mut [u8],
        numbers: &mut Vec<Pgno>,
    ) -> io::Result<()> {
        for page in pages.chunks_exact_mut(page_size.bytes()) {
            let Some(pgno) = self.next(page)? else {
                break;
            };
            numbers.push(pgno);
        }
        Ok(())
    }
}

/// One L0 file in the spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its TXID.
    pub txid: Txid,
    /// Its header's timestamp.
    pub timestamp: Timestamp,
    /// Its size.
    pub bytes: u64,
    /// Its file checksum, from the trailer.
    pub digest: Checksum,
    /// The CRC-64 of all its bytes as they were written; `None` for one found on the disk.
    pub content: Option<u64>,
    /// Where it lies.
    pub path: PathBuf,
}

/// What an append did.
#[derive(Clone, Debug)]
pub struct Appended {
    /// The file.
    pub entry: Entry,
    /// How many pages it holds.
    pub pages: u32,
    /// The state after it; `None` while page checksums are not known.
    pub pos: Option<Pos>,
}
