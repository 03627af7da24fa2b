//! One page of an LTX file in either encoding: an LZ4 frame, or a bare LZ4 block.
//!
//! The LZ4 frame is parsed by hand: it has no length prefix, generic readers read ahead for a
//! second frame, and the file checksum covers other bytes than they see
//! (<https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md>).

use lz4_flex::block::{decompress_into, decompress_into_with_dict};
use twox_hash::XxHash32;

use super::error::{DecodeError, Fault};
use crate::bytes::{be_u16, be_u32, field, put};
use crate::{Crc64, Join, PageSize, Pgno};

/// Number and flags of a page.
pub(super) const PAGE_HEADER_BYTES: usize = 6;
/// The header of no page: ends the pages.
pub(super) const END_MARKER: [u8; PAGE_HEADER_BYTES] = [0; PAGE_HEADER_BYTES];

/// The flags of a page as an LZ4 frame.
const ENCODING_FRAME: u16 = 0;
/// The flags of a page as an LZ4 block behind its length.
const ENCODING_BLOCK: u16 = 1;

/// How an LZ4 frame begins.
const FRAME_MAGIC: u32 = 0x184d_2204;
/// In a block's length: the block is not compressed.
pub(super) const STORED: u32 = 1 << 31;

/// The beginning of the one LZ4 frame that we write: magic number; version 1, independent blocks,
/// content checksum; blocks up to 64 KiB; header checksum (LITESTREAM.md §1.4).
pub(super) const FRAME_PREFIX: [u8; 7] = [0x04, 0x22, 0x4d, 0x18, 0x64, 0x40, 0xa7];
/// What stands before the block of a page: page header, frame prefix, length of the block.
pub(super) const BEFORE_BLOCK_BYTES: usize = PAGE_HEADER_BYTES + FRAME_PREFIX.len() + 4;
/// What stands behind it: end mark and content checksum.
pub(super) const AFTER_BLOCK_BYTES: usize = 8;

/// The most bytes that the frame of one page can have, with whatever blocks: a bound on what a
/// page index may make a reader allocate.
///
/// A conforming frame may hold a block for each byte of the page, each with a length, a token and
/// a checksum; no writer does, but the bound costs nothing.
pub const fn frame_bytes_max(page_size: PageSize) -> u64 {
    (page_size.get() as u64)
        .saturating_mul(16)
        .saturating_add(64)
}

/// The longest LZ4 block that can decompress into a page.
fn block_bytes_max(page_bytes: usize) -> usize {
    page_bytes
        .saturating_add(page_bytes.div_euclid(255))
        .saturating_add(16)
}

/// Where bytes come from, in pieces as long as asked.
pub(super) trait Source {
    /// The next `bytes` bytes.
    fn take(&mut self, bytes: usize) -> Result<&[u8], DecodeError>;

    /// How many bytes were taken.
    fn offset(&self) -> u64;

    /// The next `N` bytes.
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let offset = self.offset();
        let truncated = DecodeError::Truncated {
            offset,
            missing: N as u64,
        };
        self.take(N)?.first_chunk().copied().ok_or(truncated)
    }
}

/// Bytes that are there already.
struct Slice<'a> {
    rest: &'a [u8],
    offset: u64,
}

impl Source for Slice<'_> {
    fn take(&mut self, bytes: usize) -> Result<&[u8], DecodeError> {
        let Some((taken, rest)) = self.rest.split_at_checked(bytes) else {
            return Err(DecodeError::Truncated {
                offset: self.offset.saturating_add(self.rest.len() as u64),
                missing: bytes.saturating_sub(self.rest.len()) as u64,
            });
        };
        self.rest = rest;
        self.offset = self.offset.saturating_add(bytes as u64);
        Ok(taken)
    }

    fn offset(&self) -> u64 {
        self.offset
    }
}

/// Decodes pages of one file in any order.
#[derive(Clone, Copy, Debug)]
pub struct PageDecoder {
    page_size: PageSize,
}

impl PageDecoder {
    /// A decoder of pages of this size.
    pub const fn new(page_size: PageSize) -> Self {
        Self { page_size }
    }

    /// Decodes `frame`, exactly one page with its header, into `out`, and appends to `crc` what
    /// the file checksum covers of it.
    ///
    /// After an error the content of `out` and the state of `crc` mean nothing. Offsets in errors
    /// count from the beginning of the frame. The caller compares the page number with the index.
    pub fn decode(
        &mut self,
        frame: &[u8],
        out: &mut [u8],
        crc: &mut Crc64,
    ) -> Result<Pgno, DecodeError> {
        if out.len() != self.page_size.bytes() {
            return Err(DecodeError::Buffer {
                expected: self.page_size.bytes(),
                found: out.len(),
            });
        }
        let mut source = Slice {
            rest: frame,
            offset: 0,
        };
        let pgno = decode_page(&mut source, out, crc)?
            .ok_or_else(|| DecodeError::corrupt(0, Fault::IndexMismatch))?;
        if !source.rest.is_empty() {
            let fault = Fault::FrameTail {
                found: source.rest.len(),
            };
            return Err(DecodeError::corrupt(source.offset, fault));
        }
        Ok(pgno)
    }
}

/// Decodes the next page into `out`, which is as long as a page; `None` at the end marker, which
/// is not appended to `crc`.
pub(super) fn decode_page<S: Source>(
    source: &mut S,
    out: &mut [u8],
    crc: &mut Crc64,
) -> Result<Option<Pgno>, DecodeError> {
    let start = source.offset();
    let header: [u8; PAGE_HEADER_BYTES] = source.array()?;
    let pgno = Pgno::new(be_u32::<0, _>(&header));
    let flags = be_u16::<4, _>(&header);
    let Some(page) = pgno.filter(|_| matches!(flags, ENCODING_FRAME | ENCODING_BLOCK)) else {
        if header == END_MARKER {
            return Ok(None);
        }
        let fault = Fault::PageFlags { pgno, found: flags };
        return Err(DecodeError::corrupt(start.saturating_add(4), fault));
    };
    crc.update(&header);
    if flags == ENCODING_BLOCK {
        decode_block(source, out, crc)?;
    } else {
        decode_frame(source, out)?;
    }
    crc.update(out);
    Ok(Some(page))
}

/// A length, then one LZ4 block.
fn decode_block<S: Source>(
    source: &mut S,
    out: &mut [u8],
    crc: &mut Crc64,
) -> Result<(), DecodeError> {
    let start = source.offset();
    let length: [u8; 4] = source.array()?;
    crc.update(&length);
    let found = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    let max = block_bytes_max(out.len());
    if found > max {
        return Err(DecodeError::corrupt(
            start,
            Fault::Lz4BlockBytes { max, found },
        ));
    }
    let block = source.take(found)?;
    let bytes =
        decompress_into(block, out).map_err(|_| DecodeError::corrupt(start, Fault::Lz4Block))?;
    page_bytes(out.len(), bytes as u64, start)
}

/// A whole LZ4 frame.
fn decode_frame<S: Source>(source: &mut S, out: &mut [u8]) -> Result<(), DecodeError> {
    let start = source.offset();
    let descriptor = Descriptor::decode(source, out.len())?;
    let mut filled = 0;
    loop {
        let at = source.offset();
        let length = u32::from_le_bytes(source.array()?);
        if length == 0 {
            break;
        }
        let bytes = decode_frame_block(source, length, &descriptor, out, filled)?;
        // A block of nothing would let a frame go on for ever.
        if bytes == 0 {
            return Err(DecodeError::corrupt(at, Fault::Lz4Block));
        }
        filled = filled.saturating_add(bytes);
    }
    page_bytes(out.len(), filled as u64, start)?;
    if descriptor.content_checksum {
        let at = source.offset();
        check_xxh32(out, u32::from_le_bytes(source.array()?), at)?;
    }
    Ok(())
}

/// One block of a frame, into `out` from `filled` on; says how many bytes it gave.
fn decode_frame_block<S: Source>(
    source: &mut S,
    length: u32,
    descriptor: &Descriptor,
    out: &mut [u8],
    filled: usize,
) -> Result<usize, DecodeError> {
    let at = source.offset();
    let corrupt = |fault| DecodeError::corrupt(at, fault);
    let (done, rest) = out
        .split_at_mut_checked(filled)
        .ok_or_else(|| corrupt(Fault::Lz4Block))?;
    let found = usize::try_from(length & !STORED).unwrap_or(usize::MAX);
    let stored = length & STORED != 0;
    let max = if stored {
        rest.len()
    } else {
        block_bytes_max(rest.len())
    };
    if found > max {
        return Err(corrupt(Fault::Lz4BlockBytes { max, found }));
    }
    let block = source.take(found)?;
    let checksum = descriptor
        .block_checksums
        .then(|| XxHash32::oneshot(0, block));
    let bytes = if stored {
        if let Some(place) = rest.get_mut(..found) {
            place.copy_from_slice(block);
        }
        found
    } else if descriptor.linked_blocks {
        decompress_into_with_dict(block, rest, done).map_err(|_| corrupt(Fault::Lz4Block))?
    } else {
        decompress_into(block, rest).map_err(|_| corrupt(Fault::Lz4Block))?
    };
    if let Some(expected) = checksum {
        let at = source.offset();
        let found = u32::from_le_bytes(source.array()?);
        if found != expected {
            return Err(DecodeError::corrupt(
                at,
                Fault::Lz4Checksum { expected, found },
            ));
        }
    }
    Ok(bytes)
}

/// What the beginning of an LZ4 frame says about the rest.
struct Descriptor {
    linked_blocks: bool,
    block_checksums: bool,
    content_checksum: bool,
}

impl Descriptor {
    fn decode<S: Source>(source: &mut S, page: usize) -> Result<Self, DecodeError> {
        let start = source.offset();
        let found = u32::from_le_bytes(source.array()?);
        if found != FRAME_MAGIC {
            return Err(DecodeError::corrupt(start, Fault::Lz4Magic { found }));
        }
        let at = source.offset();
        let [flags, block]: [u8; 2] = source.array()?;
        let bit = |bit: u8| flags & (1 << bit) != 0;
        // Version 01; bit 1 is reserved, bit 0 asks for a dictionary. Blocks of 64 KiB to 4 MiB.
        let supported = flags >> 6 == 1 && !bit(1) && !bit(0);
        if !supported || block & 0x8f != 0 || block < 0x40 {
            return Err(DecodeError::corrupt(at, Fault::Lz4Flags { flags, block }));
        }
        let mut described = [flags, block, 0, 0, 0, 0, 0, 0, 0, 0];
        let mut described_bytes = 2;
        let mut content_bytes = None;
        if bit(3) {
            let size: [u8; 8] = source.array()?;
            put::<2, 8, 10>(&mut described, size);
            described_bytes = described.len();
            content_bytes = Some(u64::from_le_bytes(size));
        }
        let described = described.get(..described_bytes).unwrap_or_default();
        let [_, expected, ..] = XxHash32::oneshot(0, described).to_le_bytes();
        let [found] = source.array()?;
        if found != expected {
            return Err(DecodeError::corrupt(
                at,
                Fault::Lz4Descriptor { expected, found },
            ));
        }
        if let Some(content_bytes) = content_bytes {
            page_bytes(page, content_bytes, at)?;
        }
        Ok(Self {
            linked_blocks: !bit(5),
            block_checksums: bit(4),
            content_checksum: bit(2),
        })
    }
}

fn page_bytes(expected: usize, found: u64, offset: u64) -> Result<(), DecodeError> {
    let expected = expected as u64;
    if found == expected {
        Ok(())
    } else {
        Err(DecodeError::corrupt(
            offset,
            Fault::PageBytes { expected, found },
        ))
    }
}

fn check_xxh32(page: &[u8], found: u32, offset: u64) -> Result<(), DecodeError> {
    let expected = XxHash32::oneshot(0, page);
    if found == expected {
        Ok(())
    } else {
        Err(DecodeError::corrupt(
            offset,
            Fault::Lz4Checksum { expected, found },
        ))
    }
}

/// Whether a frame that decodes to the page of this number is of the one shape that we write, so that
/// its bytes may stand in a file of ours as they are.
pub(super) fn is_of_our_shape(frame: &[u8], pgno: Pgno, page_bytes: usize) -> bool {
    let Some((before, rest)) = frame.split_first_chunk::<BEFORE_BLOCK_BYTES>() else {
        return false;
    };
    let Some((block, after)) = rest.split_last_chunk::<AFTER_BLOCK_BYTES>() else {
        return false;
    };
    let length = u32::from_le_bytes(field::<13, 4, BEFORE_BLOCK_BYTES>(before));
    let block_bytes = usize::try_from(length & !STORED).unwrap_or(usize::MAX);
    let is_worth_it = if length & STORED == 0 {
        block_bytes < page_bytes
    } else {
        block_bytes == page_bytes
    };
    field::<0, PAGE_HEADER_BYTES, BEFORE_BLOCK_BYTES>(before) == frame_header(pgno)
        && field::<6, 7, BEFORE_BLOCK_BYTES>(before) == FRAME_PREFIX
        && block.len() == block_bytes
        && is_worth_it
        && field::<0, 4, AFTER_BLOCK_BYTES>(after) == [0; 4]
}

/// Appends to `crc` what the file checksum covers of a page that is written as a frame, of which the
/// content has this CRC.
pub(super) fn cover_frame(pgno: Pgno, content: u64, join: &Join, crc: &mut Crc64) {
    crc.update(&frame_header(pgno));
    *crc = Crc64::resume(join.join(crc.value(), content));
}

/// The header of a page that is written as a frame.
pub(super) fn frame_header(pgno: Pgno) -> [u8; PAGE_HEADER_BYTES] {
    let mut header = [0; PAGE_HEADER_BYTES];
    put::<0, 4, PAGE_HEADER_BYTES>(&mut header, pgno.get().to_be_bytes());
    put::<4, 2, PAGE_HEADER_BYTES>(&mut header, ENCODING_FRAME.to_be_bytes());
    header
}

#[cfg(test)]
mod tests;
