//! The whole database at one commit, as a source of pages for the spool.
//!
//! The state is that of the last frame published when the reading began: pages that have a frame
//! come from the WAL, all others from the database file. While it is read, the WAL is pinned, so
//! no frame can be overwritten, and a read transaction marks the state, so no checkpoint can copy
//! a newer frame into the database file under our eyes (DESIGN §9 item 7).

use std::io;

use sqlrep_format::wal::Cursor;
use sqlrep_format::{PageCount, PageSize, Pgno, page_checksum};
use sqlrep_spool::{PageChecksums, PageSource};

use crate::Error;
use crate::live::{Live, Published, read_full};
use crate::tail::{self, Latest};
use crate::window::Window;

/// How much of the database file is read at once.
const AHEAD_BYTES: usize = 64 * 1024;

/// A state that can be read while its marks are held.
#[derive(Debug)]
pub(crate) struct State {
    /// The end of the state in the WAL; `None` without frames.
    pub(crate) cursor: Option<Cursor>,
    /// Its size.
    pub(crate) commit: PageCount,
    published: Published,
    latest: Latest,
}

impl State {
    /// The published state, its frames proven. The caller holds a read transaction and a pin, both
    /// begun before `published` was read.
    pub(crate) fn read(
        live: &mut Live,
        published: Published,
        window: &mut Window,
    ) -> Result<Self, Error> {
        if published.mx_frame == 0 {
            let pages = live.file_bytes()? / u64::from(live.page_size().get());
            let commit = u32::try_from(pages).ok().and_then(PageCount::new);
            let commit = commit.ok_or_else(|| Error::NotADatabase {
                path: live.path(),
                reason: "it has no pages, or more than a database can have".to_owned(),
            })?;
            live.check_extent(commit)?;
            return Ok(Self {
                cursor: None,
                commit,
                published,
                latest: Vec::new(),
            });
        }
        let header = tail::header(live, &published)?;
        if header.page_size != live.page_size() {
            let reason = format!(
                "its pages have {} bytes, those of the database {}",
                header.page_size,
                live.page_size()
            );
            return Err(Error::WalMismatch {
                path: live.path(),
                reason,
            });
        }
        let scan = tail::scan(live, Cursor::start(&header), &published, window)?;
        let commit = scan.commit.ok_or_else(|| Error::WalMismatch {
            path: live.path(),
            reason: "no frame ends a transaction".to_owned(),
        })?;
        live.check_extent(commit)?;
        Ok(Self {
            cursor: Some(scan.cursor),
            commit,
            published,
            latest: scan.latest,
        })
    }

    /// Reads a page of the state.
    fn page(&self, live: &Live, ahead: &mut Ahead, pgno: Pgno, page: &mut [u8]) -> io::Result<()> {
        match self.latest.binary_search_by_key(&pgno, |&(pgno, _)| pgno) {
            Ok(at) => match self.latest.get(at) {
                Some(&(_, frame)) => tail::read_page(live, frame, page),
                None => Err(io::ErrorKind::NotFound.into()),
            },
            Err(_) => ahead.page(live, pgno, page),
        }
    }

    /// Whether the state can still be read: a last check that nobody broke the rules.
    fn still_stands(&self, live: &Live) -> Result<bool, Error> {
        if self.published.mx_frame == 0 {
            return Ok(true); // nothing came from the WAL
        }
        let header = tail::read_header(live)?;
        Ok(header.is_some_and(|header| header.salts == self.published.salts))
    }
}

/// Reads a page from the database file; what lies beyond its end reads as zeroes, as for SQLite.
pub(crate) fn read_from_file(live: &Live, pgno: Pgno, page: &mut [u8]) -> io::Result<()> {
    let read = read_full(live.db(), page, pgno.offset(live.page_size()))?;
    page.get_mut(read..).unwrap_or_default().fill(0);
    Ok(())
}

/// Pages of the database file that were read at once. Those that the state has in its WAL are among
/// them and are not used; the others cannot change while the state is marked.
#[derive(Debug, Default)]
struct Ahead {
    /// Where in the file they begin.
    offset: u64,
    bytes: Vec<u8>,
}

impl Ahead {
    fn page(&mut self, live: &Live, pgno: Pgno, page: &mut [u8]) -> io::Result<()> {
        let offset = pgno.offset(live.page_size());
        let held = |ahead: &Self| {
            let from = usize::try_from(offset.checked_sub(ahead.offset)?).ok()?;
            Some(from..from.checked_add(page.len())?).filter(|range| range.end <= ahead.bytes.len())
        };
        if held(self).is_none() {
            self.offset = offset;
            self.bytes.resize(AHEAD_BYTES.max(page.len()), 0);
            let read = read_full(live.db(), &mut self.bytes, offset);
            self.bytes.truncate(*read.as_ref().unwrap_or(&0));
            read?;
        }
        match held(self).and_then(|range| self.bytes.get(range)) {
            Some(bytes) => page.copy_from_slice(bytes),
            None => read_from_file(live, pgno, page)?, // at the end of the file, or beyond it
        }
        Ok(())
    }
}

/// Gives the pages of a state, all or only those that differ from what is captured.
pub(crate) struct Source<'a> {
    live: &'a Live,
    state: &'a State,
    page_size: PageSize,
    next: Option<Pgno>,
    captured: Option<&'a mut PageChecksums>,
    ahead: Ahead,
    /// How many pages were given.
    pub(crate) given: u32,
}

impl<'a> Source<'a> {
    pub(crate) fn new(
        live: &'a Live,
        state: &'a State,
        captured: Option<&'a mut PageChecksums>,
    ) -> Self {
        let page_size = live.page_size();
        Self {
            live,
            state,
            page_size,
            next: Some(Pgno::FIRST),
            captured,
            ahead: Ahead::default(),
            given: 0,
        }
    }

    /// Begins at `pgno`; the pages before it are known not to differ.
    pub(crate) fn from(self, pgno: Pgno) -> Self {
        Self {
            next: Some(pgno),
            ..self
        }
    }
}

impl PageSource for Source<'_> {
    fn next(&mut self, page: &mut [u8]) -> io::Result<Option<Pgno>> {
        while let Some(pgno) = self.next.filter(|pgno| self.state.commit.contains(*pgno)) {
            self.next = pgno.next();
            if pgno == self.page_size.lock_page() {
                continue;
            }
            self.state.page(self.live, &mut self.ahead, pgno, page)?;
            let known = self
                .captured
                .as_mut()
                .and_then(|captured| captured.get(pgno));
            if known.is_none_or(|known| known != page_checksum(pgno, page)) {
                self.given += 1;
                return Ok(Some(pgno));
            }
        }
        // The last act: everything that was given belongs to one state, or nothing is kept.
        match self.state.still_stands(self.live) {
            Ok(true) => Ok(None),
            Ok(false) => Err(io::Error::other(
                "the WAL was reset while the database was read",
            )),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}
