//! Which page may follow which: the same rule for writing, reading, and the page index.

use super::header::Header;
use crate::{PageCount, PageSize, Pgno};

/// Watches the page numbers of one file go by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    commit: PageCount,
    lock: Pgno,
    snapshot: bool,
    last: Option<Pgno>,
}

/// A rule about page numbers that a file breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OrderFault {
    /// Page numbers must ascend.
    #[error("page {found} follows page {previous}: page numbers must ascend")]
    NotAscending {
        /// The page before.
        previous: Pgno,
        /// The page that is not after it.
        found: Pgno,
    },
    /// The page lies beyond the end of the database.
    #[error("page {found} lies beyond the database of {commit} pages")]
    BeyondCommit {
        /// The page.
        found: Pgno,
        /// The size of the database after the file.
        commit: PageCount,
    },
    /// The lock page carries no data.
    #[error("page {found} is the lock page, which is never stored")]
    LockPage {
        /// The page.
        found: Pgno,
    },
    /// A snapshot holds every page.
    #[error("page {found} follows where a snapshot needs page {expected}")]
    Gap {
        /// The page that belongs here.
        expected: Pgno,
        /// The page that is here.
        found: Pgno,
    },
    /// A snapshot holds every page, to the last.
    #[error("the snapshot ends where it needs page {expected}")]
    Incomplete {
        /// The page that belongs here.
        expected: Pgno,
    },
}

impl Order {
    pub(super) fn new(header: &Header) -> Self {
        Self {
            commit: header.commit,
            lock: PageSize::lock_page(header.page_size),
            snapshot: header.range.is_snapshot(),
            last: None,
        }
    }

    /// Whether `found` may come next; it then is the last one.
    pub(super) fn admit(&mut self, found: Pgno) -> Result<(), OrderFault> {
        if let Some(previous) = self.last.filter(|previous| found <= *previous) {
            return Err(OrderFault::NotAscending { previous, found });
        }
        if !self.commit.contains(found) {
            return Err(OrderFault::BeyondCommit {
                found,
                commit: self.commit,
            });
        }
        if found == self.lock {
            return Err(OrderFault::LockPage { found });
        }
        if let Some(expected) = self.expected().filter(|expected| found != *expected) {
            return Err(OrderFault::Gap { expected, found });
        }
        self.last = Some(found);
        Ok(())
    }

    /// Whether the file may end here.
    pub(super) fn end(&self) -> Result<(), OrderFault> {
        match self.expected() {
            Some(expected) => Err(OrderFault::Incomplete { expected }),
            None => Ok(()),
        }
    }

    /// The page that must come next; `None` when the file may end, or is no snapshot.
    fn expected(&self) -> Option<Pgno> {
        let next = match self.last {
            None => Some(Pgno::FIRST),
            Some(last) => last.next(),
        };
        let next = match next {
            Some(next) if next == self.lock => next.next(),
            next => next,
        };
        next.filter(|next| self.snapshot && self.commit.contains(*next))
    }
}
