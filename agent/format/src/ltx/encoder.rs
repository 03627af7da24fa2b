//! Writes an LTX file.

use std::fmt;
use std::io::{self, Write};

use super::frames::{Frames, Made, PageEncoder};
use super::header::{Header, HeaderFault};
use super::index::put_uvarint;
use super::order::{Order, OrderFault};
use super::page::{END_MARKER, cover_frame, is_of_our_shape};
use super::trailer::{Trailer, finish_crc};
use crate::{Crc64, Join, PageSize, Pgno};

/// Writes an LTX file to `W`: one write for each page, or for all that are appended at once, so that
/// small pages want a buffer below.
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
    /// What pages are encoded with that come as they are.
    own: Option<(PageEncoder, Frames)>,
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
            own: None,
            broken: false,
        };
        let bytes = header.encode();
        encoder.crc.update(&bytes);
        encoder.write(&bytes)?;
        Ok(encoder)
    }

    /// Writes a page: ascending, inside the database, not the lock page, and each in turn when
    /// the file is a snapshot. An error other than `Io` leaves the file as it was.
    pub fn page(&mut self, pgno: Pgno, page: &[u8]) -> Result<(), EncodeError> {
        let fresh = || (PageEncoder::new(self.page_size), Frames::default());
        let (mut encoder, mut frames) = self.own.take().unwrap_or_else(fresh);
        frames.clear();
        encoder.encode(pgno, page, &mut frames);
        let appended = self.append(&frames);
        self.own = Some((encoder, frames));
        appended
    }

    /// The same for pages that were encoded already, with one write.
    pub fn append(&mut self, frames: &Frames) -> Result<(), EncodeError> {
        self.put(frames.made(), frames.bytes())
    }

    /// The same for a page of which another file holds `frame`, which was decoded to `page`: its bytes
    /// are taken over, which saves compressing it. A frame of another shape than ours is made anew.
    pub fn copy(&mut self, pgno: Pgno, frame: &[u8], page: &[u8]) -> Result<(), EncodeError> {
        if !is_of_our_shape(frame, pgno, page.len()) {
            return self.page(pgno, page);
        }
        let made = Made {
            pgno,
            page_bytes: page.len(),
            content: Crc64::of(page),
            frame_bytes: frame.len(),
        };
        self.put(&[made], frame)
    }

    fn put(&mut self, made: &[Made], bytes: &[u8]) -> Result<(), EncodeError> {
        if self.broken {
            return Err(EncodeError::Broken);
        }
        let (order, crc) = (self.order, self.crc.clone());
        if let Err(error) = made.iter().try_for_each(|made| self.admit(made)) {
            (self.order, self.crc) = (order, crc);
            return Err(error);
        }
        let mut offset = self.bytes;
        self.write(bytes)?;
        for page in made {
            let bytes = page.frame_bytes as u64;
            put_uvarint(&mut self.index, page.pgno.get().into());
            put_uvarint(&mut self.index, offset);
            put_uvarint(&mut self.index, bytes);
            offset = offset.saturating_add(bytes);
            self.pages = self.pages.saturating_add(1);
        }
        Ok(())
    }

    /// Whether a page may come here; counts it into the checksum.
    fn admit(&mut self, made: &Made) -> Result<(), EncodeError> {
        let &Made { pgno, content, .. } = made;
        let (expected, found) = (self.page_size.bytes(), made.page_bytes);
        if expected != found {
            return Err(EncodeError::PageBytes {
                pgno,
                expected,
                found,
            });
        }
        self.order.admit(pgno).map_err(EncodeError::Order)?;
        cover_frame(pgno, content, &self.join, &mut self.crc);
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
        })?;
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        Ok(())
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
