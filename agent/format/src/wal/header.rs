//! The header of a WAL and the header of a frame
//! (<https://www.sqlite.org/fileformat.html#wal_file_format>).

use std::fmt;

use super::{ByteOrder, WalChecksum};
use crate::bytes::{be_u32, field};
use crate::{InvalidPageSize, PageCount, PageSize, Pgno};

/// The length of the header of a WAL.
pub const HEADER_BYTES: usize = 32;
/// The length of the header of a frame; the page follows.
pub const FRAME_HEADER_BYTES: usize = 24;

/// The magic number without its last bit, which says the byte order.
const MAGIC: u32 = 0x377f_0682;
/// The only version there is.
pub(super) const VERSION: u32 = 3_007_000;

/// The two salts: they change whenever the WAL is reset, and only frames with the header's salts
/// count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Salts {
    /// Counts up with each reset.
    pub salt1: u32,
    /// Random at each reset.
    pub salt2: u32,
}

impl fmt::Display for Salts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{:08x}", self.salt1, self.salt2)
    }
}

/// The header of a WAL, its checksum proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The byte order of the checksum's words.
    pub order: ByteOrder,
    /// The size of a page.
    pub page_size: PageSize,
    /// Counts checkpoints.
    pub sequence: u32,
    /// The salts of the frames that count.
    pub salts: Salts,
    /// The checksum of the header, with which that of the first frame begins.
    pub checksum: WalChecksum,
}

/// Why bytes are no WAL header. A WAL that was just created or truncated has none either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// Not the magic number of a WAL.
    #[error("WAL header: magic number {found:#010x} is not 0x377f0682 or 0x377f0683")]
    Magic {
        /// The number found.
        found: u32,
    },
    /// A version nobody knows.
    #[error("WAL header: version {found} is not 3007000")]
    Version {
        /// The version found.
        found: u32,
    },
    /// The page size is none.
    #[error("WAL header: {0}")]
    PageSize(InvalidPageSize),
    /// The header's checksum is wrong: it is damaged, or was read while it was written.
    #[error("WAL header: checksum {found:08x?}, computed {expected:08x?}")]
    Checksum {
        /// The checksum of the bytes.
        expected: WalChecksum,
        /// The checksum stored.
        found: WalChecksum,
    },
}

impl Header {
    /// Reads and proves the header of a WAL.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self, ReadError> {
        let magic = be_u32::<0, _>(bytes);
        if magic & !1 != MAGIC {
            return Err(ReadError::Magic { found: magic });
        }
        let order = if magic & 1 == 0 {
            ByteOrder::Little
        } else {
            ByteOrder::Big
        };
        let version = be_u32::<4, _>(bytes);
        if version != VERSION {
            return Err(ReadError::Version { found: version });
        }
        let page_size = PageSize::new(be_u32::<8, _>(bytes)).map_err(ReadError::PageSize)?;
        let expected = WalChecksum::default().update(order, &field::<0, 24, _>(bytes));
        let found = checksum_at::<24, _>(bytes);
        if found != expected {
            return Err(ReadError::Checksum { expected, found });
        }
        Ok(Self {
            order,
            page_size,
            sequence: be_u32::<12, _>(bytes),
            salts: salts_at::<16, _>(bytes),
            checksum: found,
        })
    }
}

/// The header of a frame, as it stands there: whether the frame counts, [`super::Cursor`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// The page that follows.
    pub pgno: Pgno,
    /// The size of the database after the transaction, on its last frame; `None` on the others.
    pub commit: Option<PageCount>,
    /// Must equal the header's.
    pub salts: Salts,
    /// The running checksum up to and including this frame.
    pub checksum: WalChecksum,
}

impl FrameHeader {
    /// Reads a frame header; `None` when it is for page 0, which is no page.
    pub fn parse(bytes: &[u8; FRAME_HEADER_BYTES]) -> Option<Self> {
        Some(Self {
            pgno: Pgno::new(be_u32::<0, _>(bytes))?,
            commit: PageCount::new(be_u32::<4, _>(bytes)),
            salts: salts_at::<8, _>(bytes),
            checksum: checksum_at::<16, _>(bytes),
        })
    }
}

/// The salts at `AT`, big-endian as everywhere.
pub(super) fn salts_at<const AT: usize, const N: usize>(bytes: &[u8; N]) -> Salts {
    let pair = field::<AT, 8, N>(bytes);
    Salts {
        salt1: be_u32::<0, 8>(&pair),
        salt2: be_u32::<4, 8>(&pair),
    }
}

/// The checksum at `AT`: stored big-endian, whatever the order it was computed in.
fn checksum_at<const AT: usize, const N: usize>(bytes: &[u8; N]) -> WalChecksum {
    let pair = field::<AT, 8, N>(bytes);
    WalChecksum {
        s0: be_u32::<0, 8>(&pair),
        s1: be_u32::<4, 8>(&pair),
    }
}
