//! Page checksums: one per page of the state at the position, in chunks, in the ledger.
//!
//! They let a resync ship only pages that differ, and they carry the checksum over the whole
//! database along from file to file (LITESTREAM.md §1.7).
//!
//! An [`Edit`] takes the pages of one L0 file, ascending, and ends in the batch that moves the
//! ledger to the state after it. A usual commit touches few chunks, which are held in memory and
//! written with the position in one batch. When it touches many (a first snapshot, a VACUUM), a
//! whole new generation of chunks is written beside the old one while the pages stream by, and
//! that last batch only says which generation counts: memory stays bounded, and nothing changes
//! until the file exists.

use std::sync::Arc;

use sqlrep_format::{Checksum, PageCount, PageSize, Pgno};

use crate::ledger::{Batch, CHUNK_PAGES, Ledger, LedgerError, Slot};

/// Chunks held in memory by one edit: 512 × 2 KiB = 1 MiB, the checksums of 512 MiB at 4 KiB a
/// page. Past that a new generation is written.
const DIRTY_CHUNKS_MAX: usize = 512;

/// Where the checksums of a state are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// The generation of chunks.
    pub(crate) generation: u32,
    /// The size of the database.
    pub(crate) commit: PageCount,
    /// All of them combined.
    pub(crate) checksum: Checksum,
}

/// The checksums of one chunk, from the chunk's first page on.
#[derive(Debug)]
struct Chunk {
    number: u32,
    sums: Vec<u64>,
}

/// The step from one state to the next.
#[derive(Debug)]
pub(crate) struct Edit<'a> {
    ledger: &'a Ledger,
    slot: Slot,
    base: Option<Known>,
    /// The generation that the ledger's position names, whether or not it is known.
    committed: u32,
    /// The generation that this edit writes.
    generation: u32,
    commit: PageCount,
    page_size: PageSize,
    checksum: Checksum,
    pages: u32,
    dirty: Vec<Chunk>,
    /// In a new generation: the first chunk that is not written yet.
    spilled: Option<u32>,
    failed: Option<LedgerError>,
}

/// What an edit comes to.
#[derive(Debug)]
pub(crate) struct Edited {
    /// The chunks; the position is to be added.
    pub(crate) batch: Batch,
    /// The state after it; `None` when it cannot be known.
    pub(crate) known: Option<Known>,
    /// The generation that the position is to name.
    pub(crate) generation: u32,
}

impl<'a> Edit<'a> {
    /// Begins at `base`. Without one the edit succeeds only if it is given every page.
    /// `committed` is the generation that the ledger's position names.
    pub(crate) fn begin(
        (ledger, slot): (&'a Ledger, Slot),
        base: Option<Known>,
        committed: u32,
        (commit, page_size): (PageCount, PageSize),
    ) -> Self {
        Self {
            ledger,
            slot,
            base,
            committed,
            // Without a base the chunks of the old generation vouch for nothing.
            generation: base.map_or(committed.wrapping_add(1), |base| base.generation),
            commit,
            page_size,
            checksum: base.map_or(Checksum::EMPTY, |base| base.checksum),
            pages: 0,
            dirty: Vec::new(),
            spilled: None,
            failed: None,
        }
    }

    /// The next page. A ledger that fails is no reason to stop: the edit then ends in a state
    /// whose checksums are not known.
    pub(crate) fn page(&mut self, pgno: Pgno, checksum: Checksum) {
        self.pages = self.pages.saturating_add(1);
        if self.failed.is_none()
            && let Err(error) = self.try_page(pgno, checksum)
        {
            self.failed = Some(error);
        }
    }

    fn try_page(&mut self, pgno: Pgno, checksum: Checksum) -> Result<(), LedgerError> {
        let (number, at) = place(pgno);
        if self.dirty.last().is_none_or(|last| last.number != number) {
            if self.dirty.len() >= DIRTY_CHUNKS_MAX {
                self.spill(number)?;
            }
            let sums = self.base_chunk(number)?;
            self.dirty.push(Chunk { number, sums });
        }
        let sums = &mut self
            .dirty
            .last_mut()
            .expect("pushed above if there was none")
            .sums;
        if sums.len() <= at {
            sums.resize(at + 1, 0);
        }
        let sum = std::mem::replace(&mut sums[at], checksum.get());
        self.checksum = combine(combine(self.checksum, sum), checksum.get());
        Ok(())
    }

    /// What the base holds for a chunk; nothing beyond its end.
    fn base_chunk(&self, number: u32) -> Result<Vec<u64>, LedgerError> {
        let mut sums = Vec::new();
        if let Some(base) = &self.base
            && number < chunks(base.commit)
            && !self
                .ledger
                .chunk(self.slot, base.generation, number, &mut sums)?
        {
            return Err(LedgerError::Lost);
        }
        Ok(sums)
    }

    /// Writes everything before chunk `end` to a new generation.
    fn spill(&mut self, end: u32) -> Result<(), LedgerError> {
        let begin = if let Some(begin) = self.spilled {
            begin
        } else {
            // A crash may have left chunks of the number that is about to be used.
            self.ledger.purge_chunks(self.slot, Some(self.committed))?;
            self.generation = self.committed.wrapping_add(1);
            0
        };
        let mut batch = Batch::default();
        let mut dirty = std::mem::take(&mut self.dirty).into_iter().peekable();
        let mut batched = 0;
        for number in begin..end {
            let sums = match dirty.next_if(|chunk| chunk.number == number) {
                Some(chunk) => chunk.sums,
                None => self.base_chunk(number)?,
            };
            batch.chunk(self.slot, self.generation, number, &sums);
            batched += 1;
            if batched == DIRTY_CHUNKS_MAX {
                self.ledger.apply(std::mem::take(&mut batch))?;
                batched = 0;
            }
        }
        self.ledger.apply(batch)?;
        self.spilled = Some(end);
        Ok(())
    }

    /// The end of the pages.
    pub(crate) fn finish(mut self) -> Edited {
        let known = match self.try_finish() {
            Ok(known) => known,
            Err(error) => {
                self.failed = Some(error);
                None
            }
        };
        let mut batch = Batch::default();
        if known.is_some() && self.spilled.is_none() {
            for chunk in &self.dirty {
                batch.chunk(self.slot, self.generation, chunk.number, &chunk.sums);
            }
            for number in self.gone_chunks() {
                batch.remove_chunk(self.slot, self.generation, number);
            }
        }
        Edited {
            batch,
            known,
            generation: self.generation,
        }
    }

    /// The chunks that lie wholly beyond the new end.
    fn gone_chunks(&self) -> std::ops::Range<u32> {
        let end = self.base.map_or(0, |base| chunks(base.commit));
        chunks(self.commit)..end.max(chunks(self.commit))
    }

    fn try_finish(&mut self) -> Result<Option<Known>, LedgerError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        if self.base.is_none() && self.pages != self.commit.data_pages(self.page_size) {
            return Ok(None);
        }
        self.shrink()?;
        if self.spilled.is_some() || self.gone_chunks().len() > DIRTY_CHUNKS_MAX {
            self.spill(chunks(self.commit))?;
        }
        Ok(Some(Known {
            generation: self.generation,
            commit: self.commit,
            checksum: self.checksum,
        }))
    }

    /// Takes the pages beyond the new end out of the last chunk and out of the checksum.
    fn shrink(&mut self) -> Result<(), LedgerError> {
        let Some(base) = self.base.filter(|base| base.commit > self.commit) else {
            return Ok(());
        };
        let (last, at) = place(self.commit.last());
        for number in last..chunks(base.commit) {
            let keep = if number == last { at + 1 } else { 0 };
            let dirty = self.dirty.iter().rposition(|chunk| chunk.number == number);
            let mut sums = match dirty {
                Some(at) => std::mem::take(&mut self.dirty[at].sums),
                None => self.base_chunk(number)?,
            };
            for sum in sums.drain(keep.min(sums.len())..) {
                self.checksum = combine(self.checksum, sum);
            }
            match dirty {
                Some(at) => self.dirty[at].sums = sums,
                None if number == last => self.dirty.push(Chunk { number, sums }),
                None => {}
            }
        }
        Ok(())
    }
}

/// The checksums of all pages at the position, for a resync.
///
/// Reads the ledger page by page: fastest when asked in ascending order. It shows one state; make
/// it anew after an append.
#[derive(Debug)]
pub struct PageChecksums {
    source: Option<(Arc<Ledger>, Slot, Known)>,
    sums: Vec<u64>,
    cached: Option<u32>,
}

impl PageChecksums {
    /// Nothing is known: every page is to be shipped.
    pub(crate) fn unknown() -> Self {
        Self {
            source: None,
            sums: Vec::new(),
            cached: None,
        }
    }

    /// Proves that the checksums are whole: they are as many as the pages, and combine to the
    /// one that was carried along. A ledger that lost or mixed up something is found out here.
    pub(crate) fn proven(
        ledger: Arc<Ledger>,
        slot: Slot,
        known: Known,
        page_size: PageSize,
    ) -> Result<Option<Self>, LedgerError> {
        let mut sums = Vec::new();
        let (mut checksum, mut pages) = (Checksum::EMPTY, 0_u32);
        for number in 0..chunks(known.commit) {
            ledger.chunk(slot, known.generation, number, &mut sums)?;
            for sum in sums.iter().filter(|sum| **sum != 0) {
                checksum = combine(checksum, *sum);
                pages = pages.saturating_add(1);
            }
        }
        let whole = checksum == known.checksum && pages == known.commit.data_pages(page_size);
        Ok(whole.then(|| Self {
            source: Some((ledger, slot, known)),
            sums,
            cached: None,
        }))
    }

    /// Whether anything is known. If not, a resync ships the full state.
    pub fn is_known(&self) -> bool {
        self.source.is_some()
    }

    /// The checksum of a page; `None` when it is not known, or the page lies beyond the end: then
    /// the page is to be shipped.
    pub fn get(&mut self, pgno: Pgno) -> Option<Checksum> {
        let (ledger, slot, known) = self.source.as_ref()?;
        if !known.commit.contains(pgno) {
            return None;
        }
        let (number, at) = place(pgno);
        if self.cached != Some(number) {
            self.cached = None;
            // Not read is not known: the page ships, which is never wrong.
            let found = ledger.chunk(*slot, known.generation, number, &mut self.sums);
            if !found.is_ok_and(|found| found) {
                return None;
            }
            self.cached = Some(number);
        }
        self.sums.get(at).copied().and_then(Checksum::new)
    }
}

/// The chunk that holds a page, and the page's place in it.
fn place(pgno: Pgno) -> (u32, usize) {
    let index = pgno.get() - 1;
    (index / CHUNK_PAGES, (index % CHUNK_PAGES) as usize)
}

/// How many chunks a database of this size has.
fn chunks(commit: PageCount) -> u32 {
    commit.get().div_ceil(CHUNK_PAGES)
}

/// Adds a page's checksum, or takes it away again; 0 stands for a page without one.
fn combine(checksum: Checksum, sum: u64) -> Checksum {
    Checksum::new(sum).map_or(checksum, |sum| checksum.combine(sum))
}

#[cfg(test)]
mod tests;
