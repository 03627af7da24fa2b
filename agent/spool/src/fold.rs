//! Folding: while the share is away, what waits is made smaller (D35).
//!
//! The newest files that wait become one, with the newest version of each page, under the TXID of
//! the oldest of them. Nobody has seen those TXIDs: the shipper is handed the first file that waits
//! and no other, and only files of this process's own life are folded, so that none of them can be
//! on the replica. The first file that waits stays as it is, for its link may have succeeded
//! without an answer.
//!
//! The new file carries the time of the newest one. It takes the name of the oldest by one rename;
//! the files after it are then older than it is, and so a crash in between is seen: what is not
//! later than the file before it is in that file already, and goes.

use std::ffi::OsStr;
use std::io::{self, BufWriter, Write};

use sqlrep_format::{PageCount, Pgno, Txid, TxidRange, ltx};
use sqlrep_replica::durable::{Dir, Failure, Fs, Temp};
use sqlrep_replica::{Merge, MergeError, Plan};

use crate::append::Writing;
use crate::budget::{Budget, Counted};
use crate::database::{self, Inner, Start, lock};
use crate::files::{FileFact, Files};
use crate::ledger::Batch;
use crate::memo::failed;
use crate::recover::{self, State};
use crate::{Appended, DatabaseSpool, Draft, Error, PageSource};

/// Files that one fold reads at most (L12): of each the merge keeps a few kilobytes.
const FILES_MAX: usize = 1024;
/// Less is not worth the reading.
const BYTES_MIN: u64 = 1 << 20;
/// Between the file and the system: what a disk likes.
const BUFFER_BYTES: usize = 256 << 10;

/// The files that one is to stand for.
#[derive(Debug)]
pub(crate) struct Fold {
    files: Vec<FileFact>,
}

impl Fold {
    /// What is to be folded, if the budget asks for it and it is worth it: it reads at most twice
    /// what it saves, or at the limit nine times.
    pub(crate) fn due(state: &State, budget: &Budget) -> Option<Self> {
        if budget.has_room() || state.unfoldable {
            return None;
        }
        let first = state.pending().next()?.txid;
        let mut files: Vec<FileFact> = (state.pending().rev())
            .take_while(|file| file.txid > first)
            .take_while(|file| file.content.is_some() && Some(file.txid) > state.promised)
            .take(FILES_MAX)
            .copied()
            .collect();
        files.reverse();
        let total: u64 = files.iter().map(|file| file.bytes).sum();
        let largest = files.iter().map(|file| file.bytes).max().unwrap_or(0);
        let enough = if budget.is_over_limit() {
            largest.saturating_add(largest / 8)
        } else {
            largest.saturating_mul(2).max(BYTES_MIN)
        };
        (files.len() > 1 && total >= enough).then_some(Self { files })
    }

    /// The TXID of the file that stands for all.
    pub(crate) fn txid(&self) -> Option<Txid> {
        self.files.first().map(|file| file.txid)
    }

    /// The bytes of the files.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Their pages, each in its newest version.
    fn merge<'a>(&self, files: &'a Files) -> Result<Merge<'a>, MergeError> {
        let steps = self.files.iter().map(Files::listed).collect();
        let plan = Plan::of(steps).ok_or(MergeError::Empty)?;
        Merge::open(files.store(), &plan)
    }
}

/// The pages of a draft over those of the files before it.
struct Over<'a> {
    newer: Side<&'a mut dyn PageSource>,
    older: Side<Option<Merge<'a>>>,
    commit: PageCount,
    /// The files could not be read.
    damaged: bool,
}

/// One of the two, a page ahead.
struct Side<T> {
    source: T,
    ahead: Ahead,
    page: Vec<u8>,
}

/// What a source comes to next.
enum Ahead {
    Unread,
    Page(Pgno),
    End,
}

impl<T> Side<T> {
    fn new(source: T, page_bytes: usize) -> Self {
        let page = vec![0; page_bytes];
        Self {
            source,
            ahead: Ahead::Unread,
            page,
        }
    }

    /// The next page's number, read with `next` if it is not known yet.
    fn peek(
        &mut self,
        next: impl FnOnce(&mut T, &mut [u8]) -> io::Result<Option<Pgno>>,
    ) -> io::Result<Option<Pgno>> {
        if matches!(self.ahead, Ahead::Unread) {
            self.ahead = next(&mut self.source, &mut self.page)?.map_or(Ahead::End, Ahead::Page);
        }
        Ok(match self.ahead {
            Ahead::Page(pgno) => Some(pgno),
            Ahead::Unread | Ahead::End => None,
        })
    }

    fn take(&mut self, page: &mut [u8]) {
        page.copy_from_slice(&self.page);
        self.ahead = Ahead::Unread;
    }
}

impl<'a> Over<'a> {
    fn new(pages: &'a mut dyn PageSource, merge: Merge<'a>, draft: &Draft) -> Self {
        let bytes = draft.page_size.bytes();
        Self {
            newer: Side::new(pages, bytes),
            older: Side::new(Some(merge), bytes),
            commit: draft.commit,
            damaged: false,
        }
    }
}

impl PageSource for Over<'_> {
    fn next(&mut self, page: &mut [u8]) -> io::Result<Option<Pgno>> {
        let commit = self.commit;
        let newer = self.newer.peek(|pages, page| pages.next(page))?;
        let older = self.older.peek(|merge, page| older(merge, commit, page));
        self.damaged |= older.is_err();
        let older = older?;
        match (newer, older) {
            (Some(newer), Some(older)) if older < newer => self.older.take(page),
            (Some(newer), older) => {
                if older == Some(newer) {
                    self.older.ahead = Ahead::Unread;
                }
                self.newer.take(page);
                return Ok(Some(newer));
            }
            (None, Some(_)) => self.older.take(page),
            (None, None) => return Ok(None),
        }
        Ok(older)
    }
}

/// The next page of the files that lives to the end; what they hold is proven when they end.
fn older(
    merge: &mut Option<Merge<'_>>,
    commit: PageCount,
    page: &mut [u8],
) -> io::Result<Option<Pgno>> {
    let Some(reading) = merge else {
        return Ok(None);
    };
    while let Some(pgno) = reading.next_page(page).map_err(io::Error::other)? {
        if commit.contains(pgno) {
            return Ok(Some(pgno));
        }
    }
    merge
        .take()
        .map_or(Ok(()), Merge::finish)
        .map_err(io::Error::other)?;
    Ok(None)
}

/// Writes the one file; it has no name in the chain yet.
fn write<'fs>(
    (fs, dir): (&'fs dyn Fs, &Dir),
    draft: &Draft,
    writing: &mut Writing<'_>,
) -> Result<Temp<'fs>, Failure> {
    let temp = Temp::create(fs, dir)?;
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, temp.file());
    (writing.write(&mut out).and_then(|()| out.flush()))
        .map_err(Failure::at("write", temp.path()))?;
    drop(out);
    temp.fsync()?;
    fs.set_modified(dir, temp.name(), temp.file(), draft.timestamp)
        .map_err(Failure::at("set the time of", temp.path()))?;
    Ok(temp)
}

impl DatabaseSpool {
    /// Writes the draft together with the files of a fold. `None`: they cannot be opened, and
    /// nothing was changed. The caller holds the lock of the writer.
    pub(crate) fn append_folded(
        &self,
        fold: &Fold,
        draft: &Draft,
        start: &Start,
        pages: &mut dyn PageSource,
    ) -> Option<Result<Appended, Error>> {
        let inner = &*self.inner;
        let opened = fold.merge(&inner.files);
        let (Ok(merge), Some(txid)) = (opened, fold.txid()) else {
            inner.cannot_fold(fold);
            return None;
        };
        let draft = Draft { txid, ..*draft };
        let mut over = Over::new(pages, merge, &draft);
        let appended = self.fold_over(fold, &draft, start, &mut over);
        if over.damaged {
            inner.cannot_fold(fold);
        }
        Some(appended)
    }

    fn fold_over(
        &self,
        fold: &Fold,
        draft: &Draft,
        start: &Start,
        over: &mut Over<'_>,
    ) -> Result<Appended, Error> {
        let inner = &*self.inner;
        let (label, path) = (inner.label(), inner.files.path(draft.txid));
        let edit = inner.edit(draft, start);
        let count = Counted::new(inner.budget());
        let dir = inner
            .files
            .dir()
            .join(sqlrep_replica::level_dir(ltx::Level::L0));
        let dir = Dir::open(&dir).map_err(Error::io("open", dir))?;
        let mut writing = Writing::new((&label, &path), (draft, start.base), over, edit, count);
        let temp = write((inner.files.fs(), &dir), draft, &mut writing);
        if let Some(error) = writing.failure {
            return Err(error);
        }
        let temp = temp.map_err(failed)?;
        let (Some(written), content) = (writing.written, Some(writing.content.value())) else {
            return Err(overtaken(&label));
        };
        let fact = FileFact {
            txid: draft.txid,
            timestamp: draft.timestamp,
            bytes: written.bytes,
            digest: written.trailer.file,
            content,
        };
        let kept = (start.generation, start.epoch);
        let (step, batch) = database::stepped(draft, &fact, writing.edit.finish(), kept);
        let exchanged = inner.exchange((fold, &dir), temp, |state| {
            state.take_step(&step);
            state.fold(fact);
        });
        if !exchanged.map_err(failed)? {
            return Err(overtaken(&label));
        }
        writing.count.keep();
        inner.budget().sub(fold.bytes());
        tracing::info!(
            db = %inner.id, files = fold.files.len(), from = fold.bytes(), to = fact.bytes,
            "what waits for the share was folded: states in between are not kept"
        );
        inner.folded(&step, batch);
        let pos = database::pos(&step);
        Ok(Appended {
            entry: inner.entry(&fact),
            pages: written.pages,
            pos,
        })
    }
}

fn overtaken(database: &str) -> Error {
    Error::Overtaken {
        database: database.to_owned(),
    }
}

impl State {
    /// One file stands for all from its TXID on.
    fn fold(&mut self, fact: FileFact) {
        let from = self.files.partition_point(|file| file.txid < fact.txid);
        let gone: u64 = self.files.drain(from..).map(|file| file.bytes).sum();
        self.pending_bytes = self.pending_bytes.saturating_sub(gone);
        self.push(fact);
    }
}

impl Inner {
    /// The one file takes the place of all, in the directory and in the state that `step` makes.
    /// `false`, and nothing changed: the shipper came to the first of them meanwhile.
    ///
    /// The only file I/O under the lock of the state: when the shipper is handed the new file, the
    /// old ones are gone for good. It waits for two fsyncs of a directory, once in a long while.
    pub(crate) fn exchange(
        &self,
        (fold, dir): (&Fold, &Dir),
        temp: Temp<'_>,
        step: impl FnOnce(&mut State),
    ) -> Result<bool, Failure> {
        let mut state = lock(&self.state);
        let Some(first) = fold.txid() else {
            return Ok(false);
        };
        if state
            .pending()
            .next()
            .is_none_or(|waits| waits.txid >= first)
        {
            return Ok(false);
        }
        let name = ltx::FileName(TxidRange::single(first)).to_string();
        temp.rename_over(OsStr::new(&name))?;
        step(&mut state);
        // Durable before the others go: a power cut must not take the newest commits.
        self.settle_dir(dir);
        for file in fold.files.iter().skip(1).rev() {
            if let Err(err) = self.files.remove(file.txid) {
                // It is seen for what it is: its time is not after that of the file before it.
                tracing::warn!(db = %self.id, txid = %file.txid, %err, "a folded file stays");
            }
        }
        self.settle_dir(dir);
        Ok(true)
    }

    /// The file has its name and the state knows it: nothing turns that back into an error.
    fn settle_dir(&self, dir: &Dir) {
        if let Err(err) = self.files.fs().fsync_dir(dir) {
            tracing::error!(db = %self.id, dir = %dir.path().display(), %err, "cannot fsync");
        }
    }

    /// The ledger follows, and is flushed: it names a TXID that is not there any more.
    fn folded(&self, step: &State, batch: Batch) {
        if let Err(error) = recover::commit(self.site(), step, batch) {
            recover::forget_checksums(&mut lock(&self.state), &error);
        }
        self.purge(Some(step.generation));
        self.shared.flush_ledger();
    }

    /// Until the shipper has met the damaged file and put it aside; unless it has shipped them all
    /// meanwhile, and they are gone.
    fn cannot_fold(&self, fold: &Fold) {
        let mut state = lock(&self.state);
        let waits = state.pending().next().map(|file| file.txid);
        if waits.is_some() && waits < fold.txid() {
            tracing::warn!(db = %self.id, "what waits in the spool is damaged and is not folded");
            state.unfoldable = true;
        }
    }
}

#[cfg(test)]
mod tests;
