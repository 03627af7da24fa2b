//! Lineages: a chain begins at a replica's head that was taken over, or at the first TXID.
//!
//! What the spool holds of the lineage before goes then. The seed file says so first, and says
//! when it is done: a crash in between leaves neither a position of the old lineage nor a file of
//! it among those of the new one.

use std::io;

use sqlrep_format::Pgno;

use crate::checksums::{Edit, Edited};
use crate::database::{Inner, lock};
use crate::ledger::Batch;
use crate::memo::{self, End, PodNote, SeedFile};
use crate::recover::{self, State};
use crate::{DatabaseSpool, Error, Position, Seed};

impl Inner {
    /// Refuses while files wait to be shipped.
    fn nothing_waits(&self) -> Result<(), Error> {
        let state = lock(&self.state);
        let mut pending = state.pending();
        match pending.next() {
            None => Ok(()),
            Some(first) => Err(Error::Unshipped {
                database: self.label(),
                first: first.txid,
                files: pending.count() + 1,
            }),
        }
    }

    /// Begins a new lineage: what the spool holds of the old one goes, durably, before anything
    /// of the new one counts.
    fn begin_lineage(
        &self,
        position: Option<Position>,
        edited: Option<Edited>,
    ) -> Result<(), Error> {
        let (epoch, generation) = {
            let mut state = lock(&self.state);
            state.interrupted = true;
            (state.epoch, state.generation)
        };
        let mut seed = SeedFile::new(epoch.saturating_add(1), position.as_ref());
        memo::save(&self.files.seed_path(), &seed)?;
        recover::clear(&self.files, &mut seed)?;
        let (batch, known, generation) = match edited {
            Some(edited) => (edited.batch, edited.known, edited.generation),
            None => (Batch::default(), None, generation),
        };
        let mut state = State {
            position: position.map(|position| Position {
                checksum: known.map(|known| known.checksum),
                ..position
            }),
            generation,
            epoch: seed.epoch,
            acked: position.map(|position| position.txid),
            ..State::default()
        };
        let mut batch = batch;
        batch.acked(self.slot, &self.name, state.acked);
        if let Err(error) = recover::commit(self.site(), &state, batch) {
            recover::forget_checksums(&mut state, &error);
        }
        self.purge(state.known().map(|known| known.generation));
        *lock(&self.state) = state;
        self.shared.flush_ledger();
        Ok(())
    }
}

impl DatabaseSpool {
    /// Takes over a replica's head, after a restore or a takeover: the next file follows on it.
    ///
    /// Durable when it returns, also without the ledger (DESIGN §9 item 9). What the spool holds
    /// goes; files that were not shipped are refused, so that no tail is lost: branch and ack
    /// them first.
    pub fn seed(&self, seed: Seed<'_>) -> Result<(), Error> {
        let inner = &*self.inner;
        let _writer = lock(&inner.writer);
        inner.nothing_waits()?;
        let generation = lock(&inner.state).generation;
        let size = (seed.commit, seed.page_size);
        let mut edit = Edit::begin((inner.ledger(), inner.slot), None, generation, size);
        let mut missing = seed.commit.data_pages(seed.page_size);
        let mut last = None;
        for page in seed.checksums {
            let path = || inner.files.seed_path();
            let (pgno, checksum) = page.map_err(|source| Error::Pages {
                path: path(),
                source,
            })?;
            let lock_page = pgno == seed.page_size.lock_page();
            if lock_page || !seed.commit.contains(pgno) || Some(pgno) <= last {
                let reason = format!("page {pgno} after {}", last.map_or(0, Pgno::get));
                let source = io::Error::new(io::ErrorKind::InvalidData, reason);
                return Err(Error::Pages {
                    path: path(),
                    source,
                });
            }
            last = Some(pgno);
            missing = missing.saturating_sub(1);
            edit.page(pgno, checksum);
        }
        if missing > 0 {
            let (database, txid) = (inner.label(), seed.txid);
            return Err(Error::MissingPages {
                database,
                txid,
                missing,
            });
        }
        let position = Position {
            txid: seed.txid,
            timestamp: seed.timestamp,
            commit: seed.commit,
            page_size: seed.page_size,
            wal: None,
            checksum: None,
        };
        inner.begin_lineage(Some(position), Some(edit.finish()))
    }

    /// Begins a new chain at the first TXID, for a database that changed its page size. Refused
    /// like [`DatabaseSpool::seed`] while files wait.
    pub fn restart(&self) -> Result<(), Error> {
        let _writer = lock(&self.inner.writer);
        self.inner.nothing_waits()?;
        self.inner.begin_lineage(None, None)
    }

    /// Remembers whose database it is; durably before any of its files is.
    pub fn note_pod(&self, note: &PodNote) -> Result<(), Error> {
        let inner = &*self.inner;
        let path = inner.files.pod_path();
        if self.pod_note().as_ref() == Some(note) {
            return Ok(());
        }
        let _writer = lock(&inner.writer);
        if inner.files.dir().exists() {
            return memo::save(&path, note);
        }
        memo::begin(inner.files.fs(), &path, note)
    }

    /// Whose it is, if that is remembered. A note that cannot be read is none.
    pub fn pod_note(&self) -> Option<PodNote> {
        memo::load(&self.inner.files.pod_path()).unwrap_or_default()
    }

    /// Remembers, durably, that how its pod ended is known: it was read to the end, or it has been
    /// said that it was not.
    pub fn note_end(&self) -> Result<(), Error> {
        memo::save(&self.inner.files.end_path(), &End { version: 1 })
    }

    /// Whether that is remembered. A note that cannot be read is none.
    pub fn end_is_known(&self) -> bool {
        memo::load::<End>(&self.inner.files.end_path()).is_ok_and(|end| end.is_some())
    }

    /// Removes all that the spool has of this database, for a pod that is gone. Refused while
    /// files wait. Other handles must not be used any more.
    pub fn retire(self) -> Result<(), Error> {
        let inner = &*self.inner;
        let _writer = lock(&inner.writer);
        inner.nothing_waits()?;
        let dir = inner.files.dir();
        // The ledger first: without files it would vouch for a position, without it they do.
        if inner.ledger().forget(&inner.name, inner.slot).is_err() {
            tracing::debug!(db = %inner.id, "the ledger keeps what it knows of a database that is gone");
        }
        // Not the directory itself: the path of another database may lead through it.
        for ours in [sqlrep_replica::LTX_DIR, sqlrep_replica::META_DIR] {
            let path = dir.join(ours);
            match std::fs::remove_dir_all(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io("remove", path)(error));
                }
                _ => {}
            }
        }
        *lock(&inner.state) = State::default();
        inner.shared.prune(dir);
        Ok(())
    }
}
