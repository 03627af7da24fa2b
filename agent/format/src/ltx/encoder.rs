//! Writes an LTX file.

use std::fmt;
use std::io::{self, Write};

use super::header::{HEADER_BYTES, Header, HeaderFault};
use super::index::put_uvarint;
use super::order::{Order, OrderFault};
use super::page::{END_MARKER, PageEncoder, cover_frame, is_of_our_shape};
use super::trailer::{Trailer, finish_crc};
use crate::{Crc64, Join, PageSize, Pgno};

/// Writes an LTX file to `W`: one write for each page, so that small pages want a buffer below.
///
/// Pages become LZ4 frames of the one shape that every Litestream 0.5 reads (LITESTREAM.md §1.4).
pub struct Encoder<W> {
    writer: W,
    page_size: PageSize,
    order: Order,
    crc: Crc64,
    join: Join,
    bytes: u64,
    pages: u32,
    index: Vec<u8>,
    frame: PageEncoder,
    broken: bool,
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The length of the file.
    pub bytes: u64,
    /// The number of pages in it.
    pub pages: u32,
    /// Its trailer.
    pub trailer: Trailer,
}

/// Why an LTX file cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The writer failed.
    #[error("writing at byte {offset} failed")]
    Io {
        /// The length of the file so far.
        offset: u64,
        /// The writer's error.
        #[source]
        source: io::Error,
    },
    /// The header breaks a rule.
    #[error("the header cannot be written: {0}")]
    Header(HeaderFault),
    /// The page may not come here.
    #[error("the page cannot be written: {0}")]
    Order(OrderFault),
    /// The page has another size than the header says.
    #[error("page {pgno} has {found} bytes, the header says {expected}")]
    PageBytes {
        /// The page.
        pgno: Pgno,
        /// The size in the header.
        expected: usize,
        /// The size given.
        found: usize,
    },
    /// An earlier write failed, so that nobody knows how much of it is there.
    #[error("an earlier write to this file failed")]
    Broken,
}

impl<W: Write> Encoder<W> {
    /// Writes the header.
    pub fn new(writer: W, header: &Header) -> Result<Self, EncodeError> {
        header.check().map_err(EncodeError::Header)?;
        let mut encoder = Self {
            writer,
            page_size: header.page_size,
            order: Order::new(header),
            crc: Crc64::new(),
            join: Join::new(header.page_size.bytes() as u64),
            bytes: 0,
            pages: 0,
            index: Vec::new(),
            frame: PageEncoder::new(header.page_size),
            broken: false,
        };
        let bytes = header.encode();
        encoder.crc.update(&bytes);
        encoder.write(&bytes)?;
        encoder.bytes = HEADER_BYTES as u64;
        Ok(encoder)
    }

    /// Writes a page: ascending, inside the database, not the lock page, and each in turn when
    /// the file is a snapshot. An error other than `Io` leaves the file as it was.
    pub fn page(&mut self, pgno: Pgno, page: &[u8]) -> Result<(), EncodeError> {
        self.admit(pgno, page.len(), Crc64::of(page))?;
        let Self { writer, frame, .. } = self;
        let frame = frame.encode(pgno, page);
        let (bytes, written) = (frame.len() as u64, writer.write_all(frame));
        self.appended(pgno, bytes, written)
    }

    /// The same for a page of which another file holds `frame`, which was decoded to `page`: its bytes
    /// are taken over, which saves compressing it. A frame of another shape than ours is made anew.
    pub fn copy(&mut self, pgno: Pgno, frame: &[u8], page: &[u8]) -> Result<(), EncodeError> {
        if !is_of_our_shape(frame, pgno, page.len()) {
            return self.page(pgno, page);
        }
        self.take_over(pgno, frame, page.len(), Crc64::of(page))
    }

    /// The same for a frame that a [`PageEncoder`] of this page size made of this page, whose content
    /// has the CRC `content`.
    pub fn copy_encoded(
        &mut self,
        pgno: Pgno,
        frame: &[u8],
        content: u64,
    ) -> Result<(), EncodeError> {
        self.take_over(pgno, frame, self.page_size.bytes(), content)
    }

    fn take_over(
        &mut self,
        pgno: Pgno,
        frame: &[u8],
        bytes: usize,
        content: u64,
    ) -> Result<(), EncodeError> {
        self.admit(pgno, bytes, content)?;
        let written = self.writer.write_all(frame);
        self.appended(pgno, frame.len() as u64, written)
    }

    /// Whether a page may come here; counts it into the checksum.
    fn admit(&mut self, pgno: Pgno, bytes: usize, content: u64) -> Result<(), EncodeError> {
        if self.broken {
            return Err(EncodeError::Broken);
        }
        if bytes != self.page_size.bytes() {
            let (expected, found) = (self.page_size.bytes(), bytes);
            return Err(EncodeError::PageBytes {
                pgno,
                expected,
                found,
            });
        }
        self.order.admit(pgno).map_err(EncodeError::Order)?;
        cover_frame(pgno, content, self.join, &mut self.crc);
        Ok(())
    }

    fn appended(
        &mut self,
        pgno: Pgno,
        bytes: u64,
        written: io::Result<()>,
    ) -> Result<(), EncodeError> {
        if let Err(source) = written {
            self.broken = true;
            return Err(EncodeError::Io {
                offset: self.bytes,
                source,
            });
        }
        put_uvarint(&mut self.index, pgno.get().into());
        put_uvarint(&mut self.index, self.bytes);
        put_uvarint(&mut self.index, bytes);
        self.bytes = self.bytes.saturating_add(bytes);
        self.pages = self.pages.saturating_add(1);
        Ok(())
    }

    /// Writes the index and the trailer, flushes, and gives the writer back.
    pub fn finish(mut self) -> Result<(W, Written), EncodeError> {
        self.order.end().map_err(EncodeError::Order)?;
        put_uvarint(&mut self.index, 0);
        let index = std::mem::take(&mut self.index);
        let file = finish_crc(self.crc.clone(), &index, None);
        let no_post_apply = 0_u64;
        let mut tail = Vec::with_capacity(index.len().saturating_add(30));
        tail.extend_from_slice(&END_MARKER);
        tail.extend_from_slice(&index);
        tail.extend_from_slice(&(index.len() as u64).to_be_bytes());
        tail.extend_from_slice(&no_post_apply.to_be_bytes());
        tail.extend_from_slice(&file.get().to_be_bytes());
        self.write(&tail)?;
        self.bytes = self.bytes.saturating_add(tail.len() as u64);
        if let Err(source) = self.writer.flush() {
            return Err(EncodeError::Io {
                offset: self.bytes,
                source,
            });
        }
        let trailer = Trailer {
            post_apply: None,
            file,
        };
        Ok((
            self.writer,
            Written {
                bytes: self.bytes,
                pages: self.pages,
                trailer,
            },
        ))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        if self.broken {
            return Err(EncodeError::Broken);
        }
        self.writer.write_all(bytes).map_err(|source| {
            self.broken = true;
            EncodeError::Io {
                offset: self.bytes,
                source,
            }
        })
    }
}

impl<W> fmt::Debug for Encoder<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder")
            .field("order", &self.order)
            .field("bytes", &self.bytes)
            .field("pages", &self.pages)
            .finish_non_exhaustive()
    }
}
