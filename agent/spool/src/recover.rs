//! The state of one database, from its files first, its seed file second, its ledger last (L8).
//!
//! After a crash the ledger may lag behind the files, or be gone; files may be damaged. What comes
//! out of here holds whatever happened:
//! - the files that wait to be shipped are whole at both ends and follow on each other without a
//!   gap; what does not follow is moved aside;
//! - the position is never before anything that is known to be shipped;
//! - page checksums are those of the position, or not known.
//!
//! What it cannot know is what the replica holds: its caller compares the position with the
//! replica's head and seeds the spool anew when the replica is ahead.

use std::collections::VecDeque;

use sqlrep_format::{Checksum, Txid, ltx};
use sqlrep_replica::ReplicaFile;

use crate::checksums::{Edit, Known};
use crate::files::{FileFact, Files};
use crate::ledger::{Batch, Ledger, LedgerError, Record, Slot};
use crate::memo::{self, SeedFile};
use crate::{Error, Position, WalPlace};

/// Where one database's state is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Site<'a> {
    /// Its files.
    pub(crate) files: &'a Files,
    /// The ledger of all.
    pub(crate) ledger: &'a Ledger,
    /// Its place there.
    pub(crate) slot: Slot,
    /// Its name there.
    pub(crate) name: &'a str,
}

/// The state of one database.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// The position.
    pub(crate) position: Option<Position>,
    /// The digest of the position's file, if it has one.
    pub(crate) digest: Option<Checksum>,
    /// The generation of chunks that the ledger's position names.
    pub(crate) generation: u32,
    /// The next file must hold every page.
    pub(crate) must_be_full: bool,
    /// A new lineage was begun and could not be brought to its end: nothing may be appended, for
    /// the files would go when it is.
    pub(crate) interrupted: bool,
    /// Counts lineages.
    pub(crate) epoch: u64,
    /// All files, ascending, shipped ones included as long as they are there.
    pub(crate) files: VecDeque<FileFact>,
    /// The last TXID that was shipped.
    pub(crate) acked: Option<Txid>,
    /// Acks that are in the ledger but perhaps not on the disk: TXID, and number of the batch.
    pub(crate) marks: VecDeque<(Txid, u64)>,
    /// Up to here files may go, as far as the ledger is concerned.
    pub(crate) spent: Option<Txid>,
    /// Shipped files above this stay for whoever compacts them; `None`: none do.
    pub(crate) keep_above: Option<Txid>,
    /// The bytes of the files that wait.
    pub(crate) pending_bytes: u64,
    /// TXIDs up to here are known outside: they are not folded away.
    pub(crate) promised: Option<Txid>,
    /// A file that waits is damaged: nothing is folded until the shipper has met it.
    pub(crate) unfoldable: bool,
}

impl State {
    /// The page checksums, if they are known.
    pub(crate) fn known(&self) -> Option<Known> {
        let position = self.position.as_ref()?;
        Some(Known {
            generation: self.generation,
            commit: position.commit,
            checksum: position.checksum?,
        })
    }

    /// The position as the ledger keeps it.
    pub(crate) fn record(&self) -> Option<Record> {
        Some(Record {
            position: self.position?,
            epoch: self.epoch,
            generation: self.generation,
            digest: self.digest,
            must_be_full: self.must_be_full,
        })
    }

    /// The files that wait to be shipped.
    pub(crate) fn pending(&self) -> impl DoubleEndedIterator<Item = &FileFact> {
        let shipped = self
            .files
            .partition_point(|file| Some(file.txid) <= self.acked);
        self.files.range(shipped..)
    }

    /// Moves to the state after a file of the chain.
    pub(crate) fn step(&mut self, header: &ltx::Header, digest: Checksum, known: Option<Known>) {
        let mut position = position_of(header);
        position.checksum = known.map(|known| known.checksum);
        self.position = Some(position);
        self.digest = Some(digest);
        self.generation = known.map_or(self.generation, |known| known.generation);
        self.must_be_full = false;
    }
}

/// The position after a file, as far as its header tells.
fn position_of(header: &ltx::Header) -> Position {
    Position {
        txid: header.range.max(),
        timestamp: header.timestamp,
        commit: header.commit,
        page_size: header.page_size,
        wal: WalPlace::at_end(&header.wal, header.page_size),
        checksum: None,
    }
}

/// Reads the state of one database.
pub(crate) fn recover(site: Site<'_>) -> Result<State, Error> {
    let seed = load_seed(site.files)?;
    let record = site.ledger.position(site.slot, site.name).ok().flatten();
    let record =
        record.filter(|record| seed.as_ref().is_none_or(|seed| seed.epoch == record.epoch));
    let origin = seed.as_ref().and_then(SeedFile::position);
    let acked = match record {
        Some(_) => site.ledger.acked(site.slot, site.name).ok().flatten(),
        // Of another lineage, or of nobody knows which.
        None => None,
    };
    let mut state = State {
        epoch: seed.map_or(record.map_or(0, |record| record.epoch), |seed| seed.epoch),
        acked: acked.max(origin.map(|origin| origin.txid)),
        generation: record.map_or(0, |record| record.generation),
        ..State::default()
    };
    let newest = chain(site.files, &mut state)?;
    place(site, &mut state, record, origin, newest.as_ref())?;
    state.pending_bytes = state.pending().map(|file| file.bytes).sum();
    save(site, &mut state, record);
    Ok(state)
}

/// Reads the seed file, and ends what a crash interrupted: the removal of the lineage before.
fn load_seed(files: &Files) -> Result<Option<SeedFile>, Error> {
    let path = files.seed_path();
    let seed = match memo::load::<SeedFile>(&path)
        .and_then(|seed| seed.map(|seed| seed.check(&path)).transpose())
    {
        Ok(seed) => seed,
        Err(error) if error.is_corrupt() => {
            tracing::warn!(file = %path.display(), err = %error, "the seed file is moved aside");
            files.set_seed_aside()?;
            None
        }
        Err(error) => return Err(error),
    };
    match seed {
        Some(mut seed) if seed.clearing => {
            clear(files, &mut seed)?;
            Ok(Some(seed))
        }
        seed => Ok(seed),
    }
}

/// Removes the files of the lineage before, then says that this is done.
pub(crate) fn clear(files: &Files, seed: &mut SeedFile) -> Result<(), Error> {
    for file in files.list()? {
        files.remove(file.range.max())?;
    }
    // A file that came back after a power cut would pass for one of the new lineage.
    files.settle_removals()?;
    seed.clearing = false;
    memo::save(&files.seed_path(), seed)
}

/// Lists the files and moves aside what is damaged or does not follow. Gives the newest file that
/// stays, with its header.
fn chain(files: &Files, state: &mut State) -> Result<Option<(FileFact, ltx::Header)>, Error> {
    let (mut good, damaged) = look(files)?;
    drop_folded(files, &mut good)?;
    // Up to the floor everything is shipped: what is damaged or missing there is of no use anyway.
    let floor = state.acked;
    let first_damaged = damaged.into_iter().filter(|txid| Some(*txid) > floor).min();
    let begin = good.partition_point(|(fact, _)| Some(fact.txid) <= floor);
    let follows = |at: usize| {
        let txid = good[at].0.txid;
        first_damaged.is_none_or(|damaged| txid < damaged)
            && (at == begin || good[at - 1].0.txid.next() == txid)
    };
    if let Some(end) = (begin..good.len()).find(|at| !follows(*at)) {
        for (_, file) in good.drain(end..) {
            files.set_aside(&file, "it follows on a file that is missing or damaged")?;
        }
    }
    state.files = good.iter().map(|(fact, _)| *fact).collect();
    match state.files.back() {
        Some(newest) => files.facts(&Files::listed(newest)).map(Some),
        None => Ok(None),
    }
}

/// Removes what a fold that was cut short left: a file that is not later than the one before it is
/// in that one already, and every other chain moves on in time.
fn drop_folded(files: &Files, good: &mut Vec<(FileFact, ReplicaFile)>) -> Result<(), Error> {
    let mut latest = None;
    let mut folded = Vec::new();
    good.retain(|(fact, file)| {
        let stays = latest.is_none_or(|latest| fact.timestamp > latest);
        if stays {
            latest = Some(fact.timestamp);
        } else {
            folded.push(file.clone());
        }
        stays
    });
    for file in folded.iter().rev() {
        files.remove(file.range.max())?;
    }
    if !folded.is_empty() {
        files.settle_removals()?;
    }
    Ok(())
}

/// Files that are whole, as far as was looked, and the TXIDs of those that are not.
type Looked = (Vec<(FileFact, ReplicaFile)>, Vec<Txid>);

/// The files whose ends are whole, ascending, and the TXIDs of those that are not. The newest,
/// the one that a crash may have met, is proven from end to end.
fn look(files: &Files) -> Result<Looked, Error> {
    let (mut good, mut damaged) = (Vec::new(), Vec::new());
    for file in files.list()?.into_iter().rev() {
        let facts = if good.is_empty() {
            files.prove(&file, &mut |_, _, _| {})
        } else {
            files.facts(&file)
        };
        match facts {
            Ok((fact, _)) => good.push((fact, file)),
            Err(error) if error.is_corrupt() => {
                files.set_aside(&file, &describe(&error))?;
                damaged.push(file.range.max());
            }
            Err(error) => return Err(error),
        }
    }
    good.reverse();
    Ok((good, damaged))
}

/// Finds the position: where the ledger, the files and the seed agree, or else the latest that
/// the files vouch for.
fn place(
    site: Site<'_>,
    state: &mut State,
    record: Option<Record>,
    origin: Option<Position>,
    newest: Option<&(FileFact, ltx::Header)>,
) -> Result<(), Error> {
    match (record, newest) {
        (Some(record), newest) if stands(&record, state, newest) => {
            adopt(state, &record);
            let behind = newest.is_some_and(|(fact, _)| fact.txid > record.position.txid);
            if behind {
                replay(site, state)?;
            }
        }
        // The files go back to the very first: they tell everything.
        (None, Some(_)) if origin.is_none() && from_the_first(state) => replay(site, state)?,
        (_, Some((fact, header))) if Some(fact.txid) >= state.acked => {
            state.step(header, fact.digest, None);
        }
        // Beyond what the files hold something was shipped; nothing that was is used again.
        (record, _) => {
            let at = state
                .acked
                .filter(|acked| origin.is_none_or(|origin| origin.txid < *acked));
            state.position = match (at, record) {
                (Some(acked), Some(record)) => {
                    state.must_be_full = true;
                    Some(Position {
                        txid: acked,
                        wal: None,
                        checksum: None,
                        ..record.position
                    })
                }
                _ => origin,
            };
        }
    }
    Ok(())
}

/// Whether the chain begins at the first TXID, with every page.
fn from_the_first(state: &State) -> bool {
    state
        .files
        .front()
        .is_some_and(|file| file.txid == Txid::FIRST)
}

/// Whether the ledger's position is one of this chain: that of a file that is here, or shipped.
fn stands(record: &Record, state: &State, newest: Option<&(FileFact, ltx::Header)>) -> bool {
    let txid = record.position.txid;
    let at = state.files.binary_search_by_key(&txid, |file| file.txid);
    match at.ok().and_then(|at| state.files.get(at)) {
        Some(file) => record.digest == Some(file.digest),
        None if Some(txid) > state.acked => false,
        // Shipped and gone. If newer files are here they must follow on it.
        None => newest.is_none_or(|(newest, _)| {
            let next = state.files.iter().find(|file| file.txid > txid);
            newest.txid < txid || next.is_some_and(|next| next.txid == txid.next())
        }),
    }
}

/// Takes the ledger's position.
fn adopt(state: &mut State, record: &Record) {
    state.position = Some(record.position);
    state.digest = record.digest;
    state.must_be_full = record.must_be_full;
}

/// Applies the files that the ledger has not seen yet. One that turns out damaged is moved aside
/// with all that follow, and the position stays before it.
fn replay(site: Site<'_>, state: &mut State) -> Result<(), Error> {
    let from = state.position.map(|position| position.txid);
    let first = state.files.partition_point(|file| Some(file.txid) <= from);
    for at in first..state.files.len() {
        let file = Files::listed(&state.files[at]);
        match apply(site, state, &file) {
            Ok(()) => {}
            Err(error) if error.is_corrupt() => {
                site.files.set_aside(&file, &describe(&error))?;
                for later in state.files.iter().skip(at + 1) {
                    site.files
                        .set_aside(&Files::listed(later), "it follows on a damaged file")?;
                }
                state.files.truncate(at);
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Moves state and ledger over one file.
pub(crate) fn apply(site: Site<'_>, state: &mut State, file: &ReplicaFile) -> Result<(), Error> {
    let mut base = state.known();
    let mut edit = None;
    let (fact, header) = site.files.prove(file, &mut |header, pgno, checksum| {
        let edit = edit.get_or_insert_with(|| {
            let same = state
                .position
                .is_none_or(|at| at.page_size == header.page_size);
            base = base.filter(|_| same);
            let size = (header.commit, header.page_size);
            Edit::begin((site.ledger, site.slot), base, state.generation, size)
        });
        edit.page(pgno, checksum);
    })?;
    let edit = edit.unwrap_or_else(|| {
        let size = (header.commit, header.page_size);
        Edit::begin((site.ledger, site.slot), base, state.generation, size)
    });
    let edited = edit.finish();
    state.step(&header, fact.digest, edited.known);
    if let Err(error) = commit(site, state, edited.batch) {
        forget_checksums(state, &error);
    }
    Ok(())
}

/// Writes the position with what belongs to it. Gives the number of the batch.
pub(crate) fn commit(site: Site<'_>, state: &State, mut batch: Batch) -> Result<u64, LedgerError> {
    match state.record() {
        Some(record) => batch.position(site.slot, site.name, &record),
        None => batch.no_position(site.slot),
    }
    site.ledger.apply(batch)
}

/// The ledger did not take a step: from here on it knows nothing.
pub(crate) fn forget_checksums(state: &mut State, error: &LedgerError) {
    tracing::debug!(err = %error, "page checksums are not known any more");
    if let Some(position) = &mut state.position {
        position.checksum = None;
    }
}

/// Brings the ledger to the state that was found, when it says something else; and marks the
/// files that are shipped for removal.
fn save(site: Site<'_>, state: &mut State, record: Option<Record>) {
    let removable = state.files.len() > 1
        && state
            .files
            .front()
            .is_some_and(|first| Some(first.txid) <= state.acked);
    if state.record() == record && !removable {
        return;
    }
    let mut batch = Batch::default();
    batch.acked(site.slot, site.name, state.acked);
    match commit(site, state, batch) {
        Ok(number) => state.marks.extend(state.acked.map(|acked| (acked, number))),
        Err(error) => forget_checksums(state, &error),
    }
    let keep = state.known().map(|known| known.generation);
    if site.ledger.purge_chunks(site.slot, keep).is_err() {
        tracing::debug!(db = site.name, "old page checksums stay in the ledger");
    }
}

/// An error with its cause, for the log.
fn describe(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
