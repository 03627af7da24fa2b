//! A hot journal: what its writer left when it died in the middle of a commit.
//!
//! SQLite would write the old pages back before it reads. We are no writer: the old pages are read
//! from the journal instead of the file, by the rules by which SQLite would play it back. So the
//! last commit is known although nobody is there to repair the file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;

use sqlrep_format::{
    JournalHeader, PageCount, PageSize, Pgno, journal_record, names_super_journal,
};

use super::read_full;
use crate::Error;

/// The pages of a hot journal.
#[derive(Debug)]
pub(crate) struct Hot {
    journal: File,
    /// Where the page itself begins, of the first record of each page.
    pages: BTreeMap<Pgno, u64>,
    /// The size of the database before the transaction.
    before: PageCount,
}

impl Hot {
    /// Reads a journal; `None` when it has ended or says nothing.
    pub(super) fn read(
        journal: File,
        page_size: PageSize,
        path: &Path,
    ) -> Result<Option<Self>, Error> {
        let failed = || Error::io::<io::Error>("read the -journal of", path);
        let bytes = journal.metadata().map_err(failed())?.len();
        let Some(first) = header_at(&journal, 0).map_err(failed())? else {
            return Ok(None); // none, or ended by zeroes (PERSIST)
        };
        let same_size = first.page_size.is_none_or(|size| size == page_size);
        let before = PageCount::new(first.pages_before).filter(|_| same_size);
        let Some(before) = before else {
            let what = "a writer died and left a -journal that does not fit the database; let the \
                        application, or sqlite3, open it once";
            return Err(busy(path, what));
        };
        let mut tail = [0; 16];
        let at = bytes.saturating_sub(16);
        let read = read_full(&journal, &mut tail, at).map_err(failed())?;
        if read == tail.len() && names_super_journal(&tail) {
            let what = "a writer died in a transaction over several databases; the application, or \
                        sqlite3, must open it once to say how that ended";
            return Err(busy(path, what));
        }
        let pages = Play {
            journal: &journal,
            bytes,
            before,
            pages: BTreeMap::new(),
            record: vec![0; page_size.bytes().saturating_add(8)],
            lock_page: page_size.lock_page(),
        };
        let pages = pages.run(first).map_err(failed())?;
        Ok(Some(Self {
            journal,
            pages,
            before,
        }))
    }

    /// The size of the database at the last commit.
    pub(crate) fn pages_before(&self) -> PageCount {
        self.before
    }

    /// Reads the page as it was at the last commit. `false`: the transaction left it alone.
    pub(crate) fn read_page(&self, pgno: Pgno, page: &mut [u8]) -> io::Result<bool> {
        let Some(offset) = self.pages.get(&pgno) else {
            return Ok(false);
        };
        let read = read_full(&self.journal, page, *offset)?;
        if read == page.len() {
            Ok(true)
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
}

fn busy(path: &Path, what: &'static str) -> Error {
    let path = path.to_owned();
    Error::Busy { path, what }
}

fn header_at(journal: &File, offset: u64) -> io::Result<Option<JournalHeader>> {
    let mut bytes = [0; JournalHeader::BYTES];
    let read = read_full(journal, &mut bytes, offset)?;
    Ok(bytes.get(..read).and_then(JournalHeader::parse))
}

/// The records of a journal, read from its beginning until one does not hold.
struct Play<'a> {
    journal: &'a File,
    bytes: u64,
    before: PageCount,
    pages: BTreeMap<Pgno, u64>,
    record: Vec<u8>,
    lock_page: Pgno,
}

impl Play<'_> {
    fn run(mut self, first: JournalHeader) -> io::Result<BTreeMap<Pgno, u64>> {
        let mut segment = Some((first, 0_u64));
        while let Some((header, at)) = segment {
            let sector = u64::from(header.sector_bytes);
            let begin = at.saturating_add(sector);
            let (end, whole) = self.segment(&header, begin)?;
            let next = end.next_multiple_of(sector);
            segment = match header_at(self.journal, next)? {
                Some(header) if whole => Some((header, next)),
                _ => None,
            };
        }
        Ok(self.pages)
    }

    /// The records of one segment: where they end, and whether all of them hold.
    fn segment(&mut self, header: &JournalHeader, begin: u64) -> io::Result<(u64, bool)> {
        let record_bytes = self.record.len() as u64;
        let room = self.bytes.saturating_sub(begin) / record_bytes;
        let records = header.records.map_or(room, u64::from).min(room);
        let mut at = begin;
        for _ in 0..records {
            let read = read_full(self.journal, &mut self.record, at)?;
            let record = self.record.get(..read).unwrap_or_default();
            let Some((pgno, _)) = journal_record(record, header.nonce) else {
                return Ok((at, false));
            };
            if pgno == self.lock_page {
                return Ok((at, false));
            }
            if self.before.contains(pgno) {
                // The first is the oldest: what was journalled again is of a savepoint.
                self.pages.entry(pgno).or_insert(at.saturating_add(4));
            }
            at = at.saturating_add(record_bytes);
        }
        Ok((at, true))
    }
}
