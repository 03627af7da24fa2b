//! The header of the wal-index, the `-shm` file
//! (<https://www.sqlite.org/walformat.html#the_wal_index_header>).
//!
//! It says how many frames of the WAL count without reading the WAL. It lives in shared memory, so
//! that a reader without locks may see it half-written: that is why it stands there twice.

use super::checksum::{ByteOrder, WalChecksum};
use super::header::{Salts, VERSION, salts_at};
use crate::bytes::field;
use crate::{InvalidPageSize, PageSize};

/// The bytes that [`IndexHeader::parse`] needs: both copies and the checkpoint information.
pub const INDEX_HEADER_BYTES: usize = 136;

/// The length of one copy.
const COPY_BYTES: usize = 48;
/// The part of a copy that its checksum covers.
const SUMMED_BYTES: usize = 40;

/// What the wal-index says about the WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexHeader {
    /// Counts transactions.
    pub change: u32,
    /// The size of a page.
    pub page_size: PageSize,
    /// The number of frames that count; 0 right after a reset of the index.
    pub mx_frame: u32,
    /// The size of the database in pages.
    pub page_count: u32,
    /// The running checksum of the last frame that counts.
    pub frame_checksum: WalChecksum,
    /// The salts of the WAL.
    pub salts: Salts,
    /// Whether the checksums in the WAL read their words big-endian.
    pub big_endian_checksums: bool,
    /// How many frames are in the database file already.
    pub backfilled: u32,
    /// How many frames a checkpoint set out to copy; some of the copies may not be durable.
    pub backfill_attempted: u32,
    /// The read marks; `u32::MAX` is one not in use, and the first is always 0.
    pub read_marks: [u32; 5],
}

/// Why a complete wal-index header cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// A version nobody knows.
    #[error("wal-index header: version {found} is not 3007000")]
    Version {
        /// The version found.
        found: u32,
    },
    /// The page size is none.
    #[error("wal-index header: {0}")]
    PageSize(InvalidPageSize),
}

impl IndexHeader {
    /// Reads the first 136 bytes of a wal-index, as bytes of this machine.
    ///
    /// `None` when it is not initialised (or shorter), or was caught half-written: look again.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, IndexError> {
        let Some(bytes) = bytes.first_chunk::<INDEX_HEADER_BYTES>() else {
            return Ok(None);
        };
        let copy = field::<0, COPY_BYTES, _>(bytes);
        let stored = WalChecksum {
            s0: word::<40, _>(&copy),
            s1: word::<44, _>(&copy),
        };
        let summed = field::<0, SUMMED_BYTES, _>(&copy);
        let [initialised] = field::<12, 1, _>(&copy);
        if copy != field::<COPY_BYTES, COPY_BYTES, _>(bytes)
            || initialised == 0
            || stored != WalChecksum::default().update(ByteOrder::NATIVE, &summed)
        {
            return Ok(None);
        }
        let version = word::<0, _>(&copy);
        if version != VERSION {
            return Err(IndexError::Version { found: version });
        }
        let page_size = match half_word::<14, _>(&copy) {
            1 => PageSize::MAX, // 65536 does not fit
            bytes => PageSize::new(bytes.into()).map_err(IndexError::PageSize)?,
        };
        Ok(Some(Self {
            change: word::<8, _>(&copy),
            page_size,
            mx_frame: word::<16, _>(&copy),
            page_count: word::<20, _>(&copy),
            frame_checksum: WalChecksum {
                s0: word::<24, _>(&copy),
                s1: word::<28, _>(&copy),
            },
            salts: salts_at::<32, _>(&copy), // copied from the WAL as they stand there
            big_endian_checksums: field::<13, 1, _>(&copy) != [0],
            backfilled: word::<96, _>(bytes),
            backfill_attempted: word::<128, _>(bytes),
            read_marks: [
                word::<100, _>(bytes),
                word::<104, _>(bytes),
                word::<108, _>(bytes),
                word::<112, _>(bytes),
                word::<116, _>(bytes),
            ],
        }))
    }
}

/// The 32-bit integer at `AT` in this machine's order.
fn word<const AT: usize, const N: usize>(bytes: &[u8; N]) -> u32 {
    let bytes = field::<AT, 4, N>(bytes);
    match ByteOrder::NATIVE {
        ByteOrder::Little => u32::from_le_bytes(bytes),
        ByteOrder::Big => u32::from_be_bytes(bytes),
    }
}

/// The 16-bit integer at `AT` in this machine's order.
fn half_word<const AT: usize, const N: usize>(bytes: &[u8; N]) -> u16 {
    let bytes = field::<AT, 2, N>(bytes);
    match ByteOrder::NATIVE {
        ByteOrder::Little => u16::from_le_bytes(bytes),
        ByteOrder::Big => u16::from_be_bytes(bytes),
    }
}

#[cfg(test)]
mod tests;
