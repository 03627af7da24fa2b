//! The header of a database file: its first 100 bytes
//! (<https://www.sqlite.org/fileformat.html#the_database_header>).

use crate::bytes::{be_u16, be_u32, field};
use crate::{InvalidPageSize, PageSize};

/// How a database file begins.
const MAGIC: [u8; 16] = *b"SQLite format 3\0";

/// The three payload fractions that every version of SQLite demands.
const FRACTIONS: [u8; 3] = [64, 32, 32];

/// SQLite refuses pages with less room than this.
const USABLE_BYTES_MIN: u32 = 480;

/// What the database header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatabaseHeader {
    /// The size of a page.
    pub page_size: PageSize,
    /// How the database is journalled.
    pub journal: JournalMode,
    /// Bytes at the end of each page that SQLite leaves alone (used by some encryption).
    pub reserved_bytes: u8,
    /// Counts transactions; in WAL mode it stands still most of the time.
    pub change_counter: u32,
    /// The size of the database in pages, if [`DatabaseHeader::page_count_is_valid`]; in WAL mode
    /// as of the last checkpoint of page 1.
    pub page_count: u32,
    /// Changes with the schema.
    pub schema_cookie: u32,
    /// The value of `change_counter` when `page_count` was written.
    pub version_valid_for: u32,
}

/// How a database is journalled, as its file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalMode {
    /// Write-ahead log.
    Wal,
    /// A rollback journal of any kind (delete, truncate, persist, memory, off).
    Rollback,
}

/// Why bytes are no database header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// Fewer bytes than a header has; an empty file is an empty database.
    #[error("{found} bytes are too few for a database header, which has 100")]
    TooShort {
        /// The bytes there are.
        found: usize,
    },
    /// The file does not begin as a database does: another kind of file, or an encrypted one.
    #[error("the file does not begin with \"SQLite format 3\": no database, or an encrypted one")]
    NotADatabase,
    /// The page size is none.
    #[error("database header: {0}")]
    PageSize(InvalidPageSize),
    /// The file wants a newer SQLite.
    #[error("database header: read version {0} is not 1 (rollback journal) or 2 (WAL)")]
    ReadVersion(u8),
    /// The payload fractions are not what SQLite demands.
    #[error("database header: payload fractions {0:?} are not 64, 32, 32")]
    Fractions([u8; 3]),
    /// The reserved bytes leave too little of a page.
    #[error(
        "database header: {reserved} reserved bytes leave too little of a {page_size}-byte page"
    )]
    Reserved {
        /// The reserved bytes of each page.
        reserved: u8,
        /// The page size.
        page_size: PageSize,
    },
}

impl DatabaseHeader {
    /// The length of the header.
    pub const BYTES: usize = 100;

    /// Reads the header from the first bytes of a database file, at least 100.
    pub fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        let header = bytes
            .first_chunk::<{ Self::BYTES }>()
            .ok_or(HeaderError::TooShort { found: bytes.len() })?;
        if field::<0, 16, _>(header) != MAGIC {
            return Err(HeaderError::NotADatabase);
        }
        let page_size = match be_u16::<16, _>(header) {
            1 => PageSize::MAX, // 65536 does not fit
            bytes => PageSize::new(bytes.into()).map_err(HeaderError::PageSize)?,
        };
        // SQLite opens the WAL by the read version; the write version only forbids writing.
        let journal = match field::<19, 1, _>(header) {
            [1] => JournalMode::Rollback,
            [2] => JournalMode::Wal,
            [version] => return Err(HeaderError::ReadVersion(version)),
        };
        let [reserved] = field::<20, 1, _>(header);
        if page_size.get().saturating_sub(reserved.into()) < USABLE_BYTES_MIN {
            return Err(HeaderError::Reserved {
                reserved,
                page_size,
            });
        }
        let fractions = field::<21, 3, _>(header);
        if fractions != FRACTIONS {
            return Err(HeaderError::Fractions(fractions));
        }
        Ok(Self {
            page_size,
            journal,
            reserved_bytes: reserved,
            change_counter: be_u32::<24, _>(header),
            page_count: be_u32::<28, _>(header),
            schema_cookie: be_u32::<40, _>(header),
            version_valid_for: be_u32::<92, _>(header),
        })
    }

    /// Whether `page_count` may be trusted: versions before 3.7.0 did not keep it.
    pub fn page_count_is_valid(&self) -> bool {
        self.page_count != 0 && self.change_counter == self.version_valid_for
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Vec<u8> {
        let mut bytes = vec![0; 100];
        bytes[..16].copy_from_slice(b"SQLite format 3\0");
        bytes[16..24].copy_from_slice(&[0x10, 0, 2, 2, 0, 64, 32, 32]);
        bytes[24..32].copy_from_slice(&[0, 0, 0, 7, 0, 0, 0, 9]);
        bytes[92..96].copy_from_slice(&[0, 0, 0, 7]);
        bytes
    }

    #[test]
    fn header_is_read() {
        let read = DatabaseHeader::parse(&header()).unwrap();
        assert_eq!(read.page_size.get(), 4096);
        assert_eq!(read.journal, JournalMode::Wal);
        assert_eq!((read.change_counter, read.page_count), (7, 9));
        assert!(read.page_count_is_valid());
    }

    #[test]
    fn page_size_one_means_64_kib() {
        let mut bytes = header();
        bytes[16..18].copy_from_slice(&[0, 1]);
        assert_eq!(
            DatabaseHeader::parse(&bytes).unwrap().page_size,
            PageSize::MAX
        );
    }

    #[test]
    fn read_version_says_the_journal_mode() {
        let mut bytes = header();
        bytes[19] = 1;
        assert_eq!(
            DatabaseHeader::parse(&bytes).unwrap().journal,
            JournalMode::Rollback
        );
        bytes[19] = 3;
        assert_eq!(
            DatabaseHeader::parse(&bytes),
            Err(HeaderError::ReadVersion(3))
        );
    }

    #[test]
    fn other_files_are_refused() {
        assert_eq!(
            DatabaseHeader::parse(b""),
            Err(HeaderError::TooShort { found: 0 })
        );
        assert_eq!(
            DatabaseHeader::parse(&[0x55; 4096]),
            Err(HeaderError::NotADatabase)
        );
        let mut bytes = header();
        bytes[17] = 3;
        assert!(matches!(
            DatabaseHeader::parse(&bytes),
            Err(HeaderError::PageSize(_))
        ));
        let mut bytes = header();
        bytes[21] = 0;
        assert!(matches!(
            DatabaseHeader::parse(&bytes),
            Err(HeaderError::Fractions(_))
        ));
        let mut bytes = header();
        bytes[16..18].copy_from_slice(&[2, 0]);
        bytes[20] = 33;
        assert!(matches!(
            DatabaseHeader::parse(&bytes),
            Err(HeaderError::Reserved { .. })
        ));
    }
}
