//! The rollback journal: the pages of a database as they were before the transaction that is
//! being written (<https://www.sqlite.org/fileformat.html#the_rollback_journal>).
//!
//! A journal is a row of segments. Each begins at a sector with a [`JournalHeader`] and goes on
//! with records: number of the page (4 bytes), the page, its checksum (4 bytes).

use crate::bytes::{be_u32, field};
use crate::{PageSize, Pgno};

/// How a segment begins, and how a journal ends that names a super-journal.
const MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];

/// The bytes of a page that its checksum counts lie so far apart.
const CHECKSUM_STRIDE: usize = 200;

/// Sectors that SQLite believes in.
const SECTOR_BYTES: std::ops::RangeInclusive<u32> = 32..=65_536;

/// The beginning of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalHeader {
    /// How many records follow; `None`: all up to the end of the file (it is never synced).
    pub records: Option<u32>,
    /// Added to each checksum.
    pub nonce: u32,
    /// The size of the database before the transaction, in pages.
    pub pages_before: u32,
    /// A segment begins at a multiple of this, and its header takes as much.
    pub sector_bytes: u32,
    /// The size of a page; `None` where an old version of SQLite left it out.
    pub page_size: Option<PageSize>,
}

impl JournalHeader {
    /// The bytes that count.
    pub const BYTES: usize = 28;

    /// Reads a header; `None` where there is none: the journal is over, or was never begun.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let header = bytes.first_chunk::<{ Self::BYTES }>()?;
        if field::<0, 8, _>(header) != MAGIC {
            return None;
        }
        let sector_bytes = be_u32::<20, _>(header);
        if !sector_bytes.is_power_of_two() || !SECTOR_BYTES.contains(&sector_bytes) {
            return None;
        }
        let page_size = match be_u32::<24, _>(header) {
            0 => None,
            bytes => Some(PageSize::new(bytes).ok()?),
        };
        let records = be_u32::<8, _>(header);
        Some(Self {
            records: (records != u32::MAX).then_some(records),
            nonce: be_u32::<12, _>(header),
            pages_before: be_u32::<16, _>(header),
            sector_bytes,
            page_size,
        })
    }
}

/// The page of a record, if the record is whole: `bytes` is the number, the page and its checksum.
pub fn journal_record(bytes: &[u8], nonce: u32) -> Option<(Pgno, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<4>()?;
    let (page, sum) = rest.split_last_chunk::<4>()?;
    let pgno = Pgno::new(u32::from_be_bytes(*number))?;
    (u32::from_be_bytes(*sum) == checksum(nonce, page)).then_some((pgno, page))
}

/// SQLite's checksum of a page in a journal: the nonce, and every 200th byte counted from the end.
fn checksum(nonce: u32, page: &[u8]) -> u32 {
    let end = page.len().saturating_sub(CHECKSUM_STRIDE);
    let counted = page.iter().take(end.saturating_add(1)).rev();
    counted
        .step_by(CHECKSUM_STRIDE)
        .zip(0_usize..)
        // SQLite counts while the place is above 0: the first byte never counts.
        .filter(|(_, step)| end > step.saturating_mul(CHECKSUM_STRIDE))
        .fold(nonce, |sum, (byte, _)| sum.wrapping_add(u32::from(*byte)))
}

/// Whether the journal's last 16 bytes say that it is part of a transaction over several files:
/// then another file decides whether it counts.
pub fn names_super_journal(tail: &[u8; 16]) -> bool {
    field::<8, 8, _>(tail) == MAGIC && be_u32::<0, _>(tail) > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(sector: u32, page: u32, records: u32) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for value in [records, 77, 5, sector, page] {
            bytes.extend(value.to_be_bytes());
        }
        bytes
    }

    #[test]
    fn a_header_is_read_and_a_foreign_one_is_none() {
        let read = JournalHeader::parse(&header(512, 4096, 3)).unwrap();
        assert_eq!(
            (read.records, read.nonce, read.pages_before),
            (Some(3), 77, 5)
        );
        assert_eq!(read.page_size, PageSize::new(4096).ok());
        assert_eq!(
            JournalHeader::parse(&header(512, 0, 3)).unwrap().page_size,
            None
        );
        let endless = JournalHeader::parse(&header(512, 4096, u32::MAX)).unwrap();
        assert_eq!(endless.records, None);
        assert_eq!(JournalHeader::parse(&[0; 28]), None, "zeroed: committed");
        assert_eq!(JournalHeader::parse(&header(0, 4096, 3)), None);
        assert_eq!(JournalHeader::parse(&header(513, 4096, 3)), None);
        assert_eq!(JournalHeader::parse(&header(512, 100, 3)), None);
        assert_eq!(JournalHeader::parse(&header(512, 4096, 3)[..27]), None);
    }

    #[test]
    fn a_record_counts_only_with_its_checksum() {
        let mut page = vec![0_u8; 1024];
        // 1024 - 200, - 400, … - 1000 count: 824, 624, 424, 224 and 24.
        for (at, byte) in [(824, 1), (624, 2), (424, 3), (224, 4), (24, 5)] {
            page[at] = byte;
        }
        let mut record = 9_u32.to_be_bytes().to_vec();
        record.extend(&page);
        record.extend((100 + 15_u32).to_be_bytes());
        let (pgno, read) = journal_record(&record, 100).unwrap();
        assert_eq!((pgno.get(), read), (9, page.as_slice()));
        assert_eq!(journal_record(&record, 101), None);
        record[4 + 24] = 6;
        assert_eq!(journal_record(&record, 100), None);
        assert_eq!(journal_record(&record[..7], 100), None);
    }
}
