//! What a capture thread tells its actor: shared facts and a bell, no queue.
//!
//! Capture never waits for anybody (L4), so it cannot push into a channel that may be full. It
//! writes the newest truth under a short lock and rings; the actor reads it at its own pace.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use sqlrep_format::Txid;
use tokio::sync::Notify;

use crate::error::Class;

/// Cuts whose times are remembered. Past this the oldest stay: they decide the lag.
const CUTS_MAX: usize = 4096;

/// What a capture thread is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Not attached to the database.
    #[default]
    Opening,
    /// Reading the whole state.
    Snapshotting,
    /// Attached, all commits so far are in the spool or pending.
    Following,
    /// The last attempt failed; see `error`.
    Failed,
    /// The thread is gone.
    Ended,
}

/// The newest truth of one capture thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) phase: Phase,
    pub(crate) txid: Option<Txid>,
    pub(crate) size_bytes: u64,
    pub(crate) wal_bytes: u64,
    /// The pod terminates: nothing is created in its volume any more (L15).
    pub(crate) ending: bool,
    /// The file is not at its path any more, while its pod lives.
    pub(crate) removed: bool,
    /// How many names the file has; more than one is a hard link.
    pub(crate) names: u64,
    /// The newest TXID whose file was asked to hold every page.
    pub(crate) full: Option<Txid>,
    /// Owner and mode of the file.
    pub(crate) ownership: Option<sqlrep_replica::Ownership>,
    /// Since when commits wait to be cut.
    pub(crate) dirty_since: Option<Instant>,
    /// TXIDs in the spool and when their first commit was seen, ascending.
    cuts: VecDeque<(Txid, Instant)>,
    pub(crate) frames: u64,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    pub(crate) checkpoints: u64,
    pub(crate) errors: u64,
    pub(crate) error: Option<(Class, String)>,
}

impl Facts {
    /// An L0 file was cut.
    pub(crate) fn record_cut(&mut self, txid: Txid, bytes: u64, now: Instant) {
        let mut since = self.dirty_since.take().unwrap_or(now);
        // What waited was folded into this one: TXIDs that come again.
        while self.cuts.back().is_some_and(|(cut, _)| *cut >= txid) {
            since = self
                .cuts
                .pop_back()
                .map_or(since, |(_, seen)| seen.min(since));
        }
        if self.cuts.len() < CUTS_MAX {
            self.cuts.push_back((txid, since));
        }
        self.txid = Some(txid);
        self.files += 1;
        self.bytes += bytes;
        self.error = None;
    }

    /// Commits wait to be cut, seen at `at`; says whether they are the first that do.
    pub(crate) fn record_dirty(&mut self, at: Instant) -> bool {
        let first = self.dirty_since.is_none();
        self.dirty_since.get_or_insert(at);
        first
    }

    /// Everything up to `txid` is on the replica: forgets those cuts and returns when the oldest
    /// of them was seen.
    pub(crate) fn shipped(&mut self, txid: Txid) -> Option<Instant> {
        let mut oldest = None;
        while self.cuts.front().is_some_and(|(cut, _)| *cut <= txid) {
            let since = self.cuts.pop_front().map(|(_, since)| since);
            oldest = oldest.or(since);
        }
        oldest
    }

    /// Since when something is not on the replica.
    pub(crate) fn behind_since(&self) -> Option<Instant> {
        self.cuts
            .front()
            .map(|(_, since)| *since)
            .or(self.dirty_since)
    }
}

/// The shared facts of one capture thread and its actor.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    facts: Mutex<Facts>,
    bell: Notify,
}

impl Progress {
    /// Changes the facts and rings.
    pub(crate) fn update<T>(&self, change: impl FnOnce(&mut Facts) -> T) -> T {
        let value = change(&mut self.lock());
        self.bell.notify_one();
        value
    }

    /// Changes the facts, and rings if `change` says that the actor has something to do or to show: a
    /// busy database is read some hundred times a second, and told of with each file.
    pub(crate) fn note(&self, change: impl FnOnce(&mut Facts) -> bool) {
        if change(&mut self.lock()) {
            self.bell.notify_one();
        }
    }

    /// Changes the facts from the actor's side: no bell.
    pub(crate) fn with<T>(&self, read: impl FnOnce(&mut Facts) -> T) -> T {
        read(&mut self.lock())
    }

    /// Waits for the bell; a ring that came before is not lost.
    pub(crate) async fn changed(&self) {
        self.bell.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn lag_counts_from_the_oldest_unshipped_commit() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let txid = |id| Txid::new(id).unwrap();
        let mut facts = Facts {
            dirty_since: Some(at(1)),
            ..Facts::default()
        };
        facts.record_cut(txid(1), 10, at(2));
        facts.dirty_since = Some(at(3));
        facts.record_cut(txid(2), 10, at(4));
        facts.dirty_since = Some(at(5));
        assert_eq!(facts.behind_since(), Some(at(1)));
        assert_eq!(facts.shipped(txid(1)), Some(at(1)));
        assert_eq!(facts.behind_since(), Some(at(3)));
        assert_eq!(facts.shipped(txid(2)), Some(at(3)));
        assert_eq!(facts.behind_since(), Some(at(5)));
    }

    #[tokio::test]
    async fn the_actor_is_rung_for_the_first_commit_that_waits_and_not_for_each() {
        let start = Instant::now();
        let progress = Progress::default();
        let rung = || async {
            let rung = tokio::time::timeout(Duration::from_millis(20), progress.changed());
            rung.await.is_ok()
        };
        progress.note(|facts| facts.record_dirty(start));
        assert!(rung().await, "nobody would know that it is behind");
        for number in 1..=100 {
            progress.note(|facts| facts.record_dirty(start + Duration::from_millis(number)));
        }
        assert!(!rung().await);
        assert_eq!(progress.with(|facts| facts.dirty_since), Some(start));
        progress.update(|facts| facts.record_cut(Txid::FIRST, 10, start));
        assert!(rung().await);
        progress.note(|facts| facts.record_dirty(start));
        assert!(rung().await, "it is behind again");
    }

    #[test]
    fn lag_counts_from_the_oldest_commit_of_what_was_folded() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let txid = |id| Txid::new(id).unwrap();
        let mut facts = Facts::default();
        for number in 1..=5 {
            facts.record_cut(txid(number), 10, at(number));
        }
        facts.record_cut(txid(3), 10, at(6));
        assert_eq!(facts.txid, Some(txid(3)));
        assert_eq!(facts.shipped(txid(2)), Some(at(1)));
        assert_eq!(facts.behind_since(), Some(at(3)));
        assert_eq!(facts.shipped(txid(3)), Some(at(3)));
        assert_eq!(facts.behind_since(), None);
    }
}
