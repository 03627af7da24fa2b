//! Why an LTX file cannot be read.

use std::io;

use super::header::HeaderFault;
use super::order::OrderFault;
use crate::{Checksum, Pgno};

/// Why an LTX file cannot be read. Offsets count from the beginning of what was given to the
/// decoder: the file, or one frame ([`DecodeError::within`] shifts those).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The reader failed: says nothing about the file.
    #[error("reading at byte {offset} failed")]
    Io {
        /// Where.
        offset: u64,
        /// The reader's error.
        #[source]
        source: io::Error,
    },
    /// The file ends too early.
    #[error("the file is truncated: it ends at byte {offset} where {missing} more bytes belong")]
    Truncated {
        /// Where the file ends.
        offset: u64,
        /// How many more bytes the part has that is cut off.
        missing: u64,
    },
    /// The file is damaged, or no LTX file.
    #[error("damaged at byte {offset}: {fault}")]
    Corrupt {
        /// Where.
        offset: u64,
        /// What is wrong there.
        fault: Fault,
    },
    /// The caller's buffer is not as long as a page: says nothing about the file.
    #[error("the buffer has {found} bytes, a page of this file has {expected}")]
    Buffer {
        /// The size of a page.
        expected: usize,
        /// The size of the buffer.
        found: usize,
    },
}

impl DecodeError {
    /// Whether the file ends too early.
    pub fn is_truncated(&self) -> bool {
        matches!(self, Self::Truncated { .. })
    }

    /// Whether the bytes are to blame: reading again will not help.
    pub fn is_corrupt(&self) -> bool {
        match self {
            Self::Truncated { .. } | Self::Corrupt { .. } => true,
            Self::Io { .. } | Self::Buffer { .. } => false,
        }
    }

    /// The same error, seen from a file in which the decoded part begins at `base`.
    #[must_use]
    pub fn within(mut self, base: u64) -> Self {
        match &mut self {
            Self::Io { offset, .. }
            | Self::Truncated { offset, .. }
            | Self::Corrupt { offset, .. } => {
                *offset = offset.saturating_add(base);
            }
            Self::Buffer { .. } => {}
        }
        self
    }

    pub(super) fn corrupt(offset: u64, fault: impl Into<Fault>) -> Self {
        Self::Corrupt {
            offset,
            fault: fault.into(),
        }
    }
}

/// What is wrong with the bytes of an LTX file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The header breaks a rule.
    #[error(transparent)]
    Header(#[from] HeaderFault),
    /// The page numbers break a rule.
    #[error(transparent)]
    Order(#[from] OrderFault),
    /// A page has flags that nobody knows.
    #[error("page {pgno:?} has unknown flags {found:#06x}")]
    PageFlags {
        /// The page; `None` is the end marker.
        pgno: Option<Pgno>,
        /// The flags.
        found: u16,
    },
    /// No LZ4 frame begins where one belongs.
    #[error("LZ4 frame begins with {found:#010x}, not 0x184d2204")]
    Lz4Magic {
        /// The number found.
        found: u32,
    },
    /// The LZ4 frame has flags that no decoder knows, or wants a dictionary.
    #[error("LZ4 frame descriptor {flags:#04x} {block:#04x} is not supported")]
    Lz4Flags {
        /// The FLG byte.
        flags: u8,
        /// The BD byte.
        block: u8,
    },
    /// The descriptor of the LZ4 frame is damaged.
    #[error("LZ4 frame descriptor has checksum {found:#04x}, computed {expected:#04x}")]
    Lz4Descriptor {
        /// The checksum of the bytes.
        expected: u8,
        /// The checksum stored.
        found: u8,
    },
    /// An LZ4 block has a length that no page needs.
    #[error("LZ4 block of {found} bytes, at most {max} can belong to a page")]
    Lz4BlockBytes {
        /// The most that makes sense.
        max: usize,
        /// The length stored.
        found: usize,
    },
    /// An LZ4 block cannot be decompressed into what is left of the page.
    #[error("LZ4 block does not decompress into a page")]
    Lz4Block,
    /// The checksum of an LZ4 block or of the content of a frame is wrong.
    #[error("page content has checksum {found:08x}, computed {expected:08x}")]
    Lz4Checksum {
        /// The checksum of the bytes.
        expected: u32,
        /// The checksum stored.
        found: u32,
    },
    /// A page decompresses to less or more than a page.
    #[error("page content of {found} bytes, a page has {expected}")]
    PageBytes {
        /// The size of a page.
        expected: u64,
        /// The size found or declared.
        found: u64,
    },
    /// A frame is followed by more bytes than it has.
    #[error("{found} bytes follow the page that should end here")]
    FrameTail {
        /// How many.
        found: usize,
    },
    /// The page index is not well-formed.
    #[error("the page index is not well-formed")]
    Index,
    /// The page index does not say what the pages say, or leaves a hole.
    #[error("the page index does not agree with the pages")]
    IndexMismatch,
    /// An index entry claims more bytes than a page can take, or fewer than it must.
    #[error("the page index gives page {pgno} {found} bytes, 7 to {max} are possible")]
    IndexFrame {
        /// The page.
        pgno: Pgno,
        /// The most that makes sense.
        max: u64,
        /// The length in the index.
        found: u64,
    },
    /// The length of the page index is wrong.
    #[error("the page index is said to have {found} bytes, it has {expected}")]
    IndexBytes {
        /// The length there is (or the most the file has room for).
        expected: u64,
        /// The length stored.
        found: u64,
    },
    /// The post-apply checksum is there when it must not be, or the other way round.
    #[error("post-apply checksum {found:016x} does not fit the header's flags")]
    PostApplyPresence {
        /// The value stored.
        found: u64,
    },
    /// The pages of a snapshot do not add up to the post-apply checksum.
    #[error("post-apply checksum {found}, the pages give {expected}")]
    PostApply {
        /// The checksum of the pages.
        expected: Checksum,
        /// The checksum stored.
        found: Checksum,
    },
    /// The file checksum is wrong: something in the file changed since it was written.
    #[error("file checksum {found:016x}, computed {expected}")]
    FileChecksum {
        /// The checksum of the bytes.
        expected: Checksum,
        /// The value stored.
        found: u64,
    },
    /// The file goes on after its end.
    #[error("bytes follow the end of the file")]
    TrailingBytes,
}
