//! L0 files: of the whole state, of what differs, and of the pending pages.

use sqlrep_format::wal::{Cursor, HEADER_BYTES};
use sqlrep_format::{PageCount, Pgno, Timestamp, ltx};
use sqlrep_spool::{Draft, Entry, PageChecksums, PageSource};

use super::{Options, Session};
use crate::pending::Pending;
use crate::snapshot::{Source, State};
use crate::{Error, position, snapshot};

/// How often reading the whole state is tried when somebody breaks the rules meanwhile.
const STATE_TRIES: u32 = 3;

/// While an L0 file is cut the WAL is looked at after so many bytes of pages: every 2 ms or so.
const TEND_BYTES: usize = 512 * 1024;

impl Session {
    /// Captures the whole state, or what of it differs, as one L0 file; gives the number of pages.
    pub(super) fn capture_state(
        &mut self,
        now: Timestamp,
        mut captured: Option<PageChecksums>,
    ) -> Result<u32, Error> {
        let mut tries = 0;
        loop {
            tries += 1;
            self.pin()?;
            self.live.link()?.begin()?;
            let done = self.capture_marked_state(now, captured.as_mut());
            let ended = self.live.link().and_then(crate::live::Link::end);
            match done {
                Err(Error::Spool {
                    source: sqlrep_spool::Error::Pages { .. },
                    ..
                }) if tries < STATE_TRIES => {}
                Err(error) => return Err(error),
                Ok(pages) => {
                    ended?;
                    let published = self.published_or_repaired()?;
                    self.settle(&published)?;
                    return Ok(pages);
                }
            }
        }
    }

    /// The inside of [`Session::capture_state`], while the read transaction marks the state.
    pub(super) fn capture_marked_state(
        &mut self,
        now: Timestamp,
        captured: Option<&mut PageChecksums>,
    ) -> Result<u32, Error> {
        let published = self.published_or_repaired()?;
        let state = State::read(&mut self.live, published, &mut self.window)?;
        let mut from = Pgno::FIRST;
        let mut captured = captured;
        if let (Some(sums), Some(position)) = (captured.as_deref_mut(), self.spool.position()) {
            let mut page = vec![0; self.live.page_size().bytes()];
            let mut source = Source::new(&self.live, &state, Some(sums));
            let first = source
                .next(&mut page)
                .map_err(Error::io("read the pages of", self.live.path()))?;
            if first.is_none() && state.commit == position.commit {
                self.spool
                    .set_place(state.cursor.as_ref().map(position::place));
                self.begin_at(state.cursor);
                return Ok(0);
            }
            from = first.unwrap_or(Pgno::FIRST);
        }
        self.span_from = HEADER_BYTES as u64;
        let draft = self.draft(now, state.commit, state.cursor.as_ref());
        let mut source = Source::new(&self.live, &state, captured).from(from);
        let appended = self
            .spool
            .append(&draft, &mut source)
            .map_err(|e| self.spool_failed(e))?;
        self.pending.clear();
        self.begin_at(state.cursor);
        Ok(appended.pages)
    }

    /// Following begins here: everything before it is captured.
    pub(super) fn begin_at(&mut self, cursor: Option<Cursor>) {
        self.cursor = cursor;
        self.span_from = cursor.map_or(HEADER_BYTES as u64, |cursor| cursor.offset());
        // Without frames the first ones may come with any salts.
        self.may_reset = cursor.is_none();
        self.started = true;
        self.mixed = false;
    }

    /// Pages by which the database grew and that no frame holds (SQLite does not write free pages):
    /// what a reader of the database would see.
    pub(super) fn fill_growth(&mut self, before: PageCount, after: PageCount) -> Result<(), Error> {
        if after > before {
            self.live.check_extent(after)?;
        }
        let lock_page = self.live.page_size().lock_page();
        let missing: Vec<Pgno> = position::growth(before, after)
            .filter(|pgno| *pgno != lock_page && !self.pending.contains(*pgno))
            .collect();
        for pgno in missing {
            let Self { live, pending, .. } = self;
            pending
                .put(pgno, |page| snapshot::read_from_file(live, pgno, page))
                .map_err(Error::io("read new pages of", live.path()))?;
        }
        Ok(())
    }

    pub(super) fn draft(
        &self,
        now: Timestamp,
        commit: PageCount,
        cursor: Option<&Cursor>,
    ) -> Draft {
        let timestamp = self
            .spool
            .position()
            .map_or(now, |at| at.timestamp.after(now));
        let wal = cursor.map_or(ltx::WalSpan::CLAIM, |cursor| ltx::WalSpan {
            offset: self.span_from,
            size: cursor.offset().saturating_sub(self.span_from),
            salts: cursor.salts(),
        });
        Draft {
            txid: self.spool.next_txid(),
            timestamp,
            page_size: self.live.page_size(),
            commit,
            wal,
            place: cursor.map(position::place),
            node_id: self.options.writer,
        }
    }

    pub(super) fn empty_set(&self) -> Pending {
        let Options {
            arena_bytes,
            scratch_dir,
            ..
        } = &self.options;
        Pending::new(self.live.page_size(), *arena_bytes, scratch_dir)
    }

    /// Puts the pages of a batch that was not written beneath what was read since. Where there is no
    /// room for them the session is over: the cursor is beyond them, and they would be missing from
    /// every file. The next one begins where the spool ends.
    pub(super) fn take_back(&mut self, batch: &Pending) -> Result<(), Error> {
        let taken = self.pending.put_beneath(batch);
        if taken.is_err() {
            self.started = false;
            self.pending.clear();
        }
        taken.map_err(Error::io("keep the pending pages of", self.live.path()))
    }

    /// Turns to the WAL while a file is cut. Whatever is wrong with it, the next look tells: the pages
    /// of that file are proven.
    pub(super) fn tend(&mut self, task: impl FnOnce(&mut Self) -> Result<(), Error>) {
        if let Err(error) = task(self) {
            tracing::debug!(%error, "the WAL could not be read while a file was cut");
        }
    }

    pub(super) fn newest_entry(&self) -> Option<Entry> {
        self.spool.pending().pop()
    }

    pub(super) fn spool_failed(&self, source: sqlrep_spool::Error) -> Error {
        Error::Spool {
            path: self.live.path(),
            source,
        }
    }
}

/// The pages of a batch, ascending. Between them the session goes on reading the WAL.
pub(super) struct Batch<'a> {
    set: &'a Pending,
    pages: std::vec::IntoIter<Pgno>,
    session: &'a mut Session,
    given: usize,
}

impl<'a> Batch<'a> {
    pub(super) fn new(batch: &'a Pending, session: &'a mut Session) -> Self {
        Self {
            set: batch,
            pages: batch.sorted().into_iter(),
            session,
            given: 0,
        }
    }
}

impl PageSource for Batch<'_> {
    fn next(&mut self, page: &mut [u8]) -> std::io::Result<Option<Pgno>> {
        let Some(pgno) = self.pages.next() else {
            self.session.tend(Session::brake_for_fsync);
            return Ok(None);
        };
        self.given += page.len();
        if self.given >= TEND_BYTES {
            self.given = 0;
            self.session.tend(|session| session.step().map(|_| ()));
        }
        self.set.read(pgno, page)?;
        Ok(Some(pgno))
    }
}
