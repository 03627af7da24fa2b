//! Reads an LTX file from front to back.

use std::fmt;
use std::io::{self, Read};

use super::error::{DecodeError, Fault};
use super::header::{Checksums, HEADER_BYTES, Header};
use super::index::put_uvarint;
use super::order::Order;
use super::page::{END_MARKER, Source, decode_page};
use super::trailer::{TAIL_BYTES, Trailer, finish_tail, trailer};
use crate::bytes::be_u64;
use crate::{Checksum, Crc64, Pgno, page_checksum};

/// Reads an LTX file from `R` in memory that does not grow with the file.
///
/// Nothing read is proven before [`Decoder::finish`] returned.
pub struct Decoder<R> {
    source: Stream<R>,
    header: Header,
    order: Order,
    crc: Crc64,
    pages: Checksum,
    index: ExpectedIndex,
    ended: bool,
}

impl<R: Read> Decoder<R> {
    /// Reads the header.
    pub fn new(reader: R) -> Result<Self, DecodeError> {
        let mut source = Stream {
            reader,
            buffer: Vec::new(),
            offset: 0,
        };
        let bytes: [u8; HEADER_BYTES] = source.array()?;
        let header = Header::decode(&bytes)?;
        let mut crc = Crc64::new();
        crc.update(&bytes);
        Ok(Self {
            source,
            header,
            order: Order::new(&header),
            crc,
            pages: Checksum::EMPTY,
            index: ExpectedIndex::default(),
            ended: false,
        })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Reads the next page into `out`, which is as long as a page; `None` when there is none.
    pub fn next_page(&mut self, out: &mut [u8]) -> Result<Option<Pgno>, DecodeError> {
        let expected = self.header.page_size.bytes();
        if out.len() != expected {
            return Err(DecodeError::Buffer {
                expected,
                found: out.len(),
            });
        }
        if self.ended {
            return Ok(None);
        }
        let start = self.source.offset();
        let Some(pgno) = decode_page(&mut self.source, out, &mut self.crc)? else {
            self.order
                .end()
                .map_err(|fault| DecodeError::corrupt(start, fault))?;
            self.ended = true;
            return Ok(None);
        };
        self.order
            .admit(pgno)
            .map_err(|fault| DecodeError::corrupt(start, fault))?;
        self.index.push(pgno, start, self.source.offset());
        if matches!(self.header.checksums, Checksums::Tracked { pre: None }) {
            self.pages = self.pages.combine(page_checksum(pgno, out));
        }
        Ok(Some(pgno))
    }

    /// Reads the rest, pages that were not asked for included, and proves the file: the index
    /// says what the pages say, the checksums are right, and nothing follows.
    pub fn finish(mut self) -> Result<Trailer, DecodeError> {
        if !self.ended {
            let mut page = vec![0; self.header.page_size.bytes()];
            while self.next_page(&mut page)?.is_some() {}
        }
        let start = self.source.offset();
        self.crc.update(&END_MARKER);
        let (expected, index_bytes) = self.index.finish();
        let mut found = Crc64::new();
        let mut left = index_bytes;
        while left > 0 {
            let piece = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE_BYTES);
            let bytes = self.source.take(piece)?;
            found.update(bytes);
            self.crc.update(bytes);
            left = left.saturating_sub(piece as u64);
        }
        if found.value() != expected {
            return Err(DecodeError::corrupt(start, Fault::IndexMismatch));
        }
        let at = self.source.offset();
        let tail: [u8; TAIL_BYTES] = self.source.array()?;
        let stored = be_u64::<0, _>(&tail);
        if stored != index_bytes {
            let fault = Fault::IndexBytes {
                expected: index_bytes,
                found: stored,
            };
            return Err(DecodeError::corrupt(at, fault));
        }
        let trailer_at = at.saturating_add(8);
        let trailer = trailer(be_u64::<8, _>(&tail), be_u64::<16, _>(&tail), trailer_at)?;
        let expected = finish_tail(self.crc, index_bytes, trailer.post_apply);
        if trailer.file != expected {
            let fault = Fault::FileChecksum {
                expected,
                found: trailer.file.get(),
            };
            return Err(DecodeError::corrupt(trailer_at.saturating_add(8), fault));
        }
        trailer
            .check(&self.header, self.pages)
            .map_err(|fault| DecodeError::corrupt(trailer_at, fault))?;
        self.source.end()?;
        Ok(trailer)
    }
}

impl<R> fmt::Debug for Decoder<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder")
            .field("header", &self.header)
            .field("order", &self.order)
            .field("offset", &self.source.offset)
            .finish_non_exhaustive()
    }
}

/// The index is read in pieces of at most this length.
const PIECE_BYTES: usize = 4096;

/// What the page index must say, as a CRC: an index has one spelling only, so that there is no
/// need to remember where each page was.
#[derive(Default)]
struct ExpectedIndex {
    crc: Crc64,
    bytes: u64,
    entry: Vec<u8>,
}

impl ExpectedIndex {
    fn push(&mut self, pgno: Pgno, begin: u64, end: u64) {
        self.entry.clear();
        put_uvarint(&mut self.entry, pgno.get().into());
        put_uvarint(&mut self.entry, begin);
        put_uvarint(&mut self.entry, end.saturating_sub(begin));
        self.crc.update(&self.entry);
        self.bytes = self.bytes.saturating_add(self.entry.len() as u64);
    }

    /// The CRC and the length, terminator included.
    fn finish(&mut self) -> (u64, u64) {
        self.crc.update(&[0]);
        (self.crc.value(), self.bytes.saturating_add(1))
    }
}

/// Bytes from a reader, through a buffer that grows to the longest piece asked for: callers bound
/// that by the size of a page.
struct Stream<R> {
    reader: R,
    buffer: Vec<u8>,
    offset: u64,
}

impl<R: Read> Source for Stream<R> {
    fn take(&mut self, bytes: usize) -> Result<&[u8], DecodeError> {
        if self.buffer.len() < bytes {
            self.buffer.resize(bytes, 0);
        }
        let Self {
            reader,
            buffer,
            offset,
        } = self;
        let piece = buffer.get_mut(..bytes).unwrap_or_default();
        let filled = read_full(reader, piece).map_err(|source| DecodeError::Io {
            offset: *offset,
            source,
        })?;
        *offset = offset.saturating_add(filled as u64);
        if filled < bytes {
            let missing = bytes.saturating_sub(filled) as u64;
            return Err(DecodeError::Truncated {
                offset: *offset,
                missing,
            });
        }
        Ok(piece)
    }

    fn offset(&self) -> u64 {
        self.offset
    }
}

impl<R: Read> Stream<R> {
    /// Proves that nothing follows.
    fn end(&mut self) -> Result<(), DecodeError> {
        let offset = self.offset;
        match read_full(&mut self.reader, &mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(DecodeError::corrupt(offset, Fault::TrailingBytes)),
            Err(source) => Err(DecodeError::Io { offset, source }),
        }
    }
}

/// Fills the buffer, or as much of it as there are bytes.
fn read_full(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0_usize;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(bytes) => filled = filled.saturating_add(bytes),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
