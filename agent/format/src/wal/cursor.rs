//! A place in a WAL that moves over valid frames only.

use super::header::{FRAME_HEADER_BYTES, FrameHeader, HEADER_BYTES, Header, Salts};
use super::{ByteOrder, WalChecksum};
use crate::PageSize;

/// A place in a WAL: how many frames lie before it, and the running checksum up to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    order: ByteOrder,
    page_size: PageSize,
    salts: Salts,
    checksum: WalChecksum,
    frames: u32,
}

/// Why a frame does not count. At the end of a WAL that is the normal case: what follows is left
/// from before the last reset, or is being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Invalid {
    /// The bytes given are not one frame.
    #[error("{found} bytes are not one frame of {expected}")]
    Length {
        /// The length of a frame.
        expected: usize,
        /// The length given.
        found: usize,
    },
    /// The frame is for page 0, which is no page.
    #[error("the frame is for page 0")]
    PageZero,
    /// The frame was written before the last reset of the WAL.
    #[error("the frame has salts {found}, the WAL has {expected}")]
    Salts {
        /// The salts of the WAL.
        expected: Salts,
        /// The salts of the frame.
        found: Salts,
    },
    /// The frame, or one before it, is not what was written.
    #[error("the frame has checksum {found:08x?}, computed {expected:08x?}")]
    Checksum {
        /// The checksum up to this frame.
        expected: WalChecksum,
        /// The checksum in its header.
        found: WalChecksum,
    },
    /// No WAL holds so many frames.
    #[error("the WAL has more frames than can be counted")]
    TooMany,
}

impl Cursor {
    /// Before the first frame.
    pub fn start(header: &Header) -> Self {
        Self::resume(header, 0, header.checksum)
    }

    /// After `frames` frames, where the running checksum was `checksum`.
    ///
    /// Whether the WAL still is the one in which that was so, the first [`Cursor::next`] tells:
    /// the salts or the checksum would not fit.
    pub fn resume(header: &Header, frames: u32, checksum: WalChecksum) -> Self {
        let &Header {
            order,
            page_size,
            salts,
            ..
        } = header;
        Self {
            order,
            page_size,
            salts,
            checksum,
            frames,
        }
    }

    /// Checks that `frame` (header and page) is the next frame, and moves over it.
    ///
    /// Does not move when it is not.
    pub fn next(&mut self, frame: &[u8]) -> Result<FrameHeader, Invalid> {
        let length = Invalid::Length {
            expected: self.frame_bytes(),
            found: frame.len(),
        };
        if frame.len() != self.frame_bytes() {
            return Err(length);
        }
        let (head, page) = frame
            .split_first_chunk::<FRAME_HEADER_BYTES>()
            .ok_or(length)?;
        let header = FrameHeader::parse(head).ok_or(Invalid::PageZero)?;
        if header.salts != self.salts {
            return Err(Invalid::Salts {
                expected: self.salts,
                found: header.salts,
            });
        }
        let (numbers, _) = head.split_first_chunk::<8>().ok_or(length)?;
        let checksum = self
            .checksum
            .update(self.order, numbers)
            .update(self.order, page);
        if header.checksum != checksum {
            return Err(Invalid::Checksum {
                expected: checksum,
                found: header.checksum,
            });
        }
        self.frames = self.frames.checked_add(1).ok_or(Invalid::TooMany)?;
        self.checksum = checksum;
        Ok(header)
    }

    /// How many frames lie before the cursor.
    pub fn frames(&self) -> u32 {
        self.frames
    }

    /// The byte of the file at which the next frame begins.
    pub fn offset(&self) -> u64 {
        // At most 2^32 * (2^16 + 24) + 32: far from overflow.
        u64::from(self.frames)
            .saturating_mul(self.frame_bytes() as u64)
            .saturating_add(HEADER_BYTES as u64)
    }

    /// The running checksum of all frames before the cursor.
    pub fn checksum(&self) -> WalChecksum {
        self.checksum
    }

    /// The salts of the frames that count.
    pub fn salts(&self) -> Salts {
        self.salts
    }

    /// The size of a page.
    pub fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// The size of a frame: header and page.
    pub fn frame_bytes(&self) -> usize {
        self.page_size.bytes().saturating_add(FRAME_HEADER_BYTES)
    }
}

#[cfg(test)]
mod tests;
