//! What was applied and not given to sled yet.
//!
//! sled takes each batch to the disk soon, with a wake-up of all its seven threads, and writes a leaf of its
//! tree anew for every few values that change. Files of a busy database change the same values again and
//! again, and nobody relies on them before a flush: so they are gathered here, and sled gets the newest of
//! each, as one batch. What is given to it is always all that was applied, so that it holds the state after
//! some batch, never a part of one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sled::IVec;

use super::{Batch, LedgerError};

/// What becomes of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Set(IVec),
    Removed,
}

impl Change {
    pub(super) fn into_value(self) -> Option<IVec> {
        match self {
            Self::Set(value) => Some(value),
            Self::Removed => None,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Set(value) => value.len(),
            Self::Removed => 0,
        }
    }
}

/// The newest of each key.
pub(super) type Changes = BTreeMap<IVec, Change>;

/// What is beside the bytes of a key and a value, roughly: the tree's and the allocator's.
const ENTRY_BYTES: usize = 96;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Behind {
    state: Mutex<State>,
    /// Held by whoever gives to sled: batches come to it in their order.
    leaving: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    changes: Changes,
    bytes: usize,
    /// What sled is being given.
    leaving: Option<Arc<Changes>>,
    /// How many batches were applied.
    applied: u64,
}

impl Behind {
    /// Takes a batch in; gives its number, counted from 1.
    pub(super) fn take(&self, batch: Batch) -> u64 {
        let mut state = lock(&self.state);
        for (key, change) in batch.0 {
            let entry_bytes = key.len() + ENTRY_BYTES;
            state.bytes += change.bytes();
            match state.changes.insert(key, change) {
                Some(before) => state.bytes -= before.bytes(),
                None => state.bytes += entry_bytes,
            }
        }
        state.applied += 1;
        state.applied
    }

    /// How many batches were applied.
    pub(super) fn applied(&self) -> u64 {
        lock(&self.state).applied
    }

    /// The memory of what waits here.
    pub(super) fn bytes(&self) -> usize {
        lock(&self.state).bytes
    }

    /// What a value was changed to; `None` when sled knows.
    pub(super) fn get(&self, key: &[u8]) -> Option<Change> {
        let state = lock(&self.state);
        let leaving = || state.leaving.as_ref()?.get(key);
        state.changes.get(key).or_else(leaving).cloned()
    }

    /// Hands out all that waits; it is known here until `give` is back. After an error it is lost.
    pub(super) fn give(
        &self,
        give: impl FnOnce(&Changes) -> Result<(), LedgerError>,
    ) -> Result<(), LedgerError> {
        let _in_order = lock(&self.leaving);
        let leaving = {
            let mut state = lock(&self.state);
            if state.changes.is_empty() {
                return Ok(());
            }
            state.bytes = 0;
            let leaving = Arc::new(std::mem::take(&mut state.changes));
            state.leaving = Some(Arc::clone(&leaving));
            leaving
        };
        let given = give(&leaving);
        lock(&self.state).leaving = None;
        given
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(value: &[u8]) -> Change {
        Change::Set(value.into())
    }

    fn batch<const N: usize>(changes: [(&[u8], Change); N]) -> Batch {
        Batch(changes.map(|(key, change)| (key.into(), change)).into())
    }

    #[test]
    fn the_newest_of_each_is_given_once_and_known_meanwhile() {
        let behind = Behind::default();
        let first = batch([(b"a", set(b"1")), (b"b", set(b"1"))]);
        assert_eq!(behind.take(first), 1);
        let second = batch([(b"a", set(b"22")), (b"c", Change::Removed)]);
        assert_eq!(behind.take(second), 2);
        assert_eq!(behind.get(b"c"), Some(Change::Removed));
        assert_eq!(behind.get(b"d"), None);
        let full = behind.bytes();
        assert!(full > 3 * ENTRY_BYTES && full < 3 * ENTRY_BYTES + 10);
        let given = behind.give(|changes| {
            let newest = [
                (b"a", set(b"22")),
                (b"b", set(b"1")),
                (b"c", Change::Removed),
            ];
            let newest = newest.map(|(key, change)| (IVec::from(key), change));
            assert_eq!(*changes, Changes::from(newest));
            behind.take(batch([(b"b", set(b"3"))]));
            assert_eq!(
                behind.get(b"a"),
                Some(set(b"22")),
                "sled may not have it yet"
            );
            assert_eq!(behind.get(b"b"), Some(set(b"3")));
            Ok(())
        });
        given.unwrap();
        assert_eq!((behind.get(b"a"), behind.get(b"c")), (None, None));
        assert_eq!(behind.get(b"b"), Some(set(b"3")));
        assert!(behind.bytes() < full && behind.applied() == 3);
        behind.give(|_| Err(LedgerError::Broken)).unwrap_err();
        assert_eq!((behind.get(b"b"), behind.bytes()), (None, 0));
        behind.give(|_| panic!("there is nothing to give")).unwrap();
    }
}
