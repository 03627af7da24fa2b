//! Pages that are read, compressed and written together.

use sqlrep_format::ltx::{Frames, PageEncoder};
use sqlrep_format::{PageSize, Pgno};

/// Pages that follow each other, and what became of them.
#[derive(Debug)]
pub(super) struct Sheet {
    page_size: PageSize,
    numbers: Vec<Pgno>,
    pages: Vec<u8>,
    /// The pages compressed, once they are.
    pub(super) frames: Frames,
}

impl Sheet {
    /// A sheet with room for `bytes` of pages, or for one page.
    pub(super) fn new(page_size: PageSize, bytes: usize) -> Self {
        Self {
            page_size,
            numbers: Vec::new(),
            pages: vec![0; bytes.max(page_size.bytes())],
            frames: Frames::default(),
        }
    }

    /// Fills it with pages, over those that it had; `true`: there are no more.
    pub(super) fn fill<E>(
        &mut self,
        fill: &mut impl FnMut(&mut [u8], &mut Vec<Pgno>) -> Result<(), E>,
    ) -> Result<bool, E> {
        self.numbers.clear();
        self.frames.clear();
        fill(&mut self.pages, &mut self.numbers)?;
        Ok(self.numbers.len() < self.pages.len() / self.page_size.bytes())
    }

    /// Compresses its pages.
    pub(super) fn encode(&mut self, encoder: &mut PageEncoder) {
        encoder.encode_all(&self.numbers, &self.pages, &mut self.frames);
    }
}
