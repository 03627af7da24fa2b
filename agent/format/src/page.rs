//! Page numbers, page sizes and database sizes.

use std::fmt;
use std::num::NonZeroU32;

/// First byte of the lock region; the page that holds it never carries data
/// (<https://www.sqlite.org/fileformat.html#the_lock_byte_page>).
const LOCK_BYTE: u32 = 0x4000_0000;

/// The number of a page; pages count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pgno(NonZeroU32);

impl Pgno {
    /// The page that holds the database header.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// `None` for 0, which is no page.
    pub const fn new(number: u32) -> Option<Self> {
        match NonZeroU32::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The number, at least 1.
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// The page's place in an array of all pages, from 0.
    pub const fn index(self) -> usize {
        (self.0.get() as usize).saturating_sub(1)
    }

    /// The byte at which the page begins in the database file.
    pub const fn offset(self, size: PageSize) -> u64 {
        // At most (2^32 - 2) * 2^16: far from overflow.
        (self.0.get() as u64)
            .saturating_sub(1)
            .saturating_mul(size.get() as u64)
    }

    /// The page after this one; `None` at the very last.
    pub const fn next(self) -> Option<Self> {
        match self.0.checked_add(1) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }
}

impl fmt::Display for Pgno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The size of a page in bytes: a power of two from 512 to 65536.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageSize(u32);

/// A number that is no page size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("page size {0} is not a power of two from 512 to 65536")]
pub struct InvalidPageSize(pub u32);

impl PageSize {
    /// The smallest page size.
    pub const MIN: Self = Self(512);
    /// The largest page size.
    pub const MAX: Self = Self(65_536);

    /// Checks that `bytes` is a page size.
    pub const fn new(bytes: u32) -> Result<Self, InvalidPageSize> {
        if bytes.is_power_of_two() && bytes >= Self::MIN.0 && bytes <= Self::MAX.0 {
            Ok(Self(bytes))
        } else {
            Err(InvalidPageSize(bytes))
        }
    }

    /// The size in bytes.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The size in bytes, for buffers.
    pub const fn bytes(self) -> usize {
        self.0 as usize
    }

    /// The page that holds the lock bytes and never carries data.
    pub const fn lock_page(self) -> Pgno {
        match Pgno::new((LOCK_BYTE >> self.0.trailing_zeros()).saturating_add(1)) {
            Some(pgno) => pgno,
            None => Pgno::FIRST, // not reached: the sum is at least 1
        }
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The size of a database in pages, the lock page included; at least 1.
///
/// An LTX file calls it the commit: the size after its last transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageCount(NonZeroU32);

impl PageCount {
    /// `None` for 0: a database without pages is never written (LITESTREAM.md §1.9).
    pub const fn new(pages: u32) -> Option<Self> {
        match NonZeroU32::new(pages) {
            Some(pages) => Some(Self(pages)),
            None => None,
        }
    }

    /// The number of pages.
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// The last page.
    pub const fn last(self) -> Pgno {
        Pgno(self.0)
    }

    /// Whether the page lies inside a database of this size.
    pub const fn contains(self, pgno: Pgno) -> bool {
        pgno.get() <= self.get()
    }

    /// The size of the database file in bytes.
    pub const fn file_bytes(self, size: PageSize) -> u64 {
        (self.get() as u64).saturating_mul(size.get() as u64)
    }

    /// How many pages carry data: all but the lock page.
    pub const fn data_pages(self, size: PageSize) -> u32 {
        if self.contains(size.lock_page()) {
            self.get().saturating_sub(1)
        } else {
            self.get()
        }
    }

    /// All pages that carry data, ascending.
    pub fn pages(self, size: PageSize) -> impl Iterator<Item = Pgno> {
        (1..=self.get())
            .filter_map(Pgno::new)
            .filter(move |pgno| *pgno != size.lock_page())
    }
}

impl fmt::Display for PageCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_page_follows_the_page_size() {
        let lock = |bytes| PageSize::new(bytes).unwrap().lock_page().get();
        assert_eq!(lock(512), 2_097_153);
        assert_eq!(lock(1024), 1_048_577);
        assert_eq!(lock(4096), 262_145);
        assert_eq!(lock(65_536), 16_385);
    }

    #[test]
    fn page_sizes_are_powers_of_two_in_bounds() {
        for bad in [0, 1, 256, 513, 1000, 65_535, 131_072, u32::MAX] {
            assert_eq!(PageSize::new(bad), Err(InvalidPageSize(bad)));
        }
        for good in [512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536] {
            assert_eq!(PageSize::new(good).unwrap().get(), good);
        }
    }

    #[test]
    fn pages_skip_the_lock_page() {
        let size = PageSize::MAX;
        let count = PageCount::new(16_386).unwrap();
        let pages: Vec<u32> = count.pages(size).map(Pgno::get).collect();
        assert_eq!(pages.len(), count.data_pages(size) as usize);
        assert!(!pages.contains(&16_385));
        assert_eq!(pages.last(), Some(&16_386));
    }

    #[test]
    fn offsets_begin_at_zero() {
        assert_eq!(Pgno::FIRST.offset(PageSize::MIN), 0);
        assert_eq!(Pgno::new(3).unwrap().offset(PageSize::MAX), 131_072);
    }
}
