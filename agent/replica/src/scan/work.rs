//! One thread's work: read a range of a file, decode its pages, hand over those that are wanted.

use std::sync::{Arc, PoisonError};

use sqlrep_format::ltx::PageDecoder;
use sqlrep_format::{Crc64, PageSize, Pgno};

use super::{ScanError, Shared};
use crate::StoreError;
use crate::input::Input;

/// Pages that follow one another are handed over together, up to this much.
const RUN_BYTES: usize = 1024 * 1024;

/// Pages of one file that follow one another in it.
#[derive(Debug)]
pub(super) struct Item<'s> {
    place: usize,
    seq: u32,
    input: Arc<Input<'s>>,
    offset: u64,
    /// How many bytes of the file it covers.
    pub(super) bytes: u64,
    /// Its pages.
    pub(super) entries: Vec<Entry>,
}

/// One page of an item.
#[derive(Debug)]
pub(super) struct Entry {
    /// The page.
    pub(super) pgno: Pgno,
    /// The length of its frame.
    pub(super) bytes: u64,
    /// Whether this file owns it.
    pub(super) wanted: bool,
}

impl<'s> Item<'s> {
    /// An empty item; `place` is the file's in the plan, `seq` the item's in the file.
    pub(super) fn new(place: usize, seq: u32, input: Arc<Input<'s>>) -> Self {
        Self {
            place,
            seq,
            input,
            offset: 0,
            bytes: 0,
            entries: Vec::new(),
        }
    }

    /// Adds the page at `offset`, which follows the last one.
    pub(super) fn push(&mut self, entry: Entry, offset: u64) {
        if self.entries.is_empty() {
            self.offset = offset;
        }
        self.bytes += entry.bytes;
        self.entries.push(entry);
    }
}

/// The checksum over the pages of one item.
#[derive(Debug)]
pub(super) struct Part {
    /// The file's place in the plan.
    pub(super) place: usize,
    /// The item's place in the file.
    pub(super) seq: u32,
    /// The checksum.
    pub(super) crc: u64,
    /// How many bytes it is over.
    pub(super) bytes: u64,
}

/// Buffers, used again and again.
#[derive(Debug, Default)]
pub(super) struct Worker {
    frames: Vec<u8>,
    run: Vec<u8>,
}

impl Worker {
    /// Works on one item; errors go to `shared`.
    pub(super) fn work(&mut self, item: &Item<'_>, shared: &Shared<'_>) {
        match self.decode(item, shared) {
            Ok(part) => {
                shared
                    .parts
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(part);
                shared.progress.read(item.bytes);
            }
            Err(error) => shared.fail(error),
        }
    }

    fn decode(&mut self, item: &Item<'_>, shared: &Shared<'_>) -> Result<Part, ScanError> {
        let failed = |cause| ScanError::File {
            file: item.input.file.clone(),
            cause,
        };
        let page_size = item.input.header.page_size;
        let frames = if let Some(held) = item.input.held(item.offset, item.bytes) {
            held
        } else {
            // Bounded: an item ends with the page that fills it, and a page has a longest frame.
            self.frames
                .resize(usize::try_from(item.bytes).unwrap_or(usize::MAX), 0);
            item.input
                .read(item.offset, &mut self.frames)
                .map_err(failed)?;
            &self.frames
        };

        let mut decoder = PageDecoder::new(page_size);
        let mut crc = Crc64::new();
        let mut rest = frames;
        let mut offset = item.offset;
        let mut run = Run {
            first: Pgno::FIRST,
            pages: 0,
            bytes: &mut self.run,
            shared,
            page_size,
        };
        for entry in &item.entries {
            let length = usize::try_from(entry.bytes).unwrap_or(usize::MAX);
            let (frame, after) = rest.split_at_checked(length).unwrap_or_default();
            rest = after;
            run.make_room(entry)?;
            let found = decoder
                .decode(frame, run.room(), &mut crc)
                .map_err(|error| {
                    failed(StoreError::corrupt(&item.input.path)(error.within(offset)))
                })?;
            if found != entry.pgno {
                return Err(failed(item.input.corrupt(format_args!(
                    "byte {offset} begins page {found}, the page index says page {}",
                    entry.pgno
                ))));
            }
            if entry.wanted {
                run.keep(entry.pgno);
            }
            offset += entry.bytes;
        }
        run.flush()?;
        Ok(Part {
            place: item.place,
            seq: item.seq,
            crc: crc.value(),
            bytes: crc.bytes(),
        })
    }
}

/// Decoded pages that follow one another in the database and wait to be handed over.
struct Run<'a> {
    first: Pgno,
    pages: u32,
    bytes: &'a mut Vec<u8>,
    shared: &'a Shared<'a>,
    page_size: PageSize,
}

impl Run<'_> {
    /// Hands over what is there if `entry` does not go on with it or does not fit any more.
    fn make_room(&mut self, entry: &Entry) -> Result<(), ScanError> {
        let page = self.page_size.bytes();
        let follows = self.first.get().checked_add(self.pages) == Some(entry.pgno.get());
        let full = self.used() + page > RUN_BYTES.max(page);
        if self.pages > 0 && (full || (entry.wanted && !follows)) {
            self.flush()?;
        }
        let needed = self.used() + page;
        if self.bytes.len() < needed {
            self.bytes.resize(needed, 0);
        }
        Ok(())
    }

    /// Where the next page is decoded to; what is not kept is overwritten.
    fn room(&mut self) -> &mut [u8] {
        let (used, page) = (self.used(), self.page_size.bytes());
        self.bytes.get_mut(used..used + page).unwrap_or_default()
    }

    fn keep(&mut self, pgno: Pgno) {
        if self.pages == 0 {
            self.first = pgno;
        }
        self.pages += 1;
    }

    fn flush(&mut self) -> Result<(), ScanError> {
        let used = self.used();
        if self.pages > 0 {
            let bytes = self.bytes.get(..used).unwrap_or_default();
            self.shared
                .sink
                .pages(self.first, self.page_size, bytes)
                .map_err(ScanError::Sink)?;
            self.pages = 0;
        }
        Ok(())
    }

    fn used(&self) -> usize {
        self.pages as usize * self.page_size.bytes()
    }
}
