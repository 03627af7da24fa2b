//! The WAL of a busy writer goes to the disk while it grows.
//!
//! Its next checkpoint fsyncs it, and every commit waits for that: with more of it on the disk already
//! they wait for less. It is the same bytes once, for a WAL is only ever added to until it begins anew.
//! An application that never fsyncs (`synchronous = OFF`) has them written that would have been
//! overwritten in memory.
//!
//! Handing pages to the disk would be a sixth of what capture takes of the processor if all of them were.
//! So as much as SQLite's own checkpoints, which come twice as often, find in a WAL is left to the app's
//! fsync, as it would be without us; what is beyond that goes.

use std::ops::Range;

use sqlrep_format::wal::Salts;

use super::Session;
use crate::ffi;

/// How much is sent at once: enough for a disk to be busy with, little beside what a WAL grows to.
const STRETCH_BYTES: u64 = 512 * 1024;

/// What is part of a page of the file yet to be filled stays: a disk is given each page once.
const PAGE_BYTES: u64 = 4096;

/// How much of the WAL was sent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outgoing {
    salts: Salts,
    to: u64,
}

impl Outgoing {
    /// What is to be sent beyond `kept_bytes`, now that the WAL with these salts was read up to `offset`.
    fn next(&mut self, salts: Salts, kept_bytes: u64, offset: u64) -> Option<Range<u64>> {
        let sent = if self.salts == salts { self.to } else { 0 };
        let from = sent.max(kept_bytes / PAGE_BYTES * PAGE_BYTES);
        let to = offset / PAGE_BYTES * PAGE_BYTES;
        if to.saturating_sub(from) < STRETCH_BYTES {
            return None;
        }
        *self = Self { salts, to };
        Some(from..to)
    }

    /// Up to where the WAL was sent, this time or the last.
    #[cfg(test)]
    pub(super) fn sent_to(&self) -> u64 {
        self.to
    }
}

impl Session {
    /// Sends what was read of a busy writer's WAL.
    pub(super) fn send_out(&mut self) {
        if !self.is_busy() {
            return;
        }
        let Some(cursor) = self.cursor else {
            return;
        };
        let kept = self.options.wal_soft_bytes / 2;
        let Some(part) = self.outgoing.next(cursor.salts(), kept, cursor.offset()) else {
            return;
        };
        if let Err(err) = ffi::begin_write_out(self.live.wal(), part) {
            tracing::trace!(%err, "the WAL goes to the disk when it is fsynced");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: u64 = 4096 + 24;
    const KEPT: u64 = 3 * 1024 * 1024 + 5;

    #[test]
    fn every_full_page_beyond_what_is_kept_is_sent_once_whenever_the_wal_begins_anew() {
        let mut outgoing = Outgoing::default();
        for generation in 1..=3 {
            let salts = Salts {
                salt1: generation,
                salt2: 7,
            };
            let (mut sent, mut times) = (3 * 1024 * 1024, 0);
            let end = 32 + 2000 * FRAME;
            for frames in (0..=2000).step_by(37) {
                if let Some(part) = outgoing.next(salts, KEPT, 32 + frames * FRAME) {
                    assert_eq!(part.start, sent, "nothing twice, nothing left out");
                    assert!(part.end - part.start >= STRETCH_BYTES);
                    assert!(part.end.is_multiple_of(PAGE_BYTES));
                    assert!(part.end <= 32 + frames * FRAME, "only what was read");
                    (sent, times) = (part.end, times + 1);
                }
            }
            assert!(times > 5, "it does not wait for the checkpoint");
            assert!(end - sent < STRETCH_BYTES + 37 * FRAME, "{sent} of {end}");
        }
    }
}
