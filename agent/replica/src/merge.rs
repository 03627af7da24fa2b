//! Several files of a chain as one: the k-way merge under compaction and streamed restores.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use sqlrep_format::ltx::{Checksums, Header, IndexEntry, PageDecoder, WalSpan};
use sqlrep_format::{Crc64, Pgno, TxidRange};

use crate::input::{IndexReader, Input, Keep, Proof};
use crate::{Plan, ReplicaFile, Store, StoreError};

/// Files that stay open; of more, each piece is read through a descriptor of its own.
const OPEN_FILES_MAX: usize = 128;
/// All read buffers together: an agent under load has no more to spare.
const BUFFERS_BYTES: usize = 2 * 1024 * 1024;
/// The same of more files than stay open, where each piece costs an open.
const BUFFERS_BYTES_UNOPENED: usize = 8 * 1024 * 1024;
/// What a file's read buffer has at least, and what its index gets.
const BUFFER_BYTES_MIN: usize = 4 * 1024;
/// What a file's read buffer has at most.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// The pages of several files of a chain, each in its newest version, ascending: what the one file
/// that replaces them holds.
///
/// Every page of every input is decoded, wanted or not, and every checksum is compared; nothing is
/// proven before [`Merge::finish`] returned. Memory grows with the number of files, not with
/// the database.
#[derive(Debug)]
pub struct Merge<'s> {
    header: Header,
    inputs: Vec<Source<'s>>,
    /// The next page of each input; the newest file first among equals.
    heap: BinaryHeap<Reverse<(Pgno, Reverse<usize>)>>,
    decoder: PageDecoder,
    scratch: Vec<u8>,
    last: Option<Pgno>,
    /// Which input gave that page, and where it begins.
    taken: Option<(usize, IndexEntry)>,
    failed: bool,
}

#[derive(Debug)]
struct Source<'s> {
    input: Arc<Input<'s>>,
    index: IndexReader<'s>,
    next: Option<IndexEntry>,
    /// Pages above this do not live to the end of the merged range.
    live: u32,
    proof: Proof,
    crc: Crc64,
    window: Vec<u8>,
    window_offset: u64,
    window_bytes: usize,
}

/// Why files cannot be merged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MergeError {
    /// The plan has no files.
    #[error("there are no files to merge")]
    Empty,
    /// One file cannot be read or is damaged.
    #[error("{}", cause.text())]
    File {
        /// The file.
        file: Box<ReplicaFile>,
        /// What is wrong with it; names its path.
        cause: StoreError,
    },
    /// The files together do not hold every page of the database.
    #[error("page {pgno} of the database is in none of the files {range}")]
    Missing {
        /// The first page that is missing.
        pgno: Pgno,
        /// The TXIDs of the files.
        range: TxidRange,
    },
    /// [`Merge::finish`] was called before the last page was taken.
    #[error("the merge was not read to its end")]
    Unread,
}

impl<'s> Merge<'s> {
    /// Opens all files of a plan; [`Plan::of`] makes one for a compaction.
    pub fn open(store: &'s dyn Store, plan: &Plan) -> Result<Self, MergeError> {
        let count = plan.steps.len().max(1);
        let open = count <= OPEN_FILES_MAX;
        let all = if open {
            BUFFERS_BYTES
        } else {
            BUFFERS_BYTES_UNOPENED
        };
        let buffer = (all / count).clamp(BUFFER_BYTES_MIN, BUFFER_BYTES_MAX);
        let keep = Keep {
            whole_bytes_max: buffer as u64,
            open,
        };
        let mut inputs = Vec::with_capacity(count);
        for file in &plan.steps {
            let opened = Source::open(store, file, keep, buffer);
            inputs.push(opened.map_err(|cause| failed(file, cause))?);
        }
        let header = merged_header(&inputs).ok_or(MergeError::Empty)?;
        let mut live = u32::MAX;
        for source in inputs.iter_mut().rev() {
            if source.input.header.page_size != header.page_size {
                let (here, there) = (source.input.header.page_size, header.page_size);
                let reason =
                    format!("its pages have {here} bytes, those of the newest file {there}");
                return Err(failed(&source.input.file, source.input.corrupt(reason)));
            }
            live = live.min(source.input.header.commit.get());
            source.live = live;
        }
        let heap = BinaryHeap::with_capacity(count);
        let decoder = PageDecoder::new(header.page_size);
        let scratch = vec![0; header.page_size.bytes()];
        let mut merge = Self {
            header,
            inputs,
            heap,
            decoder,
            scratch,
            last: None,
            taken: None,
            failed: false,
        };
        for place in 0..merge.inputs.len() {
            merge.advance(place)?;
        }
        Ok(merge)
    }

    /// The same as a file of TXIDs 1 to its newest: every page must be there.
    pub(crate) fn made_snapshot(mut self) -> Self {
        self.header.range = TxidRange::snapshot(self.header.range.max());
        self
    }

    /// The header of the merged file: TXIDs of all, size and time of the newest.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The next page into `out`, which is as long as a page; `None` at the end.
    pub fn next_page(&mut self, out: &mut [u8]) -> Result<Option<Pgno>, MergeError> {
        let next = self.step(out);
        self.failed |= next.is_err();
        next
    }

    fn step(&mut self, out: &mut [u8]) -> Result<Option<Pgno>, MergeError> {
        while let Some(Reverse((pgno, _))) = self.heap.peek().copied() {
            let mut taken = false;
            // All inputs that hold this page, the newest first.
            while let Some(Reverse((_, Reverse(place)))) = self
                .heap
                .peek()
                .copied()
                .filter(|Reverse((next, _))| *next == pgno)
            {
                self.heap.pop();
                let Some(source) = self.inputs.get_mut(place) else {
                    continue;
                };
                let wanted = !taken && pgno.get() <= source.live;
                let target = if wanted {
                    &mut *out
                } else {
                    self.scratch.as_mut_slice()
                };
                let decoded = source.decode(&mut self.decoder, target);
                decoded.map_err(|cause| failed(&source.input.file, cause))?;
                if wanted {
                    self.taken = source.next.map(|entry| (place, entry));
                }
                taken |= wanted;
                self.advance(place)?;
            }
            if taken {
                self.complete_up_to(pgno)?;
                self.last = Some(pgno);
                return Ok(Some(pgno));
            }
        }
        match self
            .expected()
            .filter(|pgno| self.header.commit.contains(*pgno))
        {
            Some(pgno) if self.header.range.is_snapshot() => Err(MergeError::Missing {
                pgno,
                range: self.header.range,
            }),
            _ => Ok(None),
        }
    }

    /// The frame of the page that was given last, as its file holds it: decoded, and proven no more than
    /// that page is.
    pub(crate) fn frame(&self) -> &[u8] {
        let frame = self.taken.and_then(|(place, entry)| {
            let source = self.inputs.get(place)?;
            Some(frame_in(&source.window, source.window_offset, entry))
        });
        frame.unwrap_or_default()
    }

    /// Says that every input was read to its end and proven. A merge that was not read to the end,
    /// or failed, proves nothing.
    pub fn finish(self) -> Result<(), MergeError> {
        if self.failed || !self.heap.is_empty() {
            return Err(MergeError::Unread);
        }
        for source in &self.inputs {
            let (tail, bytes) = source.index.crc();
            let crc = Crc64::combine(source.crc.value(), tail, bytes);
            source
                .proof
                .check(crc)
                .map_err(|cause| failed(&source.input.file, cause))?;
        }
        Ok(())
    }

    /// Reads the next index entry of an input into the heap.
    fn advance(&mut self, place: usize) -> Result<(), MergeError> {
        let Some(source) = self.inputs.get_mut(place) else {
            return Ok(());
        };
        source.next = source
            .index
            .next_entry()
            .map_err(|cause| failed(&source.input.file, cause))?;
        if let Some(entry) = source.next {
            self.heap.push(Reverse((entry.pgno, Reverse(place))));
        }
        Ok(())
    }

    /// A merge from TXID 1 on leaves out no page.
    fn complete_up_to(&self, found: Pgno) -> Result<(), MergeError> {
        match self.expected().filter(|pgno| *pgno != found) {
            Some(pgno) if self.header.range.is_snapshot() => Err(MergeError::Missing {
                pgno,
                range: self.header.range,
            }),
            _ => Ok(()),
        }
    }

    fn expected(&self) -> Option<Pgno> {
        let next = self.last.map_or(Some(Pgno::FIRST), Pgno::next)?;
        if next == self.header.page_size.lock_page() {
            next.next()
        } else {
            Some(next)
        }
    }
}

impl<'s> Source<'s> {
    fn open(
        store: &'s dyn Store,
        file: &ReplicaFile,
        keep: Keep,
        window_bytes: usize,
    ) -> Result<Self, StoreError> {
        let input = Arc::new(Input::open(store, file, keep)?);
        let index = IndexReader::new(Arc::clone(&input), BUFFER_BYTES_MIN)?;
        let proof = input.proof();
        Ok(Self {
            crc: Crc64::resume(proof.header_crc),
            proof,
            index,
            next: None,
            live: 0,
            window: Vec::new(),
            window_offset: 0,
            window_bytes,
            input,
        })
    }

    /// Decodes the page that `next` tells of.
    fn decode(&mut self, decoder: &mut PageDecoder, out: &mut [u8]) -> Result<(), StoreError> {
        let Some(entry) = self.next else {
            return Ok(());
        };
        self.load(entry)?;
        let frame = frame_in(&self.window, self.window_offset, entry);
        let found = decoder
            .decode(frame, out, &mut self.crc)
            .map_err(|error| StoreError::corrupt(&self.input.path)(error.within(entry.offset)))?;
        if found == entry.pgno {
            return Ok(());
        }
        Err(self.input.corrupt(format_args!(
            "byte {} begins page {found}, the page index says page {}",
            entry.offset, entry.pgno
        )))
    }

    /// Makes sure that the window holds a frame; frames are asked for in ascending order.
    fn load(&mut self, entry: IndexEntry) -> Result<(), StoreError> {
        let held = self.window_offset + self.window.len() as u64;
        if entry.offset >= self.window_offset && entry.offset + entry.bytes <= held {
            return Ok(());
        }
        // The index entry was checked: the frame lies within the file and is not too long.
        let left = self.input.tail.index_offset - entry.offset;
        let bytes = entry.bytes.max(self.window_bytes as u64).min(left);
        self.window
            .resize(usize::try_from(bytes).unwrap_or(usize::MAX), 0);
        self.window_offset = entry.offset;
        self.input.read(entry.offset, &mut self.window)
    }
}

/// The frame of an entry that was loaded; nothing, when the window does not hold it.
fn frame_in(window: &[u8], window_offset: u64, entry: IndexEntry) -> &[u8] {
    let from = entry.offset.checked_sub(window_offset);
    let from = from.and_then(|from| usize::try_from(from).ok());
    let length = usize::try_from(entry.bytes).unwrap_or(usize::MAX);
    from.and_then(|from| window.get(from..)?.get(..length))
        .unwrap_or_default()
}

fn failed(file: &ReplicaFile, cause: StoreError) -> MergeError {
    MergeError::File {
        file: Box::new(file.clone()),
        cause,
    }
}

fn merged_header(inputs: &[Source<'_>]) -> Option<Header> {
    let (first, last) = (inputs.first()?, inputs.last()?);
    let newest = &last.input.header;
    Some(Header {
        range: TxidRange::new(first.input.header.range.min(), newest.range.max())?,
        checksums: Checksums::None,
        wal: WalSpan::NONE,
        ..*newest
    })
}

#[cfg(test)]
mod tests;
