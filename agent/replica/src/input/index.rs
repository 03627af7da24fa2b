//! The page index of an [`Input`], read piece by piece: a large database's does not fit memory
//! that must stay small.

use std::sync::Arc;

use sqlrep_format::ltx::{self, IndexEntry};
use sqlrep_format::{Crc64, Pgno};

use super::Input;
use crate::StoreError;

/// What is read of an index at a time when only one is read.
pub(crate) const INDEX_BUFFER_BYTES: usize = 64 * 1024;
/// Page number zero without flags: ends the pages, just before the index.
const END_MARKER: [u8; 6] = [0; 6];
/// A page number, an offset and a length, each in at most ten groups of seven bits.
const ENTRY_BYTES_MAX: usize = 30;
/// The shortest frame: a page header and a byte.
const FRAME_BYTES_MIN: u64 = 7;

/// Reads the entries of a page index and proves on the way that the frames lie one after the other
/// from the header to the index, with ascending page numbers inside the database, none of them the
/// lock page, and that a file from TXID 1 on holds every page.
#[derive(Debug)]
pub(crate) struct IndexReader<'s> {
    input: Arc<Input<'s>>,
    buffer: Vec<u8>,
    /// What of the buffer was taken.
    taken: usize,
    /// Where the next piece of the index stands in the file.
    next: u64,
    /// Where the next frame must begin.
    frame: u64,
    last: Option<Pgno>,
    crc: Crc64,
    ended: bool,
}

impl<'s> IndexReader<'s> {
    /// Begins to read; `buffer_bytes` at a time.
    pub(crate) fn new(input: Arc<Input<'s>>, buffer_bytes: usize) -> Result<Self, StoreError> {
        let mut marker = END_MARKER;
        let index = input.tail.index_offset;
        let marker_at = index.saturating_sub(END_MARKER.len() as u64);
        input.read(marker_at, &mut marker)?;
        if marker != END_MARKER {
            return Err(input.corrupt(format_args!("no end of pages at byte {marker_at}")));
        }
        let mut crc = Crc64::new();
        crc.update(&END_MARKER);
        Ok(Self {
            buffer: Vec::with_capacity(buffer_bytes.max(ENTRY_BYTES_MAX)),
            taken: 0,
            next: index,
            frame: ltx::HEADER_BYTES as u64,
            last: None,
            crc,
            ended: false,
            input,
        })
    }

    /// The next entry; `None` at the end, and then the whole index is proven.
    pub(crate) fn next_entry(&mut self) -> Result<Option<IndexEntry>, StoreError> {
        if self.ended {
            return Ok(None);
        }
        self.fill()?;
        let pgno = self.uvarint()?;
        if pgno == 0 {
            self.end()?;
            return Ok(None);
        }
        let pgno = u32::try_from(pgno)
            .ok()
            .and_then(Pgno::new)
            .ok_or_else(|| self.malformed())?;
        self.admit(pgno)?;
        let (offset, bytes) = (self.uvarint()?, self.uvarint()?);
        let frames_end = self.input.tail.index_offset - END_MARKER.len() as u64;
        let possible = FRAME_BYTES_MIN..=ltx::frame_bytes_max(self.input.header.page_size);
        let room = frames_end.saturating_sub(offset);
        if offset != self.frame || !possible.contains(&bytes) || bytes > room {
            return Err(self.input.corrupt(format_args!(
                "the page index puts page {pgno} at byte {offset} with {bytes} bytes, where the \
                 frame at byte {} belongs",
                self.frame
            )));
        }
        self.frame += bytes;
        self.last = Some(pgno);
        Ok(Some(IndexEntry {
            pgno,
            offset,
            bytes,
        }))
    }

    /// The checksum from the end of the pages to the file checksum, and how many bytes it is over.
    /// Right only after the last entry.
    pub(crate) fn crc(&self) -> (u64, u64) {
        (
            self.crc.value(),
            END_MARKER.len() as u64 + self.input.tail.index_bytes + 16,
        )
    }

    /// Page numbers: ascending, in the database, not the lock page, all of them in a snapshot.
    fn admit(&self, pgno: Pgno) -> Result<(), StoreError> {
        let header = &self.input.header;
        let fault = if self.last.is_some_and(|last| pgno <= last) {
            "does not ascend"
        } else if !header.commit.contains(pgno) {
            "lies beyond the end of the database"
        } else if pgno == header.page_size.lock_page() {
            "is the lock page, which holds no data"
        } else if header.range.is_snapshot() && self.expected() != Some(pgno) {
            "leaves out the page before it, and the file should hold every page"
        } else {
            return Ok(());
        };
        Err(self
            .input
            .corrupt(format_args!("page {pgno} of the page index {fault}")))
    }

    /// The page that follows in a file that holds every page.
    fn expected(&self) -> Option<Pgno> {
        let next = self.last.map_or(Some(Pgno::FIRST), Pgno::next)?;
        if next == self.input.header.page_size.lock_page() {
            next.next()
        } else {
            Some(next)
        }
    }

    fn end(&mut self) -> Result<(), StoreError> {
        let input = &self.input;
        let index_end = input.tail.index_offset + input.tail.index_bytes;
        if self.taken != self.buffer.len() || self.next != index_end {
            return Err(self.malformed());
        }
        if self.frame + END_MARKER.len() as u64 != input.tail.index_offset {
            let at = self.frame;
            return Err(input.corrupt(format_args!(
                "the page index ends at byte {at} of the pages"
            )));
        }
        let missing = self
            .expected()
            .filter(|pgno| input.header.commit.contains(*pgno));
        if let Some(pgno) = missing.filter(|_| input.header.range.is_snapshot()) {
            let reason = format!("page {pgno} is missing, and the file should hold every page");
            return Err(input.corrupt(reason));
        }
        self.crc.update(&input.tail.index_bytes.to_be_bytes());
        // No database checksum: `Input::open` saw to that.
        self.crc.update(&0_u64.to_be_bytes());
        self.ended = true;
        Ok(())
    }

    /// Makes sure that a whole entry is in the buffer, or all that is left.
    fn fill(&mut self) -> Result<(), StoreError> {
        if self.buffer.len() - self.taken >= ENTRY_BYTES_MAX {
            return Ok(());
        }
        let left = self.input.tail.index_offset + self.input.tail.index_bytes - self.next;
        if left == 0 {
            return Ok(());
        }
        self.buffer.drain(..self.taken);
        self.taken = 0;
        let kept = self.buffer.len();
        let room = self.buffer.capacity().max(ENTRY_BYTES_MAX) - kept;
        let piece = usize::try_from(left).unwrap_or(usize::MAX).min(room);
        self.buffer.resize(kept + piece, 0);
        let fresh = self.buffer.get_mut(kept..).unwrap_or_default();
        self.input.read(self.next, fresh)?;
        self.crc.update(fresh);
        self.next += piece as u64;
        Ok(())
    }

    /// Takes one integer, seven bits a byte, the low ones first.
    fn uvarint(&mut self) -> Result<u64, StoreError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let Some(byte) = self.buffer.get(self.taken).copied() else {
                break;
            };
            self.taken += 1;
            let group = u64::from(byte & 0x7f);
            if group << shift >> shift != group {
                break;
            }
            value |= group << shift;
            if byte & 0x80 == 0 {
                // One spelling only, as for every other reader.
                return if byte != 0 || shift == 0 {
                    Ok(value)
                } else {
                    Err(self.malformed())
                };
            }
        }
        Err(self.malformed())
    }

    fn malformed(&self) -> StoreError {
        self.input.corrupt("the page index is not well-formed")
    }
}
