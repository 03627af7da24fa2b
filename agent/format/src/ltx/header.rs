//! The header of an LTX file.

use super::error::{DecodeError, Fault};
use crate::bytes::{be_u32, be_u64, field, put};
use crate::wal::Salts;
use crate::{Checksum, InvalidPageSize, PageCount, PageSize, Timestamp, Txid, TxidRange};

/// The length of the header.
pub const HEADER_BYTES: usize = 100;

/// Magic number and version in one.
const MAGIC: [u8; 4] = *b"LTX1";
/// The only flag: the file carries no checksums of the database.
const NO_CHECKSUM: u32 = 1 << 1;
/// Offsets and sizes in the WAL are stored as signed integers that are not negative.
const SPAN_MAX: u64 = i64::MAX.unsigned_abs();

/// Where in the WAL the pages of an L0 file came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalSpan {
    /// The byte of the WAL at which the span begins.
    pub offset: u64,
    /// The bytes it covers.
    pub size: u64,
    /// The salts of the WAL.
    pub salts: Salts,
}

impl WalSpan {
    /// Nothing of the WAL, but a place in it: for L0 files that come from no WAL. Litestream never
    /// resumes after a level-0 file with [`WalSpan::NONE`] (LITESTREAM.md rule 4).
    pub const CLAIM: Self = Self {
        offset: 32,
        size: 0,
        salts: Salts { salt1: 0, salt2: 0 },
    };
    /// Not from a WAL: for compacted files.
    pub const NONE: Self = Self {
        offset: 0,
        size: 0,
        salts: Salts { salt1: 0, salt2: 0 },
    };

    /// The byte of the WAL at which the span ends.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.size)
    }
}

/// Whether a file carries checksums of the database before and after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksums {
    /// It does not: the only kind that Litestream writes, and that its restore takes.
    None,
    /// It does.
    Tracked {
        /// The checksum of the database before the file; `None` exactly for snapshots.
        pre: Option<Checksum>,
    },
}

/// The header of an LTX file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The size of a page.
    pub page_size: PageSize,
    /// The size of the database after the file.
    pub commit: PageCount,
    /// The TXIDs the file covers; its name says the same.
    pub range: TxidRange,
    /// When the file was made; its mtime says the same.
    pub timestamp: Timestamp,
    /// Whether it carries checksums of the database.
    pub checksums: Checksums,
    /// Where its pages were in the WAL.
    pub wal: WalSpan,
    /// Who wrote it; Litestream leaves 0.
    pub node_id: u64,
}

/// A rule that a header breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderFault {
    /// Not an LTX file, or another version.
    #[error("the file begins with {found:02x?}, not with \"LTX1\"")]
    Magic {
        /// The first bytes.
        found: [u8; 4],
    },
    /// Flags that nobody knows.
    #[error("unknown header flags {found:#010x}")]
    Flags {
        /// The flags.
        found: u32,
    },
    /// The page size is none.
    #[error("{0}")]
    PageSize(InvalidPageSize),
    /// The database has no pages after the file.
    #[error("a commit of 0 pages")]
    Commit,
    /// The TXIDs are zero or run backwards.
    #[error("TXIDs {min:016x}-{max:016x} are no range")]
    Range {
        /// The lowest.
        min: u64,
        /// The highest.
        max: u64,
    },
    /// The pre-apply checksum is there when it must not be, or the other way round.
    #[error("pre-apply checksum {found:016x} does not fit the flags and TXIDs")]
    PreApply {
        /// The value stored.
        found: u64,
    },
    /// A size or an offset is negative, or salts or a size without an offset.
    #[error("WAL offset {offset:#x} and size {size:#x} with salts {salts} are no span of a WAL")]
    WalSpan {
        /// The offset.
        offset: u64,
        /// The size.
        size: u64,
        /// The salts.
        salts: Salts,
    },
    /// The file to be written would carry checksums, which no Litestream restores.
    #[error("files with database checksums are read, but never written")]
    Tracked,
}

impl Header {
    /// The bytes of the header. [`super::Encoder::new`] checks that they make sense.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let (flags, pre) = match self.checksums {
            Checksums::None => (NO_CHECKSUM, 0),
            Checksums::Tracked { pre } => (0, pre.map_or(0, Checksum::get)),
        };
        let mut bytes = [0; HEADER_BYTES];
        put::<0, 4, HEADER_BYTES>(&mut bytes, MAGIC);
        put::<4, 4, HEADER_BYTES>(&mut bytes, flags.to_be_bytes());
        put::<8, 4, HEADER_BYTES>(&mut bytes, self.page_size.get().to_be_bytes());
        put::<12, 4, HEADER_BYTES>(&mut bytes, self.commit.get().to_be_bytes());
        put::<16, 8, HEADER_BYTES>(&mut bytes, self.range.min().get().to_be_bytes());
        put::<24, 8, HEADER_BYTES>(&mut bytes, self.range.max().get().to_be_bytes());
        put::<32, 8, HEADER_BYTES>(&mut bytes, self.timestamp.millis().to_be_bytes());
        put::<40, 8, HEADER_BYTES>(&mut bytes, pre.to_be_bytes());
        put::<48, 8, HEADER_BYTES>(&mut bytes, self.wal.offset.to_be_bytes());
        put::<56, 8, HEADER_BYTES>(&mut bytes, self.wal.size.to_be_bytes());
        put::<64, 4, HEADER_BYTES>(&mut bytes, self.wal.salts.salt1.to_be_bytes());
        put::<68, 4, HEADER_BYTES>(&mut bytes, self.wal.salts.salt2.to_be_bytes());
        put::<72, 8, HEADER_BYTES>(&mut bytes, self.node_id.to_be_bytes());
        bytes
    }

    /// Reads a header from the first bytes of a file, at least 100.
    ///
    /// The reserved bytes at its end are not looked at, but the file checksum covers them.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(DecodeError::Truncated {
                offset: bytes.len() as u64,
                missing: HEADER_BYTES.saturating_sub(bytes.len()) as u64,
            });
        };
        Self::fields(header)
            .map_err(|(offset, fault)| DecodeError::corrupt(offset, Fault::Header(fault)))
    }

    fn fields(bytes: &[u8; HEADER_BYTES]) -> Result<Self, (u64, HeaderFault)> {
        let found = field::<0, 4, _>(bytes);
        if found != MAGIC {
            return Err((0, HeaderFault::Magic { found }));
        }
        let flags = be_u32::<4, _>(bytes);
        if flags & !NO_CHECKSUM != 0 {
            return Err((4, HeaderFault::Flags { found: flags }));
        }
        let page_size = PageSize::new(be_u32::<8, _>(bytes))
            .map_err(|size| (8, HeaderFault::PageSize(size)))?;
        let commit = PageCount::new(be_u32::<12, _>(bytes)).ok_or((12, HeaderFault::Commit))?;
        let (min, max) = (be_u64::<16, _>(bytes), be_u64::<24, _>(bytes));
        let range = Txid::new(min)
            .zip(Txid::new(max))
            .and_then(|(min, max)| TxidRange::new(min, max))
            .ok_or((16, HeaderFault::Range { min, max }))?;

        let found = be_u64::<40, _>(bytes);
        let pre = Checksum::new(found);
        let checksums = match (flags & NO_CHECKSUM != 0, range.is_snapshot()) {
            (true, _) if found == 0 => Checksums::None,
            (false, true) if found == 0 => Checksums::Tracked { pre: None },
            (false, false) if pre.is_some() => Checksums::Tracked { pre },
            _ => return Err((40, HeaderFault::PreApply { found })),
        };
        let wal = WalSpan {
            offset: be_u64::<48, _>(bytes),
            size: be_u64::<56, _>(bytes),
            salts: Salts {
                salt1: be_u32::<64, _>(bytes),
                salt2: be_u32::<68, _>(bytes),
            },
        };
        wal.check().map_err(|fault| (48, fault))?;
        Ok(Self {
            page_size,
            commit,
            range,
            timestamp: Timestamp::from_millis(i64::from_be_bytes(field::<32, 8, _>(bytes))),
            checksums,
            wal,
            node_id: be_u64::<72, _>(bytes),
        })
    }

    /// Whether a file with this header may be written.
    pub(super) fn check(&self) -> Result<(), HeaderFault> {
        match self.checksums {
            Checksums::None => self.wal.check(),
            Checksums::Tracked { .. } => Err(HeaderFault::Tracked),
        }
    }
}

impl WalSpan {
    fn check(&self) -> Result<(), HeaderFault> {
        let &Self {
            offset,
            size,
            salts,
        } = self;
        let placeless = offset == 0 && (size != 0 || salts != Salts::default());
        if placeless || offset > SPAN_MAX || size > SPAN_MAX {
            return Err(HeaderFault::WalSpan {
                offset,
                size,
                salts,
            });
        }
        Ok(())
    }
}
