//! The state that SQLite published last, as the wal-index tells it.

use sqlrep_format::wal::{IndexError, IndexHeader, Salts, WalChecksum};

/// A read mark that limits nobody.
const MARK_NOT_USED: u32 = u32::MAX;

/// What the wal-index says: the state that SQLite published last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    /// The number of frames that count.
    pub(crate) mx_frame: u32,
    /// How many of them are in the database file.
    pub(crate) backfilled: u32,
    /// The generation of the WAL; means nothing without frames.
    pub(crate) salts: Salts,
    /// The running checksum of the last frame that counts.
    pub(crate) checksum: WalChecksum,
    /// The read marks.
    pub(crate) marks: [u32; 5],
}

impl Published {
    /// Whether the next writer may begin the WAL anew, if nobody reads it.
    pub(crate) fn is_backfilled(&self) -> bool {
        self.backfilled == self.mx_frame
    }

    /// Whether nobody is limited by this mark.
    pub(crate) fn is_unused(&self, slot: usize) -> bool {
        self.marks.get(slot) == Some(&MARK_NOT_USED)
    }

    /// `None` for bytes caught half-written.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<Self>, IndexError> {
        match IndexHeader::parse(bytes) {
            Ok(None) => Ok(None),
            Ok(Some(header)) => Ok(Some(Self {
                mx_frame: header.mx_frame,
                backfilled: header.backfilled,
                salts: header.salts,
                checksum: header.frame_checksum,
                marks: header.read_marks,
            })),
            // SQLite leaves the page size 0 when it recovered an index from a WAL without frames.
            Err(IndexError::PageSize(size)) if size.0 == 0 => Ok(Some(Self {
                mx_frame: 0,
                backfilled: 0,
                salts: Salts::default(),
                checksum: WalChecksum::default(),
                marks: marks(bytes),
            })),
            Err(error) => Err(error),
        }
    }
}

/// Which marks are not in use; the others read as 0.
fn marks(bytes: &[u8]) -> [u32; 5] {
    std::array::from_fn(|slot| {
        let at = 100 + 4 * slot;
        let unused = bytes.get(at..at + 4) == Some(&[0xff; 4]);
        if unused { MARK_NOT_USED } else { 0 }
    })
}
