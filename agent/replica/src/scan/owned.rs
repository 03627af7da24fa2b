//! Which pages have an owner: one bit a page.

use sqlrep_format::{PageCount, Pgno};

/// The least that a page takes in a file: its header, a length, and a block of two bytes. A page
/// of 512 equal bytes takes more.
const PAGE_BYTES_MIN: u64 = 12;

/// The pages that were met.
#[derive(Debug)]
pub(super) struct Owned {
    words: Vec<u64>,
    count: u32,
}

impl Owned {
    /// For a database of `commit` pages out of files of `input_bytes`; `None` when so many pages
    /// cannot be in them. A header may claim any size: what is allocated here is less than a
    /// hundredth of what the files really take on disk.
    pub(super) fn new(commit: PageCount, input_bytes: u64) -> Option<Self> {
        if u64::from(commit.get()) > input_bytes / PAGE_BYTES_MIN {
            return None;
        }
        let words = commit.last().index() / 64 + 1;
        Some(Self {
            words: vec![0; words],
            count: 0,
        })
    }

    /// Takes a page; `false` when it was taken before.
    pub(super) fn claim(&mut self, pgno: Pgno) -> bool {
        let mask = 1 << (pgno.index() % 64);
        let Some(word) = self.words.get_mut(pgno.index() / 64) else {
            return false;
        };
        let free = *word & mask == 0;
        *word |= mask;
        self.count += u32::from(free);
        free
    }

    /// Whether the page was taken.
    pub(super) fn holds(&self, pgno: Pgno) -> bool {
        let word = self.words.get(pgno.index() / 64);
        word.is_some_and(|word| word & (1 << (pgno.index() % 64)) != 0)
    }

    /// How many pages were taken.
    pub(super) fn count(&self) -> u32 {
        self.count
    }
}
