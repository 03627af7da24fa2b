//! Pages as the LZ4 frames of an LTX file, made away from it: by another thread, or several at once.

use std::fmt;

use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};
use twox_hash::XxHash32;

use super::page::{
    AFTER_BLOCK_BYTES, BEFORE_BLOCK_BYTES, FRAME_PREFIX, PAGE_HEADER_BYTES, STORED, frame_header,
};
use super::xxh32;
use crate::bytes::put;
use crate::{Crc64, PageSize, Pgno};

/// Encodes pages of one size as LZ4 frames, which an [`Encoder`](super::Encoder) then
/// [takes over](super::Encoder::append).
pub struct PageEncoder {
    page_bytes: usize,
    table: CompressTable,
}

/// Pages that were encoded, one behind the other. Their memory is used again after a
/// [`Frames::clear`].
#[derive(Debug, Default)]
pub struct Frames {
    /// Longer than what is filled: nothing is cleared that is written over in any case.
    buffer: Vec<u8>,
    filled: usize,
    made: Vec<Made>,
}

/// One page among [`Frames`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    /// Its number.
    pub pgno: Pgno,
    /// Its length.
    pub page_bytes: usize,
    /// The CRC of its content.
    pub content: u64,
    /// The length of its frame, its header included.
    pub frame_bytes: usize,
}

impl Frames {
    /// Forgets all pages.
    pub fn clear(&mut self) {
        self.filled = 0;
        self.made.clear();
    }

    /// The pages, in the order in which they were encoded.
    pub fn made(&self) -> &[Made] {
        &self.made
    }

    /// Their frames.
    pub fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.filled).unwrap_or_default()
    }

    /// Where the next frame goes, with room for `bytes`.
    fn room(&mut self, bytes: usize) -> &mut [u8] {
        let end = self.filled.saturating_add(bytes);
        if self.buffer.len() < end {
            self.buffer.resize(end, 0);
        }
        self.buffer.get_mut(self.filled..).unwrap_or_default()
    }
}

impl PageEncoder {
    /// An encoder of pages of this size.
    pub fn new(page_size: PageSize) -> Self {
        // The small table has no room for the positions of the largest page.
        let table = if page_size == PageSize::MAX {
            CompressTable::large()
        } else {
            CompressTable::small()
        };
        let page_bytes = page_size.bytes();
        Self { page_bytes, table }
    }

    /// Appends the frame of a page to `frames`. The page is as long as pages are: the encoder of the
    /// file refuses another.
    pub fn encode(&mut self, pgno: Pgno, page: &[u8], frames: &mut Frames) {
        self.encode_hashed(pgno, page, XxHash32::oneshot(0, page), frames);
    }

    /// The same for pages that lie one behind the other, one for each number: faster than one by one.
    pub fn encode_all(&mut self, numbers: &[Pgno], pages: &[u8], frames: &mut Frames) {
        let bytes = self.page_bytes;
        let groups = pages.chunks(bytes.saturating_mul(xxh32::TOGETHER));
        for (numbers, pages) in numbers.chunks(xxh32::TOGETHER).zip(groups) {
            let hashes = xxh32::of_each(pages, bytes);
            let pages = pages.chunks_exact(bytes).zip(hashes);
            for (pgno, (page, hash)) in numbers.iter().zip(pages) {
                self.encode_hashed(*pgno, page, hash, frames);
            }
        }
    }

    /// Appends the frame of a page that has this XXH32.
    fn encode_hashed(&mut self, pgno: Pgno, page: &[u8], hash: u32, frames: &mut Frames) {
        let block = get_maximum_output_size(page.len());
        let most = BEFORE_BLOCK_BYTES
            .saturating_add(block)
            .saturating_add(AFTER_BLOCK_BYTES);
        let frame_bytes = self.frame(pgno, page, hash, frames.room(most));
        frames.filled = frames.filled.saturating_add(frame_bytes);
        frames.made.push(Made {
            pgno,
            page_bytes: page.len(),
            // Here, where the page is in the processor's cache.
            content: Crc64::of(page),
            frame_bytes,
        });
    }

    /// Writes the frame to the beginning of `out`, which has room for the longest; gives its length.
    fn frame(&mut self, pgno: Pgno, page: &[u8], hash: u32, out: &mut [u8]) -> usize {
        let Some((head, rest)) = out.split_first_chunk_mut::<BEFORE_BLOCK_BYTES>() else {
            return 0; // not reached: there is room
        };
        let (block_bytes, stored) = match compress_into_with_table(page, rest, &mut self.table) {
            Ok(bytes) if bytes < page.len() => (bytes, 0),
            _ => {
                if let Some(place) = rest.get_mut(..page.len()) {
                    place.copy_from_slice(page);
                }
                (page.len(), STORED)
            }
        };
        // A block is no longer than a page: it fits.
        let length = u32::try_from(block_bytes).unwrap_or(0) | stored;
        put::<0, PAGE_HEADER_BYTES, BEFORE_BLOCK_BYTES>(head, frame_header(pgno));
        put::<6, 7, BEFORE_BLOCK_BYTES>(head, FRAME_PREFIX);
        put::<13, 4, BEFORE_BLOCK_BYTES>(head, length.to_le_bytes());
        let mut after = [0; AFTER_BLOCK_BYTES];
        put::<4, 4, AFTER_BLOCK_BYTES>(&mut after, hash.to_le_bytes());
        let place = rest.get_mut(block_bytes..);
        if let Some(place) = place.and_then(<[u8]>::first_chunk_mut) {
            *place = after;
        }
        BEFORE_BLOCK_BYTES
            .saturating_add(block_bytes)
            .saturating_add(AFTER_BLOCK_BYTES)
    }
}

impl fmt::Debug for PageEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageEncoder").finish_non_exhaustive()
    }
}
