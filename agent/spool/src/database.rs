//! The spool of one database: capture appends at one end, the shipper takes from the other.
//!
//! Three locks. `writer` is held through an append and by whatever else moves the position; only
//! capture's thread wants it. `settling` is held through fsyncs, by whoever comes first; nobody waits
//! for it but who has nothing else to do. `state` (and `unsettled`) is held for a few instructions at a
//! time, never over file I/O, so that shipper and status never wait for an fsync, nor capture for them.

use std::fmt;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sqlrep_format::{Pos, Txid, TxidRange, ltx};
use sqlrep_replica::{DbId, StoreError};

use crate::append::{Base, Writing};
use crate::budget::{Budget, Counted};
use crate::checksums::{Edit, Edited, Known};
use crate::files::{FileFact, Files};
use crate::fold::Fold;
use crate::ledger::{Batch, Ledger, Slot};
use crate::recover::{self, Site, State};
use crate::settle::Unsettled;
use crate::spool::Shared;
use crate::{Appended, Draft, Entry, Error, PageChecksums, PageSource, Position, WalPlace};

/// Shipped bytes of one database that are kept for the next compaction (L12): some dozens of
/// seconds of what an app writes. Of an app that writes more, the rest is read from the replica.
const KEPT_BYTES_MAX: u64 = 16 << 20;

/// Whoever appends has a WAL to tend, and flushes the ledger only when so many times as much relies on
/// it as whoever ships waits for: when nothing is shipped.
const APPEND_PATIENCE: u64 = 4;

/// The spool of one database in one pod. Clones are handles to the same.
#[derive(Clone)]
pub struct DatabaseSpool {
    pub(crate) inner: Arc<Inner>,
}

impl fmt::Debug for DatabaseSpool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatabaseSpool")
            .field("dir", &self.inner.files.dir())
            .finish_non_exhaustive()
    }
}

/// What the handles share.
pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) id: DbId,
    pod_uid: Box<str>,
    /// Id and pod uid: the name in the ledger and in messages.
    pub(crate) name: Box<str>,
    pub(crate) slot: Slot,
    pub(crate) files: Files,
    pub(crate) writer: Mutex<()>,
    pub(crate) state: Mutex<State>,
    /// Held while files are made durable.
    pub(crate) settling: Mutex<()>,
    pub(crate) unsettled: Mutex<Unsettled>,
    /// What is appended now is the last: it is taken in over the limit, and soon.
    ending: AtomicBool,
}

/// What an append begins with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub(crate) base: Base,
    pub(crate) known: Option<Known>,
    pub(crate) generation: u32,
    pub(crate) epoch: u64,
}

/// The state that a file leads to, as far as it differs, and what the ledger is told.
pub(crate) fn stepped(
    draft: &Draft,
    fact: &FileFact,
    edited: Edited,
    (before, epoch): (u32, u64),
) -> (State, Batch) {
    let position = Position {
        txid: fact.txid,
        timestamp: draft.timestamp,
        commit: draft.commit,
        page_size: draft.page_size,
        wal: draft.place,
        checksum: edited.known.map(|known| known.checksum),
    };
    let step = State {
        position: Some(position),
        digest: Some(fact.digest),
        generation: edited.known.map_or(before, |_| edited.generation),
        epoch,
        ..State::default()
    };
    (step, edited.batch)
}

/// Where a step leads, if page checksums are known.
pub(crate) fn pos(step: &State) -> Option<Pos> {
    let position = step.position?;
    Some(Pos {
        txid: position.txid,
        checksum: position.checksum?,
    })
}

/// A panic while a lock was held leaves the state as it was: it is assigned at the very end.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// The TXID that the next file must carry.
    pub(crate) fn next_txid(&self) -> Txid {
        self.position
            .map_or(Txid::FIRST, |position| position.txid.next())
    }

    /// The newest of the shipped files that need not be kept for a compaction.
    fn kept_from(&self, budget: &Budget) -> Option<Txid> {
        let Some(above) = self.keep_above.filter(|_| budget.has_room()) else {
            return self.acked;
        };
        // The newest that fit stay.
        let mut bytes = 0_u64;
        let shipped = self.files.iter().rev();
        let shipped = shipped.filter(|file| Some(file.txid) <= self.acked && file.txid > above);
        for file in shipped {
            bytes = bytes.saturating_add(file.bytes);
            if bytes > KEPT_BYTES_MAX {
                return Some(file.txid);
            }
        }
        Some(above)
    }

    /// Moves to where a step led.
    pub(crate) fn take_step(&mut self, step: &Self) {
        self.position = step.position;
        self.digest = step.digest;
        self.generation = step.generation;
        self.must_be_full = false;
    }

    /// Counts a file into what waits.
    pub(crate) fn push(&mut self, fact: FileFact) {
        self.files.push_back(fact);
        self.pending_bytes = self.pending_bytes.saturating_add(fact.bytes);
    }
}

impl Inner {
    /// Reads the state from the disk. The caller counts its bytes into the budget.
    pub(crate) fn open(
        shared: Arc<Shared>,
        id: DbId,
        pod_uid: &str,
        files: Files,
    ) -> Result<Self, Error> {
        let name = format!("{id}\0{pod_uid}").into_boxed_str();
        let slot = shared.ledger.slot(&name);
        let site = Site {
            files: &files,
            ledger: &shared.ledger,
            slot,
            name: &name,
        };
        let state = Mutex::new(recover::recover(site)?);
        let (pod_uid, writer) = (pod_uid.into(), Mutex::new(()));
        Ok(Self {
            shared,
            id,
            pod_uid,
            name,
            slot,
            files,
            writer,
            state,
            settling: Mutex::default(),
            unsettled: Mutex::default(),
            ending: AtomicBool::new(false),
        })
    }

    pub(crate) fn site(&self) -> Site<'_> {
        Site {
            files: &self.files,
            ledger: self.ledger(),
            slot: self.slot,
            name: &self.name,
        }
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.shared.ledger
    }

    pub(crate) fn budget(&self) -> &Budget {
        &self.shared.budget
    }

    /// The name in messages.
    pub(crate) fn label(&self) -> String {
        format!("{} (pod {})", self.id, self.pod_uid)
    }

    /// Bytes that wait to be shipped.
    pub(crate) fn pending_bytes(&self) -> u64 {
        lock(&self.state).pending_bytes
    }

    /// What a draft begins with, and what is to be folded into it.
    fn begin(&self, draft: &Draft) -> Result<(Start, Option<Fold>), Error> {
        let state = lock(&self.state);
        let start = Start {
            base: Base::check(&self.label(), &state, draft)?,
            known: state.known(),
            generation: state.generation,
            epoch: state.epoch,
        };
        Ok((start, Fold::due(&state, self.budget())))
    }

    /// The ledger's side of a draft, begun.
    pub(crate) fn edit(&self, draft: &Draft, start: &Start) -> Edit<'_> {
        let size = (draft.commit, draft.page_size);
        Edit::begin(
            (self.ledger(), self.slot),
            start.known,
            start.generation,
            size,
        )
    }

    pub(crate) fn entry(&self, fact: &FileFact) -> Entry {
        Entry {
            txid: fact.txid,
            timestamp: fact.timestamp,
            bytes: fact.bytes,
            digest: fact.digest,
            content: fact.content,
            path: self.files.path(fact.txid),
        }
    }

    /// Removes shipped files whose ack is surely on the disk; the newest file stays, and so do
    /// those that wait to be compacted.
    pub(crate) fn reap(&self) -> Result<(), Error> {
        let (flushed, broken) = (self.ledger().flushed(), self.ledger().is_broken());
        let gone: Vec<FileFact> = {
            let mut state = lock(&self.state);
            let mut spent = if broken { state.acked } else { None };
            while let Some((acked, _)) = state.marks.pop_front_if(|(_, number)| *number <= flushed)
            {
                spent = spent.max(Some(acked));
            }
            state.spent = state.spent.max(spent);
            let until = state.spent.min(state.kept_from(self.budget()));
            let newest = state.files.back().map(|file| file.txid);
            let gone = state
                .files
                .partition_point(|file| Some(file.txid) <= until && Some(file.txid) < newest);
            state.files.drain(..gone).collect()
        };
        gone.iter()
            .try_for_each(|file| self.files.remove(file.txid))
    }

    /// The disk is full: what was shipped goes at once, but for the newest, whether the ledger that has
    /// seen it is on the disk or not (it may find no room either). A crash then costs the page
    /// checksums, and no data.
    fn shed(&self) {
        let gone: Vec<FileFact> = {
            let mut state = lock(&self.state);
            let (acked, newest) = (state.acked, state.files.back().map(|file| file.txid));
            let shipped = |file: &FileFact| Some(file.txid) <= acked && Some(file.txid) < newest;
            let gone = state.files.partition_point(shipped);
            state.files.drain(..gone).collect()
        };
        let removed = gone
            .iter()
            .try_for_each(|file| self.files.remove(file.txid));
        if let Err(err) = removed {
            tracing::debug!(db = %self.id, %err, "shipped files stay in the spool for now");
        }
    }

    /// Flushes the ledger once enough relies on it for somebody with this patience; says whether it did.
    fn flush_when_due(&self, patience: u64) -> bool {
        let due = self.shared.unflushed.is_due(patience);
        if due {
            self.shared.flush_ledger();
        }
        due
    }

    /// Chunks that no longer count go; if not now, then before their number is used again.
    pub(crate) fn purge(&self, keep: Option<u32>) {
        if self.ledger().purge_chunks(self.slot, keep).is_err() {
            tracing::debug!(db = %self.id, "old page checksums stay in the ledger");
        }
    }

    /// A file at the name of the next one is that of an append which failed after the link: its
    /// caller was told that nothing changed, and nobody was told of the file.
    fn clear_orphan(&self, txid: Txid) -> Result<(), Error> {
        if self.files.holds(txid)? {
            tracing::warn!(db = %self.id, %txid, "the file of a failed append is removed");
            self.files.remove(txid)?;
        }
        Ok(())
    }
}

impl Inner {
    /// See [`DatabaseSpool::reject`]; the caller holds the lock of the writer.
    pub(crate) fn rejected(&self, txid: Txid, reason: &str) -> Result<(), Error> {
        let (rejected, newest): (Vec<FileFact>, _) = {
            let state = lock(&self.state);
            let from = state.pending().filter(|file| file.txid >= txid);
            let newest = state.position.map(|position| position.txid);
            (from.copied().collect(), newest)
        };
        if rejected.first().is_none_or(|first| first.txid != txid) {
            return Err(Error::Unknown {
                database: self.label(),
                txid,
                newest,
            });
        }
        // From the end: a crash in between leaves a chain without a gap.
        for file in rejected.iter().rev() {
            self.files.set_aside(&Files::listed(file), reason)?;
        }
        let recovered = recover::recover(self.site())?;
        let mut state = lock(&self.state);
        let before = state.pending_bytes;
        *state = recovered;
        self.budget().add(state.pending_bytes);
        self.budget().sub(before);
        Ok(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.closed(self.files.dir(), self.pending_bytes());
    }
}

impl DatabaseSpool {
    /// The database.
    pub fn id(&self) -> &DbId {
        &self.inner.id
    }

    /// The pod it lives in.
    pub fn pod_uid(&self) -> &str {
        &self.inner.pod_uid
    }

    /// Database and pod, for messages.
    pub(crate) fn label(&self) -> String {
        self.inner.label()
    }

    /// Where its files are.
    pub fn dir(&self) -> &Path {
        self.inner.files.dir()
    }

    /// Where it stands; `None` before the first file.
    pub fn position(&self) -> Option<Position> {
        lock(&self.inner.state).position
    }

    /// The TXID that the next file must carry.
    pub fn next_txid(&self) -> Txid {
        lock(&self.inner.state).next_txid()
    }

    /// Whether the next file must hold every page: it stands in for one that was lost.
    pub fn must_be_full(&self) -> bool {
        let state = lock(&self.inner.state);
        state.must_be_full || state.position.is_none()
    }

    /// Writes an L0 file and moves the position to it. It is durable once [`DatabaseSpool::settle`] has
    /// returned, which whoever ships calls first; when something is appended after it; or at once, when
    /// this is the end.
    ///
    /// After an error the caller keeps its pages and drafts again; nothing has changed, unless the file
    /// before could not be made durable: then the position fell back. With [`Error::is_full`] it waits
    /// until something was shipped.
    pub fn append(&self, draft: &Draft, pages: &mut dyn PageSource) -> Result<Appended, Error> {
        let inner = &*self.inner;
        let _writer = lock(&inner.writer);
        let ending = inner.ending.load(Ordering::Relaxed);
        inner.settle_beside()?;
        let (start, fold) = inner.begin(draft)?;
        if let Some(fold) = fold
            && !ending
            && let Some(appended) = self.append_folded(&fold, draft, &start, pages)
        {
            return appended;
        }
        if !ending {
            inner.budget().admit()?;
        }
        inner.clear_orphan(draft.txid)?;

        let edit = inner.edit(draft, &start);
        let label = inner.label();
        let count = Counted::new(inner.budget());
        let path = inner.files.path(draft.txid);
        let mut writing = Writing::new((&label, &path), (draft, start.base), pages, edit, count);
        let range = TxidRange::single(draft.txid);
        let (store, level) = (inner.files.store(), ltx::Level::L0);
        let write = &mut |out: &mut dyn Write| writing.write(out);
        let put = store.put_unsettled(level, range, draft.timestamp, write);
        let Writing {
            edit,
            count,
            content,
            written,
            failure,
            ..
        } = writing;
        if let Some(error) = failure {
            return Err(error);
        }
        if put.as_ref().is_err_and(StoreError::is_full) {
            inner.shed(); // there is room the next time
        }
        let put = put.map_err(Error::store("writing a file to the spool"))?;
        let (Some(file), Some(written)) = (put, written) else {
            let reason = "the name was taken meanwhile; nobody else may write there".to_owned();
            return Err(Error::Corrupt {
                path: path.clone(),
                reason,
            });
        };
        count.keep();
        // From here on the file is the truth: nothing below may turn it into an error, but that its
        // content is lost.
        let fact = FileFact {
            txid: draft.txid,
            timestamp: draft.timestamp,
            bytes: written.bytes,
            digest: written.trailer.file,
            content: Some(content.value()),
        };
        let pos = self.appended(draft, fact, edit.finish(), start.epoch);
        inner.appended_unsettled(draft.txid, file);
        if ending {
            inner.settle_last()?;
        }
        inner.shared.unflushed.add(fact.bytes);
        if inner.flush_when_due(APPEND_PATIENCE)
            && let Err(err) = inner.reap()
        {
            tracing::warn!(db = %inner.id, %err, "shipped files stay in the spool for now");
        }
        Ok(Appended {
            entry: inner.entry(&fact),
            pages: written.pages,
            pos,
        })
    }

    /// The file is there: ledger and state follow.
    fn appended(&self, draft: &Draft, fact: FileFact, edited: Edited, epoch: u64) -> Option<Pos> {
        let inner = &*self.inner;
        let before = lock(&inner.state).generation;
        let (mut step, batch) = stepped(draft, &fact, edited, (before, epoch));
        if let Err(error) = recover::commit(inner.site(), &step, batch) {
            recover::forget_checksums(&mut step, &error);
        }
        {
            let mut state = lock(&inner.state);
            state.take_step(&step);
            state.push(fact);
        }
        if step.generation != before {
            inner.purge(Some(step.generation));
        }
        pos(&step)
    }

    /// Moves the place in the WAL, when a resync found that no page differs.
    pub fn set_place(&self, place: Option<WalPlace>) {
        let inner = &*self.inner;
        let _writer = lock(&inner.writer);
        let step = {
            let mut state = lock(&inner.state);
            if let Some(position) = &mut state.position {
                position.wal = place;
            }
            state.record()
        };
        if let Some(record) = step {
            let mut batch = Batch::default();
            batch.position(inner.slot, &inner.name, &record);
            if inner.ledger().apply(batch).is_err() {
                tracing::debug!(db = %inner.id, "the place in the WAL is not in the ledger");
            }
        }
    }

    /// The checksum of every page at the position, proven whole; or that they are not known.
    pub fn page_checksums(&self) -> PageChecksums {
        let inner = &*self.inner;
        let (known, size) = {
            let state = lock(&inner.state);
            (
                state.known(),
                state.position.map(|position| position.page_size),
            )
        };
        let (Some(known), Some(size)) = (known, size) else {
            return PageChecksums::unknown();
        };
        let ledger = Arc::clone(&inner.shared.ledger);
        match PageChecksums::proven(ledger, inner.slot, known, size) {
            Ok(Some(checksums)) => checksums,
            failed => {
                let err = failed.err().map(|error| error.to_string());
                tracing::warn!(db = %inner.id, err, "page checksums are not whole; they count as unknown");
                // Until they are made anew nothing may be built on them.
                if let Some(position) = &mut lock(&inner.state).position {
                    position.checksum = None;
                }
                PageChecksums::unknown()
            }
        }
    }

    /// The files that wait to be shipped, ascending and without a gap.
    pub fn pending(&self) -> Vec<Entry> {
        let facts: Vec<FileFact> = lock(&self.inner.state).pending().copied().collect();
        facts.iter().map(|fact| self.inner.entry(fact)).collect()
    }

    /// The first file that waits.
    pub fn first_pending(&self) -> Option<Entry> {
        let fact = lock(&self.inner.state).pending().next().copied();
        fact.map(|fact| self.inner.entry(&fact))
    }

    /// The newest file, shipped or not; it always stays.
    pub fn newest(&self) -> Option<Entry> {
        let fact = lock(&self.inner.state).files.back().copied();
        fact.map(|fact| self.inner.entry(&fact))
    }

    /// Everything up to here was told to somebody by its TXID, and keeps it.
    pub fn promise(&self, txid: Txid) {
        let mut state = lock(&self.inner.state);
        state.promised = state.promised.max(Some(txid));
    }

    /// The pod goes, or the agent: what is appended now is the last of it, has no other copy soon,
    /// and is taken in whatever the limit says. It is at most what one file holds.
    pub fn ending(&self) {
        self.inner.ending.store(true, Ordering::Relaxed);
    }

    /// Keeps shipped files above this TXID, within bounds: whoever compacts them need not read them
    /// from the replica. `None` keeps none, which is how a spool begins.
    pub fn keep_above(&self, txid: Option<Txid>) {
        lock(&self.inner.state).keep_above = txid;
        if let Err(err) = self.inner.reap() {
            tracing::debug!(db = %self.inner.id, %err, "shipped files stay in the spool for now");
        }
    }

    /// A shipped file that is still here, just as it was shipped.
    pub fn kept(&self, txid: Txid) -> Option<Entry> {
        let fact = {
            let state = lock(&self.inner.state);
            let place = state.files.binary_search_by_key(&txid, |file| file.txid);
            let fact = place.ok().and_then(|place| state.files.get(place)).copied();
            fact.filter(|_| Some(txid) <= state.acked)
        };
        fact.map(|fact| self.inner.entry(&fact))
    }

    /// The last TXID that was shipped, as far as the spool was told.
    pub fn shipped(&self) -> Option<Txid> {
        lock(&self.inner.state).acked
    }

    /// The bytes of the files that wait.
    pub fn pending_bytes(&self) -> u64 {
        self.inner.pending_bytes()
    }

    /// Everything up to `txid` was shipped, durably. Its files go when the ledger has that on the
    /// disk; the newest file always stays.
    pub fn ack(&self, txid: Txid) -> Result<(), Error> {
        let inner = &*self.inner;
        let bytes = {
            let mut state = lock(&inner.state);
            let newest = state.files.back().map(|file| file.txid);
            if Some(txid) <= state.acked {
                return Ok(());
            }
            if Some(txid) > newest {
                return Err(Error::Unknown {
                    database: inner.label(),
                    txid,
                    newest,
                });
            }
            let bytes: u64 = state
                .pending()
                .take_while(|file| file.txid <= txid)
                .map(|file| file.bytes)
                .sum();
            state.acked = Some(txid);
            state.pending_bytes = state.pending_bytes.saturating_sub(bytes);
            let mut batch = Batch::default();
            batch.acked(inner.slot, &inner.name, Some(txid));
            // sled takes it into memory. Not taken at all, the file is shipped a second time
            // after a restart, and found to be ours.
            if let Ok(number) = inner.ledger().apply(batch) {
                state.marks.push_back((txid, number));
            }
            bytes
        };
        inner.budget().sub(bytes);
        inner.shared.unflushed.add(bytes);
        if !inner.flush_when_due(1)
            && let Err(err) = inner.ledger().ease()
        {
            tracing::debug!(db = %inner.id, %err, "the ledger does not take what was applied");
        }
        inner.reap()
    }

    /// The shipper found the file of a TXID damaged. It and all that follow are moved aside, and
    /// the position falls back: capture's next append is out of order, and it resyncs.
    pub fn reject(&self, txid: Txid, reason: &str) -> Result<(), Error> {
        let _writer = lock(&self.inner.writer);
        self.inner.rejected(txid, reason)
    }

    /// See [`DatabaseSpool::rebuild_from`].
    pub(crate) fn rebuilding<T>(
        &self,
        work: impl FnOnce(Site<'_>, &mut State) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let inner = &*self.inner;
        let _writer = lock(&inner.writer);
        let mut scratch = {
            let state = lock(&inner.state);
            State {
                position: state.position,
                digest: state.digest,
                generation: state.generation,
                must_be_full: state.must_be_full,
                epoch: state.epoch,
                files: state.files.clone(),
                ..State::default()
            }
        };
        let done = work(inner.site(), &mut scratch)?;
        {
            let mut state = lock(&inner.state);
            state.position = scratch.position;
            state.generation = scratch.generation;
            state.must_be_full = scratch.must_be_full;
        }
        inner.purge(Some(scratch.generation));
        Ok(done)
    }
}

#[cfg(test)]
mod tests;
