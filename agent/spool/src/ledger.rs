//! The ledger: positions, shipped marks and page checksums in sled. The only user of sled.
//!
//! It is an index, never the truth (L8). Every record carries a checksum of its own and is bound
//! to its database's name; what cannot be read counts as absent; a ledger that cannot be opened,
//! or that breaks while in use, is moved aside and filled again from the files. sled is known to
//! panic on some damage, so every call into it is caught.
//!
//! | key | value |
//! | --- | --- |
//! | `v` | version |
//! | `n` name | slot: 8 bytes that stand for the name in the keys below |
//! | `d` slot `p` | position |
//! | `d` slot `a` | last TXID that was shipped |
//! | `d` slot `c` generation chunk | 256 page checksums of 8 bytes |

use std::fs;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sled::IVec;
use sqlrep_format::Txid;

use crate::Error;
use crate::ledger::behind::{Behind, Change};
use crate::ledger::open::{OpenError, is_environment, marker, set_aside, try_open};
pub(crate) use crate::ledger::record::Record;
use crate::ledger::writer::{WAIT_MAX, Writer, collect};

mod behind;
mod open;
mod record;
mod writer;

/// Page checksums in one value: 256 × 8 bytes, so that a commit that touches a page writes 2 KiB.
pub(crate) const CHUNK_PAGES: u32 = 256;

/// From so many bytes on what was applied is given to sled by whoever has time for it.
const BEHIND_BYTES: usize = 128 << 10;

/// And by whoever comes, with so many.
const BEHIND_BYTES_MAX: usize = 512 << 10;

/// Keys removed in one batch: bounds the memory of a purge (L12).
const PURGE_KEYS: usize = 1024;

/// Why the ledger gave no answer. The caller treats the answer as unknown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LedgerError {
    /// sled failed.
    #[error("the ledger failed")]
    Sled(#[source] sled::Error),
    /// sled panicked.
    #[error("the ledger panicked")]
    Panicked,
    /// It failed before and is not asked again.
    #[error("the ledger is broken")]
    Broken,
    /// Something that must be there is not.
    #[error("the ledger lost page checksums")]
    Lost,
}

/// Stands for a database's name in keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot([u8; 8]);

/// The open ledger.
pub(crate) struct Ledger {
    /// Let go of before `db`, which it has too.
    writer: Option<Writer>,
    db: Option<sled::Db>,
    dir: PathBuf,
    broken: AtomicBool,
    behind: Behind,
    flushed: AtomicU64,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

/// Changes that are applied together or not at all.
#[derive(Debug, Default)]
pub(crate) struct Batch(Vec<(IVec, Change)>);

impl Batch {
    /// Sets the position.
    pub(crate) fn position(&mut self, slot: Slot, name: &str, record: &Record) {
        self.set(slot.key(b'p'), Some(record.encode(name)));
    }

    /// Removes the position.
    pub(crate) fn no_position(&mut self, slot: Slot) {
        self.set(slot.key(b'p'), None);
    }

    /// Sets, or removes, the last TXID that was shipped.
    pub(crate) fn acked(&mut self, slot: Slot, name: &str, txid: Option<Txid>) {
        let value = txid.map(|txid| record::encode_acked(name, txid));
        self.set(slot.key(b'a'), value);
    }

    /// Sets a chunk of page checksums.
    pub(crate) fn chunk(&mut self, slot: Slot, generation: u32, chunk: u32, checksums: &[u64]) {
        let value: Vec<u8> = checksums.iter().flat_map(|sum| sum.to_be_bytes()).collect();
        self.set(slot.chunk_key(generation, chunk), Some(value));
    }

    /// Removes a chunk.
    pub(crate) fn remove_chunk(&mut self, slot: Slot, generation: u32, chunk: u32) {
        self.set(slot.chunk_key(generation, chunk), None);
    }

    fn set(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        let change = value.map_or(Change::Removed, |value| Change::Set(value.into()));
        self.0.push((key.into(), change));
    }
}

impl Slot {
    /// The key of one kind of record.
    fn key(self, kind: u8) -> Vec<u8> {
        let mut key = Vec::with_capacity(18);
        key.push(b'd');
        key.extend_from_slice(&self.0);
        key.push(kind);
        key
    }

    /// The key of one chunk.
    fn chunk_key(self, generation: u32, chunk: u32) -> Vec<u8> {
        let mut key = self.key(b'c');
        key.extend_from_slice(&generation.to_be_bytes());
        key.extend_from_slice(&chunk.to_be_bytes());
        key
    }
}

impl Ledger {
    /// Opens the ledger; one that cannot be opened is moved aside, said so, and an empty one
    /// opened in its place.
    pub(crate) fn open(dir: &Path) -> Result<Self, Error> {
        let cause = if marker(dir).exists() {
            "it broke while in use".to_owned()
        } else {
            match try_open(dir) {
                Ok(db) => return Self::over(db, dir, WAIT_MAX),
                Err(OpenError::Io(source)) if is_environment(&source) => {
                    return Err(Error::Ledger {
                        path: dir.to_owned(),
                        source: source.into(),
                    });
                }
                Err(error) => error.to_string(),
            }
        };
        let aside = set_aside(dir).map_err(Error::io("move aside the ledger", dir))?;
        tracing::warn!(
            ledger = %dir.display(), aside = %aside.display(), err = %cause,
            "the ledger could not be used; it is rebuilt from the spool's files"
        );
        match try_open(dir) {
            Ok(db) => Self::over(db, dir, WAIT_MAX),
            Err(error) => Err(Error::Ledger {
                path: dir.to_owned(),
                source: error.into(),
            }),
        }
    }

    /// Nothing is written yet.
    fn over(db: sled::Db, dir: &Path, wait_max: Duration) -> Result<Self, Error> {
        let writer = Writer::start(db.clone(), wait_max);
        let writer = writer.map_err(Error::io("start the thread of the ledger", dir))?;
        Ok(Self {
            writer: Some(writer),
            db: Some(db),
            dir: dir.to_owned(),
            broken: AtomicBool::new(false),
            behind: Behind::default(),
            flushed: AtomicU64::new(0),
        })
    }

    /// [`Ledger::call`] for what writes: on the one thread that does.
    fn write<T: Send + 'static>(
        &self,
        write: impl FnOnce(&sled::Db) -> sled::Result<T> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let writer = self.writer.as_ref().ok_or(LedgerError::Broken)?;
        self.call(|_| writer.run(write))
    }

    /// Calls sled, catching what it may throw. After the first failure it is not called again:
    /// sled's own state is not to be trusted then.
    fn call<T>(&self, call: impl FnOnce(&sled::Db) -> sled::Result<T>) -> Result<T, LedgerError> {
        let db = match &self.db {
            Some(db) if !self.is_broken() => db,
            _ => return Err(LedgerError::Broken),
        };
        let error = match catch_unwind(AssertUnwindSafe(|| call(db))) {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => LedgerError::Sled(error),
            Err(_panic) => LedgerError::Panicked,
        };
        if !self.broken.swap(true, Ordering::AcqRel) {
            tracing::warn!(
                ledger = %self.dir.display(), err = %describe(&error),
                "the ledger broke; the spool goes on without it, the next start rebuilds it"
            );
            // Best effort: without the mark the next start finds out by itself, or opens a
            // ledger that is merely old, which recovery can tell.
            if let Err(err) = fs::File::create(marker(&self.dir)) {
                tracing::debug!(ledger = %self.dir.display(), %err, "the broken ledger is not marked");
            }
        }
        Err(error)
    }

    /// Whether it failed and is not asked any more.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// What a failure of sled leads to.
    #[cfg(test)]
    pub(crate) fn break_now(&self) {
        let failed = self.call::<()>(|_| Err(sled::Error::ReportableBug("a test".to_owned())));
        assert!(failed.is_err());
    }

    /// The slot of a name; a new one if it has none. A broken ledger gives one that leads nowhere.
    pub(crate) fn slot(&self, name: &str) -> Slot {
        let key = name_key(name);
        let found = self.write(move |db| {
            if let Some(slot) = db
                .get(&key)?
                .and_then(|value| <[u8; 8]>::try_from(&*value).ok())
            {
                return Ok(Slot(slot));
            }
            // Never given twice, also not after a crash: two names never share a slot.
            let slot = db.generate_id()?.to_be_bytes();
            db.insert(&key, slot.as_slice())?;
            Ok(Slot(slot))
        });
        found.unwrap_or(Slot([u8::MAX; 8]))
    }

    /// Everything that is known of a database goes.
    pub(crate) fn forget(&self, name: &str, slot: Slot) -> Result<(), LedgerError> {
        self.purge(
            &{
                let mut prefix = slot.key(b'c');
                prefix.pop();
                prefix
            },
            None,
        )?;
        let key = name_key(name);
        self.write(move |db| db.remove(key).map(drop))
    }

    /// The position, when there is one that reads back whole.
    pub(crate) fn position(&self, slot: Slot, name: &str) -> Result<Option<Record>, LedgerError> {
        self.get(&slot.key(b'p'))
            .map(|value| value.and_then(|value| Record::decode(name, &value)))
    }

    /// The last TXID that was shipped.
    pub(crate) fn acked(&self, slot: Slot, name: &str) -> Result<Option<Txid>, LedgerError> {
        self.get(&slot.key(b'a'))
            .map(|value| value.and_then(|value| record::decode_acked(name, &value)))
    }

    /// Reads a chunk into `out`, which is emptied first; `false` when there is none.
    pub(crate) fn chunk(
        &self,
        slot: Slot,
        generation: u32,
        chunk: u32,
        out: &mut Vec<u64>,
    ) -> Result<bool, LedgerError> {
        out.clear();
        let Some(value) = self.get(&slot.chunk_key(generation, chunk))? else {
            return Ok(false);
        };
        if value.len() > CHUNK_PAGES as usize * 8 || !value.len().is_multiple_of(8) {
            return Ok(false);
        }
        out.extend(
            value
                .chunks_exact(8)
                .map(|sum| u64::from_be_bytes(sum.try_into().expect("chunks_exact gives 8 bytes"))),
        );
        Ok(true)
    }

    fn get(&self, key: &[u8]) -> Result<Option<IVec>, LedgerError> {
        self.call(|db| match self.behind.get(key) {
            Some(change) => Ok(change.into_value()),
            None => db.get(key),
        })
    }

    /// Applies a batch. In memory, not yet on the disk: see [`Ledger::flush`].
    pub(crate) fn apply(&self, batch: Batch) -> Result<u64, LedgerError> {
        if self.is_broken() {
            return Err(LedgerError::Broken);
        }
        let number = self.behind.take(batch);
        self.ease_from(BEHIND_BYTES_MAX)?;
        Ok(number)
    }

    /// Gives what was applied to sled, if that is much: for whoever keeps nobody waiting by that.
    pub(crate) fn ease(&self) -> Result<(), LedgerError> {
        self.ease_from(BEHIND_BYTES)
    }

    fn ease_from(&self, bytes: usize) -> Result<(), LedgerError> {
        if self.behind.bytes() < bytes {
            return Ok(());
        }
        self.give()
    }

    /// Gives what was applied to sled.
    fn give(&self) -> Result<(), LedgerError> {
        self.behind.give(|changes| {
            let mut batch = sled::Batch::default();
            for (key, change) in changes {
                match change {
                    Change::Set(value) => batch.insert(key, value),
                    Change::Removed => batch.remove(key),
                }
            }
            self.write(move |db| db.apply_batch(batch))
        })
    }

    /// Makes everything applied so far durable.
    pub(crate) fn flush(&self) -> Result<(), LedgerError> {
        let applied = self.behind.applied();
        if applied == self.flushed.load(Ordering::Acquire) {
            return Ok(());
        }
        self.give()?;
        self.write(|db| db.flush().and_then(|_| collect(db)))?;
        self.flushed.fetch_max(applied, Ordering::AcqRel);
        Ok(())
    }

    /// The number that [`Ledger::apply`] gave to the last batch that is surely on the disk.
    pub(crate) fn flushed(&self) -> u64 {
        self.flushed.load(Ordering::Acquire)
    }

    /// Removes all chunks but those of one generation.
    pub(crate) fn purge_chunks(&self, slot: Slot, keep: Option<u32>) -> Result<(), LedgerError> {
        let prefix = slot.key(b'c');
        let keep = keep.map(|generation| {
            let mut prefix = prefix.clone();
            prefix.extend_from_slice(&generation.to_be_bytes());
            prefix
        });
        self.purge(&prefix, keep.as_deref())
    }

    /// Removes the keys under a prefix, save those under another, in bounded batches.
    fn purge(&self, prefix: &[u8], keep: Option<&[u8]>) -> Result<(), LedgerError> {
        self.give()?; // the keys are looked up in sled
        // Two runs, before and after what is kept, so that what is kept is never walked.
        if let Some(keep) = keep {
            self.purge_range(prefix, prefix, Some(keep))?;
            if let Some(after) = successor(keep) {
                self.purge_range(prefix, &after, None)?;
            }
            return Ok(());
        }
        self.purge_range(prefix, prefix, None)
    }

    /// Removes the keys under `prefix` from `start` on, up to `end`.
    fn purge_range(
        &self,
        prefix: &[u8],
        start: &[u8],
        end: Option<&[u8]>,
    ) -> Result<(), LedgerError> {
        loop {
            let keys = self.call(|db| {
                db.range(start..)
                    .keys()
                    .take_while(|key| match key {
                        Ok(key) => key.starts_with(prefix) && end.is_none_or(|end| &**key < end),
                        Err(_) => true,
                    })
                    .take(PURGE_KEYS)
                    .collect::<sled::Result<Vec<_>>>()
            })?;
            if keys.is_empty() {
                return Ok(());
            }
            let removed = keys.into_iter().map(|key| (key, Change::Removed));
            self.apply(Batch(removed.collect()))?;
            self.give()?;
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        if let Err(error) = self.flush() {
            tracing::debug!(err = %describe(&error), "the ledger is closed without a flush");
        }
        self.writer = None;
        let db = self.db.take();
        if self.is_broken() {
            // Who closes sled waits for all that was reserved in its log; a write that failed half-way (a
            // full disk) keeps its place there for ever.
            let _never_closed = ManuallyDrop::new(db);
            return;
        }
        if catch_unwind(AssertUnwindSafe(|| drop(db))).is_err() {
            tracing::debug!("the ledger panicked while it was closed");
        }
    }
}

/// The key of a name.
fn name_key(name: &str) -> Vec<u8> {
    [b"n", name.as_bytes()].concat()
}

/// The first key after all that start with `prefix`; `None` when there is none.
fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut key = prefix.to_vec();
    while let Some(last) = key.pop() {
        if let Some(next) = last.checked_add(1) {
            key.push(next);
            return Some(key);
        }
    }
    None
}

/// An error with its cause, for the log.
fn describe(error: &LedgerError) -> String {
    match error {
        LedgerError::Sled(cause) => format!("{error}: {cause}"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
