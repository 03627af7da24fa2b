//! What was appended is made durable by whoever ships it, before it is shipped: the thread that captures
//! has a WAL to tend and waits for no disk. What nobody ships soon is made durable when something follows
//! on it, when it has waited for a while, and at the end.
//!
//! Files are made durable in their order. So of those that wait a power failure takes the newest alone, of
//! which it is known at the next start whether they are whole ([`crate::recover`]); and none of which the
//! replica may hold a copy, for their TXIDs would be used again.

use std::sync::TryLockError;

use sqlrep_format::{Txid, ltx};
use sqlrep_replica::durable;

use crate::database::{Inner, lock};
use crate::files::{FileFact, Files};
use crate::memo::failed;
use crate::{DatabaseSpool, Error};

/// What a power failure would take.
#[derive(Debug, Default)]
pub(crate) struct Unsettled {
    /// The file that was appended last.
    newest: Option<(Txid, durable::Unsettled)>,
    /// Every file that is here, up to this one, is durable, and so is the note whose they are. `None`: a
    /// predecessor wrote them, and nobody knows.
    durable: Option<Txid>,
    /// An fsync failed: another one would lie.
    doubtful: bool,
    /// Counts how often TXIDs were used again.
    turns: u64,
}

/// Why files are not durable.
pub(crate) enum Unsettling {
    /// It is to be tried again.
    Failed(Error),
    /// The content of this file is lost.
    Lost(Txid, Error),
}

impl From<Error> for Unsettling {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Inner {
    /// The newest file has its name.
    pub(crate) fn appended_unsettled(&self, txid: Txid, file: durable::Unsettled) {
        let mut unsettled = lock(&self.unsettled);
        unsettled.newest = Some((txid, file));
        if unsettled.durable >= Some(txid) {
            // The position has fallen back, or begun anew.
            unsettled.durable = txid.prev();
            unsettled.turns += 1;
        }
    }

    /// Makes what waits to be shipped durable, unless somebody is at it. The caller holds the lock of the
    /// writer.
    pub(crate) fn settle_beside(&self) -> Result<(), Error> {
        let settled = match self.settling.try_lock() {
            Err(TryLockError::WouldBlock) => return Ok(()),
            Ok(_) | Err(TryLockError::Poisoned(_)) => self.settle_all(),
        };
        settled.or_else(|error| self.unsettled(error))
    }

    /// The same for the last file of all: one that cannot be made durable is there all the same, and is
    /// shipped. An error only where its content is lost.
    pub(crate) fn settle_last(&self) -> Result<(), Error> {
        match self.settle_beside() {
            Err(err) if !err.is_corrupt() => {
                tracing::warn!(db = %self.id, %err, "the last file is not durable here");
                Ok(())
            }
            settled => settled,
        }
    }

    /// Makes what waits to be shipped durable, and what it follows on. The caller holds `settling`.
    ///
    /// Shipped files too: one that comes back damaged would end the chain before what waits, should the
    /// ledger be lost that knows of the shipping.
    fn settle_all(&self) -> Result<(), Unsettling> {
        let (durable, turns) = {
            let unsettled = lock(&self.unsettled);
            (unsettled.durable, unsettled.turns)
        };
        let files: Vec<FileFact> = {
            let state = lock(&self.state);
            let waits = state.pending().next_back().map(|file| file.txid);
            if waits <= durable {
                return Ok(());
            }
            let here = state.files.iter();
            here.filter(|file| Some(file.txid) > durable)
                .copied()
                .collect()
        };
        if durable.is_none() {
            self.settle_note()?;
        }
        for file in files {
            self.settle_file(&file)?;
            let mut unsettled = lock(&self.unsettled);
            if unsettled.turns != turns {
                return Ok(()); // these are other files
            }
            unsettled.durable = Some(file.txid);
        }
        lock(&self.unsettled).doubtful = false;
        Ok(())
    }

    fn settle_file(&self, fact: &FileFact) -> Result<(), Unsettling> {
        let (written, doubtful) = {
            let mut unsettled = lock(&self.unsettled);
            let newest = unsettled.newest.take_if(|(txid, _)| *txid == fact.txid);
            (newest, unsettled.doubtful)
        };
        if !doubtful {
            let settled = match written {
                Some((_, file)) => self.files.settle(&file),
                None => self
                    .files
                    .unsettled(fact)
                    .and_then(|file| self.files.settle(&file)),
            };
            match settled {
                // Shipped, and gone.
                Err(error) if error.is_missing() => return Ok(()),
                Err(err) => tracing::warn!(
                    db = %self.id, txid = %fact.txid, %err, "a file of the spool is written once more"
                ),
                Ok(()) => return Ok(()),
            }
            lock(&self.unsettled).doubtful = true;
        }
        match self.files.write_again(fact) {
            Err(error) if error.is_corrupt() => Err(Unsettling::Lost(fact.txid, error)),
            written => Ok(written?),
        }
    }

    /// Before the files that it tells of.
    fn settle_note(&self) -> Result<(), Error> {
        let note = self.files.unsettled_note()?;
        note.map_or(Ok(()), |note| note.settle(self.files.fs()).map_err(failed))
    }

    /// Where content is lost the position falls back. The caller holds the lock of the writer.
    fn unsettled(&self, cause: Unsettling) -> Result<(), Error> {
        match cause {
            Unsettling::Failed(error) => Err(error),
            Unsettling::Lost(txid, error) => {
                match self.rejected(txid, "it could not be made durable") {
                    // It was shipped: it is of no use here.
                    Err(Error::Unknown { .. }) => self.files.remove(txid),
                    rejected => rejected.and(Err(error)),
                }
            }
        }
    }
}

impl DatabaseSpool {
    /// Whether a power failure would take nothing that waits to be shipped.
    pub fn is_settled(&self) -> bool {
        let durable = lock(&self.inner.unsettled).durable;
        let state = lock(&self.inner.state);
        let newest = state.pending().next_back().map(|file| file.txid);
        newest <= durable
    }

    /// Makes durable what waits to be shipped; to be tried again after an error. Where content turns out
    /// to be lost ([`Error::is_corrupt`]) the position falls back: capture's next append is out of order,
    /// and it resyncs. Does not keep an append waiting.
    pub fn settle(&self) -> Result<(), Error> {
        let inner = &*self.inner;
        let settled = {
            let _settling = lock(&inner.settling);
            inner.settle_all()
        };
        settled.or_else(|error| {
            let _writer = lock(&inner.writer);
            inner.unsettled(error)
        })
    }
}

impl Files {
    /// A file that is here, opened to be made durable.
    pub(crate) fn unsettled(&self, fact: &FileFact) -> Result<durable::Unsettled, Error> {
        let found = self.store().unsettled(&Self::listed(fact));
        found.map_err(Error::store("opening a file of the spool"))
    }

    pub(crate) fn settle(&self, file: &durable::Unsettled) -> Result<(), Error> {
        let settled = self.store().settle(ltx::Level::L0, file);
        settled.map_err(Error::store("making a file of the spool durable"))
    }
}

#[cfg(test)]
mod tests;
