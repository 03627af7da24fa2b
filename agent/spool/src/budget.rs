//! The byte limit over all databases (L12).
//!
//! What waits to be shipped counts, also while it is being written. At the limit an append is
//! refused: capture keeps its pages and its hold on the WAL, so that nothing is lost and the app
//! does not notice (G6).

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Error;

/// Bytes that wait to be shipped, against the limit.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes_max: u64,
    pending: AtomicU64,
}

impl Budget {
    /// An empty spool.
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            pending: AtomicU64::new(0),
        }
    }

    /// Bytes that wait to be shipped.
    pub(crate) fn pending(&self) -> u64 {
        self.pending.load(Ordering::Relaxed)
    }

    /// Whether nothing more is taken in.
    pub(crate) fn is_over_limit(&self) -> bool {
        self.pending() >= self.bytes_max
    }

    /// Whether there is room for what is only of use: half of the limit is for what waits.
    pub(crate) fn has_room(&self) -> bool {
        self.pending() < self.bytes_max / 2
    }

    /// Refuses when the limit is reached. A file that is begun below the limit may end above
    /// it: otherwise a database larger than the limit could never be captured at all.
    pub(crate) fn admit(&self) -> Result<(), Error> {
        if self.is_over_limit() {
            return Err(Error::Full {
                pending: self.pending(),
                limit: self.bytes_max,
            });
        }
        Ok(())
    }

    /// More bytes wait.
    pub(crate) fn add(&self, bytes: u64) {
        self.pending.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes were shipped, or never came to be.
    pub(crate) fn sub(&self, bytes: u64) {
        // The closure always gives a value, so the update cannot fail; saturating, for a count
        // that is off by a file must not turn into one that is off by 2^64.
        let _ = self
            .pending
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                Some(now.saturating_sub(bytes))
            });
    }
}

/// A writer that counts into the budget as it goes, and takes it all back unless kept.
#[derive(Debug)]
pub(crate) struct Counted<'a> {
    budget: &'a Budget,
    bytes: u64,
}

impl<'a> Counted<'a> {
    /// Nothing is written yet.
    pub(crate) fn new(budget: &'a Budget) -> Self {
        Self { budget, bytes: 0 }
    }

    /// Writes through to `out`.
    pub(crate) fn through<'b>(&'b mut self, out: &'b mut dyn Write) -> CountedWriter<'b, 'a> {
        CountedWriter { count: self, out }
    }

    /// The file exists: what was written stays counted.
    pub(crate) fn keep(mut self) -> u64 {
        std::mem::take(&mut self.bytes)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.budget.sub(self.bytes);
    }
}

/// See [`Counted::through`].
pub(crate) struct CountedWriter<'b, 'a> {
    count: &'b mut Counted<'a>,
    out: &'b mut dyn Write,
}

impl Write for CountedWriter<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.count.bytes += written as u64;
        self.count.budget.add(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_kept_is_not_counted() {
        let budget = Budget::new(10);
        let mut count = Counted::new(&budget);
        count.through(&mut Vec::new()).write_all(&[0; 12]).unwrap();
        assert_eq!(budget.pending(), 12);
        assert!(budget.admit().unwrap_err().is_full());
        drop(count);
        assert_eq!(budget.pending(), 0);
        budget.admit().unwrap();
    }

    #[test]
    fn a_kept_file_counts_until_it_is_shipped() {
        let budget = Budget::new(10);
        let mut count = Counted::new(&budget);
        count.through(&mut Vec::new()).write_all(&[0; 10]).unwrap();
        assert_eq!(count.keep(), 10);
        assert!(budget.is_over_limit());
        budget.sub(11);
        assert_eq!(budget.pending(), 0);
    }
}
